"""Tables with nothing new are found together, before their steps: what is said about a table is
what its own step says, and about a table that needs a closer look nothing is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.servers import S3Server
from loadsheet.engine import extract, nothing_new, runner
from loadsheet.engine.nothing_new import find_nothing_new
from loadsheet.engine.sessions import KeptServers
from loadsheet.outcome import Outcome, RunRequest
from loadsheet.pinned import PinnedSession
from loadsheet.preview import quiet
from loadsheet.preview.pipeline import preview_pipeline
from loadsheet.source import catalog
from loadsheet.source import nothing_new as in_source
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.status import rows as status_rows
from loadsheet.status import source as status_source
from loadsheet.status.pipeline import pipeline_status
from tests.debian import PROGRAMS, DebianServer
from tests.project import Project

BY_TIME = "id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT now()"
BY_NUMBER = "at bigserial PRIMARY KEY, what text"
MERGED = {"incremental": "at"}

# How each table is made and read, and what happens to it after its first load.
FOUND: dict[str, tuple[str, Any, str]] = {
    "quiet": (BY_TIME, MERGED, ""),
    "nullable": ("id int PRIMARY KEY, what text, at timestamptz DEFAULT now()", MERGED, ""),
    "of_an_application": ("id int PRIMARY KEY, what text, at timestamptz", MERGED, ""),
    "rounded": (
        "id int PRIMARY KEY, what text, at timestamptz(0) NOT NULL DEFAULT now()",
        MERGED,
        "",
    ),
    "rows_gone": (BY_TIME, MERGED, "DELETE FROM {} WHERE id = 1"),
    "emptied_source": (BY_TIME, MERGED, "TRUNCATE {}"),
    "numbers": (BY_NUMBER, MERGED, ""),
    "identity": (
        "at bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text",
        MERGED,
        "",
    ),
    "numbers_that_another_copies": (
        BY_NUMBER,
        MERGED,
        "CREATE TABLE other_{0} (at bigint DEFAULT nextval('{0}_at_seq'))",
    ),
    "without_nulls": (
        "id int PRIMARY KEY, what text, at timestamptz DEFAULT now()",
        {"incremental": {"cursor": "at", "nulls": "exclude"}},
        "INSERT INTO {} VALUES (100, 'no time', NULL)",
    ),
    "whole": ("id int PRIMARY KEY, what text", None, ""),
    "whole_merged": ("id int PRIMARY KEY, what text", {"mode": "merge"}, "UPDATE {} SET id = id"),
}
NOT_FOUND: dict[str, tuple[str, Any, str]] = {
    "inserted": (BY_TIME, MERGED, "INSERT INTO {} VALUES (100, 'new')"),
    "changed_at_the_watermark": (BY_TIME, MERGED, "UPDATE {} SET what = 'x' WHERE id = 1"),
    "tied": (BY_TIME, MERGED, "INSERT INTO {0} SELECT 100, 'late', max(at) FROM {0}"),
    "with_null": (
        "id int PRIMARY KEY, what text, at timestamptz DEFAULT now()",
        MERGED,
        "INSERT INTO {} VALUES (100, 'no time', NULL)",
    ),
    "recreated": (BY_TIME, MERGED, f"DROP TABLE {{0}}; CREATE TABLE {{0}} ({BY_TIME})"),
    "another_key": (BY_TIME, MERGED, "ALTER TABLE {} DROP COLUMN id"),
    "wider": (BY_TIME, MERGED, "ALTER TABLE {} ADD COLUMN more int"),
    "hidden": (BY_TIME, MERGED, "ALTER TABLE {} ENABLE ROW LEVEL SECURITY"),
    "shifted": (BY_TIME, MERGED, "ALTER TABLE {} ALTER at SET DEFAULT now() - interval '1 day'"),
    "looks_back": (BY_TIME, {"incremental": {"cursor": "at", "lookback": "15m"}}, ""),
    "appended": ("what text, at timestamptz NOT NULL DEFAULT now()", MERGED, ""),
    "set_back": (BY_NUMBER, MERGED, "SELECT setval('{}_at_seq', 3)"),
    "in_blocks": (BY_NUMBER, MERGED, "ALTER SEQUENCE {}_at_seq CACHE 10"),
    "down": (BY_NUMBER, MERGED, "ALTER SEQUENCE {}_at_seq INCREMENT -1"),
    "whole_changed": ("id int PRIMARY KEY, what text", None, "UPDATE {} SET what = 'x'"),
    "whole_renamed": (
        "id int PRIMARY KEY, what text",
        None,
        "ALTER TABLE {} RENAME COLUMN what TO now",
    ),
    "parent": (BY_TIME, MERGED, f"CREATE TABLE child ({BY_TIME}) INHERITS ({{}})"),
}
HARMED = {
    "target_emptied": "TRUNCATE staging.target_emptied",
    "target_dropped": "DROP TABLE staging.target_dropped",
    "target_rewritten": "VACUUM FULL staging.target_rewritten",
    "target_ruled": "CREATE RULE r AS ON INSERT TO staging.target_ruled DO INSTEAD NOTHING",
}

TABLES = FOUND | NOT_FOUND | dict.fromkeys(HARMED, (BY_TIME, MERGED, ""))


def found(project: Project, **request: Any) -> dict[str, Outcome]:
    """What is said before the steps of a run."""
    pipeline = load_pipeline(project.folder / "pipelines" / project.name / "pipeline.yml")
    project.grant()
    servers = KeptServers(pipeline, project.connections)
    try:
        return find_nothing_new(pipeline, RunRequest(run_id="look", **request), servers)
    finally:
        servers.close()


def make(project: Project, tables: Mapping[str, str]) -> None:
    """Create the tables, by name, with these columns, and fill them."""
    values = {"id": "i", "what": "'row ' || i", "at": "now() - interval '1 h'"}
    statements = []
    for name, columns in tables.items():
        names = [column.split()[0] for column in columns.split(", ")]
        if "DEFAULT" in columns or "serial" in columns or "IDENTITY" in columns:
            names.remove("at")
        chosen = ", ".join(values[one] for one in names)
        statements.append(f"CREATE TABLE {name} ({columns})")
        statements.append(
            f"INSERT INTO {name} ({', '.join(names)}) SELECT {chosen} FROM generate_series(1, 9) i"
        )
    project.in_source("; ".join(statements))


@pytest.fixture
def world(project: Project) -> Project:
    """All kinds of tables, loaded; then the source and the warehouse have changed."""
    make(project, {name: columns for name, (columns, _, _) in TABLES.items()})
    project.spec({name: deepcopy(how) for name, (_, how, _) in TABLES.items()})
    # Its default may be rounded up, to a time that is still to come.
    project.in_source("UPDATE rounded SET at = at - interval '1 h'")
    project.succeed()
    changes = [change.format(name) for name, (_, _, change) in TABLES.items()]
    project.in_source("; ".join(filter(None, changes)))
    for statement in HARMED.values():
        project.in_warehouse(statement)
    return project


def test_all_of_them_together_say_what_each_says_by_itself(
    world: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run, the plan and the status."""
    pipeline = load_pipeline(world.folder / "pipelines" / "shop" / "pipeline.yml")
    said = found(world)
    assert set(said) == set(FOUND)
    _, plan = preview_pipeline(pipeline, world.connections)
    status = pipeline_status(pipeline, world.connections)

    monkeypatch.setattr(nothing_new, "FEWEST", 1_000)
    monkeypatch.setattr(quiet, "FEWEST", 1_000)
    monkeypatch.setattr(status_source, "add_known_lags", lambda *given: None)
    monkeypatch.setattr(status_rows, "_AT_ONCE", 1)
    _, plan_by_itself = preview_pipeline(pipeline, world.connections)
    for name, step in plan_by_itself.items():
        assert plan[name] == step
    by_itself = {table.name: table for table in pipeline_status(pipeline, world.connections).tables}
    for table in status.tables:
        other = by_itself[table.name]
        assert (table.rows, table.state, table.lag_unknown) == (
            other.rows,
            other.state,
            other.lag_unknown,
        )
        assert table.lag == other.lag, table.name
    results = world.run()
    for name, outcome in said.items():
        assert results[f"extract.extract_{name}"].result == outcome
    failed = {name for name in TABLES if results[f"extract.extract_{name}"].state == "failed"}
    assert failed >= {
        *("with_null", "recreated", "shifted", "set_back", "in_blocks", "down", "hidden"),
        "target_ruled",
    }


