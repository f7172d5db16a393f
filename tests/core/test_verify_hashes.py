"""The hashes by which verify compares: no value, and no exchange of values, hides behind them."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from demo.servers import PostgresServer
from loadsheet.comparison.digest import BUCKETS, Hash, Query, Side, Value
from loadsheet.engine import key_search
from loadsheet.engine.request import repair_request
from loadsheet.engine.runner import run_pipeline
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.sql.text import Relation, literal
from tests.project import Project

# Pairs of values to which PostgreSQL's own hash function is blind.
BLIND = {
    "numeric(10, 2)": ("5.00", "-5.00"),
    "numeric(10, 1)": ("NaN", "0.1"),
    "numeric(12, 2)": ("10000.00", "-10000.00"),
    "bigint": ("-1", "4294967295"),
    "timestamp": ("2000-01-01", "2000-01-01 01:11:34.967296"),
}


# Values of which each is another one, although the server's own hash or `=` does not tell some of
# them apart.
DISTINCT: dict[str, list[str]] = {
    "smallint": ["0", "-1", "1", "256", "-32768", "32767"],
    "integer": ["0", "-1", "1", "256", "-2147483648", "2147483647"],
    "bigint": ["0", "-1", "4294967295", "4294967296", "1", "-4294967296", "9223372036854775807"],
    "oid": ["0", "1", "4294967295"],
    "boolean": ["true", "false"],
    "date": ["infinity", "-infinity", "2000-01-01", "1999-12-31", "0001-01-01 BC", "5874897-12-31"],
    "timestamp with time zone": [
        *("infinity", "-infinity", "2000-01-01 00:00:00+00", "1999-12-31 23:59:59.999999+00"),
        *("2000-01-01 01:11:34.967296+00", "1999-12-31 22:48:25.032704+00"),
        *("4714-11-24 00:00:00+00 BC", "4714-11-24 00:00:00.000001+00 BC"),
        *("294276-12-31 23:59:59.999999+00", "294276-12-31 23:59:59.999998+00"),
    ],
    "timestamp without time zone": [
        *("infinity", "-infinity", "2000-01-01", "2000-01-01 01:11:34.967296"),
        *("4714-11-24 00:00:00 BC", "4714-11-24 00:00:00.000001 BC"),
        *("294276-12-31 23:59:59.999999", "294276-12-31 23:59:59.999998"),
    ],
    "time without time zone": ["00:00", "00:00:00.000001", "01:11:34.967296", "24:00"],
    "numeric(10,2)": ["0", "5.00", "-5.00", "500", "0.05", "NaN", "10000", "-10000", "0.01"],
    "numeric": [
        *("0", "0.0", "0.00", "1", "1.0", "-1.0", "1.00", "10000", "10000.0", "0.0001"),
        *("NaN", "Infinity", "-Infinity", "1e-1000", "-1e1000"),
    ],
    "double precision": ["0", "-0", "1", "-1", "NaN", "Infinity", "-Infinity", "5e-324", "0.1"],
    "real": ["0", "-0", "1", "NaN", "Infinity", "-Infinity", "1e-45", "0.1"],
    "text": [
        "",
        " ",
        "a",
        "A",
        "a ",
        "no value 1",
        "no value 2",
        "no value 3",
        "0",
        "x" * 1999,
        "x" * 2000,
        "x" * 2001,
    ],
    "character(3)": ["", "a", "A", "abc"],
    "character varying(9)": ["", " ", "a", "a "],
    "bytea": ["", "\\x00", "\\x0000", "\\x61"],
    "name": ["a", "A", "a "],
    "uuid": [f"6f6b1c0e-5b5d-4b8e-9d0a-1f2a3b4c5d0{number}" for number in range(5)],
    "json": ["1", "1.0", " 1", '{"a": 1}', '{"a":1}', "null"],
    "jsonb": ["1", "1.0", "1.00", '{"a": 1}', "null", '"1"'],
    "inet": ["10.0.0.1", "10.0.0.1/8", "::1"],
    "interval": ["1 month", "30 days", "720 hours", "0"],
    "integer[]": ["{}", "{1}", "{{1}}", "[0:0]={1}", "{NULL}"],
}


Rows = list[tuple[Any, ...]]
NUMBERS = (1, 2, 3)


def _hashes(session: psycopg.Connection, types: list[str], rows: list[list[str | None]]) -> Rows:
    """The three hashes of each row, and the XOR of what PostgreSQL's own function for rows returns
    for each of its values."""
    lines = []
    for number, row in enumerate(rows):
        cells = [
            f"CAST({'NULL' if text is None else literal(text)} AS {type_name})"
            for text, type_name in zip(row, types, strict=True)
        ]
        lines.append(f"({number}, {', '.join(cells)})")
    names = [f"c{place}" for place, _ in enumerate(types)]
    values = f"(VALUES {', '.join(lines)}) AS given (number, {', '.join(names)})"
    columns = tuple(Value(name, type_) for name, type_ in zip(names, types, strict=True))
    side = Side(Query(f"SELECT * FROM {values}"), columns, (), "server")
    naive = " # ".join(f"hash_record_extended(ROW({name}), 1)" for name in names)
    hashes = [side.row_hash(number) for number in NUMBERS]
    if "json" in types:  # has no hash
        naive = "NULL"
    query = f"SELECT {', '.join(hashes)}, {naive} FROM {side.relation.sql} ORDER BY number"
    return session.execute(query.encode()).fetchall()


def test_each_hash_tells_values_apart(project: Project) -> None:
    """One of them may take its own stand-in for NULL, and no other value. The control is what the
    server would hash."""
    blind = set()
    with psycopg.connect(project.source) as session:
        for type_name, texts in DISTINCT.items():
            values = [*texts, None]
            hashes = _hashes(
                session, ["integer", type_name, "text"], [["7", v, "x"] for v in values]
            )
            found = zip(values, hashes, strict=True)
            for (one, of_one), (other, of_other) in itertools.combinations(found, 2):
                pairs = zip(of_one[:3], of_other[:3], strict=True)
                same = sum(first == second for first, second in pairs)
                is_stand_in = other is None and str(one).startswith(("no value", "6f6b1c0e"))
                assert same <= is_stand_in, (type_name, one, other)
            if type_name != "json" and len({naive for *_, naive in hashes[:-1]}) < len(texts):
                blind.add(type_name)
    assert blind >= {"bigint", "numeric", "numeric(10,2)", "double precision", "jsonb", "interval"}


def _totals(
    session: psycopg.Connection, side: Side, rows: list[list[str | None]]
) -> tuple[tuple[Any, ...], ...]:
    """The totals of a table with these rows, all as text: those of the product, and of a control
    that adds up hashes of the values."""
    columns = [f"CAST({value.name} AS {value.type}) AS {value.name}" for value in side.values]
    names = ", ".join(value.name for value in side.values)
    lines = ", ".join(
        f"({', '.join('NULL' if text is None else literal(text) for text in row)})" for row in rows
    )
    table = Query(f"SELECT {', '.join(columns)} FROM (VALUES {lines}) AS given ({names})")
    naive = ", ".join(f"sum(hashtextextended({value.text}, 1))" for value in side.values)
    return tuple(
        session.execute(query.encode()).fetchone() or ()
        for query in (replace(side, relation=table).total(), f"SELECT {naive} FROM {table.sql}")
    )


@pytest.mark.parametrize("hash", ["server", "md5"])
def test_rows_that_swap_any_two_values_have_other_totals(project: Project, hash: Hash) -> None:
    """The control adds up hashes of what each column has, which is the same before and after."""
    with psycopg.connect(project.source) as session:
        for type_name, texts in DISTINCT.items():
            types = ("integer", type_name, "text")
            values = tuple(Value(f"c{place}", each) for place, each in enumerate(types))
            side = Side(Query(""), values, (0,), hash)
            for one, other in itertools.pairwise([*texts, None]):
                before = [["7", one, "x"], ["8", other, "y"]]
                after = [["7", other, "x"], ["8", one, "y"]]
                found, control = _totals(session, side, before)
                swapped, swapped_control = _totals(session, side, after)
                differ = [a != b for a, b in zip(found[2:], swapped[2:], strict=True)]
                assert all(differ), (type_name, one, other)
                assert control == swapped_control


def test_the_two_sums_of_a_total_have_nothing_in_common(project: Project) -> None:
    """With the seeds 1 and 2, the one hash of the integer i is the other one of i XOR 3. So the
    sums of a table that has both, as most have, were equal, and one sum is no more than one."""
    rows: list[list[str | None]] = [[str(number), "x"] for number in range(4, 8)]
    side = Side(Query(""), (Value("c0", "integer"), Value("c1", "text")), (0,), "server")
    with psycopg.connect(project.source) as session, pytest.MonkeyPatch.context() as patch:
        (_, _, first, second), _ = _totals(session, side, rows)
        assert first != second
        patch.setattr("loadsheet.comparison.digest._SEEDS", {1: "1", 2: "1", 3: "2"})
        (_, _, first, second), _ = _totals(session, side, rows)
        assert first == second


@pytest.mark.parametrize("end", ["source", "warehouse"])
def test_a_server_without_one_of_the_functions_is_compared_by_md5(
    project: Project, end: str
) -> None:
    project.in_source("CREATE TABLE item (id int PRIMARY KEY, name text, at timestamptz)")
    project.in_source("INSERT INTO item SELECT i, 'a', now() FROM generate_series(1, 9) i")
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    project.in_warehouse("UPDATE staging.item SET name = 'b' WHERE id = 7")
    look = project.in_source if end == "source" else project.in_warehouse
    look("ALTER FUNCTION pg_catalog.uuid_hash_extended(uuid, bigint) RENAME TO gone")
    verdict = project.verify()["item"]
    assert [row.key for row in verdict.named["different"]] == [{"id": "7"}]


def test_columns_that_swap_their_values_have_another_hash(project: Project) -> None:
    """In the control, the XOR of the columns' hashes stays as it was."""
    rows: list[list[str | None]] = []
    for one, other in itertools.permutations(["0", "1", None], 2):
        rows += [[one, other, "1"], [one, "1", other], ["1", one, other]]
    distinct = [list(row) for row in dict.fromkeys(map(tuple, rows))]
    naive = {}
    with psycopg.connect(project.source) as session:
        for types in itertools.product(
            ["integer", "bigint", "numeric", "text", "boolean"], repeat=3
        ):
            hashes = _hashes(session, list(types), distinct)
            for number in NUMBERS:
                assert len({row[number - 1] for row in hashes}) == len(distinct), types
            naive[types] = len({row[3] for row in hashes})
    assert naive["integer", "integer", "integer"] < len(distinct)


