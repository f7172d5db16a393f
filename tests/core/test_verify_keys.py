"""How `loadsheet verify` tells which rows are the same one: keys that are written in several ways,
that the target has twice, and tables without one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.verifying import CREATE, counts
from tests.project import Project


@pytest.mark.parametrize("table", [{"mode": "replace"}, {"incremental": "at"}])
def test_rows_without_a_key_are_counted(project: Project, table: dict[str, Any]) -> None:
    project.in_source(
        "CREATE TABLE line (name text, at timestamptz); INSERT INTO line"
        " SELECT 'a' || i % 10, '2026-01-01'::timestamptz + i % 5 * interval '1 h'"
        " FROM generate_series(1, 1000) i"
    )
    project.in_source("INSERT INTO line VALUES ('last', '2026-01-02')")
    project.spec({"line": table})
    project.succeed()
    assert project.verify()["line"].state == "equal"
    project.in_warehouse(
        "DELETE FROM staging.line WHERE ctid IN"
        " (SELECT ctid FROM staging.line WHERE name = 'a1' AND at < '2026-01-02' LIMIT 3)"
    )
    verdict = project.verify()["line"]
    assert counts(verdict) == {"missing": 3}


@pytest.mark.parametrize("table", [{"incremental": "at", "deletes": "hard"}, {}])
def test_rows_of_one_key_that_the_target_has_twice_are_extra(
    project: Project, table: dict[str, Any]
) -> None:
    """No deletion in the source explains them, whatever `deletes` says."""
    project.in_source(CREATE)
    project.spec({"item": table})
    project.succeed()
    project.in_warehouse(
        "ALTER TABLE staging.item DROP CONSTRAINT item_pkey;"
        "INSERT INTO staging.item SELECT * FROM staging.item WHERE id IN (7, 8);"
        "INSERT INTO staging.item (id, part, name, _load_id) VALUES (7, 1, 'other', 1)"
    )
    verdict = project.verify()["item"]
    assert (verdict.state, verdict.unproven, counts(verdict)) == ("differs", 0, {"extra": 3})
    assert {row.key["id"] for row in verdict.named["extra"]} == {"7", "8"}
    if table:
        # One of the three has no cursor, so these rows are two.
        since = project.verify(since="2020-01-01")["item"]
        assert (since.state, counts(since)) == ("differs", {"extra": 2})


# The key's type and its value, and how it is written later: equal, but not the same.
OTHER_FORMS = [
    ("numeric", "1.0", "1.00"),
    ("double precision", "0", "-0"),
    ("real", "0", "-0"),
    ("interval", "1 mon", "30 days"),
    ("bpchar", "a", "a "),
    ("jsonb", '{"a": 1.0}', '{"a": 1.00}'),
    ("numeric[]", "{1.0}", "{1.00}"),
    ("numrange", "[1.0,2)", "[1.00,2)"),
]
# These are two keys.
OTHER_KEYS = [
    ("text", "a", "a "),
    ("time with time zone", "12:00+00", "13:00+01"),
]


def written_otherwise(project: Project, forms: list[tuple[str, str, str]]) -> dict[str, str]:
    """Load a table for each form, and write the keys in another way, without the cursor. The
    statement that does it with the cursor, by table."""
    statements = {}
    for number, (type, before, after) in enumerate(forms):
        name = f"t{number}"
        project.in_source(
            f"CREATE TABLE {name} (id {type}, part int, at timestamptz DEFAULT clock_timestamp(),"
            f" PRIMARY KEY (id, part)); INSERT INTO {name} VALUES ('{before}', 1), ('{before}', 2)"
        )
        statements[name] = f"UPDATE {name} SET id = '{after}'SET_AT WHERE part = 1"
    project.spec({name: {"incremental": "at"} for name in statements})
    project.succeed()
    for name in statements:
        project.in_source(statements[name].replace("SET_AT", ""))
    return statements


def test_a_key_that_is_written_in_another_way_is_one_different_row(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = written_otherwise(project, OTHER_FORMS)
    for name, verdict in project.verify().items():
        assert counts(verdict) == {"different": 1}, name
        [row] = verdict.named["different"]
        assert [change.column for change in row.changes] == ["id"]
        assert row.key["part"] == "1"
    # The control: by its text alone, it is a missing row and an extra one.
    with monkeypatch.context() as patched:
        patched.setattr("loadsheet.comparison.compare._same_keys", lambda *given: {})
        for name, verdict in project.verify().items():
            assert counts(verdict) == {"missing": 1, "extra": 1}, name
    project.succeed(only=frozenset(statements), repair=frozenset(statements))
    assert {verdict.state for verdict in project.verify().values()} == {"equal"}


def test_a_newer_row_whose_key_is_written_in_another_way_is_no_difference(project: Project) -> None:
    """The negative control is a row that was deleted from the source."""
    statements = written_otherwise(project, OTHER_FORMS)
    for statement in statements.values():
        project.in_source(statement.replace("SET_AT", ", at = clock_timestamp()"))
    for name, found in project.verify().items():
        assert (found.state, found.newer, found.unproven) == ("equal", 1, 0), name
    project.succeed()
    assert {verdict.state for verdict in project.verify().values()} == {"equal"}
    project.in_source("DELETE FROM t0 WHERE part = 2")
    assert counts(project.verify("t0")["t0"]) == {"extra": 1}


def test_what_a_load_takes_for_two_keys_is_a_missing_row_and_an_extra_one(project: Project) -> None:
    statements = written_otherwise(project, OTHER_KEYS)
    for name, verdict in project.verify().items():
        assert counts(verdict) == {"missing": 1, "extra": 1}, name
    project.succeed(only=frozenset(statements), repair=frozenset(statements))
    for name, verdict in project.verify().items():
        assert counts(verdict) == {"extra": 1}, name


def test_a_row_whose_key_and_cursor_are_others_is_different_for_a_part_of_the_rows(
    project: Project,
) -> None:
    written_otherwise(project, OTHER_FORMS[:1])
    for at in ("2020-01-01", "2040-01-01"):
        project.in_warehouse(f"UPDATE staging.t0 SET at = '{at}' WHERE part = 1")
        assert counts(project.verify(since="2025-01-01")["t0"]) == {"different": 1}, at
    project.in_source("UPDATE t0 SET at = '2019-01-01' WHERE part = 1")
    assert counts(project.verify(since="2025-01-01")["t0"]) == {"different": 1}


def test_rows_of_a_view_that_share_a_key_are_one_row_of_the_target(project: Project) -> None:
    project.in_source(
        "CREATE TABLE base (id int, x text, at timestamptz DEFAULT '2026-01-01');"
        "INSERT INTO base VALUES (1, 'a'), (1, 'b'), (1, 'c'), (2, 'b'), (3, 'c');"
        "INSERT INTO base VALUES (9, 'z', '2026-02-01'); CREATE VIEW v AS SELECT * FROM base"
    )
    project.spec({"v": {"incremental": "at", "primary_key": ["id"]}})
    project.succeed()
    assert project.verify()["v"].state == "equal"
    project.in_warehouse("UPDATE staging.v SET x = 'd' WHERE id = 1")
    assert counts(project.verify()["v"]) == {"different": 1}
    project.in_warehouse("DELETE FROM staging.v WHERE id = 1")
    assert counts(project.verify()["v"]) == {"missing": 1}


def test_a_table_of_one_column_with_nulls_and_no_key_is_compared(project: Project) -> None:
    project.in_source("CREATE TABLE note (text text)")
    project.in_source("INSERT INTO note VALUES ('a'), ('a'), (NULL), (NULL), ('')")
    project.spec({"note": None})
    project.succeed()
    assert project.verify()["note"].state == "equal"
    project.in_warehouse("INSERT INTO staging.note (text, _load_id) VALUES (NULL, 1)")
    assert counts(project.verify()["note"]) == {"extra": 1}
