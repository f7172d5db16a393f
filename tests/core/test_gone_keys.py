"""Keys that a manifest lists as gone leave the target in the load's own transaction."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from loadsheet.engine import extract
from loadsheet.engine.attempt import Attempt
from loadsheet.engine.snapshot import Copied
from loadsheet.errors import Corrupt, Refused
from loadsheet.lake.gone import store_keys
from loadsheet.lake.manifest import Manifest
from tests.faults.oracle import judge, violations
from tests.project import Project

CREATE = """
CREATE TABLE item (
    id bigint, "the ""name" text, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (id, "the ""name")
);
INSERT INTO item (id, "the ""name") SELECT i, 'n' || i FROM generate_series(1, 200) i;
INSERT INTO item (id, "the ""name") VALUES (7, ''), (7, 'a,"b' || chr(10) || 'c'), (7, 'NULL');
"""
GONE = [("7", ""), ("7", 'a,"b\nc'), ("7", "NULL"), ("9", "n9")]
DELETE = """DELETE FROM item WHERE id = 7 AND "the ""name" <> 'n7' OR id = 9;
INSERT INTO item (id, "the ""name") VALUES (999, 'new');"""


@pytest.fixture(autouse=True)
def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys are those that a test gives."""
    monkeypatch.setattr("loadsheet.engine.deletes.is_due", lambda *given: False)


@pytest.fixture
def with_gone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the next extraction list these keys."""

    def give(keys: list[tuple[str, ...]], **changes: Any) -> None:
        make = extract._manifest

        def changed(attempt: Attempt, copied: Copied, *more: Any) -> Manifest:
            columns = [copied.described.column(name) for name in copied.described.key]
            prefix = attempt.take_fence_once().prefix
            gone = store_keys(attempt.lake, lambda: prefix, columns, keys)
            manifest = make(attempt, copied, *more)
            return dataclasses.replace(
                manifest, **{"gone": gone, "gone_rows": len(keys), **changes}
            )

        monkeypatch.setattr(extract, "_manifest", changed)

    return give


def opened(project: Project, **table: Any) -> None:
    project.in_source(CREATE)
    project.spec({"item": {"incremental": "at", "deletes": "hard", **table}})
    project.succeed()
    project.in_source(DELETE)


def test_the_keys_leave_the_target_with_the_rows_of_the_load(
    project: Project, with_gone: Any
) -> None:
    opened(project)
    with_gone(GONE)
    project.succeed()
    assert not judge(project, "item")
    assert violations(project) == []
    [(inserted, deleted)] = project.in_warehouse(
        "SELECT inserted, deleted FROM loadsheet.load ORDER BY load_no DESC LIMIT 1"
    )
    assert (inserted, deleted) == (1, 4)


def test_without_the_keys_the_rows_stay(project: Project) -> None:
    """The negative control: an increment reads only rows that are there."""
    opened(project)
    project.succeed()
    assert judge(project, "item").doubled == 4


def test_a_count_of_keys_that_is_not_the_manifests_is_refused(
    project: Project, with_gone: Any
) -> None:
    opened(project)
    with_gone(GONE, gone_rows=5)
    with pytest.raises(Corrupt, match="the lake holds 4 rows, but the manifest lists 5"):
        project.succeed()
    assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(203,)]


def test_a_trigger_that_keeps_a_row_stops_the_load(project: Project, with_gone: Any) -> None:
    opened(project)
    project.in_warehouse(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER keep BEFORE DELETE ON staging.item FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    with_gone(GONE)
    with pytest.raises(Refused, match=r"4 rows were not written or deleted.*\(keep\)"):
        project.succeed()
    assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(203,)]


def test_a_restore_removes_the_keys_again(project: Project, with_gone: Any) -> None:
    opened(project)
    with_gone(GONE)
    project.succeed()
    restored = project.cli("restore", "shop", "item", "--into", "audit.item")
    assert restored.returncode == 0, restored.stderr
    assert project.in_warehouse(
        "SELECT count(*), count(*) FILTER (WHERE id = 999) FROM audit.item"
    ) == [(200, 1)]
    assert project.in_warehouse("TABLE audit.item EXCEPT TABLE staging.item") == []
