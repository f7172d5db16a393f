"""`resolve.*`: the tables that a pattern matches."""

from loadsheet.airflow.operators import ResolveTablesOperator

__all__ = ["ResolveTablesOperator"]
