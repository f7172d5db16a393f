"""What a run costs, counted: statements, requests, bytes of WAL, Python calls per row. Counts do
not depend on how busy the machine is, so a change that makes the engine slower shows here and not
in a bench a month later."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import urllib3

from loadsheet.connections.lookup import Connection
from loadsheet.engine import nothing_new, sessions
from loadsheet.engine.preflight import preflight
from loadsheet.engine.runner import run_pipeline
from loadsheet.outcome import RunRequest
from loadsheet.pinned import PinnedCursor, PinnedSession
from loadsheet.preview.pipeline import preview_pipeline
from loadsheet.source import identity, stream
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.status.pipeline import pipeline_status
from tests.byhand import wait_until
from tests.project import Project

# Counted: per table when nothing is new, where it looks for itself; and for its increment, by
# itself and as one of several, which were looked at together.
SOURCE_STATEMENTS, WAREHOUSE_STATEMENTS = 24, 7
INCREMENT_ALONE = {"source": 23, "warehouse": 33}
INCREMENT_OF_SEVERAL = {"source": 21, "warehouse": 33}


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, project: Project) -> Iterator[Counter[str]]:
    """Statements by server, and requests to the lake, while the context is open."""
    counts: Counter[str] = Counter()
    source = urlsplit(project.source).path[1:]
    execute, request = PinnedCursor.execute, urllib3.PoolManager.urlopen

    def counting_execute(self: Any, *args: Any, **more: Any) -> Any:
        counts["source" if self.connection.info.dbname == source else "warehouse"] += 1
        return execute(self, *args, **more)

    def counting_request(self: Any, method: str, url: str, *args: Any, **more: Any) -> Any:
        counts["LIST" if "list-type" in url else method] += 1
        return request(self, method, url, *args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(PinnedCursor, "execute", counting_execute)
        patched.setattr(urllib3.PoolManager, "urlopen", counting_request)
        # How often it asks depends on when the server's WAL writer wakes up.
        patched.setattr(identity, "wait_until_durable", lambda *_: None)
        yield counts


def make_tables(project: Project, count: int, first: int = 0) -> None:
    for n in range(first, count):
        project.in_source(
            f"CREATE TABLE t{n} (id int PRIMARY KEY, what text, at timestamptz DEFAULT now()); "
            f"INSERT INTO t{n} SELECT i, md5(i::text) FROM generate_series(1, 100) i"
        )
    project.spec({f"t{n}": {"incremental": "at"} for n in range(count)})


def costs_of_nothing_new(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    fewer: int,
    more: int,
    work: Callable[[Project], object] = Project.succeed,
) -> dict[str, float]:
    """Statements per table of a run, or of other work, with nothing new, by server."""
    found = []
    for first, count in ((0, fewer), (fewer, more)):
        make_tables(project, count, first)
        project.succeed()
        with counted(monkeypatch, project) as counts:
            work(project)
        assert counts["PUT"] == counts["GET"] == 0
        assert counts["LIST"] <= 1  # whether the bucket exists
        found.append(counts)
    less, all_of_them = found
    return {
        side: (all_of_them[side] - less[side]) / (more - fewer) for side in ("source", "warehouse")
    }


def test_nothing_new_costs_no_statement_per_table_and_no_request(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = costs_of_nothing_new(project, monkeypatch, fewer=3, more=7)
    assert costs == {"source": 0, "warehouse": 0}


def plan(project: Project) -> None:
    preview_pipeline(pipeline_of(project), project.connections)


def status(project: Project) -> None:
    pipeline_status(pipeline_of(project), project.connections)


def pipeline_of(project: Project) -> Pipeline:
    return load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")


@pytest.mark.parametrize("work", [plan, status])
def test_the_plan_and_the_status_of_nothing_new_cost_no_statement_per_table(
    project: Project, monkeypatch: pytest.MonkeyPatch, work: Callable[[Project], object]
) -> None:
    costs = costs_of_nothing_new(project, monkeypatch, fewer=3, more=7, work=work)
    assert costs == {"source": 0, "warehouse": 0}


def test_a_table_by_itself_costs_a_fixed_number_of_statements_where_nothing_is_new(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nothing_new, "FEWEST", 1_000)
    costs = costs_of_nothing_new(project, monkeypatch, fewer=2, more=6)
    assert costs["source"] <= SOURCE_STATEMENTS
    assert costs["warehouse"] <= WAREHOUSE_STATEMENTS


def test_an_increment_costs_four_requests_and_a_fixed_number_of_statements(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tables(project, 1)
    project.succeed()
    project.in_source("UPDATE t0 SET at = now() WHERE id <= 10")
    with counted(monkeypatch, project) as counts:
        project.succeed()
    assert (counts["PUT"], counts["GET"]) == (2, 2)  # part and manifest, there and back
    assert_at_most(counts, INCREMENT_ALONE)


def assert_at_most(counts: Mapping[str, float], most: Mapping[str, float]) -> None:
    assert all(counts[side] <= allowed for side, allowed in most.items()), counts


def test_increments_of_several_tables_share_what_a_look_has_found(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least of three: a session that is just ending makes a look at open ones ask again."""
    tries = [costs_of_increments(project, monkeypatch, made) for made in (0, 7, 7)]
    least = {side: min(costs[side] for costs in tries) for side in INCREMENT_OF_SEVERAL}
    assert_at_most(least, INCREMENT_OF_SEVERAL)


