"""Hostile names, values and SQL that the check lets through, carried by the real engine: every row
arrives, sentinels on both sides stay as they were, nothing is rendered, executed or written beside
where it belongs."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql as composing

from loadsheet.engine.runner import StepResult, run_pipeline
from loadsheet.errors import LoadsheetError, Refused
from loadsheet.lake.store import Lake
from loadsheet.names import is_pattern
from loadsheet.outcome import RunRequest
from loadsheet.postgres import connect_source
from loadsheet.spec.files import FORBIDDEN_IN_SQL
from loadsheet.spec.pipeline_file import check_file
from loadsheet.sql.text import ident
from loadsheet.warehouse import mart as transforms
from tests import canaries, hostile_spec
from tests.faults.scale import scaled
from tests.hostile_spec import CANARY_VALUE, CANARY_VARIABLE, RENDERED, TRAP, VALUES, Field
from tests.project import Project

SENTINEL = (
    "CREATE TABLE public.sentinel (id int PRIMARY KEY, v text); INSERT INTO public.sentinel VALUES"
    " (1, 'whole')"
)
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Fields whose text reaches a server; what the others hold ends in Airflow, which tests/airflow
# looks at.
REACHING: list[Field] = [
    ("source", "schema"),
    ("warehouse", "schema"),
    ("warehouse", "mart_schema"),
    ("lake", "prefix"),
    ("lake", "bucket"),
    ("pipeline",),
    ("transforms", "<key>"),
    ("tables", "<name>", "incremental", "initial_value"),
    ("transforms", "<name>", "unique_key"),
    ("tables", "<name>", "columns", "exclude", "[]"),
]


@pytest.fixture(autouse=True)
def sentinels(project: Project, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tables that nobody names, on both sides: at the end of each test they are as they were. And a
    variable that nobody expands, a sum that nobody computes: neither is in the lake's objects, the
    ledger, or what was built."""
    before = buckets(project)
    monkeypatch.setenv(CANARY_VARIABLE, CANARY_VALUE)
    # The pipeline's roles own them, so it is not their rights that keep them from harm.
    project.in_source(f"{SENTINEL}; ALTER TABLE public.sentinel OWNER TO {project.extractor}")
    project.in_warehouse(f"{SENTINEL}; ALTER TABLE public.sentinel OWNER TO {project.loader}")
    yield
    assert (
        project.in_source("TABLE public.sentinel")
        == project.in_warehouse("TABLE public.sentinel")
        == [(1, "whole")]
    )
    assert not Path(TRAP).exists()
    assert (
        canaries.found(places(project, buckets(project) - before), [CANARY_VALUE, RENDERED])
        == set()
    )


def buckets(project: Project) -> set[str]:
    """All there are: a hostile name may have made one."""
    return set(os.listdir(project.s3.data_dir))


def places(project: Project, in_buckets: set[str]) -> dict[str, str]:
    """What is in the lake's objects and in every table of the warehouse, by place."""
    with psycopg.connect(project.warehouse) as session:
        schemas = session.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$)'"
        )
        found = {
            f"{schema}.{n}": t
            for (schema,) in schemas
            for n, t in canaries.tables(session, schema).items()
        }
    return canaries.objects(project.s3, *in_buckets) | found


@pytest.mark.parametrize("planted", [CANARY_VALUE, RENDERED])
def test_the_search_finds_what_is_in_objects_and_in_tables(project: Project, planted: str) -> None:
    project.in_source(
        f"CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'x{planted}x')"
    )
    project.spec({"t": None}, {"m": "SELECT v FROM t"})
    project.succeed()
    found = {
        name.rpartition("/")[2]
        for name, _ in canaries.found(places(project, {project.bucket}), [planted])
    }
    assert found == {"part-00000.bin.zst", "staging.t", "mart.m"}
    project.in_warehouse("DROP SCHEMA staging CASCADE; DROP SCHEMA mart CASCADE")
    for name in project.objects():
        Lake(project.connections("lake"), project.bucket).remove(name)


def fitting(project: Project, taken: set[str]) -> list[str]:
    """Values that the check takes as the name of a table, and PostgreSQL as one that nobody has."""
    folder = project.folder / "elsewhere" / "shop"
    names = [value for value in VALUES if value not in taken and not is_pattern(value)]
    made = {value: hostile_spec.placed(("tables", hostile_spec.KEY), value) for value in names}
    return [
        value
        for value, document in made.items()
        if check_file(hostile_spec.written(folder, document))[0]
    ]


@pytest.mark.timeout(scaled(120, 1800))
def test_tables_keys_and_cursors_of_hostile_names_arrive_whole(
    project: Project, chance: random.Random
) -> None:
    names = fitting(project, {"_load_id", "sentinel", "_loadsheet_1", "ctid", "xmin", "tableoid"})
    names = chance.sample(names, scaled(16, len(names)))
    print(f"{len(names)} names")
    for start in range(0, len(names), 60):
        _carry(project, names[start : start + 60], chance)


