"""What cannot be carried: refused before anything is written, in words that name the column and its
type."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from demo.servers import PostgresServer
from loadsheet.errors import Refused
from tests.faults.hard_values import TYPES
from tests.faults.oracle import Verdict
from tests.faults.tally import Tally
from tests.project import Project

FORMATS = ("auto", "binary", "csv")
# A type with an equality of its own, as citext has, and one whose cast to text hides a part of its
# values.
PECULIAR = r"""
CREATE TYPE ci;
CREATE FUNCTION ci_in(cstring) RETURNS ci LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION ci_out(ci) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE ci (INPUT = ci_in, OUTPUT = ci_out, LIKE = text, COLLATABLE = true);
CREATE CAST (ci AS text) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE FUNCTION ci_cmp(ci, ci) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS
    'SELECT bttextcmp(lower($1::text), lower($2::text))';
CREATE FUNCTION ci_lt(ci, ci) RETURNS bool LANGUAGE sql IMMUTABLE STRICT
    AS 'SELECT ci_cmp($1, $2) < 0';
CREATE FUNCTION ci_eq(ci, ci) RETURNS bool LANGUAGE sql IMMUTABLE STRICT
    AS 'SELECT ci_cmp($1, $2) = 0';
CREATE OPERATOR < (LEFTARG = ci, RIGHTARG = ci, FUNCTION = ci_lt);
CREATE OPERATOR = (LEFTARG = ci, RIGHTARG = ci, FUNCTION = ci_eq);
CREATE OPERATOR CLASS ci_ops DEFAULT FOR TYPE ci USING btree
    AS OPERATOR 1 <, OPERATOR 3 =, FUNCTION 1 ci_cmp(ci, ci);
