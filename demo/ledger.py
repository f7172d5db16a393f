"""What a run did, from Airflow's task states and the warehouse's ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

from demo.airflow import Task

_LOADS = """
    SELECT table_name AS name, extracted, inserted, updated, deleted,
           extract_seconds + load_seconds AS seconds
    FROM loadsheet.load WHERE run_id = %s"""
_TRANSFORMS = """
    SELECT transform AS name, NULL AS extracted, inserted, updated, deleted, seconds
    FROM loadsheet.transform_run WHERE run_id = %s"""


@dataclass(frozen=True)
class Work:
    """One table's load or one transform's run, in rows."""

    name: str
    extracted: int | None
    inserted: int
    updated: int
    deleted: int
    seconds: float


@dataclass(frozen=True)
class Line:
    """One table or mart in a run: its state, and the work (None when there was none)."""

    name: str
    state: str
    work: Work | None


@dataclass(frozen=True)
class Run:
    """One finished run."""

    run_id: str
    state: str
    seconds: float
    tables: list[Line]
    transforms: list[Line]
    tasks: list[Task]

    def states(self, group: str) -> dict[str, str]:
        """Table or transform -> state of its step in `group` (extract, load, transform)."""
        prefix = f"{group}.{group}_"
        return {
            t.task_id.removeprefix(prefix): t.state or ""
            for t in self.tasks
            if t.task_id.startswith(prefix)
        }


def read_run(warehouse: str, run_id: str, state: str, seconds: float, tasks: list[Task]) -> Run:
    """Put together the tasks of a run and what the ledger in `warehouse` records about it."""
    with psycopg.connect(warehouse) as session:
        loads, transforms = _works(session, _LOADS, run_id), _works(session, _TRANSFORMS, run_id)
    return Run(
        run_id,
        state,
        seconds,
        _lines(tasks, ("extract", "load"), loads),
        _lines(tasks, ("transform",), transforms),
        tasks,
    )


def _works(session: psycopg.Connection[Any], query: str, run_id: str) -> dict[str, Work]:
    if session.execute("SELECT to_regclass('loadsheet.transform_run')").fetchone() == (None,):
        return {}
    with session.cursor(row_factory=class_row(Work)) as cursor:
        return {work.name: work for work in cursor.execute(query.encode(), (run_id,))}


def _lines(tasks: list[Task], groups: tuple[str, ...], works: dict[str, Work]) -> list[Line]:
    """One line per name."""
    found: dict[str, list[Task]] = {}
    for group in groups:
        prefix = f"{group}.{group}_"
        for task in tasks:
            if task.task_id.startswith(prefix):
                found.setdefault(task.task_id.removeprefix(prefix), []).append(task)
    return [Line(name, _state(steps), works.get(name)) for name, steps in found.items()]


def _state(steps: list[Task]) -> str:
    states = [step.state or "waiting" for step in steps]
    return "failed" if "failed" in states else states[-1]
