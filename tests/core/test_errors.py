"""What operators read when it breaks: pipeline, table, run, the server's code and the next step;
and what is retried.

Each trouble is made with real servers. It lasts until undone, or it hits the first try only; then
the retry heals.
"""

from __future__ import annotations

import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from demo.servers import PostgresServer
from loadsheet import postgres as sessions
from loadsheet.engine.failures import failure_explained
from loadsheet.engine.runner import Retry, StepResult, run_pipeline
from loadsheet.errors import LoadsheetError, Refused, Superseded, Unavailable
from loadsheet.lake.store import Lake
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step
from loadsheet.spec.pipeline_file import load_pipeline
from tests.faults.oracle import judge, violations
from tests.project import Project, fetch

SOURCE = """
CREATE TABLE item (
    id int PRIMARY KEY, name text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item SELECT i, 'Ada ' || i FROM generate_series(1, 100) i;
"""
MORE = (
    "INSERT INTO item SELECT i, 'Ada ' || i FROM generate_series((SELECT max(id) + 1 FROM item),"
    " 150) i"
)
RETRIES = 2
# Called for each `started` step and for each progress; whatever it does happens in the middle of
# the step.
Hook = Callable[[Step, str], None]


@dataclass
class Shop:
    """A pipeline with a merged table and a mart, its servers, and what happened in its last run."""

    project: Project
    server: PostgresServer
    role: str
    run_id: str = ""
    waits: list[Retry] = field(default_factory=list)

    def run(
        self,
        hook: Hook = lambda step, moment: None,
        on_wait: Callable[[Retry], None] = lambda retry: None,
        parallel: int = 2,
    ) -> dict[str, StepResult]:
        """One run with retries, as `loadsheet run` makes them; `on_wait` is called before each."""
        self.run_id = f"manual__{secrets.token_hex(4)}"
        self.waits.clear()

        def on_step(step: Step, state: str, result: Any) -> None:
            if isinstance(result, Retry):
                self.waits.append(result)
                on_wait(result)
            elif state == "started":
                hook(step, state)

        pipeline = load_pipeline(self.project.folder / "pipelines" / "shop" / "pipeline.yml")
        return run_pipeline(
            pipeline,
            RunRequest(run_id=self.run_id),
            self.project.connections,
            on_step=on_step,
            progress=lambda step, rows, size: hook(step, "progress"),
            parallel=parallel,
            retrying=True,
        )

    def administer(self, statement: str, database: str = "postgres") -> None:
        """Run SQL as the superuser."""
        fetch(self.server.dsn(database), statement)

    @property
    def warehouse(self) -> str:
        """The warehouse database's name."""
        return self.project.connections("warehouse").schema

    @property
    def origin(self) -> str:
        """The source database's name."""
        return self.project.connections("shop_source").schema

    def converges(self) -> None:
        """With the trouble gone, the next run succeeds and nothing is lost or doubled."""
        self.project.succeed()
        assert not judge(self.project, "item") and violations(self.project) == []


@pytest.fixture
def shop(project: Project, postgres: PostgresServer) -> Shop:
    """Loaded once, with more rows waiting in the source; a role of its own, because superusers have
    no limits."""
    role = f"role_{secrets.token_hex(4)}"
    made = Shop(project, postgres, role)
    made.administer(f"CREATE ROLE {role} LOGIN PASSWORD 'p4ss'")
    for name in (made.warehouse, made.origin):
        made.administer(f'ALTER DATABASE "{name}" OWNER TO {role}')
    project.source, project.warehouse = (
        dsn.replace(f"{postgres.user}:{postgres.password}@", f"{role}:p4ss@")
        for dsn in (project.source, project.warehouse)
    )
    made.administer(f"GRANT pg_read_all_stats TO {role}; GRANT pg_signal_backend TO {role}")
    made.administer(f"GRANT CREATE ON SCHEMA public TO {role}", made.origin)
    project.in_source(SOURCE)
    project.spec(
        {"item": {"incremental": "at"}},
        {"names": "SELECT name FROM staging.item"},
        tasks={"retries": RETRIES, "retry_delay": "0s"},
    )
    project.succeed()
    project.in_source(MORE)
    return made


def idle(step: Step, moment: str) -> None:
    """No hook."""


# Each makes its trouble, yields the hook for the run, and undoes the trouble.


