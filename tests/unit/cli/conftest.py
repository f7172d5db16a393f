"""A small project, the command line on it, and an engine that only pretends."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from loadsheet.cli.main import app

SPEC = """\
version: 1
pipeline: shop
source: {conn_id: source}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse}
tables:
  orders: {incremental: updated_at}
  customers:
  "odd [red]name": {primary_key: [a, b]}
transforms:
  sales: {materialized: merge, unique_key: id}
  report:
"""
SQL = {
    "sales": "SELECT id FROM staging.orders WHERE _load_id > :since_load",
    "report": "SELECT * FROM mart.sales JOIN staging.customers USING (id)",
}
CONNECTIONS = """\
source: {conn_type: postgres, host: "${SOURCE_HOST:-localhost}"}
lake: {conn_type: generic, extra: {endpoint_url: "http://localhost:1"}}
warehouse:
  conn_type: postgres
  host: localhost
  port: 1
  password: "${WAREHOUSE_PASSWORD:-s3cr3t}"
"""


@dataclass
class Result:
    """What a command printed and the code it ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]


def write_pipeline(project: Path, folder: str, spec: str = SPEC, sql: dict[str, str] = SQL) -> Path:
    """A pipeline file and its SQL below `project`; returns the file."""
    home = project / "pipelines" / folder
    (home / "sql").mkdir(parents=True)
    for name, text in sql.items():
        (home / "sql" / f"{name}.sql").write_text(text)
    (home / "pipeline.yml").write_text(spec)
    return home / "pipeline.yml"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the pipeline `shop`; it is also the current folder."""
    write_pipeline(tmp_path, "shop")
    (tmp_path / "connections").mkdir()
    (tmp_path / "connections" / "connections.yml").write_text(CONNECTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where a bug leaves its report
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def cli() -> Cli:
    """Runs `loadsheet` with arguments; no command may show a traceback unless it is about a bug."""

    def run(*args: str | Path) -> Result:
        result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="loadsheet")
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        if result.exit_code != 3:
            assert "Traceback" not in result.stdout + result.stderr
        return Result(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Puts a function in the place of `run_pipeline`; every server answers."""

    def replace(run_pipeline: Callable[..., Any]) -> None:
        runner = ModuleType("loadsheet.engine.runner")
        runner.run_pipeline = run_pipeline  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "loadsheet.engine.runner", runner)
        preflight = ModuleType("loadsheet.engine.preflight")
        preflight.preflight = lambda *given: None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "loadsheet.engine.preflight", preflight)

    return replace
