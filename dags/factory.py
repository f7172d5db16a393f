"""Plan -> dag-factory config -> DAG, and the stand-in for a pipeline that cannot be one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_parsing_context

from dags import by_hand
from loadsheet.plan.dagdocs import block, code
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
            "doc_md": f"{code(file)} cannot become a DAG until this is mended:\n\n{block(problems, 'text')}\n",
            "default_args": {"retries": 0},
            "tasks": {"broken_spec": {"operator": "operators.broken.BrokenSpecOperator", "problems": problems}},
        },
    )


def _build(dag_id: str, config: Mapping[str, Any]) -> DAG:
    """From dag-factory's plain YAML form, but never by way of a file: there it expands `$NAME`, even inside SQL."""
    real: dict[str, Any] = _real({key: value for key, value in config.items() if key != "params"})
    # A worker builds one DAG for every task it runs: importing dag-factory would take it 90 ms each time.
    dag = (by_hand.build if get_parsing_context().dag_id else _by_dag_factory)(dag_id, real)
    # Now, not before: Airflow copies the params into every task it makes then. Building takes twice as long with them,
    # storing the DAG 17 times (74 ms against 4), and a task reads them from its DAG anyway.
    dag.params.update(_real(config.get("params", {})))
    dag.validate()  # type: ignore[no-untyped-call]  # here, where a bad cron costs one pipeline; Airflow would count it against the whole file
    return dag


def _by_dag_factory(dag_id: str, config: dict[str, Any]) -> DAG:
    from dagfactory.dagbuilder import DagBuilder

    dag: DAG = DagBuilder(dag_id, _Uncopied(config), default_config={}).build()["dag"]
    return dag


class _Uncopied(dict[str, Any]):
    """Made for dag-factory alone, which would copy it first."""

    def __deepcopy__(self, memo: Any) -> _Uncopied:
        return self


def _real(value: Any) -> Any:
    """`value` with the objects that its `__type__`s stand for, as dag-factory makes them of a file."""
    if isinstance(value, dict):
        made = {key: _real(inner) for key, inner in value.items() if key != "__type__"}
        return by_hand.named(value["__type__"])(**made) if "__type__" in value else made
    return [_real(inner) for inner in value] if isinstance(value, list) else value
