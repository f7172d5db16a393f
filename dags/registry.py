"""The DAGs of all pipeline files of a project, under its documented name."""

from loadsheet.airflow.registry import pipeline_dags

__all__ = ["pipeline_dags"]
