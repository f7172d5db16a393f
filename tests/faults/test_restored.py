"""The source restored, failed over, rebuilt or exchanged: noticed before anything is written, with
two ways on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from demo.servers import PostgresServer
from loadsheet.engine.runner import StepResult
from loadsheet.errors import SourceChanged, Unavailable
from loadsheet.source import catalog, identity, sequences
from tests.faults.oracle import judge, violations
from tests.faults.tally import Tally
from tests.project import Project, fetch
from tests.sessions import close_kept

Tallies = Callable[[str], Tally]
SOURCE = """
CREATE TABLE by_time (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), what text);
CREATE TABLE by_number (id bigserial PRIMARY KEY, what text);
CREATE TABLE log (n bigserial, what text);
CREATE TABLE whole (id bigserial PRIMARY KEY, what text);
"""
TABLES = {
    "by_time": {"incremental": "at"},
    "by_number": {"incremental": "id"},
    "log": {"incremental": "n"},
    "whole": None,
}
INCREMENTAL = ("by_time", "by_number", "log")
EXTRACTS = {f"extract.extract_{table}": table for table in INCREMENTAL}
STATE = (
    "SELECT pipeline, table_name, fence, watermark, last_load_no, source FROM loadsheet.scope "
    "WHERE table_name <> 'whole' ORDER BY 1, 2"
)


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresServer]:
    """The source's server, small, so that it is copied quickly."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def shop(project: Project, primary: PostgresServer) -> Project:
    """A project with a source on `primary`, loaded once."""
    project.source = primary.create_database(project.source.rpartition("/")[2])
    project.in_source(SOURCE)
    project.spec(TABLES)
    write(project, 20)
    project.succeed()
    return project


def write(project: Project, rows: int) -> None:
    """Some more rows in each table."""
    for table in TABLES:
        project.in_source(
            f"INSERT INTO {table} (what) SELECT gen_random_uuid()::text FROM generate_series(1,"
            f" {rows})"
        )


def at(project: Project, server: PostgresServer) -> str:
    """The project's source database on another server."""
    return server.dsn(project.source.rpartition("/")[2])


def careless(project: Project) -> Project:
    """The same source in a pipeline of its own, whose runs do not look at the source's identity."""
    other = replace(project, name="careless")
    other.spec(TABLES, warehouse={"conn_id": "warehouse", "schema": "careless"})
    return other


def stopped(
    project: Project, says: str, tables: tuple[str, ...] = INCREMENTAL
) -> dict[str, StepResult]:
    """Run and expect that `tables` stop with `says`, that the others go on and that nothing of
    `tables` is written."""
    before, objects = project.in_warehouse(STATE), project.objects()
    results = project.run()
    for step, table in EXTRACTS.items():
        error = results[step].result
        if table in tables:
            assert isinstance(error, SourceChanged), error
            for words in (
                says,
                f"public.{table}",
                "--full-refresh",
                "--accept-source",
                "nothing was written",
            ):
                assert words in str(error)
            assert (
                f"loadsheet run shop --tables {table} --full-refresh" in str(error)
                and not error.retryable
            )
    assert results["extract.extract_whole"].state != "failed" and not judge(project, "whole")
    if tables == INCREMENTAL:
        assert project.in_warehouse(STATE) == before
        assert {name for name in project.objects() - objects if "/whole/" not in name} == set()
    return results


def equal(project: Project, line: Tally) -> None:
    """The oracle finds nothing, and the next runs go on as if nothing had been."""
    write(project, 3)
    project.succeed()
    verdicts = [judge(project, table) for table in TABLES]
    line.add(*verdicts)
    assert not any(verdicts) and violations(project) == []


def attack(
    shop: Project,
    monkeypatch: pytest.MonkeyPatch,
    line: Tally,
    switch: Callable[[], None],
    says: str,
) -> None:
    """Load more, let `switch` take it away, write anew: both pipelines meet it; the careless one
    must lose rows."""
    other = careless(shop)
    other.succeed()
    write(shop, 30)
    shop.succeed()
    other.succeed()
    switch()
    write(shop, 10)
    stopped(shop, says)
    with monkeypatch.context() as patch:
        blind(patch)
        other.source = shop.source
        other.succeed()
        lost = [judge(other, table, staging="careless").lost for table in INCREMENTAL]
        line.control(f"lost {sum(lost)} rows")
        assert sum(lost) > 0
    shop.succeed(full_refresh="all")
    equal(shop, line)