def test_a_value_of_the_same_server_hash_is_a_difference(project: Project) -> None:
    columns = ", ".join(f'"{name}" {name}' for name in BLIND)
    values = ", ".join(f"'{one}'" for one, _ in BLIND.values())
    project.in_source(f"CREATE TABLE item (id int PRIMARY KEY, {columns}, at timestamptz)")
    project.in_source(f"INSERT INTO item SELECT i, {values}, now() FROM generate_series(1, 9) i")
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    assert project.verify()["item"].state == "equal"
    for id, (name, (_, other)) in enumerate(BLIND.items(), 1):
        project.in_warehouse(f"UPDATE staging.item SET \"{name}\" = '{other}' WHERE id = {id}")
    verdict = project.verify()["item"]
    found = {row.key["id"]: [c.column for c in row.changes] for row in verdict.named["different"]}
    assert found == {str(id): [name] for id, name in enumerate(BLIND, 1)}


@pytest.mark.parametrize("mode", ["merge", "replace", "keyless"])
def test_rows_of_one_bucket_that_swap_their_values_differ(project: Project, mode: str) -> None:
    """The server's hash of a row adds up the hashes of its columns, and so do the sums: values that
    two rows of a bucket exchange leave the sums as they were."""
    key = "" if mode == "keyless" else "PRIMARY KEY"
    project.in_source(
        f"CREATE TABLE item (id int {key}, amount int, at timestamptz);"
        f"INSERT INTO item SELECT i, i, now() FROM generate_series(1, {3 * BUCKETS}) i"
    )
    project.spec({"item": {"incremental": "at"} if mode == "merge" else {"mode": "replace"}})
    project.succeed()
    key_hash = Side(Relation("staging", "item"), (Value("id", "integer"),), (0,), "server").key_hash
    # Each row has the amount of the next one of its bucket.
    project.in_warehouse(
        "UPDATE staging.item i SET amount = other FROM (SELECT id, coalesce(lead(id) OVER w,"
        " first_value(id) OVER w) AS other FROM staging.item WINDOW w AS (PARTITION BY"
        f" {key_hash} & {BUCKETS - 1} ORDER BY id)) o"
        " WHERE o.id = i.id"
    )
    [(swapped,)] = project.in_warehouse("SELECT count(*) FROM staging.item WHERE amount <> id")
    verdict = project.verify()["item"]
    kind = "missing" if mode == "keyless" else "different"
    assert verdict.counts[kind] == swapped