def costs_of_increments(
    project: Project, monkeypatch: pytest.MonkeyPatch, made: int
) -> dict[str, float]:
    """Statements per table; so many tables are `made` already."""
    found = []
    for first, count in ((0, 3), (3, 7)):
        make_tables(project, count, max(first, made))
        project.succeed()
        for n in range(count):
            project.in_source(f"UPDATE t{n} SET at = now() WHERE id <= 10")
        with counted(monkeypatch, project) as counts:
            states = project.succeed()
        assert [states[f"load.load_t{n}"] for n in range(count)] == ["done"] * count
        found.append(counts)
    less, all_of_them = found
    return {side: (all_of_them[side] - less[side]) / 4 for side in ("source", "warehouse")}


def test_nothing_new_writes_nothing_to_the_warehouse(project: Project) -> None:
    make_tables(project, 3)
    project.succeed()
    # The server notes its running transactions now and then, and autovacuum its statistics.
    assert min(wal_of(project, project.succeed) for _ in range(3)) < 1_000
    project.in_source("UPDATE t0 SET what = 'new', at = now() WHERE id = 1")
    assert wal_of(project, project.succeed) > 1_000  # the control


def wal_of(project: Project, work: Callable[[], object]) -> int:
    before = project.in_warehouse("SELECT pg_current_wal_insert_lsn() - '0/0'")[0][0]
    work()
    return int(project.in_warehouse("SELECT pg_current_wal_insert_lsn() - '0/0'")[0][0] - before)


def test_sessions_are_kept_from_step_to_step(project: Project) -> None:
    opened: list[str] = []

    def connections(conn_id: str) -> Any:
        opened.append(conn_id)
        return project.connections(conn_id)

    make_tables(project, 6)
    pipeline = pipeline_of(project)
    results = run_pipeline(pipeline, RunRequest(run_id="kept"), connections, parallel=2)
    assert all(result.state == "done" for result in results.values())
    assert opened.count("shop_source") <= 2 and opened.count("warehouse") <= 2


