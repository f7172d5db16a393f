"""A process that has imported what tasks need, before it forks them, leaves them nothing to
import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import Project

# Runs, for each operator with its table or transform in `argv[3]`, the task in a process that is
# forked, and prints what each has imported.
TASKS = """
import json, os, sys, threading
import airflow.sdk.execution_time.task_runner
from types import SimpleNamespace
spec, run_id, tasks, *preloaded = sys.argv[1:]
if preloaded:
    from loadsheet.airflow.preload import WORKING, preload
    files = set(os.listdir("/proc/self/fd"))
    preload(WORKING)
    assert set(os.listdir("/proc/self/fd")) == files, "something was opened"
    assert threading.active_count() == 1, "a thread was started"

def run(kind, name):
    before = set(sys.modules)
    from loadsheet.airflow import operators
    from loadsheet.airflow.table_operators import TableOperator
    kinds = {
        "table": TableOperator,
        "extract": operators.PostgresToMinioOperator,
        "transform": operators.SqlTransformOperator,
    }
    task = kinds[kind](task_id="task", spec=spec, name=name)
    ti = SimpleNamespace(
        dag_id="shop", task_id="task", run_id=run_id, try_number=1, max_tries=0, map_index=-1,
        xcom_push=lambda *_, **__: None, xcom_pull=lambda *_, **__: None,
    )
    dag_run = SimpleNamespace(run_id=run_id, conf={}, logical_date=None)
    task.execute(
        {"ti": ti, "run_id": run_id, "params": {}, "dag_run": dag_run, "task": task}
    )
    ours = ("loadsheet", "minio", "psycopg", "urllib3", "zstandard")
    found = sorted(m for m in set(sys.modules) - before if m.partition(".")[0] in ours)
    print(json.dumps([kind, found]), flush=True)

for kind, name in json.loads(tasks):
    pid = os.fork()
    if pid == 0:
        run(kind, name)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


def imported(
    project: Project, run_id: str, tasks: list[tuple[str, str]], *preloaded: str
) -> dict[str, list[str]]:
    """The modules of ours, and of the clients, that each task has imported by itself; a task is an
    operator and its table or transform."""
    spec = str(project.folder / "pipelines" / "shop" / "pipeline.yml")
    done = subprocess.run(
        [sys.executable, "-c", TASKS, spec, run_id, json.dumps(tasks), *preloaded],
        env={
            **os.environ,
            **project.environment(),
            "LOADSHEET_CACHE": str(project.folder / "cache"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_task_imports_nothing_that_its_parent_has_imported_for_it(project: Project) -> None:
    project.in_source("CREATE TABLE sale (id int PRIMARY KEY, at timestamptz)")
    project.in_source("INSERT INTO sale SELECT i, now() FROM generate_series(1, 10) i")
    project.spec({"sale": {"incremental": "at"}}, {"sales": "SELECT id FROM staging.sale"})
    project.run(run_id="first")
    project.in_source("INSERT INTO sale VALUES (11, now())")
    alone = imported(project, "second", [("table", "sale")])
    assert len(alone["table"]) > 150, "the control: a task by itself imports all of it"
    project.in_source("INSERT INTO sale VALUES (12, now())")
    tasks = [("transform", "sales"), ("extract", "sale"), ("table", "sale")]
    found = imported(project, "third", tasks, "preloaded")
    assert found == {"transform": [], "extract": [], "table": []}
