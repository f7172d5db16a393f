"""A real Airflow, in which three tasks read one table."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg

from tests.airflow.world import World, ask, wait_for

# A row fills a page; the pages are three ranges.
ROWS = 13_000
SOURCE = f"""
CREATE SCHEMA large; CREATE TABLE large.pages (id int PRIMARY KEY, filler text STORAGE PLAIN);
INSERT INTO large.pages SELECT i, rpad('row ' || i, 7000) FROM generate_series(1, {ROWS}) i;
ANALYZE large.pages;
"""
WRITERS = """
UPDATE large.pages SET filler = 'moved' WHERE id % 3 = 0;
DELETE FROM large.pages WHERE id % 7 = 0;
INSERT INTO large.pages SELECT 100000 + i, 'late' FROM generate_series(1, 100) i;
"""
SPEC = """\
version: 1
source: {conn_id: flights_source, schema: large}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse, schema: large, mart_schema: large_mart}
tasks: {retries: 0}
tables:
  pages: {extract_tasks: 3}
"""
CONTENT = "SELECT count(*), md5(string_agg(md5(id || filler), '' ORDER BY id)) FROM large.pages"
WAITING = """
SELECT FROM pg_stat_activity JOIN pg_locks USING (pid)
WHERE relation = 'large.pages'::regclass AND NOT granted
"""
OFFER = "SELECT FROM loadsheet.scope WHERE table_name = 'pages' AND shared_read IS NOT NULL"
READERS = ("read.read_pages_2", "read.read_pages_3")


def process_of(world: World, run_id: str, task: str) -> int:
    """The process that runs the task, on this machine. Only its own user may look into it, and not
    even that one: Airflow hides what it has in memory."""
    path = f"dags/large/dagRuns/{run_id}/taskInstances/{task}"
    return int(world.airflow.api.call("GET", path)["pid"])


def is_offered(world: World) -> bool:
    return ask(world.warehouse, OFFER) != []


def have_ended(world: World, run_id: str) -> bool:
    """Whether the tasks that help have ended."""
    states = {task.task_id: task.state for task in world.airflow.api.tasks("large", run_id)}
    return all(states[name] in ("success", "skipped", "failed") for name in READERS)


def state_of(world: World, run_id: str, task: str) -> str | None:
    states = {one.task_id: one.state for one in world.airflow.api.tasks("large", run_id)}
    return states.get(task)


def is_running(world: World, run_id: str, task: str) -> bool:
    """Whether the task runs, in a process that Airflow knows."""
    path = f"dags/large/dagRuns/{run_id}/taskInstances/{task}"
    found = world.airflow.api.call("GET", path)
    return found["state"] == "running" and bool(found["pid"])


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """Within the block, the process sleeps."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def test_three_tasks_read_a_table_beside_writers_in_one_snapshot(world: World) -> None:
    api = world.airflow.api
    with psycopg.connect(world.source) as source:
        source.execute(SOURCE)
    before = ask(world.source, CONTENT)
    (world.project / "pipelines" / "large").mkdir()
    (world.project / "pipelines" / "large" / "pipeline.yml").write_text(SPEC)
    world.airflow.wait_for_dag("large")
    world.grant()
    api.unpause("large")
    with ExitStack() as extract_sleeps:
        with ExitStack() as lake_sleeps:
            with psycopg.connect(world.source) as source:
                source.execute("LOCK TABLE large.pages IN ACCESS EXCLUSIVE MODE")
                run_id = api.trigger("large")
                wait_for(lambda: ask(world.source, WAITING) != [], "the extraction", 120)
                extract = process_of(world, run_id, "extract.extract_pages")
                lake_sleeps.enter_context(stopped(world.s3.pid))
            # It has a range in each of its sessions at most, as nothing can be stored.
            wait_for(lambda: is_offered(world), "the offer", 60)
            extract_sleeps.enter_context(stopped(extract))
        with psycopg.connect(world.source) as source:
            source.execute(WRITERS)
        wait_for(lambda: have_ended(world, run_id), "the tasks that help", 120)
    assert api.wait("large", run_id, timeout=240) == "success"
    assert ask(world.warehouse, CONTENT) == before
    states = {task.task_id: task.state for task in api.tasks("large", run_id)}
    logs = [api.log("large", run_id, name) for name in READERS]
    assert "success" in {states[name] for name in READERS}, logs
    assert "read by" in api.log("large", run_id, "extract.extract_pages")
    # The next run reads whole, too: all of the writers' rows arrive. A task that helps is killed
    # before the table can be read, and has no further try. The run does not fail with it.
    with psycopg.connect(world.source) as source:
        source.execute("LOCK TABLE large.pages IN ACCESS EXCLUSIVE MODE")
        run_id = api.trigger("large")
        wait_for(lambda: is_running(world, run_id, READERS[0]), "a task that helps", 120)
        os.kill(process_of(world, run_id, READERS[0]), signal.SIGKILL)
        wait_for(lambda: state_of(world, run_id, READERS[0]) == "failed", "its end", 120)
    assert api.wait("large", run_id, timeout=240) == "success"
    assert state_of(world, run_id, "readers") == "success"
    assert ask(world.warehouse, CONTENT) == ask(world.source, CONTENT) != before
    api.pause("large")