def few(project: Project, count: int = 4) -> list[str]:
    names = [f"t{n}" for n in range(count)]
    make(project, dict.fromkeys(names, BY_TIME))
    project.spec({name: dict(MERGED) for name in names})
    project.succeed()
    return names


def test_nothing_is_said_about_tables_that_a_run_was_asked_for(project: Project) -> None:
    names = few(project)
    assert set(found(project)) == set(names)
    assert not found(project, full_refresh="all")
    assert not found(project, accept_source=True)
    assert not found(project, resumes=frozenset(names))
    assert not found(project, repair=frozenset(names))
    assert not found(project, explicit_interval=True, interval_start="2026-01-01")
    assert set(found(project, only=frozenset(names[1:]))) == set(names[1:])
    assert not found(project, only=frozenset(names[2:]))  # too few


def test_an_open_transaction_is_named_as_the_step_names_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = few(project)
    make(project, {"numbers": BY_NUMBER})
    project.spec({name: dict(MERGED) for name in [*names, "numbers"]})
    project.succeed()
    with psycopg.connect(project.source) as writer:
        writer.execute("SELECT pg_current_xact_id()")
        said = found(project)
        # Its step waits: there may be rows when the transaction has ended.
        assert set(said) == set(names)
        monkeypatch.setattr(nothing_new, "FEWEST", 1_000)
        results = project.run(only=frozenset(names))
    for name in names:
        assert "; held back by pid" in said[name].message
        assert results[f"extract.extract_{name}"].result == said[name]


