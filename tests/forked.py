"""Processes that are forked from one that has imported everything already.

To start Python and import the command line takes half a second of a core, and a suite does it a
thousand times; a fork takes 20 ms.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import forkserver
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("tests.byhand", "tests.faults.naive", "tests.faults.workers", "tests.forked"),
        *(f"loadsheet.cli.{name}" for name in ("main", "plan", "run", "status", "verify")),
        *("loadsheet.engine.extract", "loadsheet.engine.fill", "loadsheet.engine.load"),
        *("loadsheet.engine.transform", "loadsheet.preview.pipeline", "loadsheet.status.pipeline"),
        *("loadsheet.spec.pipeline_file", "jsonschema", "pydantic", "stringprep"),
        *("rich.console", "rich.live", "rich.progress", "rich.table", "rich.tree"),
    ]
)


def command_line(
    arguments: Sequence[str], environment: dict[str, str], seconds: float = 300
) -> subprocess.CompletedProcess[str]:
    """`loadsheet <arguments>` in a forked process of its own, with nothing on its standard input.
    Raises subprocess.TimeoutExpired after `seconds`, and the process is killed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        folder = os.getcwd()
        given = (list(arguments), environment, folder, _path(out.fileno()), _path(err.fileno()))
        process = FORKS.Process(target=run_here, args=given)
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), seconds)
        printed = []
        for stream in (out, err):
            stream.seek(0)
            printed.append(stream.read().decode())
    command = ["loadsheet", *arguments]
    return subprocess.CompletedProcess(command, process.exitcode, printed[0], printed[1])


def end() -> None:
    """End the process that forks, if it was started, and wait for it."""
    server: Any = forkserver
    server._forkserver._stop()


def _path(descriptor: int) -> str:
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def run_here(
    arguments: list[str], environment: dict[str, str], folder: str, out: str, err: str
) -> None:
    """`loadsheet <arguments>` in this process, which ends; `out` and `err` are the paths of what it
    prints to."""
    become(environment, out, err)
    os.chdir(folder)
    sys.argv = ["loadsheet", *arguments]
    from loadsheet.__main__ import main

    main()


def become(environment: dict[str, str], out: str, err: str) -> None:
    """Give this process an environment, and files in place of its standard output and error."""
    os.environ.clear()
    os.environ.update(environment)
    for path, number in ((out, 1), (err, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
