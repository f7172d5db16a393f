"""Log lines on stderr (`-v`, `-vv`, `--log-format`), and the file that a bug leaves for its report.

Imported only with `-v` and after a bug: a command's start does not pay for it.
"""

from __future__ import annotations

import json
import logging
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

from loadsheet import __version__
from loadsheet.redact import masked, visible, without_secrets
from loadsheet.wording import shortened

Format = Literal["text", "json"]
_LONGEST = 20_000  # characters of a line: -vv shows statements, which name every column
LEVELS = {1: logging.INFO, 2: logging.DEBUG}
"""What `-v` and `-vv` show: decisions and waits, then also every statement that is sent."""


def start(verbosity: int, log_format: Format) -> None:
    """Show the package's log lines on stderr, the versions first. More than `-vv` is `-vv`."""
    formatters = {"text": _TextLines, "json": _JsonLines}
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatters[log_format]())
    logger = logging.getLogger("loadsheet")
    # Replaced, not added: a process that runs two commands must not log each line twice.
    logger.handlers = [handler]
    # The root logger's handlers know nothing of secrets.
    logger.propagate = False
    logger.setLevel(LEVELS[min(verbosity, 2)])
    logger.info("%s", versions())


def versions() -> str:
    """Loadsheet, Python, the platform and the servers that are connected so far, in one line."""
    parts = [
        f"loadsheet {__version__}",
        f"Python {platform.python_version()}",
        f"{platform.system()} {platform.release()} {platform.machine()}",
    ]
    # Not imported here: that could fail again, if the bug is in an installed driver.
    postgres = sys.modules.get("loadsheet.postgres")
    if postgres:
        for conn_id, version in postgres.server_versions.items():
            parts.append(f"{conn_id}: PostgreSQL {version}")
    return ", ".join(parts)


def write_bug_report(report: str) -> Path | None:
    """Write a file with the versions, the command line and `report`, all without secrets.

    It goes into a new temporary folder that only this user can read, never into the project, where
    it could be committed. Returns the file; None where no file can be written.
    """
    command = without_secrets(shlex.join(["loadsheet", *sys.argv[1:]]))
    text = f"{versions()}\n{command}\n\n{report}\n"
    try:
        folder = Path(tempfile.mkdtemp(prefix="loadsheet-bug-"))
        file = folder / "report.txt"
        file.write_text(visible(masked(text)), encoding="utf-8")
    except OSError:
        return None
    return file


class _TextLines(logging.Formatter):
    """`12:00:00.123 INFO loadsheet.engine.execute: message`, in UTC, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.gmtime(record.created))
        message = _safe(record)
        return f"{clock}.{record.msecs:03.0f} {record.levelname} {record.name}: {message}"


class _JsonLines(logging.Formatter):
    """One JSON object per line, with the keys time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{clock}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _safe(record),
        }
        return json.dumps(line)


def _safe(record: logging.LogRecord) -> str:
    """The message on one line, without secrets and control characters.

    A record's traceback is left out: it could quote values of rows.
    """
    text = without_secrets(record.getMessage())
    return visible(shortened(" ".join(text.split()), _LONGEST))
