"""Files that are not what a command expects end in a message, never in a traceback. A pipeline file
that is a link to itself was reported as a bug (`Path.resolve` raises RuntimeError for it)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Cli

FILES = {
    "spec": "pipelines/shop/pipeline.yml",
    "sql": "pipelines/shop/sql/sales.sql",
    "sql folder": "pipelines/shop/sql",
    "pipelines": "pipelines",
    "connections": "connections/connections.yml",
    "connections folder": "connections",
    "pools": "connections/pools.json",
    "dotenv": ".env",
    "test": "pipelines/shop/tests/sales.yml",
    "tests folder": "pipelines/shop/tests",
}
COMMANDS = (["check"], ["plan", "shop"], ["render", "shop"], ["grants", "shop"], ["test", "shop"])


def _write(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


ODD: dict[str, Callable[[Path], object]] = {
    "empty": _write(b""),
    "binary": _write(bytes(range(256)) * 8),
    "NUL": _write(b"a\0b: c\n"),
    "UTF-16": _write("version: 1\n".encode("utf-16")),
    "Latin-1": _write("description: größe\n".encode("latin-1")),
    "a list": _write(b"- a\n- [b]\n"),
    "a number": _write(b"42"),
    "very deep": _write(b"[" * 3000),
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("/nonexistent/file"),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("file", FILES)
def test_it_is_a_message_and_no_traceback(cli: Cli, project: Path, file: str, odd: str) -> None:
    path = project / FILES[file]
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    ODD[odd](path)
    for command in COMMANDS:
        result = cli(*command)
        assert result.code in (0, 1, 2), (command, result)
        if result.code:
            assert result.out + result.err
