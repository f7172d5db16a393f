"""Which table of a run is extracted first."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from loadsheet.engine import sizes
from loadsheet.engine.runner import run_pipeline
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step
from loadsheet.spec.pipeline_file import load_pipeline
from tests.project import Project

ROWS = "SELECT i, repeat('x', 100) FROM generate_series(1, {}) i"
LONG = "SELECT 1, string_agg(md5(i::text), '') FROM generate_series(1, 40000) i"
# From the smallest to the largest, which is the order in the file.
TABLES = ("few", "more", "long", "parts")


@pytest.fixture
def filled(project: Project) -> Project:
    columns = "(id int PRIMARY KEY, what text)"
    project.in_source(
        f"CREATE TABLE few {columns}; INSERT INTO few {ROWS.format(10)};"
        f"CREATE TABLE more {columns}; INSERT INTO more {ROWS.format(2_000)};"
        f"CREATE TABLE long {columns}; INSERT INTO long {LONG};"
        f"CREATE TABLE parts {columns} PARTITION BY RANGE (id);"
        "CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (15000);"
        "CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM (15000) TO (40000);"
        f"INSERT INTO parts {ROWS.format(30_000)}"
    )
    project.in_source("VACUUM ANALYZE")
    project.spec(dict.fromkeys(TABLES))
    return project


def extracted(project: Project, parallel: int = 1) -> list[str]:
    """The tables in the order in which a run has begun to extract them."""
    order: list[str] = []

    def note(step: Step, state: str, result: Any) -> None:
        if step.kind == "extract" and state == "started":
            order.append(step.name)

    project.grant()
    pipeline = load_pipeline(project.folder / "pipelines" / project.name / "pipeline.yml")
    request = RunRequest(run_id="order", full_refresh="all")
    results = run_pipeline(pipeline, request, project.connections, note, parallel=parallel)
    assert all(result.state == "done" for result in results.values())
    return order


def test_the_largest_table_is_extracted_first(filled: Project) -> None:
    """With its partitions and its long values. In the file's order, it ran alone at the end."""
    assert extracted(filled) == list(reversed(TABLES))


def test_without_a_look_at_their_sizes_the_order_is_that_of_the_file(
    filled: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "pages", lambda *of: {})
    assert extracted(filled) == list(TABLES)


def test_a_run_that_starts_all_of_its_tables_at_once_asks_for_no_sizes(
    filled: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(sizes, "pages", lambda *of: asked.append(of) or {})
    extracted(filled, parallel=len(TABLES))
    assert not asked


def test_the_size_of_a_locked_table_is_not_waited_for(filled: Project) -> None:
    pipeline = load_pipeline(filled.folder / "pipelines" / filled.name / "pipeline.yml")
    servers = filled.table_step("more").servers
    filled.grant()
    with psycopg.connect(filled.source) as session:
        session.execute("LOCK TABLE more, part_1 IN ACCESS EXCLUSIVE MODE")
        found = sizes.pages(pipeline, TABLES, servers)
    assert sorted(found, key=found.__getitem__) == list(TABLES)


def test_a_source_that_does_not_answer_leaves_the_tables_in_the_order_of_the_file(
    filled: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "_PAGES", "SELECT 1 / 0, %s, %s")
    assert extracted(filled) == list(TABLES)