def _carry(project: Project, names: list[str], chance: random.Random) -> None:
    tables = {}
    for name in names:
        column, table = chance.choice(names), ident(name)
        project.in_source(
            f"CREATE TABLE {table} ({ident(column)} text PRIMARY KEY, at timestamptz DEFAULT"
            " '2026-01-01', _ text)"
        )
        with psycopg.connect(project.source, autocommit=True) as session:
            doubled = table.replace("%", "%%")
            session.execute(f"COMMENT ON TABLE {table} IS '\x1b[2J<!channel>'")
            session.cursor().executemany(
                f"INSERT INTO {doubled} VALUES (%s, DEFAULT, %s)", [(n, n) for n in names[:9]]
            )
        tables[name] = {
            "incremental": "at",
            "primary_key": column,
            "columns": {"include": [column, "at"]},
        }
    project.spec(tables)
    for run in range(2):
        done = project.cli("run", project.name)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not _STEERING.search(done.stdout + done.stderr) and RENDERED not in done.stdout
        if run == 0:
            for name in names:
                project.in_source(
                    f"UPDATE {ident(name)} SET at = '2026-01-02' WHERE {ident('at')} IS NOT NULL"
                )
    for name, settings in tables.items():
        here = project.in_source(
            f"SELECT {ident(settings['primary_key'])}, at FROM {ident(name)} ORDER BY 1"
        )
        there = project.in_warehouse(
            f"SELECT {ident(settings['primary_key'])}, at FROM staging.{ident(name)} ORDER BY 1"
        )
        assert here == there, name
    for command in ("status", "plan", "render"):
        shown = project.cli(command, project.name)
        assert shown.returncode == 0 and not _STEERING.search(shown.stdout), shown.stderr
        assert RENDERED not in shown.stdout and CANARY_VALUE not in shown.stdout
    assert all(
        name.startswith(f"{project.name}/") and ".." not in name for name in project.objects()
    )
    for name in names:
        project.in_source(f"DROP TABLE {ident(name)}")


@pytest.mark.timeout(scaled(120, 1800))
def test_what_the_check_takes_in_any_field_runs_or_is_refused_in_words(
    project: Project, chance: random.Random
) -> None:
    project.in_source(
        "CREATE TABLE orders (id int PRIMARY KEY, c timestamptz); INSERT INTO orders VALUES (1,"
        " now() - interval '1 h')"
    )
    pairs = [(field, value) for field in REACHING for value in VALUES]
    ran = 0
    for field, value in chance.sample(pairs, scaled(60, len(pairs))):
        document = hostile_spec.placed(field, value)
        if field[:2] != ("lake", "bucket"):
            document["lake"]["bucket"] = project.bucket
        file = hostile_spec.written(
            project.folder / "pipelines" / project.name, document, "SELECT id AS one FROM orders\n"
        )
        pipeline, _ = check_file(file)
        if pipeline is None:
            continue
        ran += 1
        results = run_pipeline(pipeline, RunRequest(run_id=f"test__{ran}"), project.connections)
        for result in results.values():
            _assert_in_words(result, field, value)
        for name in ({value} if field[0] == "warehouse" else set()) | {"staging", "mart"}:
            if name not in ("public",):
                project.in_warehouse(f"DROP SCHEMA IF EXISTS {ident(name)} CASCADE")
    print(f"{ran} ran")
    assert ran


def _assert_in_words(result: StepResult, field: Field, value: str) -> None:
    if isinstance(result.result, Exception):
        assert isinstance(result.result, LoadsheetError), (field, value, result.result)
        assert not _STEERING.search(str(result.result)) and RENDERED not in str(result.result)


SMUGGLED = [
    "SELECT 1 AS a; DROP TABLE public.sentinel",
    "SELECT 1 AS a -- \r; DROP TABLE public.sentinel",
    "SELECT 'a\\'; DROP TABLE public.sentinel; --'",
    "SELECT 1 AS a; COMMIT; DROP TABLE public.sentinel; BEGIN",
    "SELECT 1 AS a\\; DROP TABLE public.sentinel",
    "SELECT 1 AS a; ; DROP TABLE public.sentinel;",
]


@pytest.mark.parametrize("materialized", ["table", "view", "merge"])
@pytest.mark.parametrize("text", SMUGGLED)
def test_no_second_statement_rides_on_a_select_whatever_the_parser_made_of_it(
    project: Project, monkeypatch: pytest.MonkeyPatch, materialized: str, text: str
) -> None:
    """The check refuses each of them. Here the server is asked alone: what runs is not what was
    checked."""
    project.in_source("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    options = {"materialized": materialized} | (
        {"unique_key": "a"} if materialized == "merge" else {}
    )
    project.spec({"t": None}, {"m": ("SELECT id AS a FROM t", options)})
    honest = transforms.bind_parameters
    monkeypatch.setattr(transforms, "bind_parameters", lambda _, *bound: honest(text, *bound))
    result = project.run()["transform.transform_m"].result
    assert isinstance(result, Refused) and "42601" in str(result), result
    file = project.folder / "pipelines" / "shop" / "sql" / "m.sql"
    file.write_text(text)
    assert check_file(file.parents[1] / "pipeline.yml")[0] is None


