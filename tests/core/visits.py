"""What the tests of intervals share: a table that was read by data interval, not in full."""

from __future__ import annotations

from tests.project import Project


def read_two_days(project: Project) -> None:
    """A table of four days of `visit`, of which the first and the third were read by interval."""
    project.in_source(
        "CREATE TABLE visit (id int PRIMARY KEY, at timestamptz); INSERT INTO visit"
        " SELECT i, '2026-01-01'::timestamptz + i * interval '1 h' FROM generate_series(0, 95) i"
    )
    table = {"incremental": {"cursor": "at", "by": "data_interval"}}
    project.spec({"visit": table}, schedule="@daily", start_date="2026-01-01")
    for day in (1, 3):
        start, end = f"2026-01-0{day}T00:00:00+00:00", f"2026-01-0{day + 1}T00:00:00+00:00"
        project.succeed(interval_start=start, interval_end=end)
