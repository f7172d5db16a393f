"""`extract.*`: one source table to the lake."""

from loadsheet.airflow.operators import PostgresToMinioOperator

__all__ = ["PostgresToMinioOperator"]
