"""What DAG files of the bundle import."""

from loadsheet.airflow.dag_file import dag_of

__all__ = ["dag_of"]
