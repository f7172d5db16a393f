"""What `loadsheet ui` refuses before it serves anything."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.unit.cli.conftest import SPEC, Cli, write_pipeline


def test_a_pipeline_that_is_not_there_is_refused(project: Path, cli: Cli) -> None:
    result = cli("ui", "shop", "shpo")
    assert result.code == 2
    assert "there is no pipeline 'shpo'" in result.err
    assert "did you mean 'shop'" in result.err


def test_a_project_without_pipelines_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("ui")
    assert result.code == 2
    assert "no pipelines" in result.err


def test_pipelines_of_two_projects_are_refused(project: Path, cli: Cli) -> None:
    other = write_pipeline(project / "other", "store", SPEC.replace("shop", "store"))
    result = cli("ui", "pipelines/shop", other)
    assert result.code == 2
    assert "several projects" in result.err


def test_a_port_that_is_taken_is_refused(project: Path, cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = cli("ui", "--port", str(port))
    assert result.code == 2
    assert f"--port: {port} cannot be used" in result.err
