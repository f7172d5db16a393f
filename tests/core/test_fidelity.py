"""What a table holds arrives as it is: types, names, columns of every kind, in both wire formats."""

from __future__ import annotations

import pytest

from demo.servers import PostgresServer
from loadsheet.errors import Refused
from tests.project import Project

TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'o''k');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN percent AS numeric(5, 2) CHECK (VALUE >= 0);
CREATE DOMAIN small_percent AS percent CHECK (VALUE < 50);
CREATE TABLE everything (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "Ünï""code, col" text, "select" varchar(10), padded char(8), n numeric, exact numeric(20, 5), f4 float4, f8 float8,
    ts timestamptz, local timestamp(3), d date, t timetz, i interval, j json, jb jsonb, b bytea, u uuid, flag boolean,
    p point, box_ box, net inet, mac macaddr, bits bit(5), vb bit varying, r int4range, m datemultirange,
    texts text[], grid int[], points point[], feeling mood, feelings mood[], couple pair, share percent,
    less small_percent, price money, doc xml, words tsvector, rel regclass, c "char", nothing text,
    twice bigint GENERATED ALWAYS AS (id * 2) STORED
);
INSERT INTO everything ("Ünï""code, col", "select", padded, n, exact, f4, f8, ts, local, d, t, i, j, jb, b, u, flag,
    p, box_, net, mac, bits, vb, r, m, texts, grid, points, feeling, feelings, couple, share, less, price, doc,
    words, rel, c)
VALUES
    (E'a\\tb\\nc\\rd\\\\e"f''g', '', 'x ', 'NaN', 0.00001, 'infinity', '-0', 'infinity', '4713-01-01 BC',
     '5874897-12-31', '24:00+14', '1 mon -1 day 00:00:00.000001', '{"a": "\\u0000", "a": 1.00}', '{"b": [1, null],
     "a": 1.00}',
     '\\xdeadbeef00', gen_random_uuid(), true, '(1e-300,-0)', '((1,2),(3,4))', '::1/64', '08:00:2b:01:02:03', B'10101',
     B'', '[1,5)', '{[2020-01-01,2020-02-01)}', ARRAY['NULL', NULL, '', '{"}', 'é'], '[0:1][5:6]={{1,2},{3,NULL}}',
     ARRAY[point '(1,2)'], 'o''k', ARRAY['sad', NULL]::mood[], ROW(1, 'x,"y"'), 12.5, 1, '$1,234.56', NULL,
     'fat:2A cat', 'pg_class', 'x'),
    (E'\\\\.\\n\\\\.', E'\\\\N', '', '1e1000', -1, 'NaN', 1e-307, '-infinity', '294276-12-31 23:59:59.999',
     '4713-01-01 BC', '00:00-15:59', '-178000000 years', 'null', 'null', '', NULL, false, NULL, NULL, '10.0.0.1', NULL,
     NULL, B'1', 'empty', '{}', '{}', NULL, '{}', 'sad', '{}', ROW(NULL, NULL), 0, 0, '-$0.01', NULL, '', NULL, NULL),
    (E'\\n\\\\.\\n', ',', NULL, 1.10, 1.10, 0.1, 0.1, now(), now(), now(), now(), '30 days', '""', '""', NULL, NULL,
     NULL, '(NaN,Infinity)', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL,
     NULL, NULL, NULL, NULL);
