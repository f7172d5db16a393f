"""Checks many new files in parallel: other processes begin with the last file while this one begins
with the first.

Their results come back through the cache (`compiled.py`), so no caller has to know about them. A
first check of 1,000 files thus uses all cores instead of one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadsheet.spec.compiled import is_remembered
from loadsheet.spec.pipeline_file import check_file

_log = logging.getLogger(__name__)

FEWEST = 64
"""Files. Checking so many takes about a second, and starting another Python a third of one."""
MOST = 3
"""Other processes, of some 60 MB each: a DAG processor may have little memory."""


@contextlib.contextmanager
def checking_in_parallel(specs: Sequence[Path]) -> Iterator[None]:
    """Inside this context, other processes check the pipeline files `specs` from the last one on;
    they end with the context.

    None are started where there are few files, where the last one is in the cache, or where nothing
    can be cached.
    """
    helpers: list[subprocess.Popen[bytes]] = []
    if len(specs) >= FEWEST and is_remembered(specs[-1]) is False:
        # Where the system refuses another process, the check only takes longer.
        with contextlib.suppress(OSError):
            count = min(_cores() - 1, MOST)
            for number in range(count):
                helpers.append(_start(specs[number::count]))
        _log.debug("%d more processes check %d pipeline files", len(helpers), len(specs))
    try:
        yield
    finally:
        # What they have not finished, this process has checked itself.
        for helper in helpers:
            helper.terminate()
            helper.wait()


def _start(specs: Sequence[Path]) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[2])
    python_path = os.environ.get("PYTHONPATH")
    if python_path:
        root = f"{root}{os.pathsep}{python_path}"
    command = [sys.executable, "-P", "-m", "loadsheet.spec.parallel_check", str(os.getpid())]
    # In a file, because the system limits the length of arguments.
    with tempfile.TemporaryFile() as files:
        files.write(b"\0".join(os.fsencode(spec.absolute()) for spec in reversed(specs)))
        files.seek(0)
        return subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": root},
            stdin=files,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_files_on_stdin(parent: int) -> None:
    """Check the files named on stdin, as long as the process `parent`, which started this one,
    lives."""
    for name in sys.stdin.buffer.read().split(b"\0"):
        if os.getppid() != parent:  # the parent has ended
            return
        check_file(Path(os.fsdecode(name)))


if __name__ == "__main__":
    check_files_on_stdin(int(sys.argv[1]))
