"""Registers one Airflow DAG per pipeline file, `pipelines/<name>/pipeline.yml`.

A task's worker asks for one DAG only, and then only that one is built.
"""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import get_parsing_context

from loadsheet.airflow.registry import pipeline_dags

ROOT = Path(__file__).resolve().parents[1]

globals().update(pipeline_dags(ROOT, only=get_parsing_context().dag_id))
