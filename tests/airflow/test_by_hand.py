"""A worker builds its DAG without dag-factory: the same DAG, with nothing imported that the task
does not need."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from loadsheet.airflow import factory
from loadsheet.airflow.factory import broken_dag, build_dag
from loadsheet.airflow.stubs import Stubs
from loadsheet.spec.pipeline_file import find_specs, load_pipeline
from tests.airflow.conftest import REPO

SPECS = [*sorted((REPO / "tests" / "specs" / "valid").rglob("*.yml")), *find_specs(REPO)]
LOADER = REPO / "dags" / "load_pipelines.py"
IN_A_WORKER = "_AIRFLOW_PARSING_CONTEXT_DAG_ID"  # what Airflow's own parsing context sets
HEAVY = {
    "dagfactory",
    "loadsheet.sql.libpg",
    "pandas",
    "pyarrow",
    "numpy",
    "psycopg",
    "psycopg2",
    "minio",
    "zstandard",
    # What alerts are sent by: a task imports it when there is something to send.
    "slack_sdk",
    "requests",
    "smtplib",
}


def stored(dag: DAG) -> Any:
    """What Airflow stores, but for the file and the order of tasks, which its own hash of a DAG
    leaves out too."""
    document = DagSerialization.to_dict(dag)["dag"]
    tasks = sorted(
        (task["__var"] for task in document.pop("tasks")), key=lambda task: task["task_id"]
    )
    document.pop("fileloc")
    return json.loads(json.dumps([document, tasks], sort_keys=True))


def runtime(dag: DAG) -> Any:
    """What a worker uses and Airflow does not store."""
    callbacks = (
        *("on_failure_callback", "on_success_callback"),
        *("on_skipped_callback", "on_retry_callback"),
    )
    return {
        task.task_id: (
            getattr(task, "operator_class", type(task)),
            getattr(task, "partial_kwargs", {}).get("spec") or task.spec,
            getattr(task, "name", None),
            [list(map(plain, getattr(task, name))) for name in callbacks],
        )
        for task in dag.tasks
    }


def plain(callback: functools.partial[Any]) -> Any:
    return callback.func, callback.args, callback.keywords


@pytest.mark.parametrize("file", SPECS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_both_builders_give_the_same_dag(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load_pipeline(file)
    by_dag_factory = build_dag(pipeline, REPO)
    monkeypatch.setenv(IN_A_WORKER, pipeline.name)
    monkeypatch.setattr(factory, "_by_dag_factory", None)
    by_hand = build_dag(pipeline, REPO)
    assert stored(by_hand) == stored(by_dag_factory)
    assert runtime(by_hand) == runtime(by_dag_factory)


@pytest.mark.parametrize("running", ["load.load_flights", "transform.fct_nothing", ""])
def test_a_task_has_its_own_assets_in_its_process_and_no_other_has_any(
    running: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load_pipeline(SPECS[-1])
    stored_dag = build_dag(pipeline, REPO)
    monkeypatch.setenv(IN_A_WORKER, pipeline.name)
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_TASK_ID", running)
    for task in build_dag(pipeline, REPO).tasks:
        same = stored_dag.get_task(task.task_id)
        is_whole = running in ("", task.task_id)
        assert task.outlets == (same.outlets if is_whole else [])
        assert task.inlets == (same.inlets if is_whole else [])
        assert task.upstream_task_ids == same.upstream_task_ids


@pytest.mark.parametrize("schedule", [None, "0 4 * * *"])
def test_the_stand_in_for_a_broken_file_is_the_same_too(
    schedule: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_dag_factory = broken_dag("bad", "pipelines/bad/pipeline.yml", "it is bad\nvery", schedule)
    monkeypatch.setenv(IN_A_WORKER, "bad")
    by_hand = broken_dag("bad", "pipelines/bad/pipeline.yml", "it is bad\nvery", schedule)
    assert stored(by_hand) == stored(by_dag_factory)


def test_a_difference_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the two above."""
    pipeline = load_pipeline(SPECS[-1])
    dag = build_dag(pipeline, REPO)
    before = stored(dag)
    dag.get_task("extract.extract_seats").set_downstream(dag.get_task("load.load_flights"))
    assert stored(dag) != before