INSERT INTO everything DEFAULT VALUES;
"""


@pytest.mark.parametrize("wire", ["auto", "csv"])
@pytest.mark.parametrize("table", [None, {"mode": "merge"}])
def test_every_kind_of_value_survives(project: Project, wire: str, table: dict[str, str] | None) -> None:
    project.in_source(TYPES)
    project.spec({"everything": table}, lake={"format": wire})
    project.succeed()
    assert project.differences("everything") == 0
    project.in_source(
        "UPDATE everything SET n = n + 0.00, j = '{ }', p = '(0,0)', i = '1 mon', nothing = '' WHERE id = 3"
    )
    project.succeed()
    assert project.differences("everything") == 0


def test_the_source_may_be_a_newer_server(project: Project) -> None:
    with PostgresServer(version=18) as newer:
        project.source = newer.create_database("newer")
        project.in_source(TYPES)
        project.in_source("CREATE TABLE virtual (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) VIRTUAL)")
        project.in_source("CREATE TABLE none (id int PRIMARY KEY); INSERT INTO virtual VALUES (1), (2)")
        project.spec({"everything": None, "virtual": None, "none": None})
        project.succeed()
        assert [project.differences(table) for table in ("everything", "virtual", "none")] == [0, 0, 0]


@pytest.mark.parametrize("wire", ["binary", "csv"])
def test_a_single_column_tells_null_from_empty_and_end_of_data(project: Project, wire: str) -> None:
    project.in_source("CREATE TABLE one (t text)")
    project.in_source("INSERT INTO one VALUES (NULL), (''), (E'\\\\.'), (E'\\n'), (E'\\\\N'), ('\"'), (' '), (NULL)")
    project.spec({"one": None}, lake={"format": wire})
    project.succeed()
    assert project.differences("one") == 0


def test_only_the_columns_that_differ_in_form_are_seen_as_changes(project: Project) -> None:
    project.in_source("CREATE TABLE form (id int PRIMARY KEY, n numeric, i interval, j json, at timestamptz)")
    project.in_source("INSERT INTO form VALUES (1, 1.0, '1 mon', '{}', now()), (2, 1, '1 day', '[]', now())")
    project.spec({"form": {"incremental": {"cursor": "at", "lookback": "1d"}}})
    project.succeed()
    project.in_source("UPDATE form SET n = 1.00, i = '30 days', j = '{ }' WHERE id = 1")
    project.succeed()
    assert project.differences("form") == 0
    assert project.in_warehouse("SELECT updated FROM loadsheet.load ORDER BY load_no DESC LIMIT 1") == [(1,)]


def test_builtin_types_travel_as_binary_and_others_as_csv(project: Project) -> None:
    project.in_source("CREATE TABLE a (id int PRIMARY KEY, x numeric); CREATE TABLE b (id int PRIMARY KEY, x money)")
    project.in_source("INSERT INTO a VALUES (1, 2); INSERT INTO b VALUES (1, 2)")
    project.spec({"a": None, "b": None})
    project.succeed()
    assert dict(project.in_warehouse("SELECT table_name, format FROM loadsheet.load")) == {"a": "binary", "b": "csv"}


@pytest.mark.parametrize("name", ["Order Lines", 'we"ird', "日本語", "select", "x" * 63, "a.b", "per%cent"])
def test_any_table_name_works(project: Project, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    project.in_source(f'CREATE TABLE {quoted} ("Key Col" int PRIMARY KEY, "ü%s" text, at timestamptz DEFAULT now())')
    project.in_source(f"INSERT INTO {quoted} VALUES (1, 'x')")
    project.spec({name: {"incremental": "at"}})
    for _ in range(2):
        project.succeed()
        assert project.differences(name) == 0
        project.in_source(
            f"INSERT INTO {quoted} VALUES (2, 'y') ON CONFLICT DO NOTHING;UPDATE {quoted} SET \"ü%s\" = 'z', at = now()"
        )


def test_partitioned_tables_and_views_can_be_sources(project: Project) -> None:
    project.in_source(
        "CREATE TABLE part (id int, at timestamptz NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);"
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');"
        "CREATE TABLE part_2 PARTITION OF part DEFAULT;"
        "INSERT INTO part SELECT i, '2020-12-31'::timestamptz + i * interval '1 hour' FROM generate_series(1, 99) i;"
        "CREATE VIEW seen AS SELECT id, at FROM part WHERE id > 50"
    )
    project.spec({"part": {"incremental": "at"}, "seen": {"incremental": "at", "primary_key": "id"}})
    project.succeed()
    assert project.differences("part") == project.differences("seen") == 0


def test_column_order_and_exclusion_follow_source_and_spec(project: Project) -> None:
    project.in_source("CREATE TABLE c (z int PRIMARY KEY, secret text, a int, m int)")
    project.in_source(
        "ALTER TABLE c DROP COLUMN m; ALTER TABLE c ADD COLUMN b int; INSERT INTO c VALUES (1, 's', 2, 3)"
    )
    project.spec({"c": {"columns": {"exclude": ["secret"]}}})
    project.succeed()
    columns = project.in_warehouse(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'staging.c'::regclass AND attnum > 0 ORDER BY attnum"
    )
    assert [name for (name,) in columns] == ["z", "a", "b", "_load_id"]
    assert project.in_warehouse("SELECT z, a, b FROM staging.c") == [(1, 2, 3)]


def test_an_empty_table_arrives_empty(project: Project) -> None:
    project.in_source("CREATE TABLE none (id int PRIMARY KEY, at timestamptz NOT NULL)")
    project.spec({"none": {"incremental": "at"}})
    project.succeed()
    assert project.in_warehouse("SELECT count(*) FROM staging.none") == [(0,)]
    project.in_source("INSERT INTO none VALUES (1, now())")
    project.succeed()
    assert project.differences("none") == 0


def test_a_declared_key_that_is_not_one_is_refused(project: Project) -> None:
    project.in_source("CREATE TABLE k (a int, b int); INSERT INTO k VALUES (1, 1), (1, 2), (NULL, 3)")
    project.spec({"k": {"primary_key": "a"}})
    error = project.run()["load.load_k"].result
    assert isinstance(error, Refused) and "1 rows have no complete key (a)" in str(error)
    project.in_source("DELETE FROM k WHERE a IS NULL")
    error = project.run()["load.load_k"].result
    assert isinstance(error, Refused) and "share the key (a)" in str(error)
    assert project.in_warehouse("SELECT to_regclass('staging.k')") == [(None,)]


def test_among_rows_with_one_key_the_newest_wins(project: Project) -> None:
    project.in_source("CREATE TABLE k (a int, b text, at timestamptz)")
    project.in_source("INSERT INTO k VALUES (1, 'new', '2026-01-02'), (1, 'old', '2026-01-01'), (2, 'x', '2026-01-01')")
    project.spec({"k": {"primary_key": "a", "incremental": "at"}})
    results = project.run()
    assert "1 rows shared a key" in results["load.load_k"].result.message
    assert project.in_warehouse("SELECT a, b FROM staging.k ORDER BY a") == [(1, "new"), (2, "x")]
