"""`loadsheet verify` where another user has given columns of the target or the mart other types:
their values are compared as a load casts them, or the verdict is that nothing is proven."""

from __future__ import annotations

from typing import Any

import pytest

from loadsheet.comparison import pairs
from tests.project import Project

# The type of a column, how its values are made, the wider type that it is given, and a value that
# is another one only by that type.
WIDER = [
    ("int", "i", "bigint", "0"),  # no row has its place as an id
    ("int", "i", "bigint", "7000000000"),
    ("int", "i", "numeric", "7.0"),
    ("int", "i", "wide", "-7"),
    ("varchar(10)", "'c' || i", "text", "'c7 '"),
    ("varchar(10)", "'c' || i", "varchar(50)", "repeat('c', 20)"),
    ("numeric(8,2)", "i / 7.0", "numeric(12,4)", "1.0001"),
    ("numeric(8,2)", "i / 7.0", "numeric", "1.000"),
    ("real", "i / 7.0", "double precision", "0.1"),
    ("text", "'row ' || i", "label", "'other'"),
    ("timestamp(0)", "'2026-01-01'::date + i", "timestamp", "'2026-01-01 00:00:00.5'"),
]
# And one that does not hold every value of the source.
OTHER = [
    ("int", "i", "text"),
    ("int", "i", "smallint"),
    ("int", "i", "numeric(10,2)"),
    ("varchar(10)", "'c' || i", "varchar(5)"),
    ("numeric(8,2)", "i / 7.0", "numeric(8,1)"),
    ("numeric", "i / 7.0", "numeric(20,10)"),
    ("text", "'row ' || i", "json USING to_json({c})"),
    ("timestamp", "'2026-01-01'::date + i", "timestamp(0)"),
]
DOMAINS = "CREATE DOMAIN label AS text; CREATE DOMAIN wide AS bigint;"
MART = ("SELECT * FROM staging.item", {"materialized": "merge", "unique_key": ["id"]})


def begin(project: Project, columns: list[Any]) -> None:
    """Load a table, and a mart of it."""
    types = [f"c{place} {column[0]}" for place, column in enumerate(columns)]
    project.in_source(
        f"CREATE TABLE item (id int PRIMARY KEY, {', '.join(types)},"
        " at timestamptz DEFAULT clock_timestamp());"
        f"INSERT INTO item SELECT i, {', '.join(column[1] for column in columns)}"
        " FROM generate_series(1, 50) i"
    )
    project.spec({"item": {"incremental": "at"}}, {"copy": MART})
    project.succeed()
    project.in_warehouse(DOMAINS)


def alter(project: Project, target: str, columns: list[Any]) -> None:
    clauses = [
        f"ALTER c{place} TYPE {column[2].format(c=f'c{place}')}"
        for place, column in enumerate(columns)
    ]
    project.in_warehouse(f"ALTER TABLE {target} ALTER id TYPE bigint, {', '.join(clauses)}")


def test_a_wider_type_is_compared_as_a_load_casts_into_it(project: Project) -> None:
    begin(project, WIDER)
    for target in ("staging.item", "mart.copy"):
        alter(project, target, WIDER)
    for name, found in project.verify().items():
        assert (found.state, found.left_out) == ("equal", []), name
    # The mart first: it reads the table.
    for name, target in (("copy", "mart.copy"), ("item", "staging.item")):
        for place, column in enumerate(WIDER):
            project.in_warehouse(f"UPDATE {target} SET c{place} = {column[3]} WHERE id = {place}")
        found = project.verify(name)[name]
        changed = {
            row.key["id"]: [change.column for change in row.changes]
            for row in found.named["different"]
        }
        assert changed == {str(place): [f"c{place}"] for place in range(1, len(WIDER))}, name
    project.succeed(only=frozenset({"item"}), repair=frozenset({"item"}))
    assert {found.state for found in project.verify().values()} == {"equal"}


def test_a_type_that_does_not_hold_the_values_is_never_called_equal(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(project, OTHER)
    # The mart first: its SELECT has the table's types.
    for name, target in (("copy", "mart.copy"), ("item", "staging.item")):
        alter(project, target, OTHER)
        found = project.verify(name)[name]
        left_out = [text.partition(":")[0] for text in found.left_out]
        assert left_out == [f"c{place}" for place, _ in enumerate(OTHER)]
        assert (found.state, found.differences) == ("not proven", 0)
    assert 'ALTER COLUMN "c0" TYPE integer USING' in found.why
    # The control: no other column shows that all values of one are lost.
    project.in_warehouse("UPDATE staging.item SET c0 = 'x'")
    plain = pairs._comparable
    with monkeypatch.context() as patched:
        patched.setattr(pairs, "_comparable", lambda *given: (*plain(*given)[:2], {}))
        assert project.verify("item")["item"].state == "equal"
    project.in_warehouse("UPDATE staging.item SET at = NULL WHERE id = 8")
    assert project.verify("item")["item"].state == "differs"
