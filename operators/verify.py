"""`verify`: the staging tables compared with their source."""

from loadsheet.airflow.operators import VerifyTablesOperator

__all__ = ["VerifyTablesOperator"]
