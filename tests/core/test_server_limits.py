"""Limits that a server, a database or a role sets for its sessions and tables: the work is done all
the same, or refused in a message that names the limit and what to do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.servers import PostgresServer, S3Server
from loadsheet import postgres
from loadsheet.engine import sessions, snapshot
from loadsheet.engine.sessions import IdleSession
from loadsheet.errors import Refused, Unavailable
from loadsheet.preview.pipeline import preview_pipeline
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.warehouse import drift
from tests.byhand import ByHand
from tests.faults.scale import scaled
from tests.forked import command_line
from tests.project import Project

# Reading the view takes half a second, and so does building the mart: longer than each limit.
SLOW = "CREATE VIEW slow AS SELECT 1 AS id, CAST(pg_sleep(0.5) AS text) AS slept"
MART = {"late": "SELECT id, CAST(pg_sleep(0.5) AS text) AS slept FROM slow"}
TIGHT = "400ms"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """PostgreSQL 18, which has all the limits."""
    with PostgresServer(version=18) as running:
        yield running


@pytest.fixture
def shop(server: PostgresServer, tmp_path: Path, s3: S3Server) -> Iterator[Project]:
    names = (f"source_{tmp_path.name}"[-60:], f"warehouse_{tmp_path.name}"[-60:])
    source, warehouse = (server.create_database(name) for name in names)
    project = Project(tmp_path, source, warehouse, s3)
    project.in_source(SLOW)
    project.spec({"slow": None}, MART)
    yield project
    for name in names:
        server.drop_database(name)


def limit(project: Project, side: str, **settings: str) -> None:
    """What the side's database sets for each of its sessions."""
    for name, value in settings.items():
        statement = (
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET"
            f" {name} = ''{value}''', current_database()); END $$"
        )
        if side == "source":
            project.in_source(statement)
        else:
            project.in_warehouse(statement)


LIMITS = (
    "statement_timeout",
    "transaction_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
)


@pytest.mark.parametrize("side", ["source", "warehouse"])
@pytest.mark.parametrize("names", scaled([LIMITS], [LIMITS, *((name,) for name in LIMITS)]))
def test_a_timeout_shorter_than_the_work_does_not_end_it(
    shop: Project, side: str, names: tuple[str, ...]
) -> None:
    limit(shop, side, **dict.fromkeys(names, TIGHT))
    shop.succeed()
    assert shop.in_warehouse("SELECT id FROM mart.late") == [(1,)]


