"""Spec -> steps. One step is one Airflow task, one line of `loadsheet plan`, one unit of `loadsheet
run`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from loadsheet.names import slug
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline, Tasks

Kind = Literal["create_bucket", "resolve", "extract", "load", "transform"]
CREATE_BUCKET = "create_bucket"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One unit of work. `id` is the Airflow task id (`extract.extract_bookings`), `name` the table
    or transform."""

    kind: Kind
    name: str
    upstream: tuple[str, ...] = ()
    mapped: bool = False
    """Stands for one step per table that the pattern `name` matches, which only a run knows."""

    @property
    def id(self) -> str:
        """The task id; the kind appears twice because dag-factory wants short names unique across
        groups."""
        return step_id(self.kind, self.name)


def step_id(kind: Kind, name: str) -> str:
    """The id of the step that does `kind` for the table or transform `name`."""
    if kind == "resolve":
        return f"resolve_{slug(name)}"
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
    patterns = [pattern.name for pattern in pipeline.patterns]
    resolves = [Step(kind="resolve", name=name) for name in patterns]
    extracts = [
        Step(kind="extract", name=t.name, upstream=(CREATE_BUCKET,)) for t in pipeline.tables
    ]
    loads = [
        Step(kind="load", name=t.name, upstream=(step_id("extract", t.name),))
        for t in pipeline.tables
    ]
    for name in patterns:
        before, extract = (CREATE_BUCKET, step_id("resolve", name)), step_id("extract", name)
        extracts.append(Step(kind="extract", name=name, upstream=before, mapped=True))
        loads.append(
            Step(kind="load", name=name, upstream=(step_id("resolve", name), extract), mapped=True)
        )
    transforms = [
        Step(
            kind="transform",
            name=name,
            upstream=_loads_of(pipeline, inputs.tables)
            + tuple(step_id("transform", t) for t in inputs.transforms),
        )
        for name, inputs in transform_inputs(pipeline).items()
    ]
    return (
        Step(kind="create_bucket", name=pipeline.lake.bucket),
        *resolves,
        *extracts,
        *loads,
        *transforms,
    )


def _loads_of(pipeline: Pipeline, tables: Iterable[str]) -> tuple[str, ...]:
    """What has to be over before the tables are read. A pattern's loads run whatever became of the
    extractions, each for its own table; so a step that reads one of its tables waits for both."""
    steps: dict[str, None] = {}
    for table in tables:
        pattern = pipeline.pattern_of(table)
        if pattern:
            steps[step_id("extract", pattern.name)] = None
            steps[step_id("load", pattern.name)] = None
        else:
            steps[step_id("load", table)] = None
    return tuple(steps)