def blind(patch: pytest.MonkeyPatch) -> None:
    """Take the checks away."""
    same = identity.Difference(changes=[], is_behind=False, lags=False)
    patch.setattr(identity.Identity, "since", lambda *args: same)
    patch.setattr(identity, "table_changes", lambda *args: [])
    patch.setattr(sequences, "refuse_set_back", lambda *args: None)


@pytest.mark.parametrize("mark", ["WAL position 0/", "next transaction"])
def test_a_source_restored_from_a_copy_of_its_files_is_noticed(
    shop: Project,
    primary: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    tally: Tallies,
    mark: str,
) -> None:
    """By what it has not passed yet: a bulk load writes much WAL, and many small transactions write
    little."""
    with PostgresServer(copy_of=primary) as restored:
        if mark == "next transaction":
            for _ in range(30):
                shop.in_source("SELECT txid_current()")

        def switch() -> None:
            shop.source = at(shop, restored)
            if mark == "next transaction":
                shop.in_source("SELECT pg_switch_wal() FROM (SELECT txid_current()) used")

        attack(shop, monkeypatch, tally("source restored or failed over"), switch, mark)


def test_a_standby_promoted_before_it_had_everything_is_noticed(
    shop: Project, primary: PostgresServer, monkeypatch: pytest.MonkeyPatch, tally: Tallies
) -> None:
    with PostgresServer(copy_of=primary, standby="silent") as standby:

        def switch() -> None:
            shop.source = at(shop, standby)
            shop.in_source("SELECT pg_promote()")
            # However far it writes, its history is another one.
            shop.in_source(
                "CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)"
            )

        attack(
            shop, monkeypatch, tally("source restored or failed over"), switch, "timeline 1 -> 2"
        )


def test_a_dump_read_into_another_server_is_noticed(
    shop: Project, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, tally: Tallies
) -> None:
    shop_rows = dump(shop.source)

    def switch() -> None:
        shop.source = postgres.create_database(f"reloaded_{shop.source.rpartition('/')[2]}")
        shop.in_source(SOURCE)
        reload(shop.source, shop_rows)

    attack(shop, monkeypatch, tally("source restored or failed over"), switch, "system identifier ")


def test_another_database_behind_the_same_connection_is_noticed(
    shop: Project, primary: PostgresServer, monkeypatch: pytest.MonkeyPatch, tally: Tallies
) -> None:
    name = shop.source.rpartition("/")[2]
    close_kept()  # a database that is copied has no sessions
    with psycopg.connect(primary.dsn("postgres"), autocommit=True) as session:
        session.execute(f"CREATE DATABASE other_{name} TEMPLATE {name}")

    def switch() -> None:
        shop.source = primary.dsn(f"other_{name}")

    attack(
        shop, monkeypatch, tally("source restored or failed over"), switch, f"database {name} (oid "
    )


def test_a_table_dropped_and_made_anew_is_noticed(
    shop: Project, monkeypatch: pytest.MonkeyPatch, tally: Tallies
) -> None:
    def switch() -> None:
        shop.in_source(f"DROP TABLE {', '.join(TABLES)}")
        shop.in_source(SOURCE)

    attack(
        shop,
        monkeypatch,
        tally("source restored or failed over"),
        switch,
        "the table was dropped and recreated",
    )


def dump(dsn: str) -> dict[str, bytes]:
    """The rows of each table, as COPY writes them."""
    with psycopg.connect(dsn) as session:
        return {
            table: b"".join(
                bytes(block)
                for block in session.cursor().copy(f"COPY {table} TO STDOUT").__enter__()
            )
            for table in TABLES
        }


