"""Checks many new files in parallel: other processes check the last ones while this one
begins with the first.

What they find comes by way of the cache (`compiled.py`), so no caller has to know about them. A
first check of 1,000 files takes as long as the cores there are allow, not as long as one of them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadsheet.spec.compiled import is_remembered
from loadsheet.spec.pipeline_file import check_file

FEWEST = 64
"""Files. They take a second or so; to start another Python takes a third of one."""
MOST = 3
"""Further processes, of some 60 MB each: a DAG processor may have little memory."""


@contextlib.contextmanager
def checked_ahead(specs: Sequence[Path]) -> Iterator[None]:
    """Within, further processes check the pipeline files `specs` from the last one on; they end
    with the context.

    None are started where the files are few, where the last one is known already, or where nothing
    can be kept.
    """
    helpers = _start(specs) if len(specs) >= FEWEST and is_remembered(specs[-1]) is False else []
    try:
        yield
    finally:
        for helper in helpers:
            helper.terminate()
            helper.wait()


def _start(specs: Sequence[Path]) -> list[subprocess.Popen[bytes]]:
    count = min(_cores() - 1, MOST)
    helpers: list[subprocess.Popen[bytes]] = []
    # no more processes are to be had: it takes longer, and that is all
    with contextlib.suppress(OSError):
        for number in range(count):
            helpers.append(_helper(specs[number::count]))
    return helpers


def _helper(specs: Sequence[Path]) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(
        filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")))
    )
    command = [sys.executable, "-P", "-m", "loadsheet.spec.parallel_check", str(os.getpid())]
    with tempfile.TemporaryFile() as files:  # more than arguments may hold
        files.write(b"\0".join(os.fsencode(spec.absolute()) for spec in reversed(specs)))
        files.seek(0)
        return subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": path},
            stdin=files,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(parent: int) -> None:
    """Check the files named on stdin, as long as the process `parent`, which has started this one,
    lives."""
    for name in sys.stdin.buffer.read().split(b"\0"):
        if os.getppid() != parent:
            return
        check_file(Path(os.fsdecode(name)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
