"""Behind a transaction pooler every transaction may run in another session of the server, which
other clients use before and after: rows arrive value for value, and the others never see a setting
of ours."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
import pytest

from loadsheet import postgres
from loadsheet.cli.main import app
from loadsheet.connections.lookup import Connection
from loadsheet.deadline import watch
from loadsheet.engine import early, snapshot
from loadsheet.engine.early import EarlyLoads
from loadsheet.errors import LoadsheetError
from loadsheet.lake import parts
from loadsheet.pinned import PINNED, PinnedCursor, PinnedSession
from loadsheet.postgres import connect_source, connect_warehouse
from loadsheet.source import stream
from loadsheet.warehouse import turn
from loadsheet.warehouse.arrival import Arrival
from tests.byhand import ByHand
from tests.faults.hostile import hostile
from tests.faults.oracle import judge, violations
from tests.faults.pooler import PGBOUNCER, SESSIONS, Pooler, pgbouncer, restartable
from tests.faults.scale import scaled
from tests.project import Project

SOURCE = """
CREATE TYPE reading AS (value float8, lasted interval, at timestamptz, note text);
CREATE TABLE hard (id int PRIMARY KEY, f float8, g real, i interval, b bytea, t timestamptz,
                   c reading, a text[]);
INSERT INTO hard SELECT n, 0.1::float8 + 0.2::float8, 0.1::real, make_interval(months => n, secs =>
    -n - 0.5), sha256(n::text::bytea), 'epoch'::timestamptz + make_interval(secs => n),
    ROW(1 / 3::float8, '1 day -2 hours'::interval, 'epoch'::timestamptz, 'it''s')::reading,
    ARRAY[NULL, 'x'] FROM generate_series(1, 50) n;
CREATE TABLE log (id bigserial PRIMARY KEY, f float8, at timestamptz NOT NULL DEFAULT now());
INSERT INTO log (f) SELECT 0.1::float8 + n FROM generate_series(1, 50) n;
CREATE TABLE visit (id bigserial PRIMARY KEY, f float8, at timestamptz NOT NULL DEFAULT now());
INSERT INTO visit (f) SELECT 0.1::float8 * n FROM generate_series(1, 50) n;
CREATE TABLE large (id int PRIMARY KEY, f float8, lasted interval);
INSERT INTO large SELECT n, n / 7::float8, make_interval(secs => -n) FROM generate_series(1, 25000)
    n;
CREATE TABLE extra (id int PRIMARY KEY);
ANALYZE large;
"""
TABLES = {
    "hard": None,
    "log": {"mode": "append", "incremental": "id"},
    "visit": {"incremental": "at"},
    "large": None,
}
TRANSFORMS = {
    "total": "SELECT count(*) AS visits, sum(f) AS f FROM staging.visit",
    "seen": (
        "SELECT id, f, at FROM staging.visit WHERE _load_id > :since_load",
        {"materialized": "merge", "unique_key": ["id"]},
    ),
    "recent": ("SELECT id, f FROM staging.log", {"materialized": "view"}),
}
POOLERS = [
    "ours",
    pytest.param(
        "pgbouncer",
        marks=pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed here"),
    ),
]
COMMANDS = [
    ("status",),
    ("plan", "--connect", "shop"),
    ("add", "shop", "extra", "--dry-run"),
    ("new", "second", "--source", "shop_source", "--schema", "public", "--dry-run"),
]
_WATCHED = (*sorted(PINNED), "transaction_read_only", "lock_timeout", "statement_timeout")


@contextmanager
def pooled(project: Project, kind: str, sessions: int = SESSIONS) -> Iterator[Project]:
    """The same project, whose servers are reached through a pooler."""
    if kind == "ours":
        with Pooler(project.source, sessions=sessions) as pooler:
            yield _through(project, pooler.port)
    else:
        with pgbouncer(project.logins, default_pool_size=sessions) as port:
            yield _through(project, port)


def _through(project: Project, port: int, extra: Mapping[str, Any] | None = None) -> Project:
    """The project by way of the pooler on `port`; its databases' connections have `extra`."""
    behind = replace(project, pooler=port)
    if extra:
        plain = behind.connections

        def connections(conn_id: str) -> Connection:
            found = plain(conn_id)
            return found if conn_id == "lake" else replace(found, extra=dict(extra))

        object.__setattr__(behind, "connections", connections)
    return behind