def test_the_sessions_that_help_with_a_large_table_have_no_timeout_either(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loadsheet.source import stream

    monkeypatch.setattr(stream, "MANY_ROWS", 1)
    shop.in_source(
        "CREATE TABLE many AS SELECT FROM generate_series(1, 1000);"
        " CREATE VIEW slower AS SELECT id, slept FROM slow, many"
    )
    shop.spec({"slower": None})
    limit(shop, "source", statement_timeout=TIGHT, transaction_timeout=TIGHT)
    shop.succeed()
    assert shop.in_warehouse("SELECT count(*) FROM staging.slower") == [(1000,)]


def failure(project: Project, step: str) -> Exception:
    error = project.run()[step].result
    assert isinstance(error, Exception), error
    return error


def test_without_the_pins_the_timeouts_end_the_work(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(postgres.SOURCE_SETTINGS, "statement_timeout")
    limit(shop, "source", statement_timeout=TIGHT)
    error = failure(shop, "extract.extract_slow")
    assert isinstance(error, Unavailable) and "Next: raise it where it is set" in str(error)


@pytest.mark.parametrize("opens_another", [True, False])
def test_a_session_on_the_warehouse_that_was_ended_while_rows_are_read_is_replaced(
    shop: Project, monkeypatch: pytest.MonkeyPatch, opens_another: bool
) -> None:
    def end_sessions(point: str) -> None:
        if point == "extract.snapshot":
            shop.in_warehouse(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'loadsheet'"
            )

    monkeypatch.setattr(snapshot, "reach", end_sessions)
    if opens_another:
        shop.succeed()
        return
    # The control: what happens without it.
    monkeypatch.setattr(IdleSession, "use", lambda self, work: work(self.session))
    assert isinstance(failure(shop, "extract.extract_slow"), Unavailable)


def test_a_limit_of_temporary_files_is_named(shop: Project) -> None:
    shop.spec(
        {"slow": None},
        {"large": "SELECT DISTINCT md5(i::text) AS x FROM generate_series(1, 50000) i, slow"},
    )
    limit(shop, "warehouse", temp_file_limit="64kB", work_mem="64kB")
    error = failure(shop, "transform.transform_large")
    assert isinstance(error, Refused) and "temp_file_limit" in str(error)
    assert "raise the limit that the message names" in str(error)


def test_the_lock_timeout_of_the_source_is_kept_and_may_pass(shop: Project) -> None:
    shop.in_source("CREATE TABLE locked (id int)")
    shop.spec({"locked": None})
    limit(shop, "source", lock_timeout=TIGHT)
    shop.grant()  # which waits for the lock, too
    with psycopg.connect(shop.source) as other:
        other.execute("LOCK TABLE locked")
        error = failure(shop, "extract.extract_locked")
        other.rollback()
    assert isinstance(error, Unavailable) and "SQLSTATE 55P03" in str(error)
    shop.succeed()


def as_role(server: PostgresServer, project: Project, connections: int) -> str:
    """A role of the server with a limit of connections, which may do all in both databases."""
    role = f"limited_{project.bucket[-8:]}"
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as session:
        session.execute(
            f"CREATE ROLE {role} LOGIN PASSWORD 'p' CONNECTION LIMIT {connections}".encode()
        )
    for run in (project.in_source, project.in_warehouse):
        run(
            f"DO $$ BEGIN EXECUTE format('GRANT ALL ON DATABASE %I TO {role}',"
            " current_database()); END $$"
        )
        run(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    return role


def test_one_connection_to_the_warehouse_is_enough(
    server: PostgresServer, shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transform's own session failed, because the run kept that of the load."""
    role = as_role(server, shop, 1)
    address = shop.warehouse.partition("@")[2]
    limited = replace(shop, warehouse=f"postgresql://{role}:p@{address}")
    limited.succeed()
    assert shop.in_warehouse("SELECT id FROM mart.late") == [(1,)]


@pytest.mark.timeout(90)
def test_one_connection_to_the_warehouse_is_enough_for_a_step_that_was_overtaken(
    server: PostgresServer, shop: Project
) -> None:
    """The turn took the only session, and every try of the step failed."""
    by_hand = ByHand(shop)
    old = by_hand.step("extract", "old").load_id
    by_hand.step("extract", "new")
    role = as_role(server, shop, 1)
    shop.in_warehouse(f"GRANT {role} TO current_user")
    for schema in ("loadsheet", "staging"):
        shop.in_warehouse(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        shop.in_warehouse(f"GRANT ALL ON SCHEMA {schema} TO {role}")
        shop.in_warehouse(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}")
        shop.in_warehouse(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {role}")
    address = shop.warehouse.partition("@")[2]
    limited = replace(shop, warehouse=f"postgresql://{role}:p@{address}")
    done = by_hand.step("load", "old", old, limited.connections)
    assert "so it was extracted again" in done.message
    assert shop.differences("item") == 0


def test_one_connection_to_the_source_is_enough_for_a_large_table(
    server: PostgresServer, shop: Project
) -> None:
    shop.in_source("CREATE TABLE many AS SELECT i FROM generate_series(1, 30000) i")
    role = as_role(server, shop, 1)
    shop.spec({"many": None})
    address = shop.source.partition("@")[2]
    replace(shop, source=f"postgresql://{role}:p@{address}").succeed()
    assert shop.in_warehouse("SELECT count(*) FROM staging.many") == [(30000,)]


def columns(names: range, type_name: str = "int") -> str:
    return ", ".join(f"c{number} {type_name}" for number in names)


def test_a_table_of_1599_columns_is_merged(shop: Project) -> None:
    wide = columns(range(1597), "bool")
    shop.in_source(f"CREATE TABLE wide (id int PRIMARY KEY, at timestamptz, {wide})")
    shop.in_source("INSERT INTO wide (id, at) SELECT i, now() FROM generate_series(1, 3) i")
    shop.spec({"wide": {"incremental": {"cursor": "at", "lookback": "1d"}}})
    shop.succeed()
    shop.in_source("UPDATE wide SET c1596 = true, at = clock_timestamp() WHERE id = 2")
    shop.in_source("INSERT INTO wide (id, at) VALUES (4, now())")
    shop.succeed()
    assert shop.in_warehouse("SELECT id, c1596 FROM staging.wide ORDER BY id") == [
        (1, None),
        (2, True),
        (3, None),
        (4, None),
    ]


@dataclass(frozen=True)
class Wide:
    """A table that its target cannot take any more, and how it is loaded."""

    before: str
    source: str
    warehouse: str
    spec: dict[str, Any] = field(default_factory=dict)
    says: str = ""
    way_on: str = ""


# As if PostgreSQL allowed 30 columns: to use up 1,600 takes seconds.
MOST = 30
USED_UP = (
    f"ALTER TABLE staging.t {', '.join(f'ADD x{n} int' for n in range(20))};"
    f" ALTER TABLE staging.t {', '.join(f'DROP x{n}' for n in range(20))}"
)
ADD_TEN = f"ALTER TABLE t {', '.join(f'ADD n{n} int' for n in range(10))}"
WIDE = {
    "dropped columns count": Wide(
        before="id int PRIMARY KEY, at timestamptz DEFAULT now()",
        source=ADD_TEN,
        warehouse=USED_UP,
        spec={"incremental": "at"},
        says="staging.t has used 23 of the 30 columns",
        way_on="run a full refresh",
    ),
    "also where something depends on the table": Wide(
        before="id int PRIMARY KEY",
        source=ADD_TEN,
        warehouse=f"{USED_UP}; CREATE VIEW public.v AS SELECT id FROM staging.t",
        says="staging.t has used 22 of the 30 columns",
        way_on="drop view public.v",
    ),
    "those that only the target has": Wide(
        before=f"id int PRIMARY KEY, {columns(range(20))}",
        source="DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, "
        f"{', '.join(f'n{n} int' for n in range(20))})",
        warehouse="SELECT 1",
        says="staging.t would have 42 columns with _load_id and the 20 that are no longer read",
        way_on="drop some of those in the warehouse",
    ),
}


@pytest.mark.parametrize("case", WIDE.values(), ids=WIDE)
def test_a_target_without_room_for_the_columns_is_refused_before_anything_is_read(
    shop: Project, monkeypatch: pytest.MonkeyPatch, case: Wide
) -> None:
    monkeypatch.setattr(drift, "MOST_COLUMNS", MOST)
    shop.in_source(f"CREATE TABLE t ({case.before}); INSERT INTO t (id) VALUES (1)")
    shop.spec({"t": case.spec or None})
    shop.succeed()
    shop.in_source(case.source)
    shop.in_source("INSERT INTO t (id) VALUES (2)")
    shop.in_warehouse(case.warehouse)
    stored = shop.objects()
    error = failure(shop, "extract.extract_t")
    assert isinstance(error, Refused)
    assert case.says in str(error) and case.way_on in str(error)
    assert shop.objects() == stored
    pipeline = load_pipeline(shop.folder / "pipelines" / "shop" / "pipeline.yml")
    _, previews = preview_pipeline(pipeline, shop.connections)
    assert case.says in " ".join(remark.message for remark in previews["load.load_t"].remarks)
    if case.spec:
        shop.succeed(full_refresh="all")
        assert shop.differences("t") == 0


def test_a_row_that_fills_its_page_is_refused_where_it_does_not_fit_with_its_load(
    shop: Project,
) -> None:
    """1,017 columns of 8 bytes and the header are 8,160 bytes, all that a page has for a row."""
    full = columns(range(1, 1016), "int8 DEFAULT 7")
    shop.in_source(
        f"CREATE TABLE full_row (id int8 PRIMARY KEY, at timestamptz DEFAULT now(), {full});"
        " INSERT INTO full_row (id) VALUES (1)"
    )
    spec: dict[str, Any] = {"incremental": {"cursor": "at", "lookback": "1d"}}
    shop.spec({"full_row": spec})
    shop.succeed()
    shop.in_source("UPDATE full_row SET c1 = 8, at = clock_timestamp()")
    error = failure(shop, "load.load_full_row")
    assert isinstance(error, Refused)
    assert "staging.full_row cannot hold a row of the source: row is too big" in str(error)
    assert "Leave columns out with columns.exclude, and run a full refresh" in str(error)
    assert shop.in_warehouse("SELECT c1 FROM staging.full_row") == [(7,)]
    # The columns that stay in the target are NULL, which costs each row a bit for each column.
    unread = [f"c{number}" for number in range(2, 42)]
    shop.spec({"full_row": {**spec, "columns": {"exclude": unread}}})
    shop.succeed(full_refresh="all")
    shop.in_source("UPDATE full_row SET c1 = 9, at = clock_timestamp()")
    shop.succeed()
    assert shop.in_warehouse("SELECT c1 FROM staging.full_row") == [(9,)]


CONFLICT = "set hot_standby_feedback = on at the standby, or raise max_standby_streaming_delay"


@pytest.mark.skipif(scaled(True, False), reason="two servers: in the long form")
def test_a_conflict_with_recovery_says_what_to_set_at_the_standby(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"max_standby_streaming_delay": "0", "hot_standby_feedback": "off"}
    with (
        PostgresServer() as primary,
        PostgresServer(copy_of=primary, standby=True, settings=settings) as standby,
    ):
        database = primary.create_database("source")
        written = replace(project, source=database)
        written.in_source("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i")
        written.spec({"t": None})
        written.grant()  # the role has the rights on the standby as well
        lsn = written.in_source("SELECT pg_current_wal_flush_lsn()::text")[0][0]
        wait_for(standby, lsn)
        reach = snapshot.reach

        def vacuum(point: str) -> None:
            reach(point)
            if point == "extract.snapshot":
                written.in_source("DELETE FROM t WHERE i <= 500")
                written.in_source("VACUUM t")
                lsn = written.in_source("SELECT pg_current_wal_flush_lsn()::text")[0][0]
                wait_for(standby, lsn)

        monkeypatch.setattr(snapshot, "reach", vacuum)
        reading = replace(project, source=standby.dsn("source"))
        error = failure(reading, "extract.extract_t")
        assert isinstance(error, Unavailable) and CONFLICT in str(error)
        monkeypatch.setattr(snapshot, "reach", reach)
        reading.succeed()


def wait_for(standby: PostgresServer, lsn: str) -> None:
    """Return when the standby has replayed up to `lsn`."""
    with psycopg.connect(standby.dsn("postgres"), autocommit=True) as session:
        while session.execute(
            "SELECT pg_last_wal_replay_lsn() >= CAST(%s AS pg_lsn)", (lsn,)
        ).fetchone() != (True,):
            session.execute("SELECT pg_sleep(0.05)")


@pytest.mark.parametrize("side", ["source", "warehouse"])
def test_one_connection_is_enough_for_patterns_and_for_verify(project: Project, side: str) -> None:
    """The tables of a pattern were asked for, and compared with their source, by sessions next to
    those that the run keeps."""
    project.in_source("CREATE TABLE thing (id int PRIMARY KEY); INSERT INTO thing VALUES (1)")
    project.spec({"t*": None}, verify="@daily", tasks={"retries": 3, "retry_delay": "1s"})
    environment = project.environment()
    if side == "source":
        project.in_source(f'ALTER ROLE "{project.extractor}" CONNECTION LIMIT 1')
    else:
        project.in_warehouse(f'ALTER ROLE "{project.loader}" CONNECTION LIMIT 1')
    done = command_line(["--project", str(project.folder), "run", "shop", "--json"], environment)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads(done.stdout)["steps"]
    assert {(step["status"], step["tries"]) for step in steps} == {("done", 1)}
    assert project.in_warehouse("SELECT name, verdict FROM loadsheet.verified") == [
        ("thing", "equal")
    ]


@pytest.fixture
def one_connection(project: Project) -> Project:
    """Two tables, of which one gets a column that its older rows lack, and a mart; each role may
    have one connection."""
    project.in_source(
        "CREATE TABLE one (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());"
        "INSERT INTO one SELECT generate_series(1, 100);"
        "CREATE TABLE two (id int PRIMARY KEY); INSERT INTO two SELECT generate_series(1, 100)"
    )
    # A step that waited for ever would fail.
    project.spec(
        {"one": {"incremental": "at", "fill": "auto"}, "two": None},
        {"late": "SELECT count(*) AS n, CAST(pg_sleep(0.5) AS text) AS slept FROM staging.one"},
        tasks={"timeout": "20s"},
    )
    project.in_source(f'ALTER ROLE "{project.extractor}" CONNECTION LIMIT 1')
    project.in_warehouse(f'ALTER ROLE "{project.loader}" CONNECTION LIMIT 1')
    return project


@pytest.mark.parametrize("waits", [True, False])
def test_steps_at_once_wait_for_the_one_connection_as_long_as_another_has_it(
    one_connection: Project, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """They failed after the few seconds that a server may take to end a session. The control: they
    wait no longer than that."""
    monkeypatch.setattr(sessions, "_ENDING_SECONDS", 0.5)
    reach = snapshot.reach

    def slowly(point: str) -> None:
        reach(point)
        if point == "extract.snapshot":
            time.sleep(1)

    monkeypatch.setattr(snapshot, "reach", slowly)
    if not waits:
        monkeypatch.setattr(sessions.KeptServers, "_is_awaited", lambda self, connect: False)
    states = {result.state for result in one_connection.run().values()}
    assert (states == {"done"}) == waits
    if not waits:
        return
    fill_one = "ALTER TABLE one ADD n int; UPDATE one SET n = id; UPDATE one SET at = now()"
    one_connection.in_source(f"{fill_one} WHERE id = 100; INSERT INTO two VALUES (101)")
    one_connection.succeed()
    assert one_connection.differences("one") == one_connection.differences("two") == 0


def test_one_connection_is_enough_for_one_command_after_the_other(one_connection: Project) -> None:
    """A repair began before the server had ended the session of its comparison."""
    environment = one_connection.environment()
    folder = ["--project", str(one_connection.folder)]
    one_connection.succeed()
    one_connection.in_warehouse("DELETE FROM staging.two WHERE id = 7")
    for command in (["plan", "shop", "--connect"], ["verify", "shop", "--repair"], ["status"]):
        done = command_line([*folder, *command], environment)
        assert done.returncode == 0, done.stdout + done.stderr
    assert one_connection.differences("two") == 0
