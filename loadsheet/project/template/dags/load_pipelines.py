"""Registers one Airflow DAG per pipeline file, `pipelines/<name>/pipeline.yml`."""

from pathlib import Path

from loadsheet.airflow.registry import pipeline_dags

globals().update(pipeline_dags(Path(__file__).resolve().parents[1]))