def test_a_key_that_became_null_in_a_view_does_not_stop_the_comparison(project: Project) -> None:
    project.in_source("CREATE TABLE base (id int, at timestamptz)")
    project.in_source("INSERT INTO base SELECT i, now() FROM generate_series(1, 9) i")
    project.in_source("CREATE VIEW item AS SELECT * FROM base")
    project.spec({"item": {"incremental": "at", "primary_key": ["id"]}})
    project.succeed()
    project.in_source("INSERT INTO base VALUES (NULL, now() + interval '1 h')")
    verdict = project.verify()["item"]
    assert (verdict.state, verdict.newer) == ("equal", 1)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_source_in_another_encoding_is_compared_repaired_and_searched_for_deleted_rows(
    project: Project, postgres: PostgresServer, encoding: str
) -> None:
    """A statement with letters that the source's encoding has not is refused as a whole, so none
    may be in one that is sent to both servers."""
    name = f"test_{secrets.token_hex(6)}"
    project.in_source(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    project.source = postgres.dsn(name)
    with psycopg.connect(project.source, autocommit=True, client_encoding="UTF8") as session:
        session.execute(
            "CREATE TABLE item (id text PRIMARY KEY, what text, at timestamptz DEFAULT now());"
            "INSERT INTO item SELECT 'é' || i, 'é' FROM generate_series(1, 50) i"
        )
        if encoding == "LATIN1":
            with pytest.raises(psycopg.errors.UntranslatableCharacter):
                session.execute("SELECT '東'")
        project.spec({"item": {"incremental": "at", "deletes": "hard"}})
        project.succeed()
        assert project.verify()["item"].state == "equal"
        session.execute("DELETE FROM item WHERE id = 'é7'")
        project.in_warehouse(
            "DELETE FROM staging.item WHERE id LIKE '_8'; UPDATE staging.item SET what = 'x'"
            " WHERE id LIKE '_9'"
        )
        verdict = project.verify()["item"]
        assert verdict.counts == {"missing": 1, "extra": 0, "different": 1}
        assert verdict.named["missing"][0].key == {"id": "é8"}
        pipeline = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")
        request = repair_request(pipeline, rows_of={"item"}, whole=set(), marts=set())
        dict(run_pipeline(pipeline, request, project.connections))
        assert project.verify()["item"].state == "equal"
        session.execute("DELETE FROM item WHERE id = 'é9'")
    project.succeed()
    assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(48,)]


