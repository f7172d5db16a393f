"""Which Airflow task does which steps of a plan.

With `granularity: step` each step is a task of its own. With `table` one task extracts a table and
loads it: a process less, the load begins while rows are still read, and between the two no other
run extracts the table. With `batch` one task does that for many tables, one after the other.

    step     look ──> extract orders ──> load orders ──> transform x
    table    look ──> table orders ────────────────────> transform x
    batch    look ──> batch 001 (orders, and 49 more) ─> transform x

A table with `extract_tasks` has tasks that help its extract. They run at the same time, and no task
waits for them.

    step     look ─┬> extract orders ──> load orders ──> transform x
                   ├> read orders 2
                   └> read orders 3

How large a table is nobody knows when the file is read. So batches are made by count, in the order
of the file, and a large table is taken out by a `granularity` of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from loadsheet.plan.steps import CREATE_BUCKET, LOOK, Kind, Step, build_plan, step_id, with_look
from loadsheet.spec.models import Pipeline, Tasks
from loadsheet.wording import counted

MOST_IN_BATCH = 50
"""Tables of a batch. Of CPU, servers included, 50 small tables took 0.05 s where none had news, and
2.4 s where all had; their process takes about 1.5 s to start."""


def dag_tasks(pipeline: Pipeline) -> tuple[Step, ...]:
    """The tasks of the pipeline's DAG, in an order in which they can run. Raises SpecError as
    `build_plan`."""
    owners = _owners(pipeline)
    tasks: dict[str, Step] = {}
    upstream: dict[str, dict[str, None]] = {}  # sets that keep the order
    for step in with_look(build_plan(pipeline)):
        task = owners.get(step.id, step)
        tasks[task.id] = task
        comes_after = upstream.setdefault(task.id, {})
        for name in step.upstream:
            before = owners[name].id if name in owners else name
            if before != task.id:
                comes_after[before] = None
    found: list[Step] = []
    for name, task in tasks.items():
        for one in (task, *_readers(task, pipeline)):
            found.append(replace(one, upstream=tuple(upstream[name])))
    return tuple(found)


def _readers(task: Step, pipeline: Pipeline) -> Iterator[Step]:
    """The tasks that help an extract."""
    if task.kind == "extract" and not task.mapped:
        for number in range(2, pipeline.table(task.name).extract_tasks + 1):
            yield Step(kind="read", name=task.name, number=number)


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
    chosen = [pipeline.granularity(entry) for entry in pipeline.entries]
    tables, batched = chosen.count("table"), chosen.count("batch")
    phrases = []
    if tables == len(chosen):
        phrases.append("one task does both")
    elif tables:
        phrases.append(f"one task does both for {counted(tables, 'table')}")
    if batched:
        batches = sum(task.kind == "batch" for task in _tasks_of_several_steps(pipeline))
        verb = "does" if batches == 1 else "do"
        whose = "" if batched == len(chosen) else f" for {counted(batched, 'table')}"
        phrases.append(f"{counted(batches, 'batch', 'batches')} {verb} both{whose}")
    return ", ".join(phrases)


def first_to_last(tables: Sequence[str]) -> str:
    """What a batch is called by: `accounts to invoices`."""
    if len(tables) == 1:
        return tables[0]
    return f"{tables[0]} to {tables[-1]}"


def _owners(pipeline: Pipeline) -> dict[str, Step]:
    """The tasks that do several steps, by the ids of these steps."""
    owners: dict[str, Step] = {}
    for task in _tasks_of_several_steps(pipeline):
        for name in task.tables or (task.name,):
            for kind in ("extract", "load"):
                owners[step_id(kind, name)] = task
    return owners


def _tasks_of_several_steps(pipeline: Pipeline) -> Iterator[Step]:
    """The tasks that extract tables and load them, without what they come after."""
    batched: dict[Tasks, list[str]] = {}
    for table in pipeline.tables:
        granularity = pipeline.granularity(table)
        if granularity == "table":
            yield Step(kind="table", name=table.name)
        elif granularity == "batch":
            # One task has one pool and one number of retries.
            batched.setdefault(table.tasks, []).append(table.name)
    number = 0
    for names in batched.values():
        for start in range(0, len(names), MOST_IN_BATCH):
            number += 1
            some = tuple(names[start : start + MOST_IN_BATCH])
            yield Step(kind="batch", name=f"{number:03}", tables=some)
    for pattern in pipeline.patterns:
        granularity = pipeline.granularity(pattern.table)
        if granularity in ("table", "batch"):
            yield Step(kind=granularity, name=pattern.name, mapped=True)
