"""One run of one contender, as a child process: time, CPU by who used it, memory."""

from __future__ import annotations

import resource
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.world import World, ask


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Seconds of wall and CPU time, the largest sum of resident memory of all processes, WAL
    written (MB = 10^6)."""

    wall: float
    client: float
    source: float
    warehouse: float
    s3: float
    peak_mb: float
    wal_mb: float


class Failed(RuntimeError):
    """A contender ended with another exit code than expected; the message has the end of what it
    said."""


def measured(
    world: World,
    command: list[str],
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    expected: int = 0,
) -> Usage:
    """Run `command` and measure it. Raises Failed unless it exits with `expected`."""
    world.settle()
    wal = _wal(world)
    before, started = world.cpu_seconds(), time.monotonic()
    with log.open("wb") as out:
        child = subprocess.Popen(
            command, env=dict(env), cwd=cwd, stdout=out, stderr=subprocess.STDOUT
        )
        watcher = _Watcher(child.pid)
        watcher.start()
        code = child.wait()
    wall = time.monotonic() - started
    watcher.finish()
    time.sleep(0.3)  # a backend that has just ended has left its CPU time to nobody yet
    after = world.cpu_seconds()
    if code != expected:
        raise Failed(f"{command[:4]} ended with {code}: {log.read_text(errors='replace')[-2000:]}")
    servers = {name: after[name] - before[name] for name in before}
    return Usage(
        wall=wall,
        client=watcher.cpu,
        peak_mb=watcher.peak / 1e6,
        wal_mb=(_wal(world) - wal) / 1e6,
        **servers,
    )


def _wal(world: World) -> int:
    return int(
        ask(f"{world.warehouse}/postgres", "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")[0][0]
    )


class _Watcher(threading.Thread):
    """Looks at a process and its descendants every 20 ms; CPU of those that ended is their parent's
    to tell."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self.peak = 0
        self.cpu = 0.0

    def run(self) -> None:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        while not self._ended.wait(0.02):
            self._look()
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu = spent.ru_utime + spent.ru_stime - children.ru_utime - children.ru_stime

    def _look(self) -> None:
        try:
            family = [self._process, *self._process.children(recursive=True)]
        except psutil.Error:
            return
        total = 0
        for process in family:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        self.peak = max(self.peak, total)

    def finish(self) -> None:
        """After the process has been waited for."""
        self._ended.set()
        self.join()
