"""The oracle itself: it must see a lost row, a doubled row, a wrong value and a wrong ledger."""

from __future__ import annotations

import pytest

from tests.faults.oracle import Verdict, judge, violations, watermark_violations
from tests.project import Project

SOURCE = """
CREATE TABLE item (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item SELECT i, md5(i::text) FROM generate_series(1, 100) i;
"""
DAMAGES = {
    "DELETE FROM staging.item WHERE id <= 3": Verdict(rows=100, lost=3),
    (
        "ALTER TABLE staging.item DROP CONSTRAINT item_pkey;"
        " INSERT INTO staging.item SELECT * FROM staging.item LIMIT 2"
    ): Verdict(rows=100, doubled=2),
    "UPDATE staging.item SET what = NULL WHERE id = 7": Verdict(rows=100, lost=1, doubled=1),
}
LIES = {
    "UPDATE loadsheet.scope SET last_load_no = 99": "not its highest",
    "UPDATE loadsheet.scope SET fence = 0": "never given out",
    "UPDATE staging.item SET _load_id = 99": "never happened",
    "DELETE FROM staging.item WHERE id = 1": "its loads say 100",
    "CREATE TABLE staging._loadsheet_7 ()": "left behind",
}


@pytest.fixture
def loaded(project: Project) -> Project:
    project.in_source(SOURCE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    return project


def test_equal_tables_and_a_true_ledger_have_nothing_to_report(loaded: Project) -> None:
    assert judge(loaded, "item") == Verdict(rows=100)
    assert violations(loaded) == []
    assert watermark_violations(loaded, "item", "at") == []


def test_every_kind_of_damage_is_counted(project: Project) -> None:
    project.in_source(SOURCE)
    project.spec({"item": {"incremental": "at"}})
    for damage, verdict in DAMAGES.items():
        project.succeed(full_refresh="all")
        project.in_warehouse(damage)
        assert judge(project, "item") == verdict


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_of_the_ledger_is_seen(loaded: Project, lie: str) -> None:
    loaded.in_warehouse(lie)
    assert any(LIES[lie] in problem for problem in violations(loaded))


def test_a_watermark_past_the_data_is_seen(loaded: Project) -> None:
    loaded.in_warehouse("UPDATE loadsheet.scope SET watermark = '2999-01-01'")
    assert "past the data" in watermark_violations(loaded, "item", "at")[0]