def reload(dsn: str, rows: dict[str, bytes]) -> None:
    """Those rows in fresh tables, with the sequences set as pg_dump sets them."""
    with psycopg.connect(dsn) as session:
        for table, text in rows.items():
            with session.cursor().copy(f"COPY {table} FROM STDIN") as copy:
                copy.write(text)
            column = "n" if table == "log" else "id"
            session.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), max({column})) FROM"
                f" {table}"
            )


def test_only_the_table_that_was_made_anew_stops(shop: Project, tally: Tallies) -> None:
    shop.in_source(
        "DROP TABLE by_number; CREATE TABLE by_number (id bigserial PRIMARY KEY, what text)"
    )
    write(shop, 5)
    results = stopped(shop, "the table was dropped and recreated", ("by_number",))
    assert [results[step].state for step in EXTRACTS] == ["done", "failed", "done"]
    shop.succeed(full_refresh=frozenset({"by_number"}))
    equal(shop, tally("source restored or failed over"))


def test_a_switchover_that_lost_nothing_may_be_accepted_and_goes_on_from_the_watermark(
    shop: Project, primary: PostgresServer, tally: Tallies
) -> None:
    with PostgresServer(copy_of=primary, standby=True) as standby:
        write(shop, 10)
        shop.succeed()
        follow(primary, standby)
        shop.source = at(shop, standby)
        shop.in_source("SELECT pg_promote()")
        stopped(shop, "timeline 1 -> 2")
        done = shop.cli("run", "shop", "--accept-source")
        assert done.returncode == 0 and "accepted: timeline 1 -> 2" in done.stdout, done.stdout
        # Remembered although there was not one new row.
        known = shop.in_warehouse(
            "SELECT source ->> 'timeline' FROM loadsheet.scope WHERE table_name <> 'whole'"
        )
        assert set(known) == {("2",)}
        equal(shop, tally("source restored or failed over"))
        actions = shop.in_warehouse(
            "SELECT action FROM loadsheet.load WHERE table_name = 'log' ORDER BY load_no"
        )
        assert [row[0] for row in actions] == ["replace", *["append"] * 3]


def follow(primary: PostgresServer, standby: PostgresServer) -> None:
    """Wait until the standby has replayed all that the primary has written."""
    with (
        psycopg.connect(primary.dsn("postgres"), autocommit=True) as one,
        psycopg.connect(standby.dsn("postgres"), autocommit=True) as other,
    ):
        position = one.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        one.execute("SET synchronous_commit = on")
        while other.execute("SELECT pg_last_wal_replay_lsn() >= %s", position).fetchone() != (
            True,
        ):
            # a commit that flushes: what was written before it goes out now
            one.execute("SELECT txid_current()")
            time.sleep(0.01)


def test_a_standby_that_lags_behind_is_tried_again_and_read_when_it_has_caught_up(
    project: Project, primary: PostgresServer
) -> None:
    project.source = primary.create_database(project.source.rpartition("/")[2])
    project.in_source(
        "CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
    )
    project.spec({"item": {"incremental": {"cursor": "at", "lookback": "1h"}}})
    project.in_source("INSERT INTO item VALUES (1)")
    with PostgresServer(copy_of=primary, standby=True) as standby:
        project.succeed()
        in_standby = at(project, standby)
        with psycopg.connect(in_standby, autocommit=True) as session:
            follow(primary, standby)
            pause(in_standby)
            project.in_source("INSERT INTO item VALUES (2)")
            project.succeed()
            project.source = in_standby
            error = project.run()["extract.extract_item"].result
            assert (
                isinstance(error, SourceChanged) and error.retryable and "lags behind" in str(error)
            )
            session.execute("SELECT pg_wal_replay_resume()")
        follow(primary, standby)
        project.succeed()
        assert not judge(project, "item") and violations(project) == []


def searched_in(project: Project, primary: PostgresServer) -> str:
    """A table of the primary is loaded, in which each run searches for deleted rows. Returns the
    connection URI of its database there."""
    project.source = primary.create_database(project.source.rpartition("/")[2])
    project.in_source(
        "CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());"
        "INSERT INTO item SELECT generate_series(1, 100)"
    )
    incremental = {"cursor": "at", "lookback": "1h"}
    project.spec({"item": {"incremental": incremental, "deletes": "hard"}})
    project.succeed()
    return project.source


