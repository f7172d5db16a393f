"""A worker may die at any moment: after one more run nothing is lost and nothing is doubled."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import psycopg
import pytest

from tests.project import ROOT, Project

LONG = bool(os.environ.get("LOADSHEET_LONG"))
KILLS = 200 if LONG else 30
ROWS = 200_000 if LONG else 10_000

SOURCE = """
CREATE TABLE merged (id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE appended (what text, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE replaced (id int PRIMARY KEY, what text);
"""
CHANGE = """
INSERT INTO merged SELECT coalesce((SELECT max(id) FROM merged), 0) + i, 'new' FROM generate_series(1, {rows}) i;
UPDATE merged SET what = what || '.', at = clock_timestamp() WHERE id % 7 = 0;
INSERT INTO appended SELECT 'event ' || i FROM generate_series(1, {rows}) i;
INSERT INTO replaced SELECT coalesce((SELECT max(id) FROM replaced), 0) + 1, 'row';
"""
TRANSFORMS = {
    "total": "SELECT count(*) AS merged, (SELECT count(*) FROM staging.appended) AS appended FROM staging.merged",
    "latest": (
        "SELECT id, what FROM staging.merged WHERE _load_id > :since_load",
        {"materialized": "merge", "unique_key": "id"},
    ),
}
# Imports first, so that random moments fall into the run and not into starting Python.
WORKER = """
import sys
import loadsheet.runner
from loadsheet.cli.main import main
print("ready", flush=True)
sys.exit(main())
"""


def start(project: Project) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, "--project", str(project.folder), "run", "shop"],
        env=project.environment(), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert worker.stdout and worker.stdout.readline() == "ready\n"
    return worker


def kill(worker: subprocess.Popen[str]) -> bool:
    """SIGKILL; whether the worker was still alive."""
    alive = worker.poll() is None
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    return alive


def settled(project: Project) -> None:
    """Wait until the dead worker's sessions are gone, as they are before a scheduler retries."""
    deadline = time.monotonic() + 20
    question = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'loadsheet%%'"
    while project.in_warehouse(question) != [(0,)] and time.monotonic() < deadline:
        time.sleep(0.05)


def seconds_to_succeed(project: Project) -> float:
    """How long a run takes now: the next kill falls somewhere into that time, however busy the machine is."""
    began = time.monotonic()
    project.succeed()
    return time.monotonic() - began


@pytest.mark.timeout(3600 if LONG else 600)
def test_kill_9_at_random_moments_loses_and_doubles_nothing(project: Project) -> None:
    seed = int(os.environ.get("LOADSHEET_SEED", random.randrange(10**6)))
    print(f"LOADSHEET_SEED={seed}")
    chance = random.Random(seed)
    project.in_source(SOURCE)
    project.in_source(CHANGE.format(rows=ROWS))
    tables = {"merged": {"incremental": "at"}, "appended": {"incremental": "at"}, "replaced": None}
    project.spec(tables, TRANSFORMS)
    project.succeed()
    whole, killed = 1.0, 0
    for number in range(KILLS):
        project.in_source(CHANGE.format(rows=ROWS // 20))
        worker = start(project)
        time.sleep(chance.uniform(0, whole))
        killed += kill(worker)
        settled(project)
        whole = seconds_to_succeed(project)
        wrong = {table: project.differences(table) for table in tables}
        assert not any(wrong.values()), f"kill {number} of seed {seed}: {wrong}"
        assert project.in_warehouse(
            "SELECT (SELECT merged FROM mart.total) = (SELECT count(*) FROM staging.merged), (SELECT count(*) FROM "
            "(SELECT id, what FROM mart.latest EXCEPT ALL SELECT id, what FROM staging.merged) wrong)"
        ) == [(True, 0)]
    assert killed > KILLS / 5, f"only {killed} of {KILLS} kills met a living run"
    print(f"{killed} kills of a living run, 0 lost, 0 doubled")


def test_a_killed_load_leaves_the_target_as_it_was(project: Project) -> None:
    """The transaction of a dead client ends by itself; nothing of it is ever visible."""
    project.in_source(SOURCE)
    project.in_source(CHANGE.format(rows=1000))
    project.spec({"merged": {"incremental": "at"}})
    project.succeed()
    project.in_source("UPDATE merged SET what = 'later', at = clock_timestamp()")
    with psycopg.connect(project.warehouse) as blocker:
        blocker.execute("LOCK TABLE staging.merged IN SHARE MODE")
        worker = start(project)
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        while project.in_warehouse(waiting) == [(0,)]:
            assert worker.poll() is None
            time.sleep(0.05)
        assert kill(worker)
        settled(project)
    assert project.in_warehouse("SELECT count(*) FROM staging.merged WHERE what = 'later'") == [(0,)]
    project.succeed()
    assert project.differences("merged") == 0
