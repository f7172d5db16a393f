"""The asset events of a task: one when what it writes has changed, with what the ledger tells of
it, and none otherwise.

Airflow emits an event for each outlet that a task has when it succeeds, also for a load of no row.
So the outlets of a task that has changed nothing are removed while it runs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias, BaseOperator

from loadsheet.plan.assets import asset_uri
from loadsheet.redact import summary

if TYPE_CHECKING:
    from airflow.sdk import Context

    from loadsheet.connections.lookup import Connections
    from loadsheet.outcome import Outcome
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
) -> dict[Step, Outcome]:
    """Have Airflow emit an event for each outlet of `task` that its steps have changed. Returns the
    outcomes, which are those of an earlier try where this one has found its work done."""
    asked = [
        step
        for step, outcome in outcomes.items()
        if outcome.changed or _may_have_been_done(step, context)
    ]
    published = _last_published(asked, pipeline, context, connections) if asked else {}
    told: dict[Step, Outcome] = {}
    outlets: dict[str, Any] = {}
    for step, outcome in outcomes.items():
        found = published.get(step)
        if found and found.changed and not outcome.changed:
            # The try before this one was stopped between its commit and its report.
            message = f"an earlier try of this run did it as {found.number}"
            outcome = replace(outcome, status="done", message=message, changed=True)
        told[step] = outcome
        if not outcome.changed:
            continue
        asset = Asset(asset_uri(pipeline.warehouse.conn_id, _schema(step, pipeline), step.name))
        extra = _extra(outcome, found)
        for outlet in task.outlets:
            if isinstance(outlet, AssetAlias):
                context["outlet_events"][outlet].add(asset, extra)
            elif outlet == asset:
                context["outlet_events"][outlet].extra = extra
            else:
                continue
            outlets[outlet.name] = outlet
    task.outlets = list(outlets.values())
    return told


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


def _schema(step: Step, pipeline: Pipeline) -> str:
    if step.kind == "transform":
        return pipeline.warehouse.mart_schema
    return pipeline.warehouse.schema