# A letter that each encoding has, as its databases store it, and one that it has not.
ENCODINGS = {
    "LATIN1": ("é", "€"),
    "WIN1252": ("€", "東"),
    "EUC_JP": ("東", "€"),
    "SQL_ASCII": ("é", "東"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_key_that_the_source_cannot_even_store_is_extra_and_searched_for_like_others(
    project: Project, postgres: PostgresServer, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was inserted by hand, or the source's database was made again in another encoding."""
    has, lacks = ENCODINGS[encoding]
    name = f"test_{secrets.token_hex(6)}"
    project.in_source(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    project.source = postgres.dsn(name)
    tables = {
        "hard": ("id text PRIMARY KEY", "hard"),
        "soft": ("id text PRIMARY KEY", "soft"),
        # Such a key is looked up on the other side.
        "kept": ("id text, n numeric DEFAULT 1.0, PRIMARY KEY (id, n)", None),
    }
    with psycopg.connect(project.source, autocommit=True, client_encoding="UTF8") as session:
        for table, (columns, _) in tables.items():
            session.execute(f"CREATE TABLE {table} ({columns}, at timestamptz DEFAULT now())")
            session.execute(
                f"INSERT INTO {table} SELECT '{has}' || i FROM generate_series(1, 40) i"
            )
    spec = {table: {"incremental": "at", "deletes": way} for table, (_, way) in tables.items()}
    project.spec(spec)
    project.succeed()
    project.in_warehouse(
        f"INSERT INTO staging.hard (id, _load_id) VALUES ('{lacks}1', 1), ('{has}x', 1);"
        f"INSERT INTO staging.soft (id, _load_id) VALUES ('{lacks}1', 1), ('{has}x', 1);"
        f"INSERT INTO staging.kept (id, n, _load_id) VALUES ('{lacks}1', 2, 1)"
    )
    found = project.verify()
    assert found["kept"].counts == {"missing": 0, "extra": 1, "different": 0}
    assert found["hard"].unproven == found["soft"].unproven == 2
    if encoding != "SQL_ASCII":  # which takes any byte
        # The control: the statement as a whole.
        with monkeypatch.context() as patched:
            patched.setattr(key_search, "storable", lambda session, keys: list(keys))
            assert "SQLSTATE 22P05" in str(project.run()["extract.extract_hard"].result)
    project.succeed()
    assert project.in_warehouse("SELECT count(*) FROM staging.hard") == [(40,)]
    marked = "SELECT count(*) FROM staging.soft WHERE _deleted_at IS NOT NULL"
    assert project.in_warehouse(marked) == [(2,)]
    # The marked rows are looked for in the source.
    spec["soft"]["deletes"] = "hard"
    project.spec(spec)
    project.succeed()
    assert project.in_warehouse("SELECT count(*) FROM staging.soft") == [(40,)]
