"""A project whose source changes between runs: what staging held before, and whether each table is
that or right."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

from loadsheet.engine.runner import StepResult, run_pipeline
from loadsheet.errors import LoadsheetError
from loadsheet.outcome import RunRequest
from loadsheet.spec.pipeline_file import load_pipeline
from tests.faults.oracle import Verdict, judge, violations
from tests.faults.proxy import through
from tests.project import Project

SOURCE = """
CREATE TABLE item (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE code (id int PRIMARY KEY, what text);
INSERT INTO item SELECT i, md5(i::text) FROM generate_series(1, 2000) i;
INSERT INTO code SELECT i, md5(i::text) FROM generate_series(1, 1500) i;
"""
CHANGE = """
UPDATE item SET what = md5(what), at = clock_timestamp() WHERE id % 3 = 0;
INSERT INTO item SELECT max(id) + 1, 'new' FROM item;
UPDATE code SET what = md5(what) WHERE id % 5 = 0;
"""


@dataclass
class Changing:
    """`item` is merged by its cursor, `code` replaced. `ports` leads some of the connections
    through proxies."""

    project: Project
    ports: dict[str, int] = field(default_factory=dict)
    source: str = SOURCE
    before: dict[str, object] = field(default_factory=dict)
    tables: dict[str, Any] = field(
        default_factory=lambda: {"item": {"incremental": "at"}, "code": {}}
    )

    def __post_init__(self) -> None:
        self.project.in_source(self.source)
        self.succeed()

    def run(self, timeout: int = 60) -> dict[str, StepResult]:
        """One run, each step limited to `timeout` seconds. Raises what no user should ever see."""
        self.project.spec(self.tables, tasks={"timeout": f"{timeout}s"})
        pipeline = load_pipeline(
            self.project.folder / "pipelines" / self.project.name / "pipeline.yml"
        )
        request = RunRequest(run_id=f"test__{secrets.token_hex(4)}")
        return run_pipeline(pipeline, request, through(self.project.connections, self.ports))

    def succeed(self) -> dict[str, StepResult]:
        """A run in which nothing fails."""
        results = self.run()
        for error in errors(results):
            raise error
        return results

    def change(self) -> None:
        """New rows in the source; remembers what staging holds before they come."""
        self.before = self.content()
        self.project.in_source(CHANGE)

    def content(self) -> dict[str, object]:
        """A hash of each staging table."""
        rows = "SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM staging.{} t"
        return {table: self.project.in_warehouse(rows.format(table)) for table in self.tables}

    def is_as_before(self) -> bool:
        """Whether nothing was loaded since `change`."""
        return self.content() == self.before

    def judge_what_changed(self) -> list[Verdict]:
        """After a fault: every table that is not as before must be right, and the ledger too."""
        assert violations(self.project) == []
        after = self.content()
        found = [
            judge(self.project, table)
            for table in self.tables
            if after[table] != self.before[table]
        ]
        assert not any(found), found
        return found

    def judge(self) -> list[Verdict]:
        """After a good run: every table equals the source."""
        assert violations(self.project) == []
        found = [judge(self.project, table) for table in self.tables]
        assert not any(found), found
        return found


def errors(results: dict[str, StepResult]) -> list[LoadsheetError]:
    """What the steps failed with; anything that nobody foresaw is raised."""
    found: list[LoadsheetError] = []
    for result in results.values():
        if isinstance(result.result, LoadsheetError):
            found.append(result.result)
        elif isinstance(result.result, Exception):
            raise result.result
    return found