@contextmanager
def a_lock_held_by_another(shop: Shop) -> Iterator[Hook]:
    with (
        pytest.MonkeyPatch.context() as patched,
        psycopg.connect(shop.project.warehouse, application_name="report tool") as other,
    ):
        patched.setitem(sessions.WAREHOUSE_SETTINGS, "lock_timeout", "200ms")
        other.execute("LOCK staging.item IN SHARE MODE")
        yield idle
        other.rollback()


@contextmanager
def a_session_ended_by_an_administrator(shop: Shop) -> Iterator[Hook]:
    def end(step: Step, moment: str) -> None:
        if (step.kind, moment) == ("load", "progress"):
            shop.administer(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
                f" '{shop.warehouse}' AND application_name LIKE 'loadsheet%'"
            )

    yield end


@contextmanager
def a_wrong_password(shop: Shop) -> Iterator[Hook]:
    right = shop.project.source
    shop.project.source = right.replace(":p4ss@", ":wr0ng@")
    yield idle
    shop.project.source = right


@contextmanager
def a_missing_database(shop: Shop) -> Iterator[Hook]:
    right = shop.project.warehouse
    shop.project.warehouse = f"{right}_gone"
    yield idle
    shop.project.warehouse = right


@contextmanager
def a_server_that_is_not_there(shop: Shop) -> Iterator[Hook]:
    right = shop.project.source
    shop.project.source = right.replace(f":{shop.server.port}/", ":1/")
    yield idle
    shop.project.source = right


@contextmanager
def a_database_closed_for_connections(shop: Shop) -> Iterator[Hook]:
    shop.administer(f'ALTER DATABASE "{shop.warehouse}" ALLOW_CONNECTIONS false')
    yield idle
    shop.administer(f'ALTER DATABASE "{shop.warehouse}" ALLOW_CONNECTIONS true')


@contextmanager
def too_many_connections(shop: Shop) -> Iterator[Hook]:
    shop.administer(f"ALTER ROLE {shop.role} CONNECTION LIMIT 1")
    yield idle
    shop.administer(f"ALTER ROLE {shop.role} CONNECTION LIMIT -1")


@contextmanager
def a_read_only_warehouse(shop: Shop) -> Iterator[Hook]:
    shop.administer(f'ALTER DATABASE "{shop.warehouse}" SET default_transaction_read_only = on')
    yield idle
    shop.administer(f'ALTER DATABASE "{shop.warehouse}" RESET default_transaction_read_only')


@contextmanager
def a_missing_privilege_in_the_source(shop: Shop) -> Iterator[Hook]:
    shop.project.in_source(f"REVOKE SELECT ON item FROM {shop.role}")
    yield idle
    shop.project.in_source(f"GRANT SELECT ON item TO {shop.role}")


@contextmanager
def a_missing_privilege_in_the_warehouse(shop: Shop) -> Iterator[Hook]:
    shop.project.in_warehouse(f"REVOKE INSERT ON staging.item FROM {shop.role}")
    yield idle
    shop.project.in_warehouse(f"GRANT INSERT ON staging.item TO {shop.role}")


@contextmanager
def a_missing_table(shop: Shop) -> Iterator[Hook]:
    shop.project.in_source("ALTER TABLE item RENAME TO items")
    yield idle
    shop.project.in_source("ALTER TABLE items RENAME TO item")


@contextmanager
def a_constraint_of_somebody_else(shop: Shop) -> Iterator[Hook]:
    shop.project.in_warehouse("ALTER TABLE staging.item ADD CONSTRAINT mine CHECK (id < 120)")
    yield idle
    shop.project.in_warehouse("ALTER TABLE staging.item DROP CONSTRAINT mine")


@contextmanager
def sql_that_stumbles_over_a_value(shop: Shop) -> Iterator[Hook]:
    file = shop.project.folder / "pipelines" / "shop" / "sql" / "names.sql"
    right = file.read_text()
    file.write_text("SELECT name::int FROM staging.item")
    yield idle
    file.write_text(right)


@contextmanager
def a_wrong_key_of_the_lake(shop: Shop) -> Iterator[Hook]:
    lake = shop.project.s3
    right, lake.secret_key = lake.secret_key, "wrong-wrong-wrong"
    yield idle
    lake.secret_key = right


@contextmanager
def a_lake_that_is_not_there(shop: Shop) -> Iterator[Hook]:
    lake = shop.project.s3
    right, lake.port = lake.port, 1
    yield idle
    lake.port = right


