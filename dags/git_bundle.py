"""The DAG bundle of a project in Git, under its documented name."""

from loadsheet.airflow.git_bundle import GitPipelineBundle

__all__ = ["GitPipelineBundle"]
