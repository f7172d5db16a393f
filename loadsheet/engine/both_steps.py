"""A table's extract and its load in one process, as `tasks: {granularity: table}` asks for.

Each is done by `execute`, with its limit of time, messages and records. As in `loadsheet run`, the
load of a large table begins while its rows are still read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from loadsheet.connections.lookup import Connections
from loadsheet.engine.early import EarlyLoads
from loadsheet.engine.execute import Progress, execute
from loadsheet.engine.resume import load_of_run
from loadsheet.engine.sessions import KeptServers
from loadsheet.outcome import Outcome, RunRequest
from loadsheet.plan.steps import Step
from loadsheet.spec.models import Pipeline
from loadsheet.sql.text import Relation


@contextmanager
def servers_for_both(
    pipeline: Pipeline, connections: Connections, servers: KeptServers | None = None
) -> Iterator[KeptServers]:
    """The servers of a process that extracts and loads tables: `servers`, which may have sessions,
    or new ones. At the end of the block, loads that have begun early are rolled back, and all
    sessions closed."""
    servers = servers or KeptServers(pipeline, connections)
    early = EarlyLoads(servers.spare_warehouse, servers.try_warehouse, servers.held_warehouse)
    servers.early = early
    try:
        yield servers
    finally:
        early.drop_all()
        servers.close()


def extract_and_load(
    table: str,
    pipeline: Pipeline,
    request: RunRequest,
    connections: Connections,
    servers: KeptServers,
    progress: Progress,
) -> Outcome:
    """Extract the table and load it. Skipped where the extraction is; otherwise the outcome of the
    load, with the remarks of both.

    A table among those that the request `resumes` is loaded from the lake where an earlier try of
    this run has extracted it, and is done where one has loaded it. Raises as `execute`.
    """

    def run(step: Step, load_id: str | None = None) -> Outcome:
        return execute(
            step,
            pipeline,
            request,
            connections,
            load_id=load_id,
            progress=progress,
            servers=servers,
        )

    extracted = run(Step(kind="extract", name=table))
    if extracted.load_id is None:
        if table in request.resumes:
            target = Relation(pipeline.warehouse.schema, table)
            with servers.warehouse() as session:
                load_id = load_of_run(session, pipeline.name, table, target, request.run_id)
            if load_id:
                return replace(extracted, status="done", load_id=load_id)
        return extracted
    if servers.early and servers.early.has(extracted.load_id):
        # The load has a session. That of the extraction is of no use to it, and a task that runs
        # meanwhile may need one. (A run's next step takes it, which saves connecting.)
        servers.close_idle()
    loaded = run(Step(kind="load", name=table), extracted.load_id)
    counts = {**loaded.counts, "bytes": extracted.counts.get("bytes", 0)}
    remarks = tuple(dict.fromkeys(extracted.remarks + loaded.remarks))
    return replace(
        loaded,
        counts=counts,
        remarks=remarks,
        checked=extracted.checked + loaded.checked,
        held_back=extracted.held_back,
        lag_seconds=extracted.lag_seconds,
    )
