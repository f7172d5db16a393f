"""Which pools Airflow has, for the parse of a DAG file of the bundle.

A task in a pool that does not exist waits for ever, and only a scheduler's log has a line about it.
The DAG processor may ask Airflow's database, its parses may not, and neither may a worker. So the
processor leaves the names in a file for its parses.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path

from airflow.sdk import DAG

from loadsheet.airflow.stubs import Stubs, write_atomically
from loadsheet.names import closest
from loadsheet.redact import summary, visible

_log = logging.getLogger(__name__)
_ASK_EVERY_SECONDS = 5.0
_MOST_TASKS = 3


class Pools:
    """Keeps the names of Airflow's pools in the home of the DAG files of `stubs`."""

    def __init__(self, stubs: Stubs):
        self._stubs = stubs
        self._file = stubs.home / "pools.json"
        self._asked = 0.0

    def refresh(self) -> None:
        """Note the pools that Airflow has now. If they have changed, every DAG file is parsed
        again. Without an answer, what was noted before stays."""
        if self._asked and time.monotonic() - self._asked < _ASK_EVERY_SECONDS:
            return
        self._asked = time.monotonic()
        try:
            names = sorted(_existing())
        except Exception as error:
            _log.warning("Airflow's pools are unknown: %s", summary(error))
            return
        if names == _noted(self._file):
            return
        write_atomically(self._file, json.dumps(names), drafts=self._stubs.home)
        self._stubs.parse_all()


def _existing() -> list[str]:
    # Airflow's models: only the DAG processor has them at hand.
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session

    with create_session() as session:
        return [str(pool.pool) for pool in Pool.get_pools(session=session)]


def _noted(file: Path) -> list[str] | None:
    with contextlib.suppress(OSError, ValueError):
        names: list[str] = json.loads(file.read_text(encoding="utf-8"))
        return names
    return None


def missing_pools(dag: DAG, stub: Path) -> str:
    """The problems of a DAG whose tasks are in pools that Airflow does not have, one per line;
    empty where there are none, or where the pools are unknown. `stub` is its DAG file."""
    existing = _noted(stub.parents[1] / "pools.json")
    if existing is None:
        return ""
    tasks: dict[str, list[str]] = {}
    for task in dag.tasks:
        tasks.setdefault(task.pool, []).append(task.task_id)
    lines = []
    for pool in sorted(tasks.keys() - set(existing)):
        lines.append(_problem(pool, tasks[pool], existing))
    return "\n".join(lines)


def _problem(pool: str, tasks: list[str], existing: Iterable[str]) -> str:
    meant = closest(pool, existing)
    hint = f" (did you mean {visible(meant)!r}?)" if meant else ""
    shown = ", ".join(tasks[:_MOST_TASKS])
    if len(tasks) > _MOST_TASKS:
        shown += f" and {len(tasks) - _MOST_TASKS} more"
    return (
        f"Airflow has no pool {visible(pool)!r}{hint}, and {shown} would wait in it for ever."
        " Create it under Admin, Pools, or change `pool`"
    )