def test_the_sessions_of_the_preflight_serve_the_steps(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tables(project, 3)
    project.succeed()
    opened: list[str] = []

    def counting(connect: sessions.Connect) -> sessions.Connect:
        def connect_and_count(connection: Connection) -> PinnedSession:
            opened.append(connection.conn_id)
            return connect(connection)

        return connect_and_count

    for name in ("connect_source", "connect_warehouse"):
        monkeypatch.setattr(sessions, name, counting(getattr(sessions, name)))
    pipeline = pipeline_of(project)
    servers = sessions.KeptServers(pipeline, project.connections)
    preflight(pipeline, servers, lambda refusals, seconds: None)
    request = RunRequest(run_id="kept")
    results = run_pipeline(pipeline, request, project.connections, servers=servers)
    assert {result.state for result in results.values()} == {"done", "skipped"}
    assert sorted(opened) == ["shop_source", "warehouse"]


def calls(work: Callable[[], object]) -> int:
    """Calls of Python and C functions in all threads while `work` runs."""
    # By thread: of a single number, one thread's addition would undo another's.
    seen: Counter[int] = Counter()

    def count(frame: Any, event: str, argument: Any) -> None:
        seen[threading.get_ident()] += event in ("call", "c_call")

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return seen.total()


def test_no_python_runs_per_row_of_a_large_table(project: Project) -> None:
    # The first run imports, too. The same content again would be looked at for what it is.
    _, few, many = (calls_for(project, rows) for rows in (59_999, 60_000, 120_000))
    assert (many - few) / 60_000 < 0.3, (few, many)


def test_reading_row_by_row_would_be_noticed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: one session, one row at a time."""
    monkeypatch.setattr(stream, "copy_parallel", lambda *given: None)
    # The first run imports, too. The same content again would be looked at for what it is.
    _, few, many = (calls_for(project, rows) for rows in (59_999, 60_000, 120_000))
    # Waiting for each row took seven.
    assert 0.9 < (many - few) / 60_000 < 2, (few, many)


def calls_for(project: Project, rows: int) -> int:
    project.in_source("DROP TABLE IF EXISTS big; CREATE TABLE big (id int PRIMARY KEY, what text)")
    project.in_source(f"INSERT INTO big SELECT i, md5(i::text) FROM generate_series(1, {rows}) i")
    project.spec({"big": None})
    return calls(lambda: project.succeed(full_refresh="all"))


def lines_to(port: int) -> int:
    """How many connections this process has open to a local server."""
    opened = {file.readlink().name for file in Path("/proc/self/fd").iterdir() if file.is_symlink()}
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    inodes = {
        f"socket:[{line[9]}]" for line in lines if int(line[2].rpartition(":")[2], 16) == port
    }
    return len(opened & inodes)


def test_a_run_leaves_no_connection_to_the_lake_open(project: Project) -> None:
    """A program may run a pipeline again and again: it had one more file open after each."""
    project.in_source("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)")
    project.spec({"item": None})
    port = urlsplit(project.connections("lake").extra["endpoint_url"]).port or 0
    before = lines_to(port)
    project.succeed()
    assert lines_to(port) <= before


NO_SCAN_MORE = "a table whose new rows were read once, for its key"
READ = "SELECT seq_scan FROM pg_stat_user_tables WHERE schemaname = 'staging' AND relname = %s"


def test_the_key_of_a_new_table_looks_for_no_nulls_where_the_source_enforces_it(
    project: Project,
) -> None:
    """The key is a fifth faster: its columns are NOT NULL before rows arrive. In a table whose key
    only the spec knows, rows are read for it, too, and for duplicates."""
    rows = "SELECT i, md5(i::text), now() - interval '1 day' FROM generate_series(1, 500) i"
    columns = "(id int {}, what text, at timestamptz)"
    project.in_source(
        f"CREATE TABLE kept {columns.format('PRIMARY KEY')}; INSERT INTO kept {rows};"
        f"CREATE TABLE trusted {columns.format('')}; INSERT INTO trusted {rows}"
    )
    project.spec({"kept": None, "trusted": {"primary_key": ["id"]}})
    for _ in range(2):  # a first load, and one that replaces the table
        project.succeed(full_refresh="all")
        wait_until(lambda: project.in_warehouse(READ, "kept") == [(1,)], NO_SCAN_MORE)
        wait_until(lambda: project.in_warehouse(READ, "trusted") > [(1,)], "a table read again")


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_key_that_fits_into_memory_is_built_by_several_processes_where_nothing_else_is_loaded(
    project: Project, is_alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = []
    execute = PinnedCursor.execute

    def watched(self: Any, query: Any, *args: Any, **more: Any) -> Any:
        if "staging" in str(query) and "ADD PRIMARY KEY" in str(query):
            workers.extend(execute(self, "SHOW max_parallel_maintenance_workers").fetchone() or ())
        return execute(self, query, *args, **more)

    monkeypatch.setattr(PinnedCursor, "execute", watched)
    project.in_source("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)")
    project.spec({"item": None})
    with psycopg.connect(project.uri("warehouse")) as other:
        if not is_alone:
            other.execute("SET application_name = 'loadsheet:load:another'")
        project.succeed()
    assert workers == ["2" if is_alone else "0"]


HISTOGRAM = """
SELECT max(array_length(histogram_bounds, 1)) FROM pg_stats
WHERE schemaname = 'staging' AND tablename = %s
"""
CHANGED = """
SELECT analyze_count + autoanalyze_count, n_mod_since_analyze FROM pg_stat_user_tables
WHERE schemaname = 'staging' AND relname = %s
"""


def test_the_statistics_of_a_wide_new_table_come_from_fewer_rows(project: Project) -> None:
    """The time of ANALYZE is that of the values it looks at. Autovacuum looks at more of them: to
    it, all rows have changed since."""
    columns = ", ".join(f"i + {n} AS c{n}" for n in range(199))
    project.in_source(
        "CREATE TABLE narrow AS SELECT generate_series(1, 500) AS id;"
        f"CREATE TABLE wide AS SELECT i AS id, {columns} FROM generate_series(1, 500) i"
    )
    project.spec({"narrow": None, "wide": None})
    project.succeed()
    # The buckets of a histogram are as many as the statistics target.
    assert project.in_warehouse(HISTOGRAM, "narrow") == [(31,)]
    assert project.in_warehouse(HISTOGRAM, "wide") == [(11,)]
    # A session reports what it has changed when it ends or, in a pooler, has been idle for 10 s.
    wait_until(
        lambda: project.in_warehouse(CHANGED, "wide") == [(1, 500)],
        "a table that is analyzed once, with all rows changed since",
    )
