"""The look: which tables and transforms of a run have nothing to do, found in one process.

In Airflow every task is a process, which takes about a second to start; asking a table whether it
has something new takes about 10 ms. So one task asks all tables, several at a time, and the tasks
of those with nothing new are skipped. The answer is that of the extract step itself, whose code the
look runs up to the moment at which it would take the table's fence.

The answer is only a hint. A table with nothing new at the look may have news a moment later, which
the next run reads. Whatever else comes out of a look, errors included, means that the table's tasks
run: they ask again, and fail with a message of their own.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from datetime import timedelta

from loadsheet.deadline import limited
from loadsheet.engine import details, extract, transform
from loadsheet.engine.nothing_new import find_nothing_new
from loadsheet.engine.sessions import KeptServers, Servers
from loadsheet.lake.manifest import load_prefix
from loadsheet.outcome import Outcome, RunRequest, left_out
from loadsheet.plan.dag_tasks import dag_tasks
from loadsheet.plan.steps import step_id
from loadsheet.redact import on_one_line, summary
from loadsheet.source import holdback
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline, Table, Transform
from loadsheet.wording import counted

_log = logging.getLogger(__name__)

# All other tables wait for one that takes long: its own tasks do better.
_TABLE_LIMIT = timedelta(seconds=5)
_ALL_TABLES_SECONDS = 120.0
# Most of a look is Python, of which one thread runs at a time.
_MOST_THREADS = 4


def look(pipeline: Pipeline, request: RunRequest, servers: Servers) -> Outcome:
    """Look at every table and transform. The outcome's `names` are the ids of the tasks that have
    nothing to do, those of loads last.

    Makes sure that the lake's bucket exists, and raises what that raises. Nothing else is raised.
    """
    with closing(servers.kept()) as kept:
        created = kept.lake.create_bucket(load_prefix(pipeline))
        tables = set(_idle_tables(pipeline, request, kept))
        transforms = _idle_transforms(pipeline, request, kept, tables)
        alone = _read_alone(pipeline, request, kept)
    idle = [table.name for table in pipeline.tables if table.name in tables]
    by_kind: dict[str, list[str]] = {"first": [], "load": []}
    for task in dag_tasks(pipeline):
        if task.kind in ("extract", "load", "table"):
            is_idle = task.name in tables
        elif task.kind == "read":
            is_idle = task.name in tables or task.name in alone
        else:
            is_idle = bool(task.tables) and tables.issuperset(task.tables)
        if is_idle:
            by_kind["load" if task.kind == "load" else "first"].append(task.id)
    names = by_kind["first"] + [step_id("transform", name) for name in transforms]
    names += by_kind["load"]
    state = "created" if created else "exists"
    message = (
        f"bucket {pipeline.lake.bucket} {state}; nothing to do in {len(idle)} of"
        f" {counted(len(pipeline.tables), 'table')} and {len(transforms)} of"
        f" {counted(len(pipeline.transforms), 'transform')}"
    )
    return Outcome(status="done", message=message, names=tuple(names))


def _idle_tables(pipeline: Pipeline, request: RunRequest, kept: KeptServers) -> list[str]:
    """The tables that have nothing to do."""
    left: list[str] = []
    chosen: list[Table] = []
    for table in pipeline.tables:
        outcome = left_out(request, table.name)
        if outcome:
            _show("extract", table.name, outcome.message)
            left.append(table.name)
        else:
            chosen.append(table)
    if not chosen or not _reaches_servers(kept):
        return left
    known = find_nothing_new(pipeline, request, kept)
    for name, outcome in known.items():
        _show("extract", name, outcome.message)
        left.append(name)
    chosen = [table for table in chosen if table.name not in known]
    threads = max(min(len(chosen), _MOST_THREADS, pipeline.tasks.max_active_tasks), 1)
    until = time.monotonic() + _ALL_TABLES_SECONDS
    pool = ThreadPoolExecutor(threads, thread_name_prefix="loadsheet-look")
    try:
        futures = []
        for table in chosen:
            # With a copy of the context, which knows the step's time limit.
            run = copy_context().run
            futures.append(pool.submit(run, _is_idle, pipeline, table, request, kept, until))
        found = [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)
    return left + [table.name for table, is_idle in zip(chosen, found, strict=True) if is_idle]


def _reaches_servers(kept: KeptServers) -> bool:
    """Whether source and warehouse can be reached. Asked once: each table would wait for a server
    that does not answer."""
    try:
        with kept.source(), kept.warehouse():
            return True
    except Exception as error:
        _log.info("no look at the tables, all of their tasks run: %s", summary(error))
        return False


def _is_idle(
    pipeline: Pipeline, table: Table, request: RunRequest, kept: KeptServers, until: float
) -> bool:
    """Whether the table has nothing to do. Called in a thread."""
    if time.monotonic() >= until:
        _show("extract", table.name, "runs; the look's time is up")
        return False
    try:
        with (
            limited(f"the look at {table.name}", _TABLE_LIMIT),
            details.hidden(),
            holdback.never_waiting(),
            kept.source() as source,
        ):
            outcome = extract.look_at(pipeline, table, request, source, kept.lake, kept.warehouse)
    except Exception as error:
        _show("extract", table.name, f"runs; the look could not tell: {summary(error)}")
        return False
    _show("extract", table.name, outcome.message if outcome else "runs")
    return outcome is not None


def _read_alone(pipeline: Pipeline, request: RunRequest, kept: KeptServers) -> set[str]:
    """The tables of which the extract reads so little that the tasks that could help it need not
    run."""
    shared = [table for table in pipeline.tables if table.extract_tasks > 1]
    if not shared:
        return set()
    from loadsheet.engine.shared_reading import is_read_whole  # few pipelines have such tables

    try:
        with kept.warehouse() as session:
            whole = {
                table.name for table in shared if is_read_whole(session, pipeline, table, request)
            }
    except Exception as error:
        _log.info("all helping tasks run: %s", summary(error))
        return set()
    return {table.name for table in shared} - whole


def _idle_transforms(
    pipeline: Pipeline, request: RunRequest, kept: KeptServers, tables: set[str]
) -> list[str]:
    """The transforms that have nothing to do, where all that they read has nothing to do."""
    idle: list[str] = []
    for name, inputs in transform_inputs(pipeline).items():
        if not tables.issuperset(inputs.tables) or not set(idle).issuperset(inputs.transforms):
            continue
        outcome = _look_at_transform(pipeline, pipeline.transform(name), request, kept)
        if outcome:
            _show("transform", name, outcome.message)
            idle.append(name)
    return idle


def _look_at_transform(
    pipeline: Pipeline, spec: Transform, request: RunRequest, kept: KeptServers
) -> Outcome | None:
    try:
        with kept.warehouse() as session:
            return transform.look_at(pipeline, spec, request, session)
    except Exception as error:
        _show("transform", spec.name, f"runs; the look could not tell: {summary(error)}")
        return None


def _show(kind: str, name: str, reason: str) -> None:
    """Log one line for the task of this kind."""
    _log.info("%s %s: %s", kind, on_one_line(name), on_one_line(reason))
