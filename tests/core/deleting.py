"""What the tests of `deletes` share: a table of 1,000 rows, and what a run did and says."""

from __future__ import annotations

from typing import Any

from tests.project import Project

# A time that no two rows share and that stays where it is: an update need not touch it.
CREATE = """
CREATE TABLE item (
    id int PRIMARY KEY, name text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item (id, name, at) SELECT i, 'n' || i, now() - (1000 - i) * interval '1 ms'
    FROM generate_series(1, 1000) i;
"""

NOTHING_ELSE = "DELETE FROM item WHERE id % 100 = 7"


def opened(project: Project, create: str = CREATE, **table: Any) -> None:
    project.in_source(create)
    project.spec({"item": {"incremental": "at", "deletes": "hard", **table}})
    project.succeed()


def effects(project: Project) -> list[tuple[int, int, int]]:
    """What each load has inserted, updated and deleted."""
    return project.in_warehouse(
        "SELECT inserted, updated, deleted FROM loadsheet.load ORDER BY load_no"
    )


def message(project: Project, step: str = "extract.extract_item") -> str:
    result = project.run()[step].result
    return str(getattr(result, "message", result))
