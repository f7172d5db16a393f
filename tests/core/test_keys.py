"""The primary key that the source's catalogs show: which columns it has, and whether it covers all
rows."""

from __future__ import annotations

import pytest

from loadsheet.errors import Refused
from tests.faults.oracle import judge
from tests.project import Project

KEYS = {
    "included columns": (
        "CREATE TABLE t (id int, region text, n int, PRIMARY KEY (id) INCLUDE (region, n))",
        ["id"],
    ),
    "included columns of a key of two": (
        "CREATE TABLE t (id int, region text, n int, PRIMARY KEY (region, id) INCLUDE (n))",
        ["region", "id"],
    ),
    "included columns of a constraint upon an index": (
        "CREATE TABLE t (id int NOT NULL, region text, n int);"
        "CREATE UNIQUE INDEX u ON t (id) INCLUDE (n);"
        "ALTER TABLE t ADD PRIMARY KEY USING INDEX u",
        ["id"],
    ),
    "deferred": (
        "CREATE TABLE t (id int, region text, n int,"
        " PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED)",
        ["id"],
    ),
    "a partitioned table": (
        "CREATE TABLE t (id int, region text, n int, PRIMARY KEY (id, n)) PARTITION BY HASH (n);"
        "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        ["id", "n"],
    ),
    "a column that was dropped before": (
        "CREATE TABLE t (old int, id int, region text, n int); ALTER TABLE t DROP old;"
        "ALTER TABLE t ADD PRIMARY KEY (id) INCLUDE (n)",
        ["id"],
    ),
}
NO_KEYS = {
    "a partition lacks it": "CREATE TABLE t (id int, region text, n int) PARTITION BY HASH (n);"
    "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0);"
    "ALTER TABLE t ALTER id SET NOT NULL, ALTER n SET NOT NULL;"
    "ALTER TABLE ONLY t ADD PRIMARY KEY (id, n)",
    "a table inherits": "CREATE TABLE t (id int PRIMARY KEY, region text, n int);"
    "CREATE TABLE more () INHERITS (t)",
    "only unique": "CREATE TABLE t (id int NOT NULL UNIQUE, region text, n int)",
    "only an exclusion constraint": "CREATE TABLE t (id int NOT NULL, region text, n int,"
    " EXCLUDE USING btree (id WITH =))",
}


@pytest.mark.parametrize("tables, key", KEYS.values(), ids=KEYS)
def test_an_update_replaces_the_row_with_its_key(
    project: Project, tables: str, key: list[str]
) -> None:
    project.in_source(tables)
    project.in_source("INSERT INTO t (id, region, n) VALUES (1, 'north', 1), (2, 'south', 1)")
    project.spec({"t": {"mode": "merge"}})
    project.succeed()
    assert key_of_target(project) == key
    project.in_source("UPDATE t SET region = 'east' WHERE id = 1 AND 'region' <> ALL (%s)", key)
    project.in_source("UPDATE t SET n = 7 WHERE id = 1 AND 'n' <> ALL (%s)", key)
    project.in_source("INSERT INTO t (id, region, n) VALUES (3, 'west', 2)")
    project.succeed()
    assert not judge(project, "t")


def key_of_target(project: Project) -> list[str]:
    rows = project.in_warehouse(
        "SELECT attname::text FROM pg_constraint, unnest(conkey) WITH ORDINALITY part (attnum, n)"
        " JOIN pg_attribute USING (attnum)"
        " WHERE conrelid = 'staging.t'::regclass AND contype = 'p' AND attrelid = conrelid"
        " ORDER BY n"
    )
    return [name for (name,) in rows]


@pytest.mark.parametrize("tables", NO_KEYS.values(), ids=NO_KEYS)
def test_what_does_not_cover_all_rows_is_no_key(project: Project, tables: str) -> None:
    project.in_source(tables)
    project.spec({"t": {"mode": "merge"}})
    with pytest.raises(Refused, match="has no primary key in the source: set primary_key"):
        project.succeed()
