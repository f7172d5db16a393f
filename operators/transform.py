"""`transform.*`: one mart from its SQL file."""

from loadsheet.airflow.operators import SqlTransformOperator

__all__ = ["SqlTransformOperator"]
