"""What `plan`, `plan --connect` and `status` print of 500 tables: counts, and lines for what
changes and fails. They printed one to three lines of each table, the errors in the middle."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loadsheet.cli.plan_tree import MOST_STEPS
from loadsheet.connections.lookup import Connections
from loadsheet.plan.steps import build_plan
from loadsheet.preview import pipeline as preview_pipeline
from loadsheet.preview.models import StepPreview
from loadsheet.spec.models import Pipeline
from loadsheet.status import pipeline as status_pipeline
from loadsheet.status.models import (
    Failure,
    LastCommit,
    PipelineStatus,
    RowCount,
    TableStatus,
)
from loadsheet.status.page import MOST_TARGETS
from tests.unit.cli.conftest import SPEC, Cli

HEAD = SPEC.partition("tables:")[0]
NAMES = [f"table_{number:03}" for number in range(500)]
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def write(project: Path, names: list[str]) -> None:
    text = "".join(f"  {name}:\n" for name in names)
    (project / "pipelines/shop/pipeline.yml").write_text(f"{HEAD}tables:\n{text}")


@pytest.fixture
def many(project: Path) -> Path:
    """The project's pipeline, with 500 tables in place of its own."""
    write(project, NAMES)
    return project


def test_a_plan_counts_the_steps_that_are_alike(cli: Cli, many: Path) -> None:
    lines = cli("plan", "shop").out.splitlines()
    assert len(lines) < 10
    assert lines[0] == "shop: 500 tables, 0 transforms, no schedule"
    assert any("500 tables  all rows" in line for line in lines)
    assert len(cli("plan", "shop", "-v").out.splitlines()) > 1000
    assert len(cli("plan", "shop", "--json").json["steps"]) == 1001


def test_a_few_tables_have_a_line_each(cli: Cli, project: Path) -> None:
    write(project, NAMES[:MOST_STEPS])
    assert len(cli("plan", "shop").out.splitlines()) > 2 * MOST_STEPS


@pytest.mark.parametrize(("failing", "changing"), [(0, 0), (1, 3), (40, 300)])
def test_a_plan_of_now_shows_changes_and_then_errors(
    cli: Cli, many: Path, monkeypatch: pytest.MonkeyPatch, failing: int, changing: int
) -> None:
    def preview(
        spec: Pipeline, connections: Connections
    ) -> tuple[Pipeline, dict[str, StepPreview]]:
        previews = {
            kind: StepPreview(id=kind, changes="no") for kind in ("extract", "load", "transform")
        }
        for step in build_plan(spec):
            number = int(step.name[-3:]) if step.name in NAMES else 999
            now = StepPreview(id=step.id, changes="no", does=f"nothing new since {number}")
            if number < failing:
                now.add_error("privilege", f"role r may not read public.{step.name}")
            elif number < failing + changing:
                now.changes = "yes"
                now.does = f"rows above {number}"
            previews[step.id] = now
        return spec, previews

    monkeypatch.setattr(preview_pipeline, "preview_pipeline", preview)
    result = cli("plan", "shop", "--connect")
    assert result.code == (1 if failing else 0)
    lines = result.out.splitlines()
    assert len(lines) < 12 + 2 * 20 * 3
    quiet = 500 - failing - changing
    assert any(f"{quiet} tables  nothing would change" in line for line in lines)
    problems = {0: "no problems found", 1: "2 errors", 40: "80 errors"}
    assert lines[-1].endswith(problems[failing])
    for table in NAMES[: min(failing, 20)][-1:]:
        assert any(table in line and "may not read" in line for line in lines)
    if failing == 40:
        assert any("320 more: loadsheet plan shop --connect -v lists all" in line for line in lines)
    if failing == 1:
        shown = [line for line in lines if "table_00" in line and "all rows" in line]
        assert ["table_000" in line for line in shown] == [False, False, False, True]
    every = cli("plan", "shop", "--connect", "-v").out
    assert all(f"nothing new since {n}" in every for n in range(failing + changing, 500))


@pytest.fixture
def ledger(many: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A warehouse where table_123 has failed, and all else is loaded."""

    def stand(pipeline: Pipeline, connections: Connections) -> PipelineStatus:
        tables = []
        for table in pipeline.tables:
            last = LastCommit(
                name=table.name,
                target=f"staging.{table.name}",
                at=NOW - timedelta(hours=1),
                run_id="r1",
                number=7,
                how="replace",
                extracted=1,
                inserted=1,
                updated=0,
                deleted=0,
                bytes=9,
                seconds=1.0,
                held_by="",
            )
            one = TableStatus(
                name=table.name,
                target=f"staging.{table.name}",
                rows=RowCount(number=1, exact=True),
                last=last,
                failure=None,
                in_spec=True,
                watermark=None,
                cursor=None,
            )
            if table.name == "table_123":
                failure = Failure(
                    kind="table",
                    name=table.name,
                    step="load",
                    run_id="r2",
                    code="",
                    message="no room",
                    since=NOW,
                    at=NOW,
                    worked_at=None,
                )
                one = replace(one, failure=failure)
            tables.append(one)
        return PipelineStatus(pipeline=pipeline.name, at=NOW, tables=tables, transforms=[])

    monkeypatch.setattr(status_pipeline, "pipeline_status", stand)
    return many


def test_a_status_of_500_shows_what_needs_attention(cli: Cli, ledger: Path) -> None:
    lines = cli("status", "shop").out.splitlines()
    assert len(lines) < 8
    assert lines[0] == (
        "shop: 500 tables, 0 transforms (left out: 499 without a problem:"
        " loadsheet status shop -v lists all)"
    )
    assert any(line.startswith("table_123") and line.endswith("failed") for line in lines)
    assert lines[-1] == "load of table_123 failed 0s ago (run r2): no room"
    assert len(cli("status", "shop", "-v").out.splitlines()) > 500
    assert len(cli("status", "shop", "--json").json["pipelines"][0]["tables"]) == 500


def test_a_status_of_500_that_were_never_loaded_is_bounded(
    cli: Cli, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand(pipeline: Pipeline, connections: Connections) -> PipelineStatus:
        never = {"rows": RowCount(number=None), "last": None, "failure": None, "in_spec": True}
        tables = [
            TableStatus(name=t.name, target=t.name, watermark=None, cursor=None, **never)
            for t in pipeline.tables
        ]
        return PipelineStatus(pipeline=pipeline.name, at=NOW, tables=tables, transforms=[])

    monkeypatch.setattr(status_pipeline, "pipeline_status", stand)
    lines = cli("status", "shop").out.splitlines()
    assert len(lines) < MOST_TARGETS
    assert lines[-1] == "480 more: loadsheet status shop -v lists all"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shop", "--tables", "table_12"], "no table or transform 'table_12' (did you mean"),
        (["shop", "--tables", "tpyo"], "shop has no table or transform 'tpyo'; it has table_000,"),
        (["shop", "--tables", "table_001,tpyo"], "'tpyo'"),
        (["shop", "--tables", ","], "--tables names no table; it has table_000,"),
        (["--tables", "table_001"], "--tables chooses tables of one pipeline"),
        (["shop", "--table", "x"], "No such option: --table (Possible options: --tables"),
    ],
)
def test_a_mistyped_table_is_wrong_input_and_no_empty_page(
    cli: Cli, ledger: Path, arguments: list[str], message: str
) -> None:
    result = cli("status", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_a_table_of_many_is_shown_alone(cli: Cli, ledger: Path) -> None:
    lines = cli("status", "shop", "--tables", "table_007, table_123").out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["table_007", "table_123"]