def test_a_table_that_is_locked_is_not_waited_for(project: Project) -> None:
    few(project)
    with psycopg.connect(project.source) as holder:
        holder.execute("LOCK TABLE t1")
        assert not found(project)
    assert len(found(project)) == 4


def test_the_source_is_compared_with_that_of_the_last_load(project: Project) -> None:
    few(project)
    project.in_warehouse(
        'UPDATE loadsheet.scope SET source = source || \'{"timeline": "99"}\''
        " WHERE table_name = 't1'"
    )
    assert set(found(project)) == {"t0", "t2", "t3"}
    # A source that was restored is behind the position at which it was read.
    project.in_warehouse('UPDATE loadsheet.scope SET source = source || \'{"lsn": "FFF/0"}\'')
    assert not found(project)


def test_a_target_that_another_pipeline_has_loaded_since_is_left_to_its_step(
    project: Project,
) -> None:
    few(project)
    project.in_warehouse(
        "INSERT INTO loadsheet.load SELECT (jsonb_populate_record(l, jsonb_build_object("
        "'pipeline', 'other', 'load_id', 'x', 'load_no', nextval('loadsheet.load_no')))).*"
        " FROM loadsheet.load l WHERE table_name = 't2'"
    )
    assert set(found(project)) == {"t0", "t1", "t3"}


def test_what_was_read_earlier_cannot_be_loaded_after_a_whole_table_was_compared(
    project: Project,
) -> None:
    make(project, dict.fromkeys(("a", "b", "c"), "id int PRIMARY KEY, what text"))
    project.spec(dict.fromkeys(("a", "b", "c")))
    project.succeed()
    fences = "SELECT table_name, fence FROM loadsheet.scope ORDER BY 1"
    before = dict(project.in_warehouse(fences))
    # An attempt that was never loaded.
    project.in_warehouse("UPDATE loadsheet.scope SET fence = fence + 1 WHERE table_name = 'b'")
    assert set(found(project)) == {"a", "b", "c"}
    assert dict(project.in_warehouse(fences)) == before | {"b": before["b"] + 2}