def test_a_standby_that_catches_up_behind_its_snapshot_still_lags(
    project: Project, primary: PostgresServer, monkeypatch: pytest.MonkeyPatch, tally: Tallies
) -> None:
    """It shows a position above the last load's then, but its snapshot lacks rows of that load:
    they look deleted."""
    in_primary = searched_in(project, primary)
    line = tally("a standby that catches up behind its snapshot")
    lock_below = catalog._lock_below
    with PostgresServer(copy_of=primary, standby=True) as standby:
        in_standby = at(project, standby)

        def fall_behind() -> None:
            follow(primary, standby)
            pause(in_standby)
            project.source = in_primary
            project.in_source("INSERT INTO item SELECT max(id) + 1 FROM item")
            project.succeed()
            project.source = in_standby

        def catch_up(*read: Any) -> None:
            fetch(in_standby, "SELECT pg_wal_replay_resume()")
            follow(primary, standby)
            lock_below(*read)

        def from_a_late_snapshot(work: Callable[[], Any]) -> Any:
            fall_behind()
            with monkeypatch.context() as patch:
                patch.setattr(catalog, "_lock_below", catch_up)
                return work()

        error = from_a_late_snapshot(project.run)["extract.extract_item"].result
        assert isinstance(error, SourceChanged) and error.retryable and "lags" in str(error)
        verdict = from_a_late_snapshot(project.verify)["item"]
        assert verdict.state == "not compared" and "WAL position" in verdict.why
        line.add(judge(project, "item"), tried=2)

        monkeypatch.setattr(identity, "_in_snapshot", lambda now, before: now)
        from_a_late_snapshot(project.succeed)
        lost = judge(project, "item").lost
        assert lost == 1
        line.control(f"{lost} row deleted wrongly")


def test_a_commit_that_waits_for_standbys_is_not_taken_for_a_deleted_row(
    project: Project, primary: PostgresServer, monkeypatch: pytest.MonkeyPatch, tally: Tallies
) -> None:
    """A standby shows its rows before the primary does. They look deleted there."""
    in_primary = searched_in(project, primary)
    line = tally("a commit that waits for a standby")
    with PostgresServer(copy_of=primary, standby=True) as standby, ThreadPoolExecutor() as pool:
        in_standby = at(project, standby)
        follow(primary, standby)
        wait_for_standby(in_primary, "a_standby_that_is_away")
        try:
            waiting, commit = a_waiting_insert(in_primary, pool)
            row = f"SELECT id FROM item WHERE id = {waiting}"
            while fetch(in_standby, row) == []:
                time.sleep(0.02)
            assert fetch(in_primary, row) == []
            project.source = in_standby
            project.succeed()
            project.source = in_primary
            error = project.run()["extract.extract_item"].result
            assert isinstance(error, SourceChanged) and error.retryable
            assert "is still open" in str(error) and "retry when it has caught up" in str(error)
            assert project.verify()["item"].state == "not compared"
            with pytest.raises(SourceChanged, match="was accepted, but it is behind"):
                project.succeed(accept_source=True)
            line.add(tried=3)
            with monkeypatch.context() as patch:
                patch.setattr(identity, "_waiting", lambda last, now: [])
                project.succeed()
            assert project.in_warehouse("SELECT id FROM staging.item__deleted") == [(waiting,)]
            line.control("1 row deleted wrongly")
        finally:
            wait_for_standby(in_primary, "")
        commit.result()
    project.succeed()
    assert not judge(project, "item") and violations(project) == []


def test_two_standbys_behind_one_connection_are_refused() -> None:
    """A pooler may lead there: the position of one says nothing of the other's snapshot."""
    one = identity.Identity(facts={"lsn": "0/5"}, is_standby=True, started="1", is_durable=True)
    other = replace(one, started="2")
    with pytest.raises(Unavailable, match="led to two servers within one step"):
        identity._in_snapshot(one, other)
    with pytest.raises(Unavailable, match="led to two servers within one step"):
        identity._in_snapshot(one, None)  # it has led to a primary, which was not asked again
    assert identity._in_snapshot(one, replace(one, facts={"lsn": "0/3"})).facts == {"lsn": "0/3"}


