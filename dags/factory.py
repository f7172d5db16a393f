"""Plan -> dag-factory config -> DAG, and the stand-in for a pipeline that cannot be one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import DAG
from dagfactory.dagbuilder import DagBuilder
from dagfactory.utils import cast_with_type

from loadsheet.plan.dagfactory import dag_config
from loadsheet.spec.models import Pipeline

BROKEN_TAG = "broken-spec"


def build_dag(pipeline: Pipeline, root: Path | None = None) -> DAG:
    """The pipeline's DAG, built by dag-factory. `root` is the DAG bundle's folder. Raises SpecError."""
    return _build(pipeline.name, dag_config(pipeline, root))


def broken_dag(dag_id: str, file: str, problems: str, schedule: str | None = None) -> DAG:
    """A DAG that says what is wrong with `file` wherever one looks, and fails when it runs.

    With the spec's schedule, where that could be read, the missing loads show as red runs and not as silence.
    """
    return _build(
        dag_id,
        {
            "dag_display_name": f"{dag_id} (broken spec)",
            "description": f"{file} has problems: {problems.partition(chr(10))[0]}",
            "schedule": schedule,
            "catchup": False,
            "max_active_runs": 1,
            "tags": [BROKEN_TAG],
            "doc_md": f"`{file}` cannot become a DAG until this is mended:\n\n~~~~text\n{problems}\n~~~~\n",
            "default_args": {"retries": 0},
            "tasks": {"broken_spec": {"operator": "operators.broken.BrokenSpecOperator", "problems": problems}},
        },
    )


def _build(dag_id: str, config: Mapping[str, Any]) -> DAG:
    """From dag-factory's plain YAML form, but never by way of a file: there it expands `$NAME`, even inside SQL."""
    dag: DAG = DagBuilder(dag_id, cast_with_type(config), default_config={}).build()["dag"]
    dag.validate()  # type: ignore[no-untyped-call]  # here, where a bad cron costs one pipeline; Airflow would count it against the whole file
    return dag
