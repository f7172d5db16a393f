"""What `-v`, `-vv` and `--log-format` show, and the file that a bug leaves."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loadsheet import __version__, postgres
from loadsheet.redact import register_secrets
from tests.imports import imported_by
from tests.unit.cli.conftest import Cli

Engine = Callable[[Callable[..., Any]], None]
VERSIONS = f"loadsheet {__version__}, Python {platform.python_version()}, "
SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """The package's logger, as it was before the test; temporary files are the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    package = logging.getLogger("loadsheet")
    before = (package.handlers, package.propagate, package.level)
    yield package
    package.handlers, package.propagate = before[0], before[1]
    package.setLevel(before[2])


@pytest.fixture
def talking(engine: Engine) -> None:
    """An engine that logs a decision, a statement and a secret."""

    def run_pipeline(*args: Any, **kwargs: Any) -> list[Any]:
        register_secrets(SECRET)
        log = logging.getLogger("loadsheet.engine.execute")
        log.info("extract.extract_orders of shop begins with %s", SECRET)
        log.debug("SELECT 1\n  FROM orders")
        return []

    engine(run_pipeline)


def test_without_v_nothing_is_logged(cli: Cli, project: Path, talking: None) -> None:
    assert "begins" not in cli("run", "shop").err


def test_v_logs_the_versions_first_and_decisions_without_sql(
    cli: Cli, project: Path, talking: None
) -> None:
    first, *lines = cli("-v", "run", "shop").err.splitlines()
    assert "INFO loadsheet: " in first and VERSIONS in first
    assert any("INFO loadsheet.engine.execute: extract" in line for line in lines)
    assert not any("SELECT" in line for line in lines)


def test_vv_logs_statements_too_each_on_one_line(cli: Cli, project: Path, talking: None) -> None:
    assert "DEBUG loadsheet.engine.execute: SELECT 1 FROM orders\n" in cli("-vv", "run", "shop").err


def test_a_log_in_json_is_one_object_per_line(cli: Cli, project: Path, talking: None) -> None:
    log = cli("-v", "--log-format", "json", "run", "shop").err
    lines = [json.loads(line) for line in log.splitlines()]
    assert lines[0]["message"].startswith(VERSIONS)
    assert {tuple(line) for line in lines} == {("time", "level", "logger", "message")}


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_log_masks_secrets(cli: Cli, project: Path, talking: None, log_format: str) -> None:
    log = cli("-vv", "--log-format", log_format, "run", "shop").err
    assert "begins with ***" in log and SECRET not in log


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_log_shows_what_is_not_known_as_a_secret(
    cli: Cli, project: Path, engine: Engine, log_format: str
) -> None:
    """The negative control: only the mask keeps a secret out of the lines above."""

    def run_pipeline(*args: Any, **kwargs: Any) -> list[Any]:
        logging.getLogger("loadsheet.engine.execute").info("begins with %s", "in-the-open")
        return []

    engine(run_pipeline)
    assert "begins with in-the-open" in cli("-v", "--log-format", log_format, "run", "shop").err


def test_a_log_masks_what_is_called_a_secret(cli: Cli, project: Path, engine: Engine) -> None:
    def run_pipeline(*args: Any, **kwargs: Any) -> list[Any]:
        logging.getLogger("loadsheet.engine.execute").info("password=never-registered, then")
        return []

    engine(run_pipeline)
    assert "password=***, then" in cli("-v", "run", "shop").err


def test_logging_is_imported_only_for_v() -> None:
    code = "from loadsheet.cli.main import app; app([{}'check', '.'], standalone_mode=False)"
    assert "loadsheet.cli.logs" not in imported_by(code=code.format("")).split()
    assert "loadsheet.cli.logs" in imported_by(code=code.format("'-v', ")).split()


def test_an_unknown_log_format_is_refused(cli: Cli, project: Path) -> None:
    result = cli("-v", "--log-format", "xml", "check")
    assert result.code == 2 and "text" in result.err and "json" in result.err


def broken(*args: Any, **kwargs: Any) -> None:
    register_secrets(SECRET)
    raise ZeroDivisionError(f"oops {SECRET}")


def test_a_bug_leaves_a_file_for_the_report(cli: Cli, project: Path, engine: Engine) -> None:
    engine(broken)
    result = cli("run", "shop")
    assert result.code == 3
    (report,) = project.glob("loadsheet-bug-*/report.txt")
    assert f"please report it and attach this file: {report}" in result.err
    text = report.read_text()
    assert text.startswith(VERSIONS)
    assert "ZeroDivisionError: oops" in text and SECRET not in text
    assert not report.parent.stat().st_mode & 0o077


def test_a_bug_report_names_the_command_line_and_the_servers_without_secrets(
    cli: Cli, project: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine(broken)
    monkeypatch.setattr(postgres, "server_versions", {"shop_source": "16.4"})
    login = "postgresql://loader:open-sesame@db/shop"
    monkeypatch.setattr(sys, "argv", ["loadsheet", "run", "shop", "--from", login, "token=abcdef"])
    cli("run", "shop")
    (report,) = project.glob("loadsheet-bug-*/report.txt")
    versions, command = report.read_text().splitlines()[:2]
    assert versions.startswith(VERSIONS) and versions.endswith(", shop_source: PostgreSQL 16.4")
    assert command == "loadsheet run shop --from postgresql://***@db/shop token=***"


def test_where_no_file_can_be_written_the_lines_are_there(
    cli: Cli, project: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(project / "missing"))
    engine(broken)
    result = cli("run", "shop")
    assert result.code == 3 and "ZeroDivisionError" in result.err
    assert "please report it with the lines above" in result.err


@pytest.mark.parametrize("driver", ["psycopg", "urllib3.connectionpool"])
def test_warnings_of_drivers_are_not_printed(driver: str) -> None:
    """psycopg's `error ignored terminating <psycopg.Copy [BAD] at 0x7f...>` was, in a run whose
    load another run had overtaken. A process of its own: pytest handles every logger."""
    code = f"import logging, loadsheet.cli.main; logging.getLogger({driver!r}).warning('odd')"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stderr == ""
