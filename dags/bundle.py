"""The DAG bundle of a project on disk, under its documented name."""

from loadsheet.airflow.bundle import LocalPipelineBundle, PipelineBundle

__all__ = ["LocalPipelineBundle", "PipelineBundle"]