def wait_for_standby(primary: str, name: str) -> None:
    """Let commits wait for the standby of that name; empty: for none."""
    fetch(primary, f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    fetch(primary, "SELECT pg_reload_conf()")


def a_waiting_insert(primary: str, pool: ThreadPoolExecutor) -> tuple[int, Future[Any]]:
    """The id of a row whose commit waits for a standby, and its end. The server takes a moment to
    hear of the setting; the servers of the tests do not wait for their own disks."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    for id in itertools.count(101):
        insert = f"SET LOCAL synchronous_commit = on; INSERT INTO item VALUES ({id});"
        commit = pool.submit(fetch, primary, f"DO $$ BEGIN {insert} END $$")
        while not commit.done():
            if fetch(primary, waiting) == [(1,)]:
                return id, commit
            time.sleep(0.02)
    raise AssertionError("unreachable")


def pause(standby: str) -> None:
    """Let the standby replay no more; returns when it does not."""
    with psycopg.connect(standby, autocommit=True) as session:
        session.execute("SELECT pg_wal_replay_pause()")
        while session.execute("SELECT pg_get_wal_replay_pause_state()").fetchone() != ("paused",):
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("function", "untold"),
    [
        ("pg_control_system()", ["system_identifier"]),
        ("pg_walfile_name(pg_lsn)", ["lsn", "next_transaction"]),
        ("pg_current_wal_insert_lsn()", ["lsn", "next_transaction"]),
    ],
)
def test_what_the_role_may_not_ask_is_not_compared(
    shop: Project, function: str, untold: list[str]
) -> None:
    shop.in_source(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    everything = {
        "database",
        "database_oid",
        "server_version",
        "lsn",
        "timeline",
        "system_identifier",
        "oldest_transaction",
        "next_transaction",
    }
    for privilege, told in (
        ("REVOKE EXECUTE ON FUNCTION {} FROM {}", everything - {*untold}),
        ("GRANT EXECUTE ON FUNCTION {} TO {}", everything),
        ("REVOKE EXECUTE ON FUNCTION {} FROM {}", everything - {*untold}),
    ):
        shop.in_source(privilege.format(function, shop.extractor))
        shop.in_source("INSERT INTO by_number (what) VALUES ('more')")
        shop.succeed()
        [(known,)] = shop.in_warehouse(
            "SELECT source FROM loadsheet.scope WHERE table_name = 'by_number'"
        )
        # The other facts are of the table and the spec.
        assert set(known) & everything == told


def test_a_ledger_from_before_sources_were_remembered_is_not_compared(
    shop: Project, primary: PostgresServer
) -> None:
    name = shop.source.rpartition("/")[2]
    close_kept()  # a database that is copied has no sessions
    with psycopg.connect(primary.dsn("postgres"), autocommit=True) as session:
        session.execute(f"CREATE DATABASE other_{name} TEMPLATE {name}")
    shop.in_warehouse("UPDATE loadsheet.scope SET source = NULL")
    shop.source = primary.dsn(f"other_{name}")
    write(shop, 2)
    shop.succeed()
    assert shop.in_warehouse("SELECT count(*) FROM loadsheet.scope WHERE source IS NULL") == [(0,)]


def test_an_interval_of_a_changed_source_is_not_read_either(shop: Project) -> None:
    shop.in_source(f"DROP TABLE {', '.join(TABLES)}")
    shop.in_source(SOURCE)
    asked: dict[str, Any] = {
        "interval_start": "2020-01-01T00:00:00Z",
        "interval_end": "2021-01-01T00:00:00Z",
        "explicit_interval": True,
    }
    error = shop.run(only=frozenset({"by_time"}), **asked)["extract.extract_by_time"].result
    assert isinstance(error, SourceChanged)
