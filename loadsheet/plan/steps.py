"""From a spec to its steps. One step is one line of `loadsheet plan`, one unit of work of
`loadsheet run`, and one Airflow task, unless one task does several (`loadsheet.plan.dag_tasks`).

    create_bucket ─┬─> extract orders ──> load orders ──┬─> transform x ──> transform y
                   ├─> extract log_*  ──> load log_*  ──┘
    resolve log_* ─┘   (for a pattern: one task per table that matches when the run begins)

With `verify`, one more step follows all loads, and the transforms whose marts it compares. No step
waits for it.

In Airflow each step is a process of its own, which takes longer than to find out that there is
nothing to do. There, the step `look` takes the place of `create_bucket` (`with_look`): it looks at
all tables in one process, and skips the tasks of those with nothing new.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from loadsheet.names import slug
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline, Tasks
from loadsheet.sql.params import has_params

Kind = Literal[
    "create_bucket",
    "look",
    "resolve",
    "extract",
    "read",
    "load",
    "table",
    "batch",
    "transform",
    "verify",
]
"""A `table` is an extract and its load as one Airflow task, a `batch` those of many tables. A task
of kind `read` helps an extract to read a large table."""
CREATE_BUCKET = "create_bucket"
LOOK = "look"
VERIFY = "verify"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One unit of work. `id` is the Airflow task id (`extract.extract_bookings`), `name` the table
    or transform, the bucket to create, or the schema to verify."""

    kind: Kind
    name: str
    upstream: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    """Of a batch: its tables. Its name is a number; that of a mapped one is the pattern."""
    number: int = 0
    """Of one that helps an extract: which of its readers. The extract itself would be 1."""
    mapped: bool = False
    """Whether it stands for one step per table that matches the pattern `name`. Only a run knows
    these tables."""

    @property
    def is_of_pipeline(self) -> bool:
        """Whether it is about the pipeline, not about one of its tables or transforms."""
        return self.kind in ("create_bucket", "look", "verify")

    @cached_property
    def id(self) -> str:
        """The task id. The kind appears twice (`extract.extract_bookings`), because dag-factory
        requires that names are unique across groups."""
        found = step_id(self.kind, self.name)
        return f"{found}_{self.number}" if self.kind == "read" else found


def step_id(kind: Kind, name: str) -> str:
    """The id of the step that does `kind` for the table or transform `name`."""
    if kind == "create_bucket":
        return CREATE_BUCKET
    if kind == "look":
        return LOOK
    if kind == "verify":
        return VERIFY
    if kind == "resolve":
        return f"resolve_{slug(name)}"
    return f"{kind}.{kind}_{slug(name)}"


def tasks_of(step: Step, pipeline: Pipeline) -> Tasks:
    """How the step behaves as a task: pool, retries, and the time it may take."""
    if step.is_of_pipeline:
        return pipeline.tasks
    if step.kind == "transform":
        return pipeline.transform(step.name).tasks
    # The tables of a batch have the same settings.
    return pipeline.table(step.tables[0] if step.tables else step.name).tasks


def build_plan(pipeline: Pipeline) -> tuple[Step, ...]:
    """All steps in an order in which they can run: every step comes after its upstream.

    Raises SpecError when transforms read each other in a circle or a SQL file cannot be parsed.
    """
    resolves: list[Step] = []
    extracts: list[Step] = []
    loads: list[Step] = []
    transforms: list[Step] = []
    for table in pipeline.tables:
        extract = Step(kind="extract", name=table.name, upstream=(CREATE_BUCKET,))
        extracts.append(extract)
        loads.append(Step(kind="load", name=table.name, upstream=(extract.id,)))
    for pattern in pipeline.patterns:
        name = pattern.name
        resolve = Step(kind="resolve", name=name)
        resolves.append(resolve)
        before = (CREATE_BUCKET, resolve.id)
        extract = Step(kind="extract", name=name, upstream=before, mapped=True)
        extracts.append(extract)
        # After the resolve step as well: the names that it is mapped over come from there.
        loads.append(Step(kind="load", name=name, upstream=(resolve.id, extract.id), mapped=True))
    # In the order in which they read each other.
    for name, inputs in transform_inputs(pipeline).items():
        upstream = _loads_of(pipeline, inputs.tables)
        upstream += tuple(step_id("transform", transform) for transform in inputs.transforms)
        transforms.append(Step(kind="transform", name=name, upstream=upstream))
    bucket = Step(kind="create_bucket", name=pipeline.lake.bucket)
    verifies: list[Step] = []
    if pipeline.verify:
        # A pattern's loads run whether or not its extractions succeed: see `_loads_of`.
        waits_for = [extract.id for extract in extracts if extract.mapped]
        waits_for += [load.id for load in loads]
        waits_for += [step_id("transform", name) for name in verified_marts(pipeline)]
        name = pipeline.warehouse.schema
        verifies.append(Step(kind="verify", name=name, upstream=tuple(waits_for)))
    return (bucket, *resolves, *extracts, *loads, *transforms, *verifies)


def verified_marts(pipeline: Pipeline) -> tuple[str, ...]:
    """The marts that the step `verify` compares with their SELECT: those of which each build writes
    all rows. A merge keeps rows of earlier builds, perhaps on purpose, so that a difference from
    its SELECT in full is not yet a fault, of which a run may fail."""
    return tuple(
        transform.name
        for transform in pipeline.transforms
        if transform.materialized == "table" and not has_params(transform.sql)
    )


def with_look(steps: Iterable[Step]) -> tuple[Step, ...]:
    """The steps of a plan as Airflow runs them: `look` in place of `create_bucket`. A transform
    that reads no table comes after it, too, or it would have begun before it can be skipped."""
    found: list[Step] = []
    for step in steps:
        upstream = tuple(LOOK if name == CREATE_BUCKET else name for name in step.upstream)
        if step.kind == "create_bucket":
            found.append(Step(kind="look", name=step.name))
        elif step.kind == "transform" and not upstream:
            found.append(replace(step, upstream=(LOOK,)))
        elif upstream != step.upstream:
            found.append(replace(step, upstream=upstream))
        else:
            found.append(step)
    return tuple(found)


def _loads_of(pipeline: Pipeline, tables: Iterable[str]) -> tuple[str, ...]:
    """The ids of the steps that must end before the tables can be read.

    A pattern's loads run whether or not its extractions succeed, each for its own table. So a step
    that reads one of these tables must wait for both, or it would miss a failed extraction.
    """
    steps: dict[str, None] = {}  # a set that keeps the order
    for table in tables:
        pattern = pipeline.pattern_of(table)
        if pattern:
            steps[step_id("extract", pattern.name)] = None
            steps[step_id("load", pattern.name)] = None
        else:
            steps[step_id("load", table)] = None
    return tuple(steps)
