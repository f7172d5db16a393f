"""What transforms read, and the order that follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadsheet.errors import SpecError
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import (
    Deletes,
    Incremental,
    Inputs,
    Lake,
    Materialized,
    Pattern,
    Pipeline,
    Source,
    Table,
    Transform,
    Warehouse,
)

TABLES = ("bookings", "flights", "Seat Map", "airports_data")


def pipeline(
    sqls: dict[str, str], materialized: Materialized = "table", tables: tuple[str, ...] = TABLES
) -> Pipeline:
    return Pipeline(
        name="p",
        file=Path("pipeline.yml"),
        source=Source(conn_id="s"),
        lake=Lake(conn_id="l", bucket="b"),
        warehouse=Warehouse(conn_id="w"),
        tables=tuple(Table(name=name) for name in tables),
        transforms=tuple(
            Transform(name=name, sql=sql, file=Path(f"sql/{name}.sql"), materialized=materialized)
            for name, sql in sqls.items()
        ),
    )


def inputs(sql: str, materialized: Materialized = "table") -> Inputs:
    """What a transform `me` reads, beside two other transforms."""
    sqls = {"other": "SELECT 1", "dim_airport": "SELECT 1", "me": sql}
    made = pipeline(sqls, materialized)
    others = [
        t if t.name == "me" else Transform(name=t.name, sql=t.sql, file=t.file)
        for t in made.transforms
    ]
    return transform_inputs(Pipeline(**{**vars(made), "transforms": tuple(others)}))["me"]


def problems(sql: str, materialized: Materialized = "table", **more: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        transform_inputs(replace(pipeline({"me": sql}, materialized), **more))
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("sql", "tables", "transforms"),
    [
        (
            "SELECT * FROM staging.bookings b JOIN staging.flights USING (x)",
            ["bookings", "flights"],
            [],
        ),
        ("SELECT * FROM flights, bookings", ["bookings", "flights"], []),
        ("SELECT * FROM STAGING.Bookings", ["bookings"], []),
        ('SELECT * FROM "staging"."Seat Map"', ["Seat Map"], []),
        ("SELECT * FROM mart.dim_airport JOIN other ON true", [], ["other", "dim_airport"]),
        ("SELECT (SELECT max(x) FROM flights) FROM generate_series(1, 2)", ["flights"], []),
        ("SELECT 1 FROM bookings WHERE EXISTS (SELECT FROM mart.other)", ["bookings"], ["other"]),
        (
            "SELECT 1 FROM bookings UNION ALL (SELECT 2 FROM flights EXCEPT SELECT 3 FROM other)",
            ["bookings", "flights"],
            ["other"],
        ),
        (
            (
                "SELECT * FROM bookings b, LATERAL (SELECT * FROM flights f WHERE f.x = b.x) l,"
                " LATERAL each(j) AS j(k, v)"
            ),
            ["bookings", "flights"],
            [],
        ),
        ("SELECT * FROM ONLY staging.bookings TABLESAMPLE system (1)", ["bookings"], []),
        ("SELECT * FROM bookings FOR UPDATE OF bookings", ["bookings"], []),
        ("TABLE bookings", ["bookings"], []),
        ("VALUES (1, 'bookings')", [], []),
        ("SELECT 'FROM bookings' /* FROM flights */ -- FROM flights", [], []),
        (
            (
                "SELECT * FROM pg_catalog.pg_class JOIN pg_stat_activity ON true JOIN"
                " information_schema.tables ON true"
            ),
            [],
            [],
        ),
        ("SELECT * FROM loadsheet.load", [], []),
    ],
)
def test_reads_of_a_select(sql: str, tables: list[str], transforms: list[str]) -> None:
    assert inputs(sql) == Inputs(tuple(tables), tuple(transforms))


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("WITH bookings AS (SELECT 1) SELECT * FROM bookings", []),
        ("WITH bookings AS (SELECT * FROM bookings) SELECT * FROM bookings", ["bookings"]),
        ("WITH bookings AS (SELECT 1), x AS (SELECT * FROM bookings) SELECT * FROM x", []),
        (
            "WITH x AS (SELECT * FROM bookings), bookings AS (SELECT 1) SELECT * FROM x",
            ["bookings"],
        ),
        (
            (
                "WITH RECURSIVE bookings AS (SELECT 1 UNION ALL SELECT n FROM bookings) SELECT *"
                " FROM bookings"
            ),
            [],
        ),
        ("WITH bookings AS (SELECT 1) SELECT * FROM staging.bookings", ["bookings"]),
        ("WITH bookings AS (SELECT 1) SELECT 1 UNION SELECT * FROM bookings", []),
        (
            "SELECT * FROM (WITH bookings AS (SELECT 1) SELECT * FROM bookings) q, bookings",
            ["bookings"],
        ),
        (
            (
                "WITH a AS (WITH flights AS (SELECT * FROM bookings) SELECT * FROM flights) SELECT"
                " * FROM a"
            ),
            ["bookings"],
        ),
        ('WITH "Bookings" AS (SELECT 1) SELECT * FROM Bookings', ["bookings"]),
        (
            "WITH bookings AS (SELECT 1) SELECT (SELECT max(x) FROM bookings) FROM flights",
            ["flights"],
        ),
    ],
)
def test_a_cte_hides_a_table_only_in_its_reach(sql: str, tables: list[str]) -> None:
    assert inputs(sql).tables == tuple(tables)


@pytest.mark.parametrize(
    ("sql", "tables", "transforms"),
    [
        (
            (
                "INSERT INTO mart.me (a) SELECT a FROM bookings ON CONFLICT (a) DO UPDATE SET a ="
                " excluded.a"
            ),
            ["bookings"],
            [],
        ),
        ("INSERT INTO mart.other SELECT * FROM bookings", ["bookings"], []),
        ("WITH x AS (SELECT * FROM flights) INSERT INTO mart.me SELECT * FROM x", ["flights"], []),
        ("CREATE TABLE mart.me AS SELECT * FROM flights", ["flights"], []),
        ("CREATE VIEW mart.v AS SELECT * FROM flights", ["flights"], []),
        ("SELECT * INTO mart.me FROM flights", ["flights"], []),
        (
            (
                "MERGE INTO mart.other o USING staging.bookings b ON o.x = b.x WHEN MATCHED THEN"
                " DELETE"
            ),
            ["bookings"],
            [],
        ),
        (
            (
                "MERGE INTO mart.me o USING (SELECT * FROM other) b ON o.x = b.x WHEN MATCHED THEN"
                " DELETE"
            ),
            [],
            ["other"],
        ),
        (
            "UPDATE mart.other SET x = (SELECT max(x) FROM flights) FROM bookings b WHERE b.x = 1",
            ["bookings", "flights"],
            [],
        ),
        (
            (
                "DELETE FROM mart.me USING bookings b WHERE true; DELETE FROM mart.me WHERE x IN"
                " (SELECT x FROM flights)"
            ),
            ["bookings", "flights"],
            [],
        ),
        (
            (
                "DROP TABLE bookings; TRUNCATE mart.other; ALTER TABLE mart.other ADD x int;"
                " ANALYZE bookings;COMMENT ON TABLE mart.other IS 'x'; CREATE INDEX i ON mart.other"
                " (x); GRANT SELECT ON mart.other TO public;SET work_mem = '1GB'"
            ),
            [],
            [],
        ),
        ("CREATE TABLE mart.x (id int REFERENCES mart.other (id))", [], []),
        (
            (
                "CREATE TEMP TABLE bookings AS SELECT * FROM staging.bookings; SELECT * FROM"
                " bookings, flights"
            ),
            ["bookings", "flights"],
            [],
        ),
        ("CREATE TEMP TABLE bookings (x int); INSERT INTO mart.me SELECT * FROM bookings", [], []),
        ("CREATE TABLE staging.scratch AS SELECT 1; SELECT * FROM staging.scratch", [], []),
        (
            "DO $$ BEGIN INSERT INTO mart.me SELECT * FROM staging.bookings; END $$",
            ["bookings"],
            [],
        ),
        (
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1 FROM mart.other $$",
            [],
            ["other"],
        ),
        (
            (
                "DO $$ BEGIN EXECUTE 'select 1 from staging.nowhere'; PERFORM 1 FROM"
                " staging.nowhere; END $$"
            ),
            [],
            [],
        ),
        ("", [], []),
    ],
)
def test_reads_of_a_script(sql: str, tables: list[str], transforms: list[str]) -> None:
    assert inputs(sql, "script") == Inputs(tuple(tables), tuple(transforms))


@pytest.mark.parametrize(
    "expression",
    [
        "DISTINCT ON (a) a",
        "a::numeric(10,2)::text",
        "x AT TIME ZONE 'utc' AT TIME ZONE tz",
        "j->>'en', j#>>'{a,b}', j @> '{}'::jsonb, j ? 'k'",
        "a[1:2], a[1], a[1:][:2], coordinates[0]",
        (
            "count(*) FILTER (WHERE x) OVER (PARTITION BY y ORDER BY z ROWS BETWEEN UNBOUNDED"
            " PRECEDING AND CURRENT ROW)"
        ),
        (
            "percentile_cont(0.5) WITHIN GROUP (ORDER BY x), extract(epoch FROM a - b), a IS NOT"
            " DISTINCT FROM b"
        ),
        (
            "ROW(1, 2), ARRAY[1, 2], (r).field, a COLLATE \"C\", make_interval(days => 1), E'\\n',"
            " U&'\\0441'"
        ),
        (
            "md5(a || '|' || b)::uuid, date_trunc('day', x) + interval '1 day', to_char(x,"
            " 'YYYYMMDD')::int"
        ),
    ],
)
def test_postgresql_expressions_are_understood(expression: str) -> None:
    assert inputs(f"SELECT {expression} FROM staging.bookings").tables == ("bookings",)


def test_all_parameters_may_be_used() -> None:
    sql = (
        "SELECT :run_id::text FROM bookings WHERE _load_id > :since_load AND t >= :interval_start"
        " AND t < :interval_end"
    )
    assert inputs(sql).tables == ("bookings",)


def test_a_transform_may_share_its_name_with_a_table() -> None:
    found = transform_inputs(
        pipeline({"bookings": "SELECT * FROM bookings", "b": "SELECT * FROM mart.bookings"})
    )
    assert found == {"bookings": Inputs(("bookings",), ()), "b": Inputs((), ("bookings",))}


def test_order_follows_the_reads_and_else_the_spec() -> None:
    sqls = {"d": "SELECT * FROM a", "c": "SELECT 1", "b": "SELECT * FROM c", "a": "SELECT 1"}
    assert list(transform_inputs(pipeline(sqls))) == ["c", "a", "d", "b"]


def test_a_circle_is_named_where_it_starts() -> None:
    sqls = {
        "a": "SELECT *\nFROM mart.b",
        "b": "SELECT * FROM c",
        "c": "SELECT * FROM mart.a",
        "d": "SELECT 1",
    }
    with pytest.raises(SpecError) as caught:
        transform_inputs(pipeline(sqls))
    (problem,) = caught.value.problems
    assert "circle" in problem.message
    assert problem.message.split(": ")[1] in (
        "a -> b -> c -> a",
        "b -> c -> a -> b",
        "c -> a -> b -> c",
    )
    assert (problem.file, problem.line, problem.column) in (
        ("sql/a.sql", 2, 11),
        ("sql/b.sql", 1, 15),
        ("sql/c.sql", 1, 20),
    )


def test_an_unknown_staging_table_is_a_problem_with_a_hint() -> None:
    (problem,) = problems("SELECT *\n  FROM staging.boookings")
    assert problem.startswith(
        "sql/me.sql:2:16 transforms.me: reads staging.boookings, which is not a table"
    )
    assert "did you mean 'bookings'?" in problem


def test_an_unknown_staging_table_like_no_other_is_to_be_added() -> None:
    assert "add 'zzz' to `tables`" in problems("SELECT * FROM staging.zzz")[0]


# What is read, and the table that it makes an input: the keys of deleted rows change with it.
KEYS_OF_DELETED_ROWS = {
    "staging.hard__deleted": "hard",
    "hard__deleted": "hard",
    # Also a pattern's, whatever else the pattern matches; its name needs the schema.
    "staging.log_1__deleted": "log_1",
    "log_1__deleted": None,
    # There is no such table.
    "staging.soft__deleted": None,
    "staging.whole__deleted": None,
    "staging.part_1__deleted": "part_1__deleted",
    "mart.hard__deleted": None,
    "staging.kept__deleted": "kept__deleted",
}


@pytest.mark.parametrize("read", KEYS_OF_DELETED_ROWS)
def test_the_keys_of_deleted_rows_are_an_input_with_their_table(read: str) -> None:
    merged = Table(
        name="hard", incremental=Incremental(cursor="at"), deletes=Deletes(action="hard")
    )
    soft = replace(merged, name="soft", deletes=Deletes(action="soft"))
    tables = (
        merged,
        soft,
        replace(merged, name="whole", incremental=None),
        replace(merged, name="kept"),
        replace(soft, name="kept__deleted"),
    )
    patterns = (
        Pattern(name="log_*", table=replace(merged, name="log_*")),
        Pattern(name="part_*", table=replace(soft, name="part_*")),
    )
    made = pipeline({"me": f"SELECT * FROM {read}"})
    made = replace(made, tables=tables, patterns=patterns)
    expected = KEYS_OF_DELETED_ROWS[read]
    if expected:
        assert list(transform_inputs(made)["me"].tables) == [expected]
        return
    with pytest.raises(SpecError):
        transform_inputs(made)


def test_the_hint_for_keys_that_are_not_kept_names_the_setting() -> None:
    hint = "only a merged table with `deletes: hard` has it, and bookings is none"
    assert hint in problems("SELECT * FROM staging.bookings__deleted")[0]


@pytest.mark.parametrize(
    ("sql", "message", "hint"),
    [
        (
            "SELECT * FROM mart.dim_airprt",
            "reads mart.dim_airprt, which is not a transform",
            "did you mean 'dim_airport'?",
        ),
        (
            "SELECT * FROM mart.bookings",
            "reads mart.bookings, which is not a transform",
            "did you mean staging.bookings?",
        ),
        (
            "SELECT * FROM stagging.flights",
            "reads stagging.flights, which this pipeline neither loads nor builds",
            "did you mean staging.flights?",
        ),
        (
            "SELECT * FROM public.bookings",
            "reads public.bookings, which",
            "did you mean staging.bookings?",
        ),
        ("SELECT * FROM bokings", "reads bokings, which", "did you mean staging.bookings?"),
        (
            "SELECT * FROM public.rates",
            "reads public.rates, which",
            "list `public.rates` under `external`",
        ),
        ("SELECT * FROM rates", "reads rates, which", "list `public.rates` under `external`"),
    ],
)
def test_a_table_that_nobody_makes_is_a_problem_with_a_way_out(
    sql: str, message: str, hint: str
) -> None:
    with pytest.raises(SpecError) as caught:
        transform_inputs(pipeline({"dim_airport": "SELECT 1 AS one", "me": sql}))
    (problem,) = caught.value.problems
    assert message in problem.message and hint in problem.hint
    assert problem.code == "unknown-table"


@pytest.mark.parametrize(
    ("sql", "external", "read"),
    [
        ("SELECT * FROM public.rates", "public.rates", ("public.rates",)),
        ("SELECT * FROM PUBLIC.Rates", "public.rates", ("public.rates",)),
        ("SELECT * FROM rates", "public.rates", ("public.rates",)),
        ("SELECT * FROM public.rates", "public.*", ("public.rates",)),
        ("SELECT * FROM rates", "public.*", ()),  # it may be in another schema
        ("SELECT * FROM rates, mart.b", "mart.rates", ("mart.rates",)),
    ],
)
def test_a_table_declared_external_may_be_read_and_is_no_input_of_the_pipeline(
    sql: str, external: str, read: tuple[str, ...]
) -> None:
    declared = replace(pipeline({"me": sql, "b": "SELECT 1"}), external=(external,))
    found = transform_inputs(declared)["me"]
    assert (found.tables, found.external) == ((), read)


@pytest.mark.parametrize("external", ["public.rate", "other.*", "staging.rates"])
def test_another_table_declared_external_does_not_help(external: str) -> None:
    assert "reads public.rates" in problems("SELECT * FROM public.rates", external=(external,))[0]


CARRIED = (
    Table(name="bookings", include=("ref", "amount")),
    Table(name="flights", exclude=("note",)),
    Table(name="x"),
)


@pytest.mark.parametrize(
    ("sql", "start", "hint"),
    [
        (
            "SELECT b.amout AS a FROM staging.bookings b",
            "1:10 transforms.me: reads bookings.amout",
            "did you mean 'amount'?",
        ),
        (
            "SELECT amout AS a FROM bookings",
            "1:8 transforms.me: reads bookings.amout",
            "did you mean 'amount'?",
        ),
        (
            "SELECT b.day FROM bookings b",
            "1:10 transforms.me: reads bookings.day",
            "tables.bookings.columns.include",
        ),
        (
            "SELECT f.note FROM flights f",
            "1:10 transforms.me: reads flights.note, a column that is excluded",
            "tables.flights.columns.exclude",
        ),
        (
            "SELECT x.a FROM x,\n (SELECT note FROM flights) q",
            "2:10 transforms.me: reads flights.note",
            "exclude",
        ),
        (
            "WITH q AS (SELECT B.Amout FROM bookings AS b) SELECT * FROM q",
            "1:21 transforms.me: reads bookings.amout",
            "amount",
        ),
        (
            "SELECT o.id_nk FROM mart.other o",
            "1:10 transforms.me: reads other.id_nk",
            "it has id, name",
        ),
        (
            "SELECT o.total FROM mart.other o",
            "1:10 transforms.me: reads other.total",
            "it has id, name",
        ),
        (
            "SELECT x.a FROM x WHERE EXISTS (SELECT FROM other o WHERE o.idd = x.a)",
            "1:61 transforms.me: reads other.idd",
            "id",
        ),
    ],
)
def test_a_column_that_cannot_be_there_is_a_problem(sql: str, start: str, hint: str) -> None:
    made = pipeline({"other": 'SELECT x.id, x.v AS "name" FROM x', "me": sql})
    with pytest.raises(SpecError) as caught:
        transform_inputs(replace(made, tables=CARRIED))
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"sql/me.sql:{start}") and hint in problem.hint
    assert problem.code == "unknown-column"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT b.ref, amount, b._load_id, b.ctid, b FROM bookings b ORDER BY b.amount",
        "SELECT amount AS amoun FROM bookings ORDER BY amoun",
        "SELECT b.a FROM bookings AS b (a, c)",
        "SELECT x.anything, note FROM x",
        "SELECT note FROM flights f JOIN x ON true",
        "SELECT (SELECT max(x.a) FROM x WHERE x.b = b.ref) AS m FROM bookings b",
        "SELECT (SELECT ref FROM x) AS m FROM bookings b",
        "SELECT user, current_date FROM bookings",
        "SELECT j.amout FROM bookings b, LATERAL (SELECT 1 AS amout) j",
        "SELECT k FROM bookings b, each(b.ref) AS j(k, v)",
        "SELECT o.id, o.name FROM other o",
        "SELECT s.whatever FROM star s",
        "SELECT c.whatever FROM counted c",
        "SELECT bookings.ref FROM staging.bookings UNION SELECT x.q FROM x ORDER BY ref",
        "WITH bookings AS (SELECT 1 AS q) SELECT bookings.q FROM bookings",
    ],
)
def test_a_column_that_could_be_there_is_no_problem(sql: str) -> None:
    others = {
        "other": "SELECT id, v AS name FROM x",
        "star": "SELECT * FROM x",
        "counted": "SELECT count(*) FROM x",
    }
    made = replace(pipeline({**others, "me": sql}), tables=CARRIED)
    assert "me" in transform_inputs(made)


def test_a_unique_key_must_be_a_column_of_the_select() -> None:
    made = pipeline({"me": "SELECT id AS user_id, name FROM bookings"})
    (me,) = made.transforms
    keyed = replace(made, transforms=(replace(me, materialized="merge", unique_key=("userid",)),))
    with pytest.raises(
        SpecError, match=r"its SELECT has no column 'userid', which unique_key names\n.*'user_id'"
    ):
        transform_inputs(keyed)


def within(depth: int) -> str:
    """Without a limit, 30,000 of these end the process itself (SIGSEGV)."""
    return "SELECT 1 AS a FROM " + "(SELECT * FROM " * depth + "staging.bookings" + ") AS x" * depth


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "(" * 20_000,
        "SELECT " + "(" * 3_000 + "1" + ")" * 3_000,
        within(1_001),
        within(5_000),
    ],
)
def test_sql_nested_too_deeply_is_a_problem_and_no_traceback(sql: str) -> None:
    assert "nested too deeply" in problems(sql)[0]


def test_sql_nested_as_deep_as_anybody_writes_it_is_read() -> None:
    assert "me" in transform_inputs(pipeline({"me": within(300)}))


def test_quotes_of_one_kind_within_the_other_are_text() -> None:
    made = pipeline({"me": "SELECT 1 FROM generate_series(a, b, '1 \"a')"})
    assert transform_inputs(made) == {"me": Inputs((), ())}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "a || " * 30_000 + "b",
        "SELECT 1" + " UNION ALL SELECT 1" * 20_000,
        "SELECT " + "CASE WHEN a THEN " * 5_000 + "1" + " END" * 5_000,
        "SELECT " + "NOT " * 20_000 + "true",
    ],
    ids=["operators", "queries", "cases", "words"],
)
def test_a_chain_too_long_is_a_problem_and_no_crash(sql: str) -> None:
    """Without a limit, 100,000 operators end the process itself (SIGSEGV)."""
    assert "nested too deeply" in problems(sql)[0]


def test_a_chain_as_long_as_a_generated_query_is_read() -> None:
    sql = (
        "SELECT "
        + "a || " * 500
        + "b AS c FROM bookings"
        + " UNION ALL SELECT a FROM flights" * 500
    )
    assert inputs(sql).tables == ("bookings", "flights")


def test_a_nul_character_is_a_problem_where_it_stands() -> None:
    assert problems("SELECT 1;\nDROP \0 TABLE x", "script")[0].startswith("sql/me.sql:2:6 ")


@pytest.mark.parametrize("before", ["é", "日本", "😀", "é 😀 日"])
def test_places_are_counted_in_characters(before: str) -> None:
    assert problems(f"SELECT '{before}' AS a,\n'{before}' FROM staging.nowhere")[0].startswith(
        f"sql/me.sql:2:{len(before) + 17} "
    )
    assert problems(f"SELECT '{before}' AS a FROM x GROUP y")[0].startswith(
        f"sql/me.sql:1:{len(before) + 29} "
    )


def test_an_unquoted_name_finds_no_table_with_capitals() -> None:
    with pytest.raises(
        SpecError, match=r"did you mean 'Orders'\? Its capitals need quotes: .Orders."
    ):
        transform_inputs(pipeline({"me": "SELECT * FROM staging.Orders"}, tables=("Orders",)))


def test_an_unknown_parameter_is_a_problem_that_lists_the_known() -> None:
    (problem,) = problems("SELECT 1\nWHERE x > :since_laod")
    assert problem.startswith("sql/me.sql:2:11 transforms.me: unknown parameter :since_laod")
    assert ":since_load, :until_load, :interval_start, :interval_end, :run_id" in problem


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT 1; SELECT 2", "expected one SELECT, found 2 statements"),
        ("", "there is no SELECT"),
        ("-- only a comment", "there is no SELECT"),
        ("DELETE FROM mart.me", "expected one SELECT, found DELETE"),
        ("DO $$ BEGIN END $$", "expected one SELECT, found DO"),
        ("SELECT * INTO x FROM bookings", "found SELECT INTO"),
        (
            "WITH x AS (DELETE FROM mart.other RETURNING *) SELECT * FROM x",
            "found DELETE inside it",
        ),
    ],
)
@pytest.mark.parametrize("materialized", ["table", "view", "merge"])
def test_anything_but_one_select_is_a_problem_unless_it_is_a_script(
    sql: str, message: str, materialized: Materialized
) -> None:
    assert message in problems(sql, materialized)[0]


@pytest.mark.parametrize(
    "sql", ["SELECT 1;", "SELECT 1 ; -- done", ";;SELECT 1;;", "(SELECT 1)", "/* x */ SELECT 1"]
)
def test_empty_statements_do_not_count(sql: str) -> None:
    assert inputs(sql) == Inputs((), ())


@pytest.mark.parametrize(
    ("sql", "start"),
    [
        (
            "SELECT 1\nFROM bookings WHERE\n x = = 3",
            "sql/me.sql:3:6 transforms.me: cannot be read as PostgreSQL at '='",
        ),
        (
            "SELECT a FROM bookings\n  GROUP x",
            (
                "sql/me.sql:2:9 transforms.me: cannot be read as PostgreSQL at 'x' after 'FROM"
                " bookings GROUP'"
            ),
        ),
        ("SELECT (1", "sql/me.sql:1:9 transforms.me: cannot be read as PostgreSQL at '1'"),
        (
            "SELECT 1,\n  'it''s",
            "sql/me.sql:2:3 transforms.me: a quote or a comment opens here and never ends",
        ),
        ("SELECT 'a\nb', $$ x", "sql/me.sql:2:5 transforms.me: a quote or a comment"),
        ("SELECT 1 /* x", "sql/me.sql:1:10 transforms.me: a quote or a comment"),
    ],
)
@pytest.mark.parametrize("materialized", ["table", "script"])
def test_sql_that_cannot_be_read_is_located(
    sql: str, start: str, materialized: Materialized
) -> None:
    (problem,) = problems(sql, materialized)
    assert problem.startswith(start)
    assert "class" not in problem and "Token" not in problem
    assert "hint:" in problem


def test_problems_of_all_files_come_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        transform_inputs(
            pipeline({"a": "SELECT (", "b": "SELECT :x", "c": "SELECT * FROM staging.x; SELECT 2"})
        )
    assert [problem.path for problem in caught.value.problems] == [
        "transforms.a",
        "transforms.b",
        *["transforms.c"] * 2,
    ]