def test_without_the_extended_protocol_it_would(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control, on a table of its own."""
    project.in_source("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    owner = f"ALTER TABLE public.victim OWNER TO {project.loader}"
    project.in_warehouse(f"CREATE TABLE public.victim (); {owner}")
    project.spec({"t": None}, {"m": "SELECT id AS a FROM t"})
    honest = transforms.bind_parameters
    monkeypatch.setattr(
        transforms,
        "bind_parameters",
        lambda _, *bound: honest("SELECT 1 AS a; DROP TABLE public.victim", *bound),
    )
    monkeypatch.setattr(
        transforms._Build,
        "_execute_single",
        lambda self, create, bound: self.session.execute(composing.SQL(create) + bound),
    )
    project.run()
    assert project.in_warehouse("SELECT to_regclass('public.victim')") == [(None,)]


@pytest.mark.parametrize(
    "sql", ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "/* x */ ROLLBACK AND CHAIN", "END"]
)
def test_a_script_that_ends_our_transaction_is_refused_by_the_check_and_noticed_by_the_engine(
    project: Project, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    project.in_source("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    project.spec(
        {"t": None},
        {"m": (f"CREATE TABLE mart.m (); {sql} -- staging.t", {"materialized": "script"})},
    )
    pipeline, problems = check_file(project.folder / "pipelines" / "shop" / "pipeline.yml")
    assert pipeline is None and "a script runs in one transaction" in str(problems[0])
    monkeypatch.setattr(
        "loadsheet.spec.sql_reading.why_not_in_our_transaction", lambda statements: None
    )
    result = project.run()["transform.transform_m"].result
    assert isinstance(result, Refused) and "ended the transaction" in str(result), result
    assert project.in_warehouse("SELECT * FROM loadsheet.transform_run") == []


def test_a_script_may_have_savepoints_and_blocks(project: Project) -> None:
    project.in_source("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    text = (
        "SAVEPOINT a; CREATE TABLE mart.m (); ROLLBACK TO SAVEPOINT a; DO $$ BEGIN PERFORM 1; END"
        " $$; -- staging.t"
    )
    project.spec({"t": None}, {"m": (text, {"materialized": "script"})})
    assert project.succeed()["transform.transform_m"] == "done"


def test_a_view_of_the_source_that_writes_is_not_helped_by_reading_it(project: Project) -> None:
    project.in_source(
        "CREATE TABLE seen (at timestamptz);"
        "CREATE FUNCTION spy() RETURNS timestamptz LANGUAGE sql VOLATILE AS"
        " 'INSERT INTO public.seen VALUES (now()) RETURNING timestamptz ''2026-01-01''';"
        "CREATE VIEW v AS SELECT 1 AS id, spy() AS at"
    )
    for settings in (None, {"incremental": "at", "primary_key": "id", "lookback": "1m"}):
        project.spec({"v": settings})
        error = project.run()["extract.extract_v"].result
        assert isinstance(error, Exception) and "read-only transaction" in str(error), error
    refused = pytest.raises(psycopg.errors.ReadOnlySqlTransaction)
    with connect_source(project.connections("shop_source")) as session, refused:
        session.execute("INSERT INTO public.seen VALUES (now())")
    assert project.in_source("TABLE public.seen") == []


def test_what_the_source_says_steers_neither_terminal_nor_log(project: Project) -> None:
    """Errors and names made by somebody who may create objects in the source."""
    evil = "x\x1b[2J\u202e\nload.load_all loaded"
    project.in_source(f"CREATE TABLE {ident(evil)} (id int)")
    project.in_source(
        "CREATE FUNCTION fail() RETURNS int LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION E'\\x1b]0;owned\\x07 <!channel>\\nload.load_v done'; END$$;"
        "CREATE VIEW v AS SELECT fail() AS id"
    )
    project.spec({"v": None, "absent": None})
    for arguments in (("run", "shop"), ("run", "shop", "--json")):
        done = project.cli(*arguments)
        assert done.returncode == 1
        assert not _STEERING.search(done.stdout + done.stderr), done.stdout
        assert not re.search(
            r"^load\.load_(all|v) (loaded|done)", done.stdout + done.stderr, re.MULTILINE
        )
    assert "\\x1b" in project.cli("run", "shop").stdout


def test_templates_and_variables_in_sql_arrive_as_text(project: Project) -> None:
    project.in_source("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    text = [
        v for v in VALUES if ("{" in v or "$" in v or "%" in v) and not FORBIDDEN_IN_SQL.search(v)
    ]
    quoted = ", ".join("'" + v.replace("'", "''") + "'" for v in text)
    project.spec({"t": None}, {"m": f"SELECT unnest(ARRAY[{quoted}]) AS v FROM t"})
    project.succeed()
    assert sorted(row[0] for row in project.in_warehouse("TABLE mart.m")) == sorted(
        v.replace("\r\n", "\n").replace("\r", "\n") for v in text
    )
