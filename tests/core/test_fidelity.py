"""What a table holds arrives as it is: forms, keys and columns. Types, names and shapes:
tests/faults."""

from __future__ import annotations

import pytest

from loadsheet.errors import Refused
from tests.project import Project


@pytest.mark.parametrize("wire", ["binary", "csv"])
def test_a_single_column_tells_null_from_empty_and_end_of_data(project: Project, wire: str) -> None:
    project.in_source("CREATE TABLE one (t text)")
    project.in_source(
        "INSERT INTO one VALUES (NULL), (''), (E'\\\\.'), (E'\\n'), (E'\\\\N'), ('\"'), (' '),"
        " (NULL)"
    )
    project.spec({"one": None}, lake={"format": wire})
    project.succeed()
    assert project.differences("one") == 0


def test_only_the_columns_that_differ_in_form_are_seen_as_changes(project: Project) -> None:
    project.in_source(
        "CREATE TABLE form (id int PRIMARY KEY, n numeric, i interval, j json, at timestamptz)"
    )
    project.in_source(
        "INSERT INTO form VALUES (1, 1.0, '1 mon', '{}', now()), (2, 1, '1 day', '[]', now())"
    )
    project.spec({"form": {"incremental": {"cursor": "at", "lookback": "1d"}}})
    project.succeed()
    project.in_source("UPDATE form SET n = 1.00, i = '30 days', j = '{ }' WHERE id = 1")
    project.succeed()
    assert project.differences("form") == 0
    assert project.in_warehouse(
        "SELECT updated FROM loadsheet.load ORDER BY load_no DESC LIMIT 1"
    ) == [(1,)]


def test_column_order_and_exclusion_follow_source_and_spec(project: Project) -> None:
    project.in_source("CREATE TABLE c (z int PRIMARY KEY, secret text, a int, m int)")
    project.in_source(
        "ALTER TABLE c DROP COLUMN m; ALTER TABLE c ADD COLUMN b int; INSERT INTO c VALUES (1, 's',"
        " 2, 3)"
    )
    project.spec({"c": {"columns": {"exclude": ["secret"]}}})
    project.succeed()
    columns = project.in_warehouse(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'staging.c'::regclass AND attnum > 0"
        " ORDER BY attnum"
    )
    assert [name for (name,) in columns] == ["z", "a", "b", "_load_id"]
    assert project.in_warehouse("SELECT z, a, b FROM staging.c") == [(1, 2, 3)]


def test_a_declared_key_that_is_not_one_is_refused(project: Project) -> None:
    project.in_source(
        "CREATE TABLE k (a int, b int); INSERT INTO k VALUES (1, 1), (1, 2), (NULL, 3)"
    )
    project.spec({"k": {"primary_key": "a"}})
    error = project.run()["load.load_k"].result
    assert isinstance(error, Refused) and "1 row has no complete key (a)" in str(error)
    project.in_source("DELETE FROM k WHERE a IS NULL")
    error = project.run()["load.load_k"].result
    assert isinstance(error, Refused) and "share the key (a)" in str(error)
    assert project.in_warehouse("SELECT to_regclass('staging.k')") == [(None,)]


def test_among_rows_with_one_key_the_newest_wins(project: Project) -> None:
    project.in_source("CREATE TABLE k (a int, b text, at timestamptz)")
    project.in_source(
        "INSERT INTO k VALUES (1, 'new', '2026-01-02'), (1, 'old', '2026-01-01'), (2, 'x',"
        " '2026-01-01')"
    )
    project.spec({"k": {"primary_key": "a", "incremental": "at"}})
    results = project.run()
    assert (
        "left out 1 row that shared a key with a newer one" in results["load.load_k"].result.message
    )
    assert project.in_warehouse("SELECT a, b FROM staging.k ORDER BY a") == [(1, "new"), (2, "x")]