@contextmanager
def a_bucket_removed_on_the_way(shop: Shop) -> Iterator[Hook]:
    lake = Lake(shop.project.connections("lake"), shop.project.bucket)

    def remove(step: Step, moment: str) -> None:
        if (step.kind, moment) == ("extract", "started"):
            for name in shop.project.objects():
                lake.remove(name)
            lake._client.remove_bucket(bucket_name=shop.project.bucket)

    yield remove


@dataclass(frozen=True)
class Case:
    """A trouble, the step that meets it, its code, whether it may pass, and what the message must
    also say."""

    trouble: Callable[[Shop], Any]
    step: str
    code: str
    passes: bool
    says: str


EXTRACT, LOAD, TRANSFORM = "extract.extract_item", "load.load_item", "transform.transform_names"
CASES = [
    Case(
        a_lock_held_by_another,
        LOAD,
        "SQLSTATE 55P03",
        True,
        "report tool, idle in transaction, since ",
    ),
    Case(
        a_session_ended_by_an_administrator,
        LOAD,
        "SQLSTATE 57P01",
        True,
        "Next: check that it runs",
    ),
    Case(
        a_server_that_is_not_there,
        EXTRACT,
        "SQLSTATE 08001",
        True,
        "port 1 failed: Connection refused",
    ),
    Case(
        a_database_closed_for_connections,
        EXTRACT,
        "SQLSTATE 57P03",
        True,
        "ALLOW_CONNECTIONS true",
    ),
    Case(
        too_many_connections,
        EXTRACT,
        "SQLSTATE 53300",
        True,
        "ALTER ROLE ... CONNECTION LIMIT",
    ),
    Case(
        a_read_only_warehouse,
        EXTRACT,
        "SQLSTATE 25006",
        True,
        "Next: after a failover, point the connection at",
    ),
    Case(
        a_lake_that_is_not_there,
        "create_bucket",
        "",
        True,
        ": Connection refused. The lake could not be reached",
    ),
    Case(
        a_wrong_password, EXTRACT, "SQLSTATE 28P01", False, "Next: correct the connection's login"
    ),
    Case(
        a_missing_database,
        EXTRACT,
        "SQLSTATE 3D000",
        False,
        "Next: create it, or correct the connection",
    ),
    Case(
        a_missing_privilege_in_the_source,
        EXTRACT,
        "SQLSTATE 42501",
        False,
        "table item (SQLSTATE 42501)",
    ),
    Case(
        a_missing_privilege_in_the_warehouse,
        LOAD,
        "SQLSTATE 42501",
        False,
        "Next: grant the role what it lacks",
    ),
    Case(a_missing_table, EXTRACT, "", False, "it is called public.items now"),
    Case(
        a_constraint_of_somebody_else,
        LOAD,
        "SQLSTATE 23514",
        False,
        'violates check constraint "mine"',
    ),
    Case(
        sql_that_stumbles_over_a_value,
        TRANSFORM,
        "SQLSTATE 22P02",
        False,
        "names.sql: invalid input syntax",
    ),
    Case(
        a_wrong_key_of_the_lake,
        "create_bucket",
        "S3 SignatureDoesNotMatch",
        False,
        "Next: correct login and password",
    ),
    Case(
        a_bucket_removed_on_the_way,
        EXTRACT,
        "S3 NoSuchBucket",
        False,
        "Next: run the step create_bucket",
    ),
]