def test_a_failure_is_settled_where_nothing_is_new(project: Project) -> None:
    names = few(project)
    project.in_warehouse(
        "INSERT INTO loadsheet.failure (pipeline, kind, name, target, step, run_id, code, message,"
        " since, failed_at) SELECT 'shop', 'table', name, 'staging.' || name, 'extract', 'r', '',"
        " 'no', now(), now() FROM unnest(%s::text[]) name",
        names,
    )
    project.succeed()
    assert not project.in_warehouse("SELECT FROM loadsheet.failure WHERE worked_at IS NULL")


def test_rows_that_come_after_the_look_are_read_by_the_next_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = few(project)
    look = runner.find_nothing_new

    def look_and_write(*given: Any) -> dict[str, Outcome]:
        said = look(*given)
        project.in_source("INSERT INTO t1 VALUES (100, 'late')")
        return said

    monkeypatch.setattr(runner, "find_nothing_new", look_and_write)
    assert project.succeed()["load.load_t1"] == "skipped"
    monkeypatch.setattr(runner, "find_nothing_new", look)
    assert project.succeed()["load.load_t1"] == "done"
    assert not any(project.differences(name) for name in names)


@pytest.mark.parametrize("changes", [False, True])
def test_a_table_that_changes_after_the_look_is_described_again(
    project: Project, monkeypatch: pytest.MonkeyPatch, changes: bool
) -> None:
    names = few(project)
    project.in_source("UPDATE t1 SET what = 'new', at = now() WHERE id = 1")
    look, describe = runner.find_nothing_new, catalog.describe
    asked: list[str] = []

    def look_and_alter(*given: Any) -> dict[str, Outcome]:
        said = look(*given)
        if changes:
            project.in_source("ALTER TABLE t1 ADD COLUMN colour text DEFAULT 'red'")
        return said

    def counting(*given: Any, **more: Any) -> Any:
        asked.append(given[2].name)
        return describe(*given, **more)

    monkeypatch.setattr(runner, "find_nothing_new", look_and_alter)
    monkeypatch.setattr(catalog, "describe", counting)
    assert project.succeed()["load.load_t1"] == "done"
    # In the snapshot; or there, before another one, and there again.
    assert asked == ["t1"] * (3 if changes else 1)
    assert not any(project.differences(name) for name in names[:1])
    colours = project.in_warehouse(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'staging.t1'::regclass"
        " AND attname = 'colour'"
    )
    assert colours == [(int(changes),)]


CHANGED_AFTER_THE_LOOK = {
    "gone": "DROP TABLE {0}",
    "without_cursor": "ALTER TABLE {0} DROP COLUMN at",
    "renamed_cursor": "ALTER TABLE {0} RENAME at TO moved",
    "of_another_type": (
        "ALTER TABLE {0} ALTER at DROP DEFAULT, ALTER at TYPE timestamp USING at AT TIME ZONE 'UTC'"
    ),
    "made_anew": f"DROP TABLE {{0}}; CREATE TABLE {{0}} ({BY_TIME})",
    "viewed": "ALTER TABLE {0} RENAME TO {0}_t; CREATE MATERIALIZED VIEW {0} AS TABLE {0}_t",
    "hidden_now": "ALTER TABLE {0} ENABLE ROW LEVEL SECURITY",
}


@pytest.mark.parametrize("describes_again", [True, False])
def test_a_table_that_changes_after_the_look_fails_as_if_it_had_changed_before(
    project: Project, monkeypatch: pytest.MonkeyPatch, describes_again: bool
) -> None:
    """The negative control gives advice about a column that is no more."""
    make(project, dict.fromkeys(CHANGED_AFTER_THE_LOOK, BY_TIME))
    project.spec({name: dict(MERGED) for name in CHANGED_AFTER_THE_LOOK})
    project.succeed()
    for name in CHANGED_AFTER_THE_LOOK:
        project.in_source(f"INSERT INTO {name} VALUES (100, 'new')")
    look = runner.find_nothing_new

    def look_and_change(*given: Any) -> dict[str, Outcome]:
        said = look(*given)
        for name, change in CHANGED_AFTER_THE_LOOK.items():
            project.in_source(change.format(name))
        return said

    monkeypatch.setattr(runner, "find_nothing_new", look_and_change)
    if not describes_again:
        monkeypatch.setattr(extract, "_VERDICTS", ())
    after = project.run(run_id="same")
    monkeypatch.setattr(runner, "find_nothing_new", look)
    monkeypatch.setattr(nothing_new, "FEWEST", 1_000)
    before = project.run(run_id="same")
    as_before = []
    for name in CHANGED_AFTER_THE_LOOK:
        step = f"extract.extract_{name}"
        assert after[step].state == before[step].state == "failed", name
        as_before.append(str(after[step].result) == str(before[step].result))
    assert all(as_before) is describes_again


