"""Spec -> steps. One step is one Airflow task, one line of `loadsheet plan`, one unit of `loadsheet run`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loadsheet.names import slug
from loadsheet.plan.inputs import transform_inputs
from loadsheet.spec.models import Pipeline, Tasks

Kind = Literal["create_bucket", "extract", "load", "transform"]
CREATE_BUCKET = "create_bucket"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One unit of work. `id` is the Airflow task id (`extract.extract_bookings`), `name` the table or transform."""

    kind: Kind
    name: str
    upstream: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The task id; the kind stands twice because dag-factory wants short names unique across groups."""
        return step_id(self.kind, self.name)


def step_id(kind: Kind, name: str) -> str:
    """The id of the step that does `kind` for the table or transform `name`."""
    return CREATE_BUCKET if kind == "create_bucket" else f"{kind}.{kind}_{slug(name)}"


def tasks_of(step: Step, pipeline: Pipeline) -> Tasks:
    """How the step behaves as a task: pool, retries, and the time it may take."""
    if step.kind == "create_bucket":
        return pipeline.tasks
    return (pipeline.transform if step.kind == "transform" else pipeline.table)(step.name).tasks


def build_plan(pipeline: Pipeline) -> tuple[Step, ...]:
    """All steps in an order in which they can run: every step comes after its upstream.

    Raises SpecError when transforms read each other in a circle or a SQL file cannot be parsed.
    """
    extracts = [Step(kind="extract", name=t.name, upstream=(CREATE_BUCKET,)) for t in pipeline.tables]
    loads = [Step(kind="load", name=t.name, upstream=(step_id("extract", t.name),)) for t in pipeline.tables]
    transforms = [
        Step(
            kind="transform",
            name=name,
            upstream=tuple(step_id("load", t) for t in inputs.tables)
            + tuple(step_id("transform", t) for t in inputs.transforms),
        )
        for name, inputs in transform_inputs(pipeline).items()
    ]
    return (Step(kind="create_bucket", name=pipeline.lake.bucket), *extracts, *loads, *transforms)
