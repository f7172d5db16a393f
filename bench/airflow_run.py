"""A run of a DAG in a real Airflow, by Airflow's own clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from demo.airflow import Airflow


@dataclass(frozen=True, kw_only=True)
class DagRun:
    """What a run has taken."""

    seconds: float
    """From the trigger to the end."""
    waited: float
    """From the trigger until the first task has a process."""
    worked: float
    """From then until the last task has ended."""
    processes: int
    """The tasks for which a process was started."""


def run_dag(airflow: Airflow, dag_id: str) -> DagRun:
    """Trigger the DAG and wait for its end. Raises RuntimeError unless it is a success."""
    api = airflow.api
    run_id = api.trigger(dag_id)
    state = api.wait(dag_id, run_id, timeout=3600)
    if state != "success":
        raise RuntimeError(f"the DAG run ended as {state}")
    run = api.call("GET", f"dags/{dag_id}/dagRuns/{run_id}")
    spans = list(_spans(airflow, dag_id, run_id))
    triggered, began = _seconds(run["queued_at"]), min(start for start, _ in spans)
    return DagRun(
        seconds=_seconds(run["end_date"]) - triggered,
        waited=began - triggered,
        worked=max(end for _, end in spans) - began,
        processes=len(spans),
    )


def _spans(airflow: Airflow, dag_id: str, run_id: str) -> Iterator[tuple[float, float]]:
    """When each task has begun and ended that had a process."""
    for task in airflow.api.task_entries(dag_id, run_id):
        if task["try_number"] > 0:
            yield _seconds(task["start_date"]), _seconds(task["end_date"])


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
