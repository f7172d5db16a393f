"""Which Airflow task does which steps of a plan, by the granularity."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadsheet.plan.dag_tasks import dag_tasks, task_id, task_ids
from loadsheet.plan.steps import build_plan, with_look
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline

SPEC = """\
version: 1
source: {conn_id: src}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: wh}
verify: "@weekly"
GRANULARITY
tables:
  a:
  b: {OWN}
  "log_*":
transforms:
  of_a:
  of_b:
  of_log:
"""
SQL = {"of_a": "SELECT 1 FROM a", "of_b": "SELECT 1 FROM b, mart.of_a"}
SQL["of_log"] = "SELECT 1 FROM staging.log_1"


def pipeline(folder: Path, granularity: str, own: str = "") -> Pipeline:
    """The pipeline with these settings."""
    file = folder / "pipelines" / "shop" / "pipeline.yml"
    (file.parent / "sql").mkdir(parents=True, exist_ok=True)
    for name, text in SQL.items():
        (file.parent / "sql" / f"{name}.sql").write_text(text)
    text = SPEC.replace("OWN", own)
    line = f"tasks: {{granularity: {granularity}}}" if granularity else ""
    file.write_text(text.replace("GRANULARITY", line))
    return load_pipeline(file)


def edges(found: Pipeline) -> dict[str, set[str]]:
    """What each task comes after."""
    return {task.id: set(task.upstream) for task in dag_tasks(found)}


@pytest.mark.parametrize("granularity", ["", "step", "null"])
def test_by_default_each_step_is_a_task(tmp_path: Path, granularity: str) -> None:
    found = pipeline(tmp_path, granularity)
    assert dag_tasks(found) == with_look(build_plan(found))


def test_one_task_extracts_a_table_and_loads_it(tmp_path: Path) -> None:
    slug = edges(pipeline(tmp_path, "step"))
    (log,) = [name.removeprefix("load.load_") for name in slug if name.startswith("load.load_log")]
    found = pipeline(tmp_path, "table", "granularity: step")
    table = f"table.table_{log}"
    assert edges(found) == {
        "look": set(),
        f"resolve_{log}": set(),
        "table.table_a": {"look"},
        "extract.extract_b": {"look"},
        table: {"look", f"resolve_{log}"},
        "load.load_b": {"extract.extract_b"},
        "transform.transform_of_a": {"table.table_a"},
        "transform.transform_of_b": {"load.load_b", "transform.transform_of_a"},
        "transform.transform_of_log": {table},
        "verify": {"table.table_a", "load.load_b", table},
    }
    assert [task.id for task in dag_tasks(found) if task.mapped] == [table]
    ids = task_ids(found)
    assert set(ids) == {step.id for step in build_plan(found)}
    assert set(ids.values()) == set(edges(found))
    assert (task_id(found, "extract", "a"), task_id(found, "load", "log_7")) == (
        "table.table_a",
        table,
    )
    assert task_id(found, "extract", "b") == "extract.extract_b"


def test_every_task_comes_after_its_upstream(tmp_path: Path) -> None:
    for granularity in ("step", "table"):
        seen: set[str] = set()
        for task in dag_tasks(pipeline(tmp_path, granularity)):
            assert seen.issuperset(task.upstream), (granularity, task.id)
            seen.add(task.id)