class Bystanders:
    """Clients of the same pools, which ask for their settings and write all the time."""

    def __init__(self, *places: str):
        self.seen: set[tuple[str, ...]] = set()
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(place,)) for place in places]

    def __enter__(self) -> Bystanders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, place: str) -> None:
        with psycopg.connect(place, autocommit=True, prepare_threshold=None) as session:
            # A pause, because the product needs some of the processor, too.
            while not self._stop.wait(0.002):
                try:
                    self.seen.add(settings_of(session))
                    session.execute("SELECT nextval('elsewhere.numbers')")
                except psycopg.Error as error:
                    self.errors.append(str(error))
                    return


def settings_of(session: psycopg.Connection) -> tuple[str, ...]:
    """What a client sees of the watched settings."""
    names = ", ".join(f"pg_catalog.current_setting('{name}')" for name in _WATCHED)
    row = session.execute(f"SELECT {names}").fetchone()
    assert row
    return tuple(row)


def begin(project: Project) -> None:
    """Fill the source, and make what the other clients use."""
    project.in_source(SOURCE)
    for place in (project.source, project.warehouse):
        with psycopg.connect(place, autocommit=True) as session:
            session.execute(
                "CREATE SCHEMA elsewhere; CREATE SEQUENCE elsewhere.numbers;"
                "GRANT USAGE ON SCHEMA elsewhere TO PUBLIC;"
                "GRANT USAGE ON SEQUENCE elsewhere.numbers TO PUBLIC"
            )
    # What `loadsheet new` reads.
    project.in_source(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {project.extractor}")
    project.spec(TABLES, TRANSFORMS)


@pytest.mark.parametrize("kind", POOLERS)
def test_rows_are_equal_behind_a_transaction_pooler_and_its_other_clients_see_no_setting_of_ours(
    project: Project, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(stream, "_LEAST_BYTES", 64 << 10)  # `large` is read by several sessions
    begin(project)
    with hostile("german", project.source, project.warehouse):
        with psycopg.connect(project.source) as session:
            unpinned = settings_of(session)
        with (
            pooled(project, kind) as behind,
            Bystanders(*behind.logins) as others,
        ):
            states = behind.succeed()
            assert states["load.load_large"] == "done"
            states = behind.succeed()
            assert states["extract.extract_large"] == "skipped", states
            project.in_source(
                "INSERT INTO log (f) SELECT 0.2::float8 + n FROM generate_series(1, 9) n"
            )
            project.in_source("UPDATE visit SET f = f + 0.1, at = now() WHERE id < 20")
            project.in_source("UPDATE hard SET f = 0.7::float8 + 0.1 WHERE id = 3")
            behind.succeed()
            for name, value in behind.environment().items():
                monkeypatch.setenv(name, value)
            for words in COMMANDS:
                # In this process: four that start cost more than all the rest.
                assert not app(["--project", str(behind.folder), *words], standalone_mode=False)
    assert others.errors == []
    assert {row for row in others.seen if row != unpinned} == set()
    assert not any(judge(project, table) for table in TABLES)
    assert violations(project) == []
    assert project.in_warehouse("SELECT count(*) FROM mart.seen") == [(50,)]
    assert project.in_warehouse("SELECT count(*) FROM mart.recent") == [(59,)]


def pin_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the product did before: pins are settings of the session, made when a step begins."""

    def begin_step(session: PinnedSession) -> None:
        watch(session.shut)
        pins = dict(session._pins)
        if session.read_only:
            pins["default_transaction_read_only"] = "on"
        calls = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in pins.items())
        session.execute(f"SELECT {calls}")

    monkeypatch.setattr(PinnedSession, "begin_step", begin_step)
    monkeypatch.setattr(PinnedSession, "transaction", psycopg.Connection.transaction)
    monkeypatch.setattr(PinnedCursor, "execute", psycopg.Cursor.execute)
    monkeypatch.setattr(PinnedCursor, "copy", psycopg.Cursor.copy)


def test_pins_of_a_session_are_missing_in_its_next_transaction_and_stay_with_the_pool(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    begin(project)
    pin_sessions(monkeypatch)
    with hostile("german", project.source, project.warehouse):
        with psycopg.connect(project.source) as session:
            unpinned = settings_of(session)
        with (
            pooled(project, "ours") as behind,
            Bystanders(*behind.logins) as others,
        ):
            with connect_source(behind.connections("shop_source")) as session:
                assert sum_of_floats(session) == "0.3"
            behind.run()
    assert others.errors or any(row != unpinned for row in others.seen)


def sum_of_floats(session: psycopg.Connection) -> str:
    row = session.execute("SELECT (0.1::float8 + 0.2::float8)::text").fetchone()
    assert row
    return str(row[0])


def test_a_failed_statement_leaves_session_and_pool_as_they_were(project: Project) -> None:
    twice = replace(project, warehouse=project.source)
    project.in_source(f"CREATE SCHEMA ours AUTHORIZATION {twice.loader}")
    with (
        hostile("german", project.source),
        pooled(twice, "ours") as behind,
        connect_warehouse(behind.connections("warehouse")) as one,
    ):
        with pytest.raises(psycopg.errors.UndefinedTable, match="nowhere"):
            one.execute("SELECT * FROM nowhere")
        with pytest.raises(psycopg.errors.DivisionByZero):
            one.execute("SELECT %s / 0", (1,))
        with pytest.raises(psycopg.errors.UndefinedTable), one.transaction():
            one.execute("SELECT * FROM nowhere")
        with pytest.raises(psycopg.ProgrammingError, match="transaction"):
            one.cursor().copy("COPY (SELECT 0.1::float8) TO STDOUT")
        # What follows runs in whichever session of the server is next.
        for _ in range(10):
            assert one.is_idle
            assert sum_of_floats(one) == "0.30000000000000004"
        with one.transaction():
            one.execute("CREATE TABLE ours.kept (at timestamptz DEFAULT 'epoch', day date)")
            with pytest.raises(psycopg.errors.UndefinedTable), one.transaction():
                one.execute("SELECT * FROM nowhere")
            one.execute("INSERT INTO ours.kept (day) VALUES ('2026-02-03')")
        # The server has reported the session's own DateStyle by now: the driver must not use it.
        at, day = one.execute("SELECT at, day FROM ours.kept").fetchall()[0]
        assert (at.isoformat(), day.isoformat()) == ("1970-01-01T00:00:00+00:00", "2026-02-03")
        with pytest.raises(KeyboardInterrupt):
            one.run_alone(interrupt)
        # Answers of the interrupted statement may be under way: the session is used no more.
        with pytest.raises(psycopg.OperationalError, match="closed"):
            one.execute("SELECT 1")


@pytest.mark.parametrize("error", [KeyboardInterrupt, psycopg.OperationalError])
def test_a_session_that_may_still_be_answered_is_used_no_more(
    project: Project, error: type[BaseException]
) -> None:
    """Its next statement would take the answers for its own. Before, only an interruption closed
    it."""
    with connect_source(project.connections("shop_source")) as session:
        inner = session.pipeline()

        def fail_in_a_pipeline() -> None:
            inner.__enter__()  # the driver does not leave it
            raise error("in the middle")

        with pytest.raises(error):
            session.run_alone(fail_in_a_pipeline)
        with pytest.raises(psycopg.OperationalError, match="closed"):
            session.execute("SELECT 1, 2, 3")


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_function_below_a_view_cannot_make_the_source_writable(project: Project) -> None:
    """With `default_transaction_read_only` as a setting of the session, the second SELECT wrote."""
    project.in_source(
        """
        CREATE TABLE victim (id int);
        CREATE FUNCTION sneak() RETURNS int LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM set_config('default_transaction_read_only', 'off', false);
            INSERT INTO public.victim VALUES (1);
            RETURN 1;
        EXCEPTION WHEN read_only_sql_transaction THEN
            RETURN 0;
        END $$;
        CREATE VIEW trap AS SELECT sneak() AS id;
        """
    )
    # Its rights do not keep it from writing.
    project.in_source(
        f"GRANT SELECT ON trap TO {project.extractor}; GRANT INSERT ON victim TO"
        f" {project.extractor}"
    )
    with connect_source(project.connections("shop_source")) as session:
        for _ in range(2):
            assert session.execute("SELECT id FROM public.trap").fetchall() == [(0,)]
        with session.transaction():
            assert session.execute("SELECT id FROM public.trap").fetchall() == [(0,)]
    assert project.in_source("SELECT count(*) FROM victim") == [(0,)]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What PgBouncer is told, and what a run then says. `waits` holds up the extraction for three
    seconds while it holds the snapshot; `beside` is what another client of the pool does."""

    settings: dict[str, str | int]
    says: str
    may_pass: bool = True
    spec: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    waits: bool = False
    beside: str = ""


SLOW = {"slow": {"primary_key": "id"}}
LIMITS = {
    "pool_mode=statement": Limit(
        settings={"pool_mode": "statement"}, says="set pool_mode=transaction", may_pass=False
    ),
    "options": Limit(
        settings={},
        extra={"options": "-c lock_timeout=5min"},
        says="add it to ignore_startup_parameters",
        may_pass=False,
    ),
    "query_timeout": Limit(settings={"query_timeout": 1}, spec=SLOW, says="set query_timeout to 0"),
    "idle_transaction_timeout": Limit(
        settings={"idle_transaction_timeout": 1},
        waits=True,
        says="set idle_transaction_timeout to 0",
    ),
    "query_wait_timeout": Limit(
        settings={"default_pool_size": 1, "query_wait_timeout": 1},
        beside="SELECT",
        says="raise default_pool_size",
    ),
    "max_client_conn": Limit(
        settings={"max_client_conn": 1}, beside="SELECT", says="raise the limit that the message"
    ),
}
REAL = pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed here")


@REAL
@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_of_pgbouncer_fails_with_what_to_change_there_and_without_it_all_rows_arrive(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    limit = LIMITS[name]
    project.in_source(
        "CREATE TABLE few (id int PRIMARY KEY, f float8); INSERT INTO few SELECT n, n / 7::float8"
        " FROM generate_series(1, 50) n; CREATE VIEW slow AS SELECT id, f, pg_sleep(3)::text AS p"
        " FROM few WHERE id = 1"
    )
    tables = limit.spec or {"few": None}
    project.spec(tables, tasks={"retries": 0})
    with ExitStack() as block:
        if limit.waits:
            waiting = block.enter_context(pytest.MonkeyPatch.context())
            waiting.setattr(snapshot, "reach", wait_at_the_snapshot)
        port = block.enter_context(pgbouncer(project.logins, **limit.settings))
        behind = _through(project, port, limit.extra)
        if limit.beside:
            other = block.enter_context(psycopg.connect(behind.uri("shop_source")))
            other.execute(limit.beside)  # its transaction stays open
        failures = [r.result for r in behind.run().values() if isinstance(r.result, Exception)]
        assert failures
        for failure in failures:
            assert limit.says in str(failure), failure
            assert isinstance(failure, LoadsheetError) and failure.retryable == limit.may_pass
    assert project.in_warehouse("SELECT to_regclass('staging.few')") == [(None,)]
    with pooled(project, "pgbouncer") as behind:
        behind.succeed()
    assert not any(judge(project, table) for table in tables)


def wait_at_the_snapshot(point: str) -> None:
    if point == "extract.snapshot":
        time.sleep(3)


@REAL
def test_before_a_run_and_by_the_doctor_a_pooler_that_keeps_no_transaction_is_refused(
    project: Project,
) -> None:
    project.in_source("CREATE TABLE few (id int PRIMARY KEY)")
    project.spec({"few": None})
    with pgbouncer(project.logins, pool_mode="statement") as port:
        behind = _through(project, port)
        for words in (("doctor",), ("run", "shop"), ("plan", "--connect", "shop")):
            done = behind.cli(*words)
            assert done.returncode == 1
            said = done.stdout + done.stderr
            assert "PgBouncer has pool_mode=statement" in said, said
            assert "retry 1" not in said and "lacks privileges" not in said, said


@REAL
def test_timeouts_that_the_connection_chooses_hold_where_pgbouncer_passes_no_options_on(
    project: Project,
) -> None:
    chosen = {"options": r"-c lock_timeout=777ms -c app.note=it\ 's --jit=on"}
    with pgbouncer(project.logins, ignore_startup_parameters="options") as port:
        behind = _through(project, port, chosen)
        with connect_warehouse(behind.connections("warehouse")) as session:
            asked = "SELECT current_setting('lock_timeout'), current_setting('jit')"
            assert session.execute(asked).fetchone() == ("777ms", "on")
            with session.transaction():
                assert session.execute(asked).fetchone() == ("777ms", "on")


LASTING = {
    "one session": {"default_pool_size": 1},
    "two sessions": {"default_pool_size": 2, "server_reset_query": ""},
    "sessions that live a moment": {"server_lifetime": 1, "server_idle_timeout": 1},
    "clients that may not idle": {"client_idle_timeout": 1},
    "one session for each client": {"pool_mode": "session"},
}


@REAL
@pytest.mark.parametrize(
    "name", scaled(["two sessions", "clients that may not idle"], list(LASTING))
)
def test_whatever_the_size_and_age_of_the_pool_rows_arrive(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(stream, "_LEAST_BYTES", 64 << 10)
    monkeypatch.setitem(postgres.NETWORK, "connect_timeout", 2)
    monkeypatch.setattr(snapshot, "reach", wait_at_the_snapshot)
    begin(project)
    with pgbouncer(project.logins, **LASTING[name]) as port:
        behind = _through(project, port)
        behind.succeed()
        project.in_source("UPDATE visit SET f = f + 0.1, at = now() WHERE id < 20")
        behind.succeed()
    assert not any(judge(project, table) for table in TABLES)
    assert violations(project) == []


@REAL
def test_pgbouncer_restarted_at_any_moment_of_a_run_loses_and_doubles_nothing(
    project: Project, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_LEAST_BYTES", 64 << 10)
    begin(project)
    with restartable(project.logins) as (port, restart):
        behind = _through(project, port)
        began = time.monotonic()
        behind.succeed()
        usual = time.monotonic() - began
        failed = 0
        for _ in range(scaled(2, 40)):
            project.in_source("UPDATE visit SET f = f + 0.1, at = now() WHERE id < 20")
            project.in_source("UPDATE large SET f = f + 0.1 WHERE id < 20000")
            project.in_source(
                "INSERT INTO log (f) SELECT n / 7::float8 FROM generate_series(1, 9) n"
            )
            stop = threading.Timer(chance.uniform(0, usual), restart)
            stop.start()
            results = behind.run()
            stop.join()
            for result in results.values():
                if isinstance(result.result, Exception):
                    assert isinstance(result.result, LoadsheetError), result.result
                    assert result.result.retryable, result.result
                    failed += 1
            if chance.random() < 0.5:
                behind.succeed()
        behind.succeed()
    print(f"{failed} steps failed")
    assert not any(judge(project, table) for table in TABLES)
    assert violations(project) == []


def test_a_pool_without_a_further_session_has_a_large_table_read_in_one(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that waited for a session without a limit would wait for the one that waits for
    it."""
    monkeypatch.setitem(postgres.NETWORK, "connect_timeout", 1)
    project.in_source(SOURCE)
    project.spec({"large": None})
    with Pooler(project.source, sessions=1) as pooler:
        assert _through(project, pooler.port).succeed()["load.load_large"] == "done"
    assert not judge(project, "large")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", POOLERS)
def test_a_pool_of_one_session_lets_an_overtaken_step_extract_again(
    project: Project, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn held the session that the work was waiting for, until the pooler gave up."""
    monkeypatch.setattr(turn, "_GIVE_WAY_SECONDS", 1.0)
    by_hand = ByHand(project)
    old = by_hand.step("extract", "old").load_id
    by_hand.step("extract", "new")
    with pooled(project, kind, sessions=1) as narrow:

        def connections(conn_id: str) -> Connection:
            return (narrow if conn_id == "warehouse" else project).connections(conn_id)

        done = by_hand.step("load", "old", old, connections)
    assert "so it was extracted again" in done.message
    assert not judge(project, "item")


NOISE = "CREATE TABLE {} AS SELECT i AS id, md5(i::text) AS what FROM generate_series(1, 3000) i"


@pytest.fixture
def loading_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of some kilobytes is loaded while it is extracted."""
    monkeypatch.setattr(parts, "PART_BYTES", 4096)
    monkeypatch.setattr(parts, "BLOCK_BYTES", 8192)
    monkeypatch.setattr(early, "_FIRST_BYTES", 8192)
    monkeypatch.setattr(turn, "_GIVE_WAY_SECONDS", 0.5)


@pytest.mark.usefixtures("loading_early")
@pytest.mark.parametrize("sessions", [1, SESSIONS])
def test_a_load_begins_early_only_where_the_pool_has_another_session(
    project: Project, monkeypatch: pytest.MonkeyPatch, sessions: int
) -> None:
    """Otherwise the extraction could not seal what it has read."""
    arrived: list[str] = []
    copy_early = Arrival.copy_early

    def copy(arrival: Arrival, blocks: Iterator[bytes]) -> None:
        copy_early(arrival, blocks)
        arrived.append(arrival.table.schema)

    monkeypatch.setattr(Arrival, "copy_early", copy)
    project.in_source(NOISE.format("noise"))
    with pooled(project, "ours", sessions=sessions) as behind:
        behind.spec({"noise": None})
        behind.succeed()
    assert bool(arrived) == (sessions > 1)
    assert project.differences("noise") == 0


@pytest.mark.usefixtures("loading_early")
@pytest.mark.parametrize("remembers", [True, False])
def test_a_run_finds_out_once_that_the_pool_has_no_other_session(
    project: Project, monkeypatch: pytest.MonkeyPatch, remembers: bool
) -> None:
    """Each large table waited 5 s for it. Two begin at the same time."""
    if not remembers:
        forgetful = property(lambda loads: False, lambda loads, value: None)
        monkeypatch.setattr(EarlyLoads, "finds_no_session", forgetful, raising=False)
    asked: list[bool] = []
    takes_all_sessions = turn.takes_all_sessions

    def ask(*of: Any) -> bool:
        asked.append(takes_all_sessions(*of))
        return asked[-1]

    monkeypatch.setattr(turn, "takes_all_sessions", ask)
    names = [f"noise_{number}" for number in range(5)]
    project.in_source("; ".join(map(NOISE.format, names)))
    with pooled(project, "ours", sessions=1) as behind:
        behind.spec(dict.fromkeys(names))
        behind.succeed()
    assert all(asked)
    assert 0 < len(asked) <= 2 if remembers else len(asked) == len(names)
    assert not any(project.differences(name) for name in names)
