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

# Runs the operator `argv[1]` of table or transform `argv[2]`, and prints what it has imported.
TASK = """
import json, os, sys, threading
import airflow.sdk.execution_time.task_runner
from types import SimpleNamespace
if sys.argv[5:]:
    from loadsheet.airflow.preload import WORKING, preload
    files = set(os.listdir("/proc/self/fd"))
    preload(WORKING)
    assert set(os.listdir("/proc/self/fd")) == files, "something was opened"
    assert threading.active_count() == 1, "a thread was started"
before = set(sys.modules)
from loadsheet.airflow import operators
from loadsheet.airflow.table_operators import TableOperator
kinds = {
    "table": TableOperator,
    "extract": operators.PostgresToMinioOperator,
    "transform": operators.SqlTransformOperator,
}
task = kinds[sys.argv[1]](task_id="task", spec=sys.argv[3], name=sys.argv[2])
ti = SimpleNamespace(
    dag_id="shop", task_id="task", run_id=sys.argv[4], try_number=1, max_tries=0, map_index=-1,
    xcom_push=lambda *_, **__: None, xcom_pull=lambda *_, **__: None,
)
run = SimpleNamespace(run_id=sys.argv[4], conf={}, logical_date=None)
task.execute({"ti": ti, "run_id": sys.argv[4], "params": {}, "dag_run": run, "task": task})
ours = ("loadsheet", "minio", "psycopg", "urllib3", "zstandard")
print(json.dumps(sorted(m for m in set(sys.modules) - before if m.partition(".")[0] in ours)))
"""


def imported(project: Project, kind: str, name: str, run_id: str, *preloaded: str) -> list[str]:
    """The modules of ours, and of the clients, that a task has imported by itself."""
    spec = str(project.folder / "pipelines" / "shop" / "pipeline.yml")
    done = subprocess.run(
        [sys.executable, "-c", TASK, kind, name, spec, run_id, *preloaded],
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
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_task_imports_nothing_that_its_parent_has_imported_for_it(project: Project) -> None:
    project.in_source("CREATE TABLE sale (id int PRIMARY KEY, at timestamptz)")
    project.in_source("INSERT INTO sale SELECT i, now() FROM generate_series(1, 10) i")
    project.spec({"sale": {"incremental": "at"}}, {"sales": "SELECT id FROM staging.sale"})
    project.run(run_id="first")
    project.in_source("INSERT INTO sale VALUES (11, now())")
    alone = imported(project, "table", "sale", "second")
    assert len(alone) > 150, "the control: a task by itself imports all of it"
    assert imported(project, "transform", "sales", "second", "preloaded") == []
    project.in_source("INSERT INTO sale VALUES (12, now())")
    assert imported(project, "extract", "sale", "third", "preloaded") == []
    assert imported(project, "table", "sale", "third", "preloaded") == []