def test_a_look_for_higher_values_alone_would_lose_rows(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a row may come later with the watermark's own value."""
    few(project)
    project.in_source("INSERT INTO t1 SELECT 100, 'late', max(at) FROM t1")
    monkeypatch.setattr(in_source, "since", lambda cursor, value, _: f"{cursor} > {value}")
    assert project.succeed()["load.load_t1"] == "skipped"
    assert project.differences("t1") == 1
    monkeypatch.undo()
    project.succeed()
    assert project.differences("t1") == 0


def rows_read_in_order(project: Project, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many rows a look at a large table reads without an index. One of 20 is new, and new rows
    are at the table's end."""
    few(project)
    project.in_source(
        f"CREATE TABLE large ({BY_TIME}); CREATE INDEX ON large (at);"
        " INSERT INTO large SELECT i, md5(i::text), now() - interval '1 h' * (1 + random())"
        " FROM generate_series(1, 200000) i"
    )
    project.spec({name: dict(MERGED) for name in ("t0", "t1", "t2", "large")})
    project.succeed()
    project.in_source("UPDATE large SET at = now() WHERE id % 20 = 0; ANALYZE large")
    counted: list[int] = []
    ask = in_source.without_new_rows

    def ask_and_count(session: Any, *given: Any) -> Any:
        answer = ask(session, *given)
        query = "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'large'"
        counted.append(session.execute(query).fetchone()[0])
        return answer

    monkeypatch.setattr(in_source, "without_new_rows", ask_and_count)
    assert set(found(project)) == {"t0", "t1", "t2"}
    return counted[0]


def test_new_rows_at_a_tables_end_are_found_by_its_index(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows_read_in_order(project, monkeypatch) == 0


def test_the_planner_would_read_the_table_up_to_its_end(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(in_source, "_BY_INDEX", "SET LOCAL enable_seqscan = on")
    assert rows_read_in_order(project, monkeypatch) > 100_000


@pytest.fixture(scope="module")
def compiling() -> Iterator[DebianServer]:
    """A server that compiles long statements, as most do; the embedded ones cannot."""
    if not PROGRAMS.is_dir():
        pytest.skip("Debian's postgresql-15 is not installed")
    with DebianServer() as server:
        yield server


@pytest.mark.parametrize("is_guarded", [True, False])
def test_a_question_about_many_tables_is_not_compiled(
    compiling: DebianServer,
    tmp_path: Path,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    is_guarded: bool,
) -> None:
    """That took 9 s of a core for 100 small tables. The cost of a table that is not to be read from
    its start made the server do so."""
    number = int(is_guarded)
    source, warehouse = (compiling.create_database(f"{end}_{number}") for end in ("from", "to"))
    project = Project(tmp_path, source, warehouse, s3)
    few(project, 3)
    if not is_guarded:
        monkeypatch.setattr(in_source, "_LIMITS", "SET LOCAL statement_timeout = '10s'")
    plans: list[str] = []
    execute = PinnedSession.execute

    def explained(session: PinnedSession, query: Any, *more: Any, **options: Any) -> Any:
        if str(query).startswith("b'SELECT 0 WHERE NOT EXISTS"):
            lines = execute(session, b"EXPLAIN " + query).fetchall()
            plans.append("\n".join(line for (line,) in lines))
        return execute(session, query, *more, **options)

    monkeypatch.setattr(PinnedSession, "execute", explained)
    assert set(found(project)) == {"t0", "t1", "t2"}
    assert len(plans) == 1 and ("JIT:" in plans[0]) is not is_guarded, plans
