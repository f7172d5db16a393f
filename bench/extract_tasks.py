"""How long the extract of one large table takes with several tasks (`extract_tasks`): a simulation.

    python -m bench.extract_tasks [GB]

A task has two sessions. A session takes the next range when it has read one. What it reads a second
is the least of what the source gives one session, of its share of what its worker can take, and of
its share of what the source can give in all. The readers begin some seconds later, as processes do.
docs/performance.md has the figures that come out, and those that go in.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

SESSIONS = 2
RANGES_PER_SESSION = 4
STARTING_SECONDS = 3.0
TASKS = (1, 2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """MB of COPY data a second."""

    session: float
    """That the source sends to one session."""
    worker: float
    """That one task packs and stores."""
    source: float
    """That the source sends to all sessions."""


SHAPES = {
    "a worker is the limit": Limits(session=350, worker=250, source=4000),
    "a session is the limit": Limits(session=60, worker=250, source=4000),
    "the source is the limit": Limits(session=350, worker=250, source=500),
}


@dataclass
class _Session:
    task: int
    left: float
    """MB of its range that are not read yet."""


def seconds(megabytes: float, tasks: int, limits: Limits) -> float:
    """How long the extract takes."""
    ranges = tasks * SESSIONS * RANGES_PER_SESSION
    size = megabytes / ranges
    waiting = ranges
    sessions: list[_Session] = []
    now = 0.0

    def take(task: int) -> None:
        nonlocal waiting
        if waiting:
            waiting -= 1
            sessions.append(_Session(task, size))

    for _ in range(SESSIONS):
        take(0)
    starts = STARTING_SECONDS if tasks > 1 else float("inf")
    while sessions:
        speeds = list(_speeds(sessions, limits))
        step = min(one.left / speed for one, speed in zip(sessions, speeds, strict=True))
        step = min(step, starts - now)
        now += step
        for one, speed in zip(sessions, speeds, strict=True):
            one.left -= speed * step
        done = [one for one in sessions if one.left <= size * 1e-9]
        sessions = [one for one in sessions if one not in done]
        for one in done:
            take(one.task)
        if now >= starts:
            starts = float("inf")
            for task in range(1, tasks):
                for _ in range(SESSIONS):
                    take(task)
    return now


def _speeds(sessions: list[_Session], limits: Limits) -> Iterator[float]:
    """What each session reads a second."""
    busy = [one.task for one in sessions]
    wanted = [min(limits.session, limits.worker / busy.count(one.task)) for one in sessions]
    share = min(1.0, limits.source / sum(wanted))
    for speed in wanted:
        yield speed * share


def main() -> None:
    """Print a row per shape: minutes by the number of tasks, and how many times as fast."""
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 105.0
    print(f"{gigabytes:g} GB | " + " | ".join(f"{tasks} tasks" for tasks in TASKS))
    for name, limits in SHAPES.items():
        times = [seconds(gigabytes * 1000, tasks, limits) for tasks in TASKS]
        cells = [f"{time / 60:.1f} min ({times[0] / time:.1f}x)" for time in times]
        print(f"{name} | " + " | ".join(cells))


if __name__ == "__main__":
    main()