def test_the_form_is_the_dags_and_reaches_a_task_from_there() -> None:
    from airflow.sdk.definitions.param import process_params

    dag = build_dag(load_pipeline(SPECS[-1]), REPO)
    task = dag.get_task("extract.extract_seats")
    assert not task.params and "params" not in next(
        t["__var"] for t in DagSerialization.to_dict(dag)["dag"]["tasks"]
    )
    found = process_params(dag, task, {"full_refresh": True}, suppress_exception=False)
    assert found == {**dag.params.dump(), "full_refresh": True} and found["tables"] == []


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which `flights` is known, as after the task before."""
    folder = tmp_path_factory.mktemp("home") / "cache"
    load = "from loadsheet.spec.pipeline_file import load_pipeline"
    code = f"{load}; load_pipeline(__import__('pathlib').Path({str(SPECS[-1])!r}))"
    env = {**os.environ, "LOADSHEET_CACHE": str(folder)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO, env=env)
    return folder


# Up to the moment when it asks for its connections; what each imports after Airflow's own modules.
WORKER = """
import json, runpy, sys
import airflow.sdk.execution_time.task_runner
before = set(sys.modules)
held = runpy.run_path(sys.argv[1])
dag = held["flights"] if "flights" in held else held["dag"]
parsed = set(sys.modules)
task = dag.get_task(sys.argv[2])
import loadsheet.airflow.operators
def connection(conn_id):
    raise KeyboardInterrupt
loadsheet.airflow.operators.airflow_connection = connection
task.load_id = lambda context: "load"
from loadsheet.outcome import RunRequest
loadsheet.airflow.operators._request = lambda pipeline, context: RunRequest(run_id="r")
try:
    execute = getattr(task.execute, "__wrapped__", type(task).execute)
    execute(task, {})
except KeyboardInterrupt:
    pass
print(json.dumps([sorted(parsed - before), sorted(set(sys.modules) - before)]))
"""
NEEDED = {
    "look": {"minio", "psycopg", "zstandard"},
    "extract.extract_seats": {"minio", "psycopg", "zstandard"},
    "load.load_seats": {"minio", "psycopg", "zstandard"},
    "transform.transform_dim_seat": {"psycopg"},
}


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The DAG file that the bundle makes for `flights`."""
    stubs = Stubs(REPO, tmp_path_factory.mktemp("storage"))
    stubs.add()
    return stubs.dags / "flights.yml.py"


@pytest.mark.parametrize("task", NEEDED)
def test_a_worker_imports_what_its_task_needs(task: str, cache: Path) -> None:
    parsed, ran = in_a_worker(task, LOADSHEET_CACHE=str(cache))
    assert HEAVY & parsed == set()
    assert HEAVY & ran <= NEEDED[task]
    # ours that need jsonschema and PyYAML
    assert not {"loadsheet.spec.schema", "loadsheet.spec.strict_yaml"} & ran


def test_a_worker_of_the_bundle_imports_no_more(stub: Path, cache: Path) -> None:
    parsed, ran = in_a_worker("extract.extract_seats", stub, LOADSHEET_CACHE=str(cache))
    assert HEAVY & parsed == set()
    assert HEAVY & ran <= NEEDED["extract.extract_seats"]


def test_without_the_cache_a_worker_checks_its_spec_with_all_that_takes() -> None:
    """The negative control: the measurement sees such an import."""
    parsed, _ = in_a_worker("look", LOADSHEET_CACHE="")
    assert HEAVY & parsed == {"loadsheet.sql.libpg"}
    assert {"loadsheet.spec.schema", "loadsheet.spec.strict_yaml"} <= parsed


def in_a_worker(task: str, file: Path = LOADER, **env: str) -> tuple[set[str], set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(file), task],
        cwd=REPO,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO), IN_A_WORKER: "flights", **env},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    parsed, ran = json.loads(done.stdout.splitlines()[-1])
    return set(parsed), set(ran)


def test_in_a_bundle_mapped_tasks_too_read_the_bundles_own_file(tmp_path: Path) -> None:
    from loadsheet.airflow.dag_file import dag_of

    spec, stub = (
        tmp_path / "pipelines" / "shop" / "pipeline.yml",
        tmp_path / "home" / "dags" / "shop.yml.py",
    )
    for folder in (spec.parent, stub.parent, tmp_path / "home" / "parsed"):
        folder.mkdir(parents=True)
    text = (REPO / "tests" / "specs" / "valid" / "patterns.yml").read_text()
    spec.write_text(text)
    dag = dag_of(str(stub), str(tmp_path), "shop")
    assert any(task.is_mapped for task in dag.tasks)
    assert {task.partial_kwargs["spec"] if task.is_mapped else task.spec for task in dag.tasks} == {
        str(spec)
    }
