"""Indexes on a staging table or a mart: rows that exchange unique values, rows and types that an
index does not take."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from loadsheet.errors import Refused
from loadsheet.warehouse import unique_indexes
from tests.core.hanging import *  # noqa: F403
from tests.core.hanging import COLUMNS, ROWS, add_row
from tests.project import Project

EXCHANGE = """
UPDATE item SET at = clock_timestamp(), what = CASE id WHEN 3 THEN 'row 4' WHEN 4 THEN 'row 3'
    WHEN 5 THEN 'row 6' ELSE 'row 5' END WHERE id IN (3, 4, 5, 6);
UPDATE item SET what = 'moved', at = clock_timestamp() WHERE id = 9;
INSERT INTO item (id, what) VALUES (21, 'row 9')
"""
UNIQUE = {
    "index": ("CREATE UNIQUE INDEX one ON {t} (what)", 'DROP INDEX "{s}"."one"'),
    "constraint": (
        "ALTER TABLE {t} ADD CONSTRAINT one UNIQUE (what)",
        'ALTER TABLE "{s}"."{n}" DROP CONSTRAINT "one"',
    ),
}


def with_unique(project: Project, spec: Any, kind: str) -> None:
    """A table with a unique index and own columns, loaded once."""
    project.in_source(
        f"CREATE TABLE item {COLUMNS.format(key='PRIMARY KEY')}; {ROWS.format('item')}"
    )
    copy = ("SELECT id, what FROM staging.item", {"materialized": "merge", "unique_key": "id"})
    project.spec({"item": spec}, {"copy": copy})
    project.succeed()
    for target in ("staging.item", "mart.copy"):
        schema, name = target.split(".")
        project.in_warehouse(UNIQUE[kind][0].format(t=target, s=schema, n=name))
    project.in_warehouse(
        "ALTER TABLE staging.item ADD own text, ADD no int GENERATED ALWAYS AS IDENTITY,"
        " ADD twice int GENERATED ALWAYS AS (id * 2) STORED;"
        "UPDATE staging.item SET own = 'mine ' || id"
    )


@pytest.mark.parametrize(
    ("spec", "kind"), [({"incremental": "at"}, "index"), (None, "constraint")], ids=str
)
def test_rows_exchange_the_values_of_a_unique_index(
    project: Project, monkeypatch: pytest.MonkeyPatch, spec: Any, kind: str
) -> None:
    """Updated one after the other, the first would take a value that the second still has."""
    with_unique(project, spec, kind)
    own = "SELECT id, own, no, twice FROM staging.item WHERE id < 21 ORDER BY id"
    before = project.in_warehouse(own)
    project.in_source(EXCHANGE)
    with monkeypatch.context() as patch:
        patch.setattr(unique_indexes, "besides_key", lambda *_: {})
        error = project.run()["load.load_item"].result
        assert isinstance(error, Refused) and "duplicate key value" in str(error)
    project.succeed()
    assert project.differences("item") == 0
    assert project.in_warehouse(own) == before
    assert (
        project.in_warehouse(
            "SELECT id, what FROM mart.copy EXCEPT SELECT id, what FROM staging.item"
        )
        == []
    )


@pytest.mark.parametrize("kind", UNIQUE)
def test_rows_that_break_a_unique_index_name_it_and_the_statement_that_drops_it(
    project: Project, kind: str
) -> None:
    with_unique(project, {"incremental": "at"}, kind)
    project.in_source("INSERT INTO item (id, what) VALUES (21, 'row 9')")
    error = project.run()["load.load_item"].result
    statement = UNIQUE[kind][1].format(s="staging", n="item")
    assert isinstance(error, Refused) and "its unique index one" in str(error)
    assert statement in str(error) and "row 9" not in str(error)
    project.in_warehouse(statement)
    error = project.run()["transform.transform_copy"].result
    statement = UNIQUE[kind][1].format(s="mart", n="copy")
    assert isinstance(error, Refused) and statement in str(error)
    project.in_warehouse(statement)
    project.succeed()
    assert project.differences("item") == 0


def test_rows_that_a_foreign_key_refers_to_are_not_deleted_to_exchange_values(
    project: Project,
) -> None:
    with_unique(project, {"incremental": "at"}, "index")
    project.in_warehouse(
        "CREATE TABLE kid (id int REFERENCES staging.item ON DELETE CASCADE);"
        " INSERT INTO kid VALUES (3)"
    )
    project.in_source(EXCHANGE)
    error = project.run()["load.load_item"].result
    assert isinstance(error, Refused) and "exchange values of a unique index (one)" in str(error)
    assert project.in_warehouse("SELECT id FROM kid") == [(3,)]


def test_an_invalid_index_is_left_as_it_is(shop: Project) -> None:
    """The swap made it again, and failed for an index of its own naming."""
    shop.in_source("UPDATE item SET what = 'same' WHERE id IN (1, 2)")
    shop.succeed()
    with pytest.raises(psycopg.errors.UniqueViolation):
        shop.in_warehouse("CREATE UNIQUE INDEX CONCURRENTLY one ON staging.item (what)")
    add_row(shop)
    shop.succeed()
    assert shop.differences("item") == 0
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'staging.one'::regclass"
    assert shop.in_warehouse(valid) == [(False,)]


# The index, the change of the source, the advice.
INDEXES_OF_A_TYPE = {
    "an expression": (
        "CREATE INDEX odd ON staging.item (public.half(id))",
        "ALTER TABLE item ALTER id TYPE bigint",
        "DROP INDEX staging.odd;",
    ),
    "an expression, and another type": (
        "CREATE INDEX odd ON staging.item (public.half(id))",
        "ALTER TABLE item ALTER id TYPE text",
        "drop index staging.odd",
    ),
    "an operator class": (
        "CREATE INDEX odd ON staging.item (what text_pattern_ops)",
        "ALTER TABLE item ALTER what TYPE int USING id",
        'DROP INDEX "staging"."odd";',
    ),
    "unique values": (
        "CREATE UNIQUE INDEX odd ON staging.item (what)",
        "ALTER TABLE item ALTER what TYPE int USING id / 2",
        'DROP INDEX "staging"."odd";',
    ),
}


def test_an_index_that_does_not_take_the_new_rows_is_named(project: Project) -> None:
    names = dict(zip([f"item{number}" for number in range(9)], INDEXES_OF_A_TYPE, strict=False))
    for name in names:
        create = f"CREATE TABLE {name} {COLUMNS.format(key='PRIMARY KEY')}"
        project.in_source(f"{create}; {ROWS.format(name)}")
    project.spec(dict.fromkeys(names))
    project.succeed()
    project.in_warehouse(
        "CREATE FUNCTION public.half(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 / 2'"
    )
    for name, kind in names.items():
        create, change, _ = INDEXES_OF_A_TYPE[kind]
        project.in_warehouse(create.replace("odd", f"{name}_odd").replace("item ", f"{name} "))
        project.in_source(change.replace("item ", f"{name} "))
    results = project.run()
    for name, kind in names.items():
        error = results[f"load.load_{name}"].result
        advice = INDEXES_OF_A_TYPE[kind][2].replace("odd", f"{name}_odd")
        assert isinstance(error, Refused) and advice in str(error), (kind, error)
        project.in_warehouse(f"DROP INDEX staging.{name}_odd")
    project.succeed()
    assert [project.differences(name) for name in names] == [0] * len(names)
