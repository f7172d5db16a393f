"""Who waits for a retry, and for how long; trouble that hits the first try only, so that the retry
heals; and the command line."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import psycopg

from loadsheet.engine.runner import Retry, run_pipeline
from loadsheet.errors import Unavailable
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step
from loadsheet.spec.pipeline_file import load_pipeline
from tests.core.troubles import *  # noqa: F403
from tests.core.troubles import (
    EXTRACT,
    LOAD,
    RETRIES,
    Shop,
    a_database_closed_for_connections,
    a_lock_held_by_another,
    a_server_that_is_not_there,
    a_wrong_password,
)
from tests.faults.oracle import judge, violations
from tests.project import Project, fetch


def test_nobody_waits_for_a_retry_who_did_not_ask_for_one(shop: Shop) -> None:
    with a_server_that_is_not_there(shop):
        failed = shop.project.run()[EXTRACT]
    assert (failed.state, failed.tries) == ("failed", 1) and isinstance(failed.result, Unavailable)


def test_a_step_that_waits_for_its_retry_keeps_no_other_from_working(shop: Shop) -> None:
    shop.project.in_source("CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1)")
    shop.project.spec(
        {"item": {"incremental": "at"}, "other": None}, tasks={"retries": 1, "retry_delay": "3s"}
    )
    loaded_at_each_try: list[tuple[Any, ...]] = []

    def look(step: Step, moment: str) -> None:
        if (step.id, moment) == (LOAD, "started"):
            loaded_at_each_try.extend(
                fetch(shop.project.warehouse, "SELECT to_regclass('staging.other') IS NOT NULL")
            )

    with a_lock_held_by_another(shop):
        results = shop.run(look, parallel=1)
    assert (results["load.load_other"].state, results[LOAD].tries) == ("done", 2)
    assert loaded_at_each_try == [(False,), (True,)]
    shop.converges()


def test_a_source_that_is_away_keeps_no_run_waiting_for_ever_however_many_tables_it_has(
    project: Project,
) -> None:
    """Each of them waits for its retry at the same time."""
    tables = [f"t{number}" for number in range(40)]
    project.source = project.source.replace(f":{urlsplit(project.source).port}/", ":1/")
    project.spec(dict.fromkeys(tables), tasks={"retries": 1, "retry_delay": "1s"})
    pipeline = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")
    began = time.monotonic()
    # Without the command line, which asks the source before the first step.
    results = run_pipeline(pipeline, RunRequest(run_id="r1"), project.connections, retrying=True)
    tries = {
        result.step.name: result.tries
        for result in results.values()
        if result.step.kind == "extract"
    }
    # they wait together
    assert tries == dict.fromkeys(tables, 2) and time.monotonic() - began < 1 * len(tables)


def waiting(shop: Shop, where: str) -> list[tuple[Any, ...]]:
    """The sessions in the warehouse that wait for a lock."""
    return fetch(
        shop.server.dsn("postgres"),
        "SELECT pid FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock' AND"
        " application_name LIKE %s",
        shop.warehouse,
        where,
    )


def until(true: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_cancelled_statement_is_retried_and_the_retry_heals(shop: Shop) -> None:
    with psycopg.connect(shop.project.warehouse) as other:
        other.execute("LOCK staging.item IN SHARE MODE")

        def cancel() -> None:
            until(lambda: waiting(shop, "loadsheet%"))
            shop.administer(f"SELECT pg_cancel_backend({waiting(shop, 'loadsheet%')[0][0]})")
            other.rollback()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        results = shop.run()
        canceller.join()
    assert (results[LOAD].state, results[LOAD].tries) == ("done", 2)
    said = str(shop.waits[0].error)
    assert "the warehouse (connection 'warehouse'): canceling statement" in said
    assert "(SQLSTATE 57014). An administrator cancelled" in said
    assert not judge(shop.project, "item") and violations(shop.project) == []


def test_a_deadlock_is_retried_and_the_retry_heals(shop: Shop) -> None:
    # The load holds its target's lock and goes on to the table; the table's holder already waits
    # for that lock, and never looks for deadlocks itself: the load is the one that the server rolls
    # back.
    with psycopg.connect(shop.server.dsn(shop.warehouse), application_name="holder") as holder:
        holder.execute("SET deadlock_timeout = '1h'; SET lock_timeout = '60s'")
        wanted = threading.Thread(
            target=lambda: holder.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('loadsheet:staging.item', 0))"
            )
        )

        def hook(step: Step, moment: str) -> None:
            if step.kind != "load" or shop.waits:
                return
            if moment == "started":
                holder.execute("LOCK staging.item IN SHARE MODE")
            elif moment == "progress":
                wanted.start()
                until(lambda: waiting(shop, "holder"))

        def release(retry: Retry) -> None:
            wanted.join()
            holder.rollback()

        results = shop.run(hook, release)
    assert (results[LOAD].state, results[LOAD].tries) == ("done", 2), results[LOAD].result
    assert "deadlock detected (SQLSTATE 40P01)" in str(shop.waits[0].error)
    assert not judge(shop.project, "item") and violations(shop.project) == []


def started(shop: Shop, delay: str) -> subprocess.Popen[str]:
    """`loadsheet run` on a warehouse that is closed, up to its wait for it."""
    shop.project.spec({"item": {"incremental": "at"}}, tasks={"retries": 30, "retry_delay": delay})
    run = subprocess.Popen(
        shop.project.command("run", "shop"),
        env=shop.project.environment() | {"PYTHONUNBUFFERED": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert run.stderr
    for line in run.stderr:
        if line.startswith("waiting up to "):
            return run
    raise AssertionError(run.communicate())


def test_a_run_on_the_command_line_waits_for_its_servers(shop: Shop) -> None:
    with a_database_closed_for_connections(shop):
        run = started(shop, "1s")
    out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (0, "")
    assert re.search(r"loaded    item  50 inserted", out) and "tries" not in out
    assert not judge(shop.project, "item") and violations(shop.project) == []


def test_ctrl_c_does_not_wait_for_a_server(shop: Shop) -> None:
    with a_database_closed_for_connections(shop):
        run = started(shop, "10m")
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=20)
    assert run.returncode == 130 and err.startswith("interrupted: no step had begun. The same")
    shop.converges()


def test_a_hopeless_run_on_the_command_line_does_not_wait(shop: Shop) -> None:
    shop.project.spec(
        {"item": {"incremental": "at"}}, tasks={"retries": RETRIES, "retry_delay": "10m"}
    )
    with a_wrong_password(shop):
        run = shop.project.cli("run", "shop", "--json")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.count("(SQLSTATE 28P01)") == 1 and "wr0ng" not in run.stderr
    shop.converges()
