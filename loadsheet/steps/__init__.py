"""Run one step of a plan, wherever it is asked for: an Airflow task or `loadsheet run`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from loadsheet.connections import Connections
from loadsheet.failpoints import reach
from loadsheet.limit import limited
from loadsheet.outcome import Outcome, RunRequest, skipped
from loadsheet.plan.steps import Step, tasks_of
from loadsheet.postgres import connect_source, connect_warehouse
from loadsheet.spec.models import Pipeline
from loadsheet.steps.explain import explained

if TYPE_CHECKING:
    from loadsheet.lake.store import Lake

Progress = Callable[[int, int], None]


def execute(
    step: Step, pipeline: Pipeline, request: RunRequest, connections: Connections, *,
    load_id: str | None = None, progress: Progress | None = None,
) -> Outcome:  # fmt: skip
    """Do the work of `step` and say what came of it.

    `load_id` is the extract step's, for the load of the same table; `progress(rows, bytes)` is told what has been
    stored or loaded so far. Raises LoadsheetError, placed and explained (`.retryable` says whether a retry may help);
    any other exception is a bug.
    """
    tell = progress or (lambda rows, size: None)
    limit = tasks_of(step, pipeline).timeout
    with explained(step, pipeline, request, connections), limited(f"the {step.kind} of {step.name}", limit):
        return _execute(step, pipeline, request, connections, load_id, tell)


def _execute(
    step: Step, pipeline: Pipeline, request: RunRequest, connections: Connections, load_id: str | None, tell: Progress
) -> Outcome:
    # Each kind imports what it needs: a transform's process is spared the S3 client (0.1 s of starting it).
    reach("step.begun")
    match step.kind:
        case "create_bucket":
            created = _lake(pipeline, connections).create_bucket()
            return Outcome(
                status="done", message=f"bucket {pipeline.lake.bucket} {'created' if created else 'is there'}"
            )
        case "transform":
            return _transform(pipeline, step.name, request, connections)
        case _ if not request.wants(step.name):
            return skipped("not among the tables of this run")
        case "extract":
            return _extract(pipeline, step.name, request, connections, tell)
        case "load":
            return _load(pipeline, step.name, connections, load_id, tell)


def _lake(pipeline: Pipeline, connections: Connections) -> Lake:
    from loadsheet.lake.store import Lake

    return Lake(connections(pipeline.lake.conn_id), pipeline.lake.bucket)


def _extract(pipeline: Pipeline, name: str, request: RunRequest, connections: Connections, tell: Progress) -> Outcome:
    from loadsheet.steps.extract import extract

    with (
        connect_source(connections(pipeline.source.conn_id)) as source,
        connect_warehouse(connections(pipeline.warehouse.conn_id)) as warehouse,
    ):
        return extract(pipeline, pipeline.table(name), request, source, _lake(pipeline, connections), warehouse, tell)


def _load(pipeline: Pipeline, name: str, connections: Connections, load_id: str | None, tell: Progress) -> Outcome:
    from loadsheet.steps.load import load

    if load_id is None:
        return skipped("nothing was extracted")
    return load(
        pipeline,
        pipeline.table(name),
        load_id,
        _lake(pipeline, connections),
        lambda: connect_warehouse(connections(pipeline.warehouse.conn_id)),
        tell,
    )


def _transform(pipeline: Pipeline, name: str, request: RunRequest, connections: Connections) -> Outcome:
    from loadsheet.steps.transform import transform

    with connect_warehouse(connections(pipeline.warehouse.conn_id)) as session:
        return transform(pipeline, pipeline.transform(name), request, session)
