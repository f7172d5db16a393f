"""Hostile specs inside Airflow: its parser takes no harm, its tasks carry text as text, its screens
show it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from loadsheet.airflow import factory
from loadsheet.airflow.registry import pipeline_dags
from loadsheet.plan.dag_config import dag_config
from loadsheet.plan.steps import step_id
from loadsheet.spec.pipeline_file import check_file, load_pipeline
from tests import hostile_spec
from tests.airflow.alert_world import context as failed
from tests.airflow.test_operators import context, execute
from tests.airflow.test_slack import failure_message
from tests.hostile_spec import CANARY_VALUE, CANARY_VARIABLE, RENDERED, TRAP, VALUES
from tests.project import Project

SHOWN = [
    ("description",),
    ("owner",),
    ("tags", "[]"),
    ("tasks", "pool"),
    ("tables", "<key>"),
    ("transforms", "<key>"),
    ("tables", "<name>", "incremental"),
    ("tables", "<name>", "pool"),
    ("transforms", "<name>", "unique_key"),
]


@pytest.fixture(autouse=True)
def canary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody expands the variable, nobody makes the file."""
    monkeypatch.setenv(CANARY_VARIABLE, CANARY_VALUE)
    yield
    assert not Path(TRAP).exists()


def write(bundle: Path, text: str, name: str = "bad") -> Path:
    file = bundle / "pipelines" / name / "pipeline.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def bombs() -> dict[str, str]:
    """Short files whose values would take more memory or time to build than there is."""
    merges = "\n".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40))
    lists = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20))
    return {
        "merge keys": f"pipeline: named\na0: &a0 {{x: 1}}\n{merges}\n",
        "laughs": f"pipeline: named\na0: &a0 [x]\n{lists}\n",
        "base 60": f"pipeline: named\na: 1{':1' * 100_000}\n",
        "depth": "pipeline: named\na: " + "[" * 900 + "]" * 900,
        "tags": f"pipeline: named\na: !!python/object/apply:os.system ['touch {TRAP}']\n",
    }


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", bombs())
def test_a_bomb_costs_its_own_pipeline_and_keeps_its_name(bundle: Path, kind: str) -> None:
    write(bundle, bombs()[kind])
    write(
        bundle,
        "version: 1\nsource: {conn_id: s}\nlake: {conn_id: l, bucket: lake}\n"
        "warehouse: {conn_id: w}\ntables: {t: }\n",
        name="good",
    )
    found = pipeline_dags(bundle)
    assert set(found) == {"named", "good"} and "broken-spec" in found["named"].tags


@pytest.mark.timeout(30)
@pytest.mark.parametrize("target", ["/dev/zero", "/dev/stdin", "../../../secret", "fifo"])
def test_what_is_no_file_of_the_project_is_not_read(bundle: Path, target: str) -> None:
    (bundle.parent / "secret").write_text("pipeline: top-secret\n")
    file = bundle / "pipelines" / "bad" / "pipeline.yml"
    file.parent.mkdir()
    os.mkfifo(file) if target == "fifo" else file.symlink_to(target)
    for only in (None, "bad", "something-else"):
        found = pipeline_dags(bundle, only)
        assert set(found) <= {"bad"}
        assert all(
            "top-secret" not in dag.get_task("broken_spec").problems for dag in found.values()
        )


def test_whatever_the_check_takes_is_stored_and_shown_as_text(bundle: Path) -> None:
    chance, stored = random.Random(int(os.environ.get("LOADSHEET_SEED", "5"))), 0
    pairs = [(field, value) for field in SHOWN for value in VALUES]
    for field, value in pairs if os.environ.get("LOADSHEET_LONG") else chance.sample(pairs, 60):
        file = hostile_spec.written(
            bundle / "pipelines" / "shop", hostile_spec.placed(field, value)
        )
        if check_file(file)[0] is None:
            continue
        dag = factory.build_dag(load_pipeline(file), bundle)
        text = json.dumps(DagSerialization.to_dict(dag), ensure_ascii=False)
        assert RENDERED not in text and CANARY_VALUE not in text, (field, value)
        assert all(not task.template_fields for task in dag.tasks)
        stored += 1
    assert stored > 10


@pytest.fixture
def hard(project: Project, monkeypatch: pytest.MonkeyPatch) -> tuple[Project, list[str]]:
    """A pipeline whose names and SQL are templates, whose operators find it and its servers."""
    plain = [
        v for v in VALUES if len(v.encode()) <= 63 and v.isprintable() and not set("/\\*?") & set(v)
    ]
    names = [v for v in plain if "{{" in v][:8]
    for name in names:
        project.in_source(f'CREATE TABLE "{name}" (id int PRIMARY KEY, v text)')
        project.in_source(f"INSERT INTO \"{name}\" VALUES (1, '{{{{ 7919*7927 }}}}')")
    reads = " UNION ALL ".join(f'SELECT v FROM staging."{name}"' for name in names)
    marts = dict.fromkeys(
        names[:2], f"SELECT '{{{{ 7919*7927 }}}} ${CANARY_VARIABLE}' AS said, v FROM ({reads}) AS r"
    )
    project.spec(
        dict.fromkeys(names), marts, description="{{ 7919*7927 }}", owner="{{ 7919*7927 }}"
    )
    monkeypatch.setattr("loadsheet.airflow.operators.airflow_connection", project.connections)
    monkeypatch.setattr("airflow.sdk.Variable.get", lambda key, default=None: default)
    return project, names


def test_tasks_carry_templates_as_text_to_the_last_row(hard: tuple[Project, list[str]]) -> None:
    project, names = hard
    pipeline = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")
    dag: DAG = factory.build_dag(pipeline, project.folder)
    left: dict[str, Any] = {}
    for task in dag.topological_sort():
        extracted = left.get(task.task_id.replace("load", "extract"))
        events = {outlet: SimpleNamespace(extra={}) for outlet in task.outlets}
        found = context(load_id=extracted, outlet_events=events)
        task.render_template_fields(found)
        left[task.task_id] = execute(task, found)
    assert left[step_id("extract", names[0])]
    expected = [("{{ 7919*7927 }} $" + CANARY_VARIABLE, "{{ 7919*7927 }}")] * len(names)
    for name in names[:2]:
        assert project.in_warehouse(f'SELECT said, v FROM mart."{name}"') == expected
    assert RENDERED not in json.dumps(dag_config(pipeline, project.folder))


def test_slack_shows_what_a_source_says_and_obeys_none_of_it() -> None:
    said = "<!channel> \x1b[31m\u202e <http://evil.example|click> ``` *x*"
    message = json.dumps(failure_message(failed(said, run_id=said)), ensure_ascii=False)
    assert "<!channel>" not in message and "<http://evil" not in message
    assert "\u202e" not in message and "\\u001b" not in message and "\\\\x1b" in message