OF_A_CONNECTION = {
    a_lock_held_by_another: "warehouse",
    a_read_only_warehouse: "warehouse",
    a_missing_privilege_in_the_source: "shop_source",
    a_missing_privilege_in_the_warehouse: "warehouse",
    a_constraint_of_somebody_else: "warehouse",
    sql_that_stumbles_over_a_value: "warehouse",
    a_session_ended_by_an_administrator: "warehouse",
    a_server_that_is_not_there: "shop_source",
    a_database_closed_for_connections: "warehouse",
    too_many_connections: "warehouse",
    a_wrong_password: "shop_source",
    a_missing_database: "warehouse",
    a_lake_that_is_not_there: "lake",
    a_wrong_key_of_the_lake: "lake",
    a_bucket_removed_on_the_way: "lake",
}
"""The troubles that a server tells of, and its connection. It was in no message."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.trouble.__name__)
def test_each_trouble_is_named_retried_if_it_may_pass_and_leaves_nothing_behind(
    shop: Shop, case: Case
) -> None:
    with case.trouble(shop) as hook:
        results = shop.run(hook)
    failed = results[case.step]
    assert (failed.state, failed.tries) == ("failed", 1 + RETRIES if case.passes else 1)
    assert [wait.number for wait in shop.waits] == (
        list(range(1, RETRIES + 1)) if case.passes else []
    )
    error = failed.result
    assert type(error) is (Unavailable if case.passes else Refused)
    assert isinstance(error, LoadsheetError) and error.retryable is case.passes
    assert (error.pipeline, error.step, error.run_id) == ("shop", case.step, shop.run_id)
    assert error.code == case.code and case.code in str(error)
    name = {"create_bucket": "shop", TRANSFORM: "shop.names"}.get(case.step, "shop.item")
    assert str(error).startswith(f"{name}: {failed.step.kind} failed in run {shop.run_id}: ")
    assert case.says in str(error) and "\n" not in str(error)
    named = re.search(r": the (\w+) \(connection '(\w+)'(?:, role '\w+')?\): ", str(error))
    conn_id = OF_A_CONNECTION.get(case.trouble)
    end = conn_id and conn_id.removeprefix("shop_")
    assert (named.groups() if named else (None, None)) == (end, conn_id)
    assert "Ada" not in str(error) and "p4ss" not in str(error) and "wr0ng" not in str(error)
    shop.converges()


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


# Trouble that hits one try.


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


def test_a_server_that_stops_in_the_middle_is_named(shop: Shop) -> None:
    with PostgresServer() as other:
        shop.project.warehouse = other.create_database("elsewhere")

        def stop(step: Step, moment: str) -> None:
            if (step.kind, moment) == ("load", "progress"):
                other.stop()

        error = shop.run(stop)[LOAD].result
    assert isinstance(error, Unavailable) and error.code in (
        "SQLSTATE 08001",
        "SQLSTATE 08006",
        "SQLSTATE 57P01",
    )
    assert str(error).startswith(
        f"shop.item: load failed in run {shop.run_id}: "
    ) and "Next: check that" in str(error)
    assert ": the warehouse (connection 'warehouse'): " in str(error)


def test_a_load_whose_extraction_is_gone_says_what_to_clear_and_is_not_retried(shop: Shop) -> None:
    def drop(step: Step, moment: str) -> None:
        if (step.kind, moment) == ("load", "started"):
            shop.project.in_warehouse("DROP TABLE mart.names; DROP TABLE staging.item")

    failed = shop.run(drop)[LOAD]
    assert isinstance(failed.result, Superseded) and failed.tries == 1
    text = str(failed.result)
    assert text.startswith(
        f"shop.item: load failed in run {shop.run_id}: staging.item is gone since"
    )
    assert (
        "in Airflow clear extract.extract_item" in text
        and "`loadsheet run shop --tables item`" in text
    )


def test_what_nobody_foresaw_is_not_retried_and_notes_its_place(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(
        "loadsheet.warehouse.load_transaction.LoadTransaction._write_increment", broken
    )
    failed = shop.run()[LOAD]
    assert isinstance(failed.result, TypeError) and failed.tries == 1
    assert failed.result.__notes__ == [f"shop.item: load failed in run {shop.run_id}"]


def test_a_refusal_keeps_its_own_words_and_loses_the_rows(shop: Shop) -> None:
    def stumble() -> None:
        try:
            shop.project.in_warehouse("SELECT CAST('open, Ada' AS point)")
        except psycopg.errors.DataError as error:
            first = Refused(f"cannot hold what the source sent: {error.diag.message_primary}")
            first.__cause__ = error
            raise Refused(f"staging.item: {first}") from first

    pipeline = load_pipeline(shop.project.folder / "pipelines" / "shop" / "pipeline.yml")
    step, request = Step(kind="load", name="item"), RunRequest(run_id="r1")
    with (
        pytest.raises(Refused) as caught,
        failure_explained(step, pipeline, request, shop.project.connections),
    ):
        stumble()
    assert str(caught.value).startswith(
        "shop.item: load failed in run r1: staging.item: cannot hold what the source sent: "
        'invalid input syntax for type point: "***" (SQLSTATE 22P02). A value does not fit. Next: '
    )


# The command line.


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
