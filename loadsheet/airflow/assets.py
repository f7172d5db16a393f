"""The asset events of a task: one when what it writes has changed, with what the ledger tells of
it, and none otherwise.

Airflow emits an event for each outlet that a task has when it succeeds, also for a load of no row.
So the outlets of a task that has changed nothing are removed while it runs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias, BaseOperator

from loadsheet.plan.assets import asset_uri, intervals_uri
from loadsheet.plan.gaps import is_read_by_interval
from loadsheet.redact import summary

if TYPE_CHECKING:
    from airflow.sdk import Context

    from loadsheet.connections.lookup import Connections
    from loadsheet.outcome import Outcome, RunRequest
    from loadsheet.plan.steps import Step
    from loadsheet.spec.models import Pipeline
    from loadsheet.warehouse.ledger import Kind
    from loadsheet.warehouse.published import Published

_log = logging.getLogger(__name__)


def publish(
    task: BaseOperator,
    outcomes: Mapping[Step, Outcome],
    pipeline: Pipeline,
    context: Context,
    connections: Connections,
    request: RunRequest,
) -> dict[Step, Outcome]:
    """Have Airflow emit an event for each outlet of `task` that its steps have changed. Returns the
    outcomes, which are those of an earlier try where this one has found its work done. Outlets that
    a DAG of a user has given the task stay as they are."""
    asked = [
        step
        for step, outcome in outcomes.items()
        if outcome.changed or _may_have_been_done(step, context)
    ]
    published = _last_published(asked, pipeline, context, connections) if asked else {}
    told: dict[Step, Outcome] = {}
    own: set[str] = set()
    changed: set[str] = set()
    for step, outcome in outcomes.items():
        found = published.get(step)
        if found and found.changed and not outcome.changed:
            # The try before this one was stopped between its commit and its report.
            message = f"an earlier try of this run did it as {found.number}"
            outcome = replace(outcome, status="done", message=message, changed=True)
        told[step] = outcome
        outlet = _outlet(task, step, pipeline)
        if outlet is None:
            continue
        intervals = _named(task, intervals_uri(outlet.name))
        own.update(one.name for one in (outlet, intervals) if one)
        if not outcome.changed:
            continue
        changed.add(outlet.name)
        event, extra = context["outlet_events"][outlet], _extra(outcome, found)
        interval = _interval(step, pipeline, request)
        if interval:
            extra |= {"interval_start": interval[0], "interval_end": interval[1]}
        if isinstance(outlet, AssetAlias):
            event.add(Asset(_uri(step, pipeline, step.name)), extra)
        else:
            event.extra = extra
        if intervals and interval:
            changed.add(intervals.name)
            event = context["outlet_events"][intervals]
            event.extra = extra
            event.add_partitions(_partition_key(interval[0]))
    task.outlets = [outlet for outlet in task.outlets if outlet.name not in own - changed]
    return told


def _outlet(task: BaseOperator, step: Step, pipeline: Pipeline) -> Asset | AssetAlias | None:
    """The outlet of what the step writes: of a table that a pattern matches, the pattern's. None
    where the task does not have it."""
    pattern = None if step.kind == "transform" else pipeline.pattern_of(step.name)
    return _named(task, _uri(step, pipeline, pattern.name if pattern else step.name))


def _named(task: BaseOperator, uri: str) -> Asset | AssetAlias | None:
    return next((outlet for outlet in task.outlets if outlet.name == uri), None)


def _interval(step: Step, pipeline: Pipeline, request: RunRequest) -> tuple[str, str] | None:
    """The run's own data interval, where the step has loaded its rows. One that a person has chosen
    need not be one of the schedule's."""
    start, end = request.interval_start, request.interval_end
    if step.kind == "transform" or not is_read_by_interval(pipeline.table(step.name)):
        return None
    if request.explicit_interval or request.is_full(step.name) or not start or not end:
        return None
    return start, end


def _partition_key(start: str) -> str:
    """The start as Airflow's own partition keys write a time, so that its mappers read it."""
    return f"{datetime.fromisoformat(start).astimezone(UTC):%Y-%m-%dT%H:%M:%S}"


def _may_have_been_done(step: Step, context: Context) -> bool:
    """Whether an earlier try may have committed what this one finds done. A load that was committed
    already reports that by itself."""
    is_again = getattr(context.get("ti"), "try_number", 1) > 1
    return is_again and step.kind != "load"


def _last_published(
    steps: Sequence[Step], pipeline: Pipeline, context: Context, connections: Connections
) -> dict[Step, Published]:
    """What the ledger tells of the steps in this run; nothing where it cannot be asked: the work is
    committed, and the task must not fail for what is only told about it."""
    from loadsheet.engine.sessions import Servers
    from loadsheet.sql.text import Relation
    from loadsheet.warehouse.published import last_published

    published: dict[Step, Published] = {}
    try:
        with Servers(pipeline, connections).warehouse() as session:
            for step in steps:
                kind: Kind = "transform" if step.kind == "transform" else "table"
                target = str(Relation(_schema(step, pipeline), step.name))
                found = last_published(
                    session, pipeline.name, kind, step.name, target, context["run_id"]
                )
                if found:
                    published[step] = found
    except Exception as error:
        _log.warning("asset events of %s tell only their rows: %s", pipeline.name, summary(error))
    return published


def _extra(outcome: Outcome, published: Published | None) -> dict[str, Any]:
    counts = outcome.counts
    if published is None:
        return {name: counts.get(name, 0) for name in ("inserted", "updated", "deleted")}
    # This task's rows where it counts them: it may have filled columns by loads of their own.
    return {
        "load": published.number,
        "inserted": counts.get("inserted", published.inserted),
        "updated": counts.get("updated", published.updated),
        "deleted": counts.get("deleted", published.deleted),
        "watermark": published.watermark,
        "seconds": round(published.seconds, 3),
        "verified_through": published.verified_through,
    }


def _uri(step: Step, pipeline: Pipeline, name: str) -> str:
    return asset_uri(pipeline.warehouse.conn_id, _schema(step, pipeline), name)


def _schema(step: Step, pipeline: Pipeline) -> str:
    if step.kind == "transform":
        return pipeline.warehouse.mart_schema
    return pipeline.warehouse.schema
