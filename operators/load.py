"""`load.*`: an extracted table from the lake into staging."""

from loadsheet.airflow.operators import MinioToPostgresOperator

__all__ = ["MinioToPostgresOperator"]
