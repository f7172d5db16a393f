"""Which Airflow task does which steps of a plan.

With `granularity: step` each step is a task of its own. With `table` one task extracts a table and
loads it: a process less, the load begins while rows are still read, and between the two no other
run extracts the table.

    step     look ──> extract orders ──> load orders ──> transform x
    table    look ──> table orders ────────────────────> transform x
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from loadsheet.plan.steps import CREATE_BUCKET, LOOK, Kind, Step, build_plan, step_id, with_look
from loadsheet.spec.models import Pipeline
from loadsheet.wording import counted


def dag_tasks(pipeline: Pipeline) -> tuple[Step, ...]:
    """The tasks of the pipeline's DAG, in an order in which they can run. Raises SpecError as
    `build_plan`."""
    owners = _owners(pipeline)
    tasks: dict[str, Step] = {}
    for step in with_look(build_plan(pipeline)):
        task = owners.get(step.id, step)
        upstream: dict[str, None] = {}  # a set that keeps the order
        for name in (*(tasks[task.id].upstream if task.id in tasks else ()), *step.upstream):
            before = owners[name].id if name in owners else name
            if before != task.id:
                upstream[before] = None
        tasks[task.id] = replace(task, upstream=tuple(upstream))
    return tuple(tasks.values())


def task_ids(pipeline: Pipeline) -> dict[str, str]:
    """The id of the task that does it, for each step of the plan. Raises SpecError as
    `build_plan`."""
    found = {step.id: step.id for step in build_plan(pipeline)}
    found |= {step: task.id for step, task in _owners(pipeline).items()}
    found[CREATE_BUCKET] = LOOK
    return found


def task_id(pipeline: Pipeline, kind: Kind, table: str) -> str:
    """The id of the task that does this step of a table."""
    pattern = pipeline.pattern_of(table)
    owner = _owners(pipeline).get(step_id(kind, pattern.name if pattern else table))
    return owner.id if owner else step_id(kind, table)


def describe_tasks(pipeline: Pipeline) -> str:
    """What the tasks do that do several steps, as a phrase; empty where there is none."""
    tables = sum(entry.tasks.granularity == "table" for entry in pipeline.entries)
    if not tables:
        return ""
    if tables == len(pipeline.entries):
        return "one task does both"
    return f"one task does both for {counted(tables, 'table')}"


def _owners(pipeline: Pipeline) -> dict[str, Step]:
    """The tasks that do several steps, by the ids of these steps."""
    owners: dict[str, Step] = {}
    for task in _tasks_of_several_steps(pipeline):
        for kind in ("extract", "load"):
            owners[step_id(kind, task.name)] = task
    return owners


def _tasks_of_several_steps(pipeline: Pipeline) -> Iterator[Step]:
    """The tasks that extract tables and load them, without what they come after."""
    for table in pipeline.tables:
        if table.tasks.granularity == "table":
            yield Step(kind="table", name=table.name)
    for pattern in pipeline.patterns:
        if pattern.table.tasks.granularity == "table":
            yield Step(kind="table", name=pattern.name, mapped=True)
