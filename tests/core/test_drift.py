"""The source's columns change: applied by policy, or refused before anything is written."""

from __future__ import annotations

import pytest

from loadsheet.errors import Refused
from loadsheet.outcome import Outcome
from tests.project import Project

SOURCE = """
CREATE TABLE item (
    id int PRIMARY KEY, what varchar(10), n int, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item SELECT i, 'item ' || i, i FROM generate_series(1, 100) i;
"""
TOUCH = "UPDATE item SET at = clock_timestamp()"


@pytest.fixture
def loaded(project: Project) -> Project:
    project.in_source(SOURCE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    return project


def drift(project: Project) -> tuple[str, ...]:
    """What the load of a run tells of changed columns."""
    outcome = project.run()["load.load_item"].result
    assert isinstance(outcome, Outcome)
    return outcome.drift


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "ADD COLUMN extra jsonb DEFAULT '{}'",
            "added extra jsonb (NULL in older rows until a full refresh)",
        ),
        ("RENAME COLUMN what TO title", "renamed what to title"),
        ("ALTER what TYPE text", "widened what to text"),
        ("ALTER what TYPE varchar(20)", "widened what to character varying(20)"),
        ("ALTER n TYPE bigint", "widened n to bigint"),
        ("ALTER n TYPE numeric", "widened n to numeric"),
        ("ALTER n TYPE smallint", "n is now smallint in the source"),
        ("DROP COLUMN n", "n is no longer read from the source"),
    ],
)
def test_a_change_that_fits_is_applied_and_told_once(
    loaded: Project, change: str, told: str
) -> None:
    loaded.in_source(TOUCH)
    assert drift(loaded) == ()
    loaded.in_source(f"ALTER TABLE item {change}; {TOUCH}")
    assert drift(loaded) == (told,)
    assert loaded.differences("item") == 0
    loaded.in_source(TOUCH)
    assert drift(loaded) == ()


def test_a_type_that_the_source_narrowed_is_that_of_the_target_after_a_full_refresh(
    loaded: Project,
) -> None:
    """Increments leave the wider type of earlier loads, which nobody else has given the target."""
    for narrower in ("varchar(9)", "varchar(8)"):
        loaded.in_source(f"ALTER TABLE item ALTER what TYPE {narrower}; {TOUCH}")
        loaded.succeed()
    for _ in range(2):
        loaded.in_source(TOUCH)
        loaded.succeed()
    loaded.succeed(full_refresh="all")
    type_of = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'what'"
    assert loaded.in_warehouse(f"{type_of} AND attrelid = 'staging.item'::regclass") == [
        ("character varying(8)",)
    ]
    assert loaded.differences("item") == 0


def test_a_dropped_column_is_kept_and_null_from_now_on(loaded: Project) -> None:
    loaded.in_source("ALTER TABLE item DROP COLUMN n; INSERT INTO item (id) VALUES (101)")
    loaded.succeed()
    loaded.succeed(full_refresh="all")
    assert loaded.differences("item") == 0
    assert loaded.in_warehouse("SELECT count(n) FROM staging.item") == [(0,)]


def test_a_change_that_does_not_fit_is_refused_and_a_full_refresh_applies_it(
    loaded: Project,
) -> None:
    before = loaded.in_warehouse("SELECT * FROM staging.item ORDER BY id")
    loaded.in_source(f"ALTER TABLE item ALTER n TYPE text USING n || ' pieces'; {TOUCH}")
    error = loaded.run()["load.load_item"].result
    assert isinstance(
        error, Refused
    ) and "column n is integer in the target and text in the source" in str(error)
    assert loaded.in_warehouse("SELECT * FROM staging.item ORDER BY id") == before
    loaded.succeed(full_refresh="all")
    assert loaded.differences("item") == 0


def test_a_table_that_a_view_keeps_from_being_rebuilt_names_the_view(loaded: Project) -> None:
    loaded.in_warehouse("CREATE VIEW public.mine AS SELECT what FROM staging.item")
    loaded.in_source("ALTER TABLE item ALTER n TYPE text USING n || ' pieces'")
    error = loaded.run(full_refresh="all")["load.load_item"].result
    assert isinstance(error, Refused) and "drop view public.mine" in str(error)
    loaded.in_warehouse("DROP VIEW public.mine")
    loaded.succeed(full_refresh="all")
    assert loaded.differences("item") == 0


def test_a_replaced_table_sees_a_rename_that_changes_no_value(project: Project) -> None:
    project.in_source(SOURCE)
    project.spec({"item": None})
    project.succeed()
    project.in_source("ALTER TABLE item RENAME COLUMN what TO title")
    assert project.succeed()["load.load_item"] == "done"
    assert project.differences("item") == 0


def test_a_frozen_table_refuses_every_change(loaded: Project) -> None:
    loaded.spec({"item": {"incremental": "at", "schema_contract": {"columns": "freeze"}}})
    loaded.in_source(f"ALTER TABLE item ADD COLUMN extra int; {TOUCH}")
    for options in ({}, {"full_refresh": "all"}):
        error = loaded.run(**options)["load.load_item"].result
        assert isinstance(error, Refused) and "added extra integer" in str(error)


def test_a_column_that_a_view_uses_is_not_altered_behind_its_back(loaded: Project) -> None:
    loaded.in_warehouse("CREATE VIEW mine AS SELECT n FROM staging.item")
    loaded.in_source(f"ALTER TABLE item ALTER n TYPE bigint; {TOUCH}")
    error = loaded.run()["load.load_item"].result
    assert isinstance(error, Refused) and "drop what uses it first" in str(error)


def test_a_table_that_is_gone_is_named_with_its_nearest_neighbour(loaded: Project) -> None:
    loaded.in_source("DROP TABLE item; CREATE TABLE items (id int)")
    error = loaded.run()["extract.extract_item"].result
    assert isinstance(error, Refused) and "no table public.item (did you mean 'items'?)" in str(
        error
    )


def test_a_target_that_was_dropped_is_loaded_anew(loaded: Project) -> None:
    loaded.in_warehouse("DROP TABLE staging.item")
    loaded.succeed()
    assert loaded.differences("item") == 0