CREATE TYPE secret;
CREATE FUNCTION secret_in(cstring) RETURNS secret LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION secret_out(secret) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE secret (INPUT = secret_in, OUTPUT = secret_out, LIKE = text);
CREATE FUNCTION shown(secret) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$SELECT '***'$$;
CREATE CAST (secret AS text) WITH FUNCTION shown(secret);
"""


@dataclass(frozen=True)
class Case:
    """A table that must be refused: its columns, a row, its spec, and the words of the message."""

    columns: str
    row: str
    words: str
    spec: dict[str, Any] = field(default_factory=dict)


CURSOR = {"incremental": "c"}
MERGE = {"mode": "merge"}
KEY = {"primary_key": "k"}
CASES = {
    "key of json": Case("k json", "'{}'", r"column k \(json\)", KEY),
    "key of points": Case("k point", "'(0,0)'", r"column k \(point\)", KEY),
    "key of boxes": Case("k box[]", "'{}'", r"column k \(box\[\]\)", KEY),
    "key of its own equality": Case("k ci PRIMARY KEY", "'A'", r"column k \(public\.ci\)", MERGE),
    "key of a composite": Case(
        "k pair PRIMARY KEY", "ROW(1, 'x')", r"column k \(public\.pair\)", MERGE
    ),
    "key of a made range": Case(
        "k floats PRIMARY KEY", "'[0,1)'", r"column k \(public\.floats\)", MERGE
    ),
    "key of object names": Case(
        "k regclass PRIMARY KEY", "'pg_class'", r"column k \(regclass\)", MERGE
    ),
    "one key of two": Case(
        "a int, k ci, PRIMARY KEY (a, k)", "1, 'A'", r"column k \(public\.ci\)", MERGE
    ),
    "cursor of an enum": Case(
        "k int PRIMARY KEY, c mood", "1, 'sad'", r"column c \(public\.mood\)", CURSOR
    ),
    "cursor of json": Case("k int PRIMARY KEY, c json", "1, '1'", r"column c \(json\)", CURSOR),
    "cursor of its own order": Case(
        "k int PRIMARY KEY, c ci", "1, 'A'", r"column c \(public\.ci\)", CURSOR
    ),
    "cursor NaN": Case("k int PRIMARY KEY, c numeric", "1, 'NaN'", r"column c \(numeric\)", CURSOR),
    "cursor infinite": Case(
        "k int, c float8",
        "1, 'infinity'",
        r"column c \(double precision\)",
        {"incremental": "c", "mode": "append"},
    ),
    "a lookback of numbers for a time": Case(
        "k int PRIMARY KEY, c timestamptz",
        "1, now()",
        r"lookback 5 does not fit the cursor, column c .*: write a duration, such as 15m",
        {"incremental": {"cursor": "c", "lookback": 5}},
    ),
    "a lookback of time for a number": Case(
        "k int PRIMARY KEY, c int",
        "1, 1",
        r"lookback 1h does not fit the cursor, column c .*: write a number, such as 100",
        {"incremental": {"cursor": "c", "lookback": "1h"}},
    ),
    "an initial value of numbers for a time": Case(
        "k int PRIMARY KEY, c timestamptz",
        "1, now()",
        r"initial_value '5' is no value of the cursor c, which is timestamp with time zone",
        {"incremental": {"cursor": "c", "initial_value": 5}},
    ),
    "a cast that hides": Case(
        "k int PRIMARY KEY, s secret", "1, 'x'", r"column s \(public\.secret\)"
    ),
    "an array that hides": Case(
        "k int PRIMARY KEY, s secret[]", "1, '{x}'", r"column s \(public\.secret\[\]\)"
    ),
    "1600 columns": Case(", ".join(f"c{n} int" for n in range(1600)), "1", "1,600 columns"),
    "our own column": Case("_load_id bigint", "1", "_load_id"),
    "_loadsheet_7": Case("id int PRIMARY KEY", "1", "has a name that Loadsheet reserves"),
    "no columns": Case("", "", "no columns"),
}


def assert_refused(project: Project, words: dict[str, str]) -> None:
    """Every table's extraction was refused in its `words`, and there is no trace of any of them
    anywhere."""
    results = project.run()
    for table, pattern in words.items():
        error = next(
            r.result for r in results.values() if r.step.kind == "extract" and r.step.name == table
        )
        assert isinstance(error, Refused) and not error.retryable, f"{table}: {error!r}"
        assert re.search(pattern, str(error)) and table in str(error), f"{table}: {error}"
    assert not {name for name in project.objects() if not name.endswith("/")}
    assert (
        project.in_warehouse(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('staging')"
        )
        == []
    )
    if project.in_warehouse("SELECT to_regclass('loadsheet.scope')") != [(None,)]:
        assert (
            project.in_warehouse("TABLE loadsheet.scope")
            == project.in_warehouse("TABLE loadsheet.load")
            == []
        )


def test_what_cannot_be_a_key_a_cursor_or_a_text_is_refused(
    project: Project, tally: Callable[[str], Tally]
) -> None:
    project.in_source(TYPES + PECULIAR)
    for table, case in CASES.items():
        project.in_source(f'CREATE TABLE "{table}" ({case.columns})')
        project.in_source(
            f'INSERT INTO "{table}" ' + (f"VALUES ({case.row})" if case.row else "DEFAULT VALUES")
        )
    for wire in FORMATS:
        project.spec(
            {table: dict(case.spec) or None for table, case in CASES.items()}, lake={"format": wire}
        )
        assert_refused(project, {table: case.words for table, case in CASES.items()})
        tally("hard values, refused").add(Verdict(rows=0), tried=len(CASES))


def test_a_key_with_an_equality_of_its_own_can_still_be_replaced(project: Project) -> None:
    project.in_source(PECULIAR)
    project.in_source("CREATE TABLE k (k ci PRIMARY KEY); INSERT INTO k VALUES ('A')")
    project.spec({"k": None})
    project.succeed()
    project.in_source("UPDATE k SET k = 'a'")
    project.succeed()
    assert project.in_warehouse("SELECT k FROM staging.k") == [("a",)]


INFINITE = """
CREATE TABLE one (id int PRIMARY KEY, i interval); INSERT INTO one VALUES (1, '-infinity');
CREATE TABLE many (id int PRIMARY KEY, i interval[]); INSERT INTO many VALUES (1, '{infinity}');
"""


def test_infinite_intervals_do_not_reach_a_server_that_takes_them_for_numbers(
    project: Project, newer: PostgresServer, tally: Callable[[str], Tally]
) -> None:
    [(version,)] = project.in_warehouse("SELECT current_setting('server_version_num')::int")
    if version >= 170000:
        pytest.skip("this warehouse has infinite intervals itself")
    project.source = newer.create_database(f"test_{secrets.token_hex(6)}")
    words = {
        "one": r"column i \(interval\) is infinite in 1 row",
        "many": r"column i \(interval\[\]\)",
    }
    project.in_source(INFINITE)
    for wire in FORMATS:
        project.spec({"one": None, "many": {"mode": "merge"}}, lake={"format": wire})
        assert_refused(project, words)
        tally("hard values, refused").add(Verdict(rows=0), tried=len(words))
    tally("hard values, refused").control(_without_looking(project))


def test_infinite_intervals_arrive_where_both_servers_have_them(
    project: Project, newer: PostgresServer
) -> None:
    project.source, project.warehouse = (
        newer.create_database(f"test_{secrets.token_hex(6)}") for _ in range(2)
    )
    project.in_source(INFINITE)
    for wire in FORMATS:
        project.spec({"one": None, "many": {"mode": "merge"}}, lake={"format": wire})
        project.succeed(full_refresh="all")
        assert project.in_warehouse("SELECT i::text FROM staging.one") == [("-infinity",)]
        assert project.in_warehouse("SELECT i::text FROM staging.many") == [("{infinity}",)]


def _without_looking(project: Project) -> str:
    """The same value by binary COPY, which both servers take for correct."""
    with psycopg.connect(project.source) as source, psycopg.connect(project.warehouse) as warehouse:
        warehouse.execute("CREATE TEMP TABLE one (id int, i interval)")
        with (
            source.cursor().copy("COPY one TO STDOUT (FORMAT binary)") as out,
            warehouse.cursor().copy("COPY one FROM STDIN (FORMAT binary)") as into,
        ):
            for block in out:
                into.write(block)
        row = warehouse.execute("SELECT i::text FROM one").fetchone()
    assert row and row[0].startswith("-178956970 years")
    return f"-infinity became {row[0]}"


def test_text_that_the_other_encoding_lacks_is_refused(
    project: Project, postgres: PostgresServer, tally: Callable[[str], Tally]
) -> None:
    bytes_, latin = (_encoded(postgres, encoding) for encoding in ("SQL_ASCII", "LATIN1"))
    unicode, modern = project.source, project.warehouse
    create = "CREATE TABLE t (id int PRIMARY KEY, good varchar(9), bad text[])"
    project.in_source(f"{create}; INSERT INTO t VALUES (1, 'é', '{{x,€}}')")
    _run(
        bytes_,
        f"{create}; INSERT INTO t VALUES (1, 'é', ARRAY[convert_from('\\xe9', 'SQL_ASCII')])",
    )
    for project.source, project.warehouse in ((unicode, latin), (bytes_, modern)):
        project.bucket = f"test-{secrets.token_hex(6)}"
        for wire in FORMATS:
            project.spec({"t": None}, lake={"format": wire})
            assert_refused(project, {"t": r"column bad \(text\[\]\)"})
            tally("hard values, refused").add(Verdict(rows=0))
        _run(project.source, "UPDATE t SET bad = '{é}'")
        project.succeed()
        assert project.in_warehouse("SELECT good, bad FROM staging.t") == [("é", ["é"])]


def _encoded(postgres: PostgresServer, encoding: str) -> str:
    name = f"test_{secrets.token_hex(6)}"
    _run(
        postgres.dsn("postgres"),
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'",
    )
    return postgres.dsn(name)


def _run(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True, client_encoding="UTF8") as session:
        session.execute(statement)


@pytest.mark.parametrize("wire", FORMATS)
def test_a_role_that_sees_only_some_rows_is_refused(project: Project, wire: str) -> None:
    role, everything = f"reader_{secrets.token_hex(4)}", project.source
    project.in_source(
        f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT pg_read_all_stats TO {role};CREATE TABLE t"
        " (id int PRIMARY KEY, at timestamptz DEFAULT now()); INSERT INTO t VALUES (1), (2);ALTER"
        " TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY first ON t USING (id = 1);CREATE TABLE"
        " plain (id int PRIMARY KEY); ALTER TABLE plain ENABLE ROW LEVEL SECURITY;CREATE VIEW"
        " through WITH (security_invoker) AS SELECT * FROM t;GRANT SELECT ON ALL TABLES IN SCHEMA"
        f" public TO {role}"
    )
    project.source = re.sub("//.*@", f"//{role}:x@", everything)
    project.spec(
        {"t": {"incremental": "at"}, "plain": None, "through": None}, lake={"format": wire}
    )
    assert_refused(
        project,
        {
            "t": f"BYPASSRLS.*|{role}",
            "plain": "row level security",
            "through": "row level security",
        },
    )
    project.source = everything
    project.in_source(f"ALTER ROLE {role} BYPASSRLS")
    project.source = re.sub("//.*@", f"//{role}:x@", everything)
    project.succeed()
    assert project.in_warehouse("SELECT count(*) FROM staging.t") == [(2,)]
