"""The task of a DAG that stands for a pipeline file with problems."""

from loadsheet.airflow.operators import BrokenSpecOperator

__all__ = ["BrokenSpecOperator"]
