"""`loadsheet status` without servers: its command line, its ages, its troubles. With:
tests/core/test_status.py."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from rich.console import Console
from rich.text import Text

from loadsheet.cli.main import app
from loadsheet.cli.status import Command
from loadsheet.connections.lookup import Connections
from loadsheet.spec.models import Pipeline
from loadsheet.status import page
from loadsheet.status import pipeline as status_pipeline
from loadsheet.status.models import PipelineStatus, RowCount, TableStatus
from loadsheet.wording import age
from tests.unit.cli.conftest import SPEC, Cli, write_pipeline


@pytest.fixture
def ledger(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose warehouse has loaded nothing yet."""

    def stand(pipeline: Pipeline, connections: Connections) -> PipelineStatus:
        never = {"rows": RowCount(number=None), "last": None, "failure": None, "in_spec": True}
        tables = [
            TableStatus(
                name=t.name, target=f"staging.{t.name}", watermark=None, cursor=None, **never
            )
            for t in pipeline.tables
        ]
        return PipelineStatus(
            pipeline=pipeline.name, at=datetime.now(UTC), tables=tables, transforms=[]
        )

    monkeypatch.setattr(status_pipeline, "pipeline_status", stand)
    return project


def test_all_pipelines_are_shown_when_none_is_named(cli: Cli, ledger: Path) -> None:
    write_pipeline(ledger, "other", SPEC.replace("shop", "other"))
    result = cli("status")
    assert result.code == 0
    assert "other: 3 tables" in result.out and "shop: 3 tables" in result.out
    assert [pipeline["pipeline"] for pipeline in cli("status", "--json").json["pipelines"]] == [
        "other",
        "shop",
    ]


def test_a_name_is_text_and_no_markup(cli: Cli, ledger: Path) -> None:
    assert "odd [red]name" in cli("status", "shop").out


def test_in_a_narrow_terminal_names_stay_whole_as_long_as_watermarks_can_be_folded() -> None:
    """At 60 columns `countries` was five lines of two letters."""
    heads = ("table", "loaded", ">rows", "watermark", "data", "source")
    cells = ("countries", "10m ago", "~600,000", "2026-11-29 20:52:29", "13m", "up to date")
    out = Console(width=60, file=io.StringIO())
    out.print(page._grid(heads, [tuple(Text(cell) for cell in cells)]))
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    assert "countries" in shown and "2026-11-29 " in shown and "20:52:29" in shown


@pytest.mark.parametrize(
    "args", [["--watch", "0"], ["--watch=soon"], ["--watch=inf"], ["--watch=nan"]]
)
def test_the_seconds_between_two_looks_are_some_and_less_than_a_day(
    cli: Cli, ledger: Path, args: list[str]
) -> None:
    assert cli("status", *args).code == 2


@pytest.mark.parametrize(
    ("args", "pipeline", "watch"),
    [
        ([], None, None),
        (["--watch"], None, 5.0),
        (["--watch", "2"], None, 2.0),
        (["--watch", "0.5", "shop"], "shop", 0.5),
        (["shop", "--watch"], "shop", 5.0),
        (["--watch", "shop"], "shop", 5.0),
        (["--watch=3", "shop"], "shop", 3.0),
    ],
)
def test_watch_takes_seconds_or_none(
    args: list[str], pipeline: str | None, watch: float | None
) -> None:

    command = typer.main.get_command(app).commands["status"]  # type: ignore[attr-defined]
    assert isinstance(command, Command)
    parameters = command.make_context("status", args).params
    assert (parameters["pipeline"], parameters["watch"]) == (pipeline, watch)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (0.9, "0s"),
        (59, "59s"),
        (60, "1m"),
        (3_599, "59m"),
        (3_600, "1h"),
        (3_900, "1h 5m"),
        (36_000, "10h"),
        (90_000, "1d 1h"),
        (900_000, "10d"),
    ],
)
def test_an_age_is_one_or_two_units(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_a_warehouse_that_is_away_is_no_crash(cli: Cli, project: Path) -> None:
    result = cli("status", "shop")
    assert (result.code, result.out) == (1, "")
    named = "error: the warehouse (connection 'warehouse'): connection failed: "
    assert result.err.startswith(named)
    assert "(SQLSTATE 08001)" in result.err and "Next: check that the server runs" in result.err
    assert "s3cr3t" not in result.err


def test_an_unknown_pipeline_lists_the_known(cli: Cli, project: Path) -> None:
    result = cli("status", "nope")
    assert result.code == 2
    assert "it has: shop" in result.err
