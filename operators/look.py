"""`look`: skips the tasks of all tables and marts that have nothing to do."""

from loadsheet.airflow.look import LookOperator

__all__ = ["LookOperator"]
