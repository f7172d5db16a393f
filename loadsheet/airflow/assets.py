"""The asset events of a task: one when what it writes has changed, with what the ledger tells of
it, and none otherwise.

Airflow emits an event for each outlet that a task has when it succeeds, also for a load of no row.
So the outlets of a task that has changed nothing are removed while it runs.
"""

from __future__ import annotations

import logging
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
    step: Step,
    pipeline: Pipeline,
    outcome: Outcome,
    context: Context,
    connections: Connections,
) -> Outcome:
    """Have Airflow emit an event for the outlet of `task` if its step, a load or a transform, has
    changed what it writes. Returns the outcome, which is that of an earlier try where this one has
    found its work done."""
    published = None
    if outcome.changed or _may_have_been_done(step, outcome, context):
        published = _last_published(step, pipeline, context, connections)
    if outcome.skipped and published and published.changed:
        # The try before this one was stopped between its commit and its report.
        message = f"an earlier try of this run did it as {published.number}"
        outcome = replace(outcome, status="done", message=message, changed=True)
    if not outcome.changed:
        task.outlets = []
        return outcome
    extra = _extra(outcome, published)
    uri = asset_uri(pipeline.warehouse.conn_id, _schema(step, pipeline), step.name)
    for outlet in task.outlets:
        event = context["outlet_events"][outlet]
        if isinstance(outlet, AssetAlias):
            event.add(Asset(uri), extra)
        else:
            event.extra = extra
    return outcome


def _may_have_been_done(step: Step, outcome: Outcome, context: Context) -> bool:
    """Whether an earlier try may have committed what this one was skipped for. A load that was
    committed already reports that by itself."""
    is_again = getattr(context.get("ti"), "try_number", 1) > 1
    return outcome.skipped and is_again and step.kind == "transform"


def _last_published(
    step: Step, pipeline: Pipeline, context: Context, connections: Connections
) -> Published | None:
    """What the ledger tells; None where it cannot be asked: the work is committed, and the task
    must not fail for what is only told about it."""
    from loadsheet.engine.sessions import Servers
    from loadsheet.sql.text import Relation
    from loadsheet.warehouse.published import last_published

    kind: Kind = "transform" if step.kind == "transform" else "table"
    target = Relation(_schema(step, pipeline), step.name)
    try:
        with Servers(pipeline, connections).warehouse() as session:
            run_id = context["run_id"]
            return last_published(session, pipeline.name, kind, step.name, str(target), run_id)
    except Exception as error:
        _log.warning("the asset event of %s tells only its rows: %s", target, summary(error))
        return None


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
