"""Worker processes to be killed: `loadsheet run`, forked from a process that has imported
everything already.

So random moments fall into the run and not into starting Python, and a worker costs 30 ms instead
of a second.
"""

from __future__ import annotations

import faulthandler
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.forked import FORKS, become
from tests.project import Project, fetch


class Killable:
    """A function in a process of its own, forked from one that has imported everything already."""

    def __init__(self, function: Callable[..., None], *arguments: Any):
        self._process = FORKS.Process(target=function, args=arguments, daemon=True)
        self.began = time.monotonic()
        self._process.start()

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def ends_within(self, seconds: float) -> bool:
        """Wait until so many seconds after its beginning, or its end; whether it has ended."""
        self._process.join(max(0.0, self.began + seconds - time.monotonic()))
        return not self.alive

    def kill(self) -> bool:
        """SIGKILL; whether that, and not its own end, was the end of it."""
        self._process.kill()
        self._process.join()
        return self._process.exitcode == -signal.SIGKILL


class Worker(Killable):
    """One `loadsheet run`, or another command, in a process of its own. `part_bytes` makes parts
    small, so that few rows have several, and `range_rows` the ranges of a fill."""

    def __init__(
        self,
        project: Project,
        *arguments: str,
        command: str = "run",
        failpoint: str = "",
        part_bytes: int = 0,
        range_rows: int = 0,
    ):
        self._output = project.folder / f"worker-{secrets.token_hex(4)}.txt"
        self._output.touch()
        environment = project.environment() | {"LOADSHEET_FAILPOINT": failpoint}
        line = ["--project", str(project.folder), command, project.name, *arguments]
        super().__init__(_work, line, environment, str(self._output), part_bytes, range_rows)

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(errors="replace")

    def wait(self, seconds: float = 120) -> int | None:
        """Its exit code. AssertionError, with where each thread stands, when it has not ended after
        `seconds`."""
        self._process.join(seconds)
        if self._process.exitcode is None and self._process.pid:
            os.kill(self._process.pid, signal.SIGUSR1)
            self._process.join(1)
            self.kill()
            raise AssertionError(f"still running after {seconds:g} s:\n{self.text}")
        return self._process.exitcode


def _work(
    command: list[str],
    environment: dict[str, str],
    output: str,
    part_bytes: int,
    range_rows: int,
) -> None:
    from loadsheet.cli.main import main
    from loadsheet.engine import early, fill
    from loadsheet.lake import parts
    from loadsheet.source import stream

    become(environment, output, output)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    if part_bytes:
        # What a compressor holds back is not counted, so the first block must be a part. It is made
        # of those that the source sends.
        parts.PART_BYTES, parts.BLOCK_BYTES = part_bytes, min(4 * part_bytes, parts.BLOCK_BYTES)
        stream._BLOCK_BYTES = min(part_bytes, stream._BLOCK_BYTES)
        early._FIRST_BYTES = min(part_bytes, early._FIRST_BYTES)
    if range_rows:
        fill.ROWS_PER_RANGE = range_rows
    sys.argv = ["loadsheet", *command]
    sys.exit(main())


def settled(*databases: str, seconds: float = 10) -> None:
    """Wait until no session or lock of ours is left in the databases. AssertionError when one
    outlives the worker."""
    deadline = time.monotonic() + seconds
    for database in databases:
        while left := fetch(database, _LEFT.format(is_ours=session_is_ours)):
            assert time.monotonic() < deadline, f"left behind after {seconds:g} s: {left}"
            time.sleep(0.02)


session_is_ours = "true"
"""The condition under which a session with our name is ours. tests/pooled.py sets another: a pooler
keeps its sessions idle, with the name of who had them last."""
_LEFT = """
SELECT pid, state, query FROM pg_stat_activity
WHERE application_name LIKE 'loadsheet%' AND datname = current_database() AND {is_ours}
UNION ALL
SELECT pid, 'advisory lock', objid::text FROM pg_locks JOIN pg_database d ON d.oid = database
WHERE locktype = 'advisory' AND datname = current_database()
"""
