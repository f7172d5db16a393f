"""The DAGs that Airflow finds in this repository match the plans of its pipeline files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

import operators
from loadsheet.airflow.factory import build_dag
from loadsheet.plan.steps import build_plan, with_look
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import find_specs, load_pipeline
from tests.airflow.conftest import REPO

PIPELINES = [load_pipeline(spec) for spec in find_specs(REPO)]
EVERY_KEY = load_pipeline(REPO / "tests" / "specs" / "valid" / "every_key" / "pipeline.yml")
SPEC = """\
version: 1
pipeline: hard
description: "{{ 7*7 }} costs $HOME, ${PATH} and $$"
schedule: "0 4 * * *"
start_date: "2026-01-01T02:00:00+02:00"
owner: data-eng
tags: [one, two]
source: {conn_id: src, schema: "from $HOME"}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: wh}
notify: {slack_conn_id: slack}
tasks: {pool: loads, retries: 4, retry_delay: 90s, timeout: 2h, max_active_tasks: 3}
tables:
  bookings:
    incremental: {cursor: book_date, by: data_interval}
    pool: slow
    retries: 0
    timeout: 15m
  "{{ 7-7 }}":
  'Order "Lines" é':
transforms:
  fct: {retries: 1}
  daily:
"""


@pytest.fixture(scope="module")
def bag() -> BundleDagBag:
    return BundleDagBag(dag_folder=REPO, bundle_path=REPO, bundle_name="repository")


@pytest.fixture
def hard(tmp_path: Path) -> Pipeline:
    file = tmp_path / "pipelines" / "hard" / "pipeline.yml"
    (file.parent / "sql").mkdir(parents=True)
    file.write_text(SPEC)
    (file.parent / "sql" / "fct.sql").write_text(
        "SELECT '$HOME {{ 7*7 }}' AS x, b.* FROM bookings b\n"
    )
    (file.parent / "sql" / "daily.sql").write_text("SELECT count(*) FROM mart.fct\n")
    return load_pipeline(file)


def edges(dag: DAG) -> set[tuple[str, str]]:
    return {(upstream, task.task_id) for task in dag.tasks for upstream in task.upstream_task_ids}


def test_airflow_finds_one_dag_per_spec_and_no_error(bag: BundleDagBag) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == {pipeline.name for pipeline in PIPELINES} != set()


def test_airflow_parses_the_loader_and_nothing_else(bag: BundleDagBag) -> None:
    assert list(bag.file_last_changed) == [str(REPO / "dags" / "load_pipelines.py")]


def test_the_operators_that_run_are_ours() -> None:
    assert Path(operators.__file__).resolve() == REPO / "operators" / "__init__.py"
    code = (  # as in Airflow: the bundle's root comes last on the path
        f"import sys; sys.path.append({str(REPO)!r}); import dags, operators, loadsheet\n"
        "print(*[m.__file__ for m in (dags, operators, loadsheet)], sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.split() == [
        str(REPO / name / "__init__.py") for name in ("dags", "operators", "loadsheet")
    ]


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda p: p.name)
def test_tasks_and_edges_are_exactly_those_of_the_plan(
    bag: BundleDagBag, pipeline: Pipeline
) -> None:
    dag, steps = bag.dags[pipeline.name], with_look(build_plan(pipeline))
    assert set(dag.task_ids) == {step.id for step in steps}
    assert edges(dag) == {(upstream, step.id) for step in steps for upstream in step.upstream}
    assert {t.task_id: (t.kind, t.name) for t in dag.tasks} == {
        step.id: (step.kind, step.name) for step in steps
    }


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda p: p.name)
def test_tasks_behave_as_the_spec_says(bag: BundleDagBag, pipeline: Pipeline) -> None:
    dag = bag.dags[pipeline.name]
    assert dag.tags == {*pipeline.tags, "dagfactory"}
    assert dag.catchup is False and dag.max_active_runs == 1
    assert {task.owner for task in dag.tasks} == {pipeline.owner}
    for task in dag.tasks:
        rule = "none_failed" if task.task_id.startswith("transform.") else "all_success"
        assert task.trigger_rule == rule
        assert bool(task.on_failure_callback) == bool(pipeline.notify)
        recovery = any("recovery" in route.events for route in pipeline.notify)
        assert bool(task.on_success_callback) == bool(task.on_skipped_callback) == recovery


def test_every_key_of_a_spec_reaches_its_tasks(hard: Pipeline) -> None:
    dag = build_dag(hard)
    assert dag.description == "{{ 7*7 }} costs $HOME, ${PATH} and $$"
    assert (dag.start_date.isoformat(), dag.max_active_tasks) == ("2026-01-01T00:00:00+00:00", 3)
    assert (type(dag.timetable).__name__, dag.timetable.expression) == (
        "CronDataIntervalTimetable",
        "0 4 * * *",
    )
    behaviour = {
        task.task_id: (
            task.pool,
            task.retries,
            task.retry_delay.total_seconds(),
            task.execution_timeout.total_seconds(),
        )
        for task in dag.tasks
    }
    assert behaviour["look"] == ("loads", 4, 90, 7200)
    assert (
        behaviour["extract.extract_bookings"]
        == behaviour["load.load_bookings"]
        == ("slow", 0, 90, 900)
    )
    assert behaviour["transform.transform_fct"] == ("loads", 1, 90, 7200)
    assert {task.owner for task in dag.tasks} == {"data-eng"}
    callback = dag.get_task("look").on_failure_callback[0]
    routes = [{"slack_conn_id": "slack", "events": ["failure", "recovery", "late"]}]
    keywords = {"routes": routes}
    assert (callback.func.__qualname__, callback.keywords) == ("notify_failure", keywords)
    callback = dag.get_task("extract.extract_bookings").on_skipped_callback[0]
    assert (callback.func.__qualname__, callback.keywords) == (
        "notify_success",
        keywords,
    )


def test_names_are_shown_as_they_are(hard: Pipeline) -> None:
    shown = {task.task_id: task.task_display_name for task in build_dag(hard).tasks}
    assert shown["look"] == "look"
    assert sorted(name for task, name in shown.items() if task.startswith("extract.")) == [
        'extract Order "Lines" é',
        "extract bookings",
        "extract {{ 7-7 }}",
    ]
    assert shown["load.load_bookings"] == "load bookings"


def test_the_trigger_form_refuses_what_the_spec_does_not_have(hard: Pipeline) -> None:
    params = build_dag(hard).params
    assert params.dump() == {
        "full_refresh": False,
        "tables": [],
        "accept_source": False,
        "interval_start": None,
        "interval_end": None,
        "transforms": [],
    }
    for tables in (["bookings"], ["{{ 7-7 }}", "bookings"], None):
        params["tables"] = tables
        params.validate()
    with pytest.raises(Exception, match="'nope' is not one of"):
        params["tables"] = ["nope"]


def test_airflow_can_store_the_dag_and_renders_nothing_of_it(hard: Pipeline) -> None:
    dag = build_dag(hard)
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    assert set(stored.task_dict) == set(dag.task_dict)
    for task in dag.tasks:
        task.render_template_fields({})
        assert not task.template_fields
    assert {task.name for task in dag.tasks} >= {"{{ 7-7 }}"}
    assert stored.description == dag.description


def test_the_source_passes_airflows_lint_rules() -> None:
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--select",
            "AIR",
            "--no-cache",
            "dags",
            "operators",
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout
