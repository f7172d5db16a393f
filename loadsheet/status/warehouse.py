"""The status of a pipeline according to the ledger and the tables in the warehouse."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from loadsheet import answers
from loadsheet.connections.lookup import Connections
from loadsheet.engine.transform import relations_read
from loadsheet.freshness.ages import read_ages
from loadsheet.pinned import PinnedSession
from loadsheet.plan.gaps import (
    Gap,
    airflow_command,
    command_line,
    gaps_until,
    sentences,
)
from loadsheet.postgres import Session, connect_warehouse
from loadsheet.source.rows import INTERVAL_CURSOR
from loadsheet.spec.models import Incremental, Pipeline, Transform
from loadsheet.sql.text import Relation
from loadsheet.status.models import (
    Failure,
    LastCommit,
    LedgerState,
    MissingInterval,
    PipelineStatus,
    RowCount,
    Search,
    TableStatus,
    TargetStatus,
    TransformStatus,
    Watermark,
)
from loadsheet.status.rows import rows_in
from loadsheet.warehouse import intervals, ledger, mart, unfilled, verified
from loadsheet.warehouse.externals import external_inputs
from loadsheet.warehouse.verified import Verified

_QUERY_TIMEOUT = "5s"
# If a table is locked for longer, its rows are unknown, and the next table does not wait for it.
_LONGEST_LOCK = "1s"
_WATERMARKS = f"""
SELECT table_name, watermark, cursor, source ->> '{INTERVAL_CURSOR}', {intervals.SELECTED}
FROM loadsheet.scope
WHERE pipeline = %(pipeline)s AND target = %(schema)s || '.' || table_name ORDER BY table_name
"""
# Ledgers before version 7 do not have these.
_UNFILLED = """
SELECT table_name, to_jsonb(scope) -> 'unfilled', columns FROM loadsheet.scope
WHERE pipeline = %(pipeline)s AND target = %(schema)s || '.' || table_name
    AND jsonb_typeof(to_jsonb(scope) -> 'unfilled') = 'object'
"""
_SEARCHES = """
SELECT table_name, one.* FROM loadsheet.scope s,
    jsonb_to_record(to_jsonb(s)) AS one (deletes_checked_at timestamptz, deletes_removed bigint)
WHERE pipeline = %(pipeline)s AND target = %(schema)s || '.' || table_name
    AND one.deletes_checked_at IS NOT NULL
"""
_LOADS = """
SELECT scope.table_name AS name, load.target, committed_at AS at, run_id, load_no AS number,
       action AS how, extracted, inserted, updated, deleted, bytes,
       extract_seconds + load_seconds AS seconds, held_by
FROM loadsheet.scope JOIN loadsheet.load ON load_no = last_load_no
WHERE scope.pipeline = %(pipeline)s AND scope.target = %(schema)s || '.' || scope.table_name
"""
_BUILDS = """
SELECT DISTINCT ON (transform)
       transform AS name, target, committed_at AS at, run_id, run_no AS number,
       CASE WHEN full_build THEN 'full' ELSE 'increment' END AS how, NULL::bigint AS extracted,
       inserted, updated, deleted, NULL::bigint AS bytes, seconds, '' AS held_by
FROM loadsheet.transform_run
WHERE pipeline = %(pipeline)s AND target = %(mart_schema)s || '.' || transform
ORDER BY transform, run_no DESC
"""
# Earlier versions recorded no target of a failure.
_FAILURES = """
SELECT kind, name, step, run_id, code, message, since, failed_at AS at, worked_at
FROM loadsheet.failure WHERE pipeline = %(pipeline)s
    AND coalesce(to_jsonb(failure) ->> 'target', '') IN (
        '', CASE kind WHEN 'table' THEN %(schema)s ELSE %(mart_schema)s END || '.' || name)
"""


def warehouse_status(pipeline: Pipeline, connections: Connections) -> PipelineStatus:
    """The status without the source. Raises ConnectionMissing, Refused and psycopg errors."""
    with connect_warehouse(connections(pipeline.warehouse.conn_id)) as session:
        return status_in(session, pipeline)


def status_in(
    session: PinnedSession, pipeline: Pipeline, only: str | None = None
) -> PipelineStatus:
    """As `warehouse_status`, in a session of the warehouse, which only reads from then on; `only`
    of the table or transform of this name, if one is given."""
    at = begin_on_warehouse(session)
    state = ledger_state(session, pipeline)
    named = {table.name for table in pipeline.tables}
    # The tables of the spec, then those that the ledger remembers from patterns and earlier
    # specs.
    names = [table.name for table in pipeline.tables]
    names += state.watermarks
    # A table that a pattern matches, and whose first step failed, is only in the failures.
    for kind, name in state.failures:
        if kind == "table" and state.open_failure("table", name):
            names.append(name)
    shown: list[tuple[str, bool]] = []
    for name in dict.fromkeys(names):
        in_spec = name in named or pipeline.pattern_of(name) is not None
        # A name that was corrected in the spec before it was ever loaded is of no interest.
        if not in_spec and name not in state.loads:
            continue
        if only in (None, name):
            shown.append((name, in_spec))
    targets = [Relation(pipeline.warehouse.schema, name) for name, _ in shown]
    counts = rows_in(session, targets)
    tables = []
    for (name, in_spec), target in zip(shown, targets, strict=True):
        rows = counts[target]
        tables.append(_table_status(pipeline, name, target, rows, state, in_spec, at))
    chosen = [one for one in pipeline.transforms if only in (None, one.name)]
    marts = [_mart(pipeline, transform) for transform in chosen]
    counts = rows_in(session, marts)
    transforms = []
    for transform in chosen:
        rows = counts[_mart(pipeline, transform)]
        transforms.append(_transform_status(session, pipeline, transform, rows, state))
    _add_ages(session, pipeline, tables, transforms)
    return PipelineStatus(
        pipeline=pipeline.name,
        at=at,
        tables=tables,
        transforms=transforms,
        gap_notes=_gap_notes(pipeline, tables)
        + _cursor_notes(pipeline, tables, state)
        + _unfilled_notes(pipeline, tables),
    )


def _add_ages(
    session: Session,
    pipeline: Pipeline,
    tables: list[TableStatus],
    transforms: list[TransformStatus],
) -> None:
    """Add how old is what `fresh_within` limits."""
    if not pipeline.promises_freshness:
        return
    targets: dict[tuple[str, str], TargetStatus] = {}
    targets |= {("table", table.name): table for table in tables}
    targets |= {("transform", transform.name): transform for transform in transforms}
    for one in read_ages(session, [pipeline])[pipeline.name]:
        target = targets.get((one.kind, one.name))
        if target is None:
            continue
        if one.of == "verify":
            target.proof = one
        else:
            target.age = one


def _gap_notes(pipeline: Pipeline, tables: list[TableStatus]) -> list[str]:
    """The sentences about gaps. Tables with the same gaps share them: a paused DAG has left out
    all."""
    names_by_gaps: dict[tuple[Gap, ...], list[str]] = {}
    for table in tables:
        gaps = tuple(missing.gap for missing in table.gaps)
        names_by_gaps.setdefault(gaps, []).append(table.name)
    notes: list[str] = []
    for gaps, names in names_by_gaps.items():
        for text in sentences(pipeline, names, gaps):
            notes.append(f"{', '.join(names)}: {text}")
    return notes


def _cursor_notes(pipeline: Pipeline, tables: list[TableStatus], state: LedgerState) -> list[str]:
    """A sentence for each table whose intervals were read by another column than the spec's."""
    notes: list[str] = []
    for table in tables:
        watermark = state.watermarks.get(table.name)
        spec = pipeline.table(table.name).incremental if table.in_spec else None
        if watermark and spec and _is_read_by_another(watermark, spec):
            notes.append(
                f"{table.name}: its intervals were read by {watermark.interval_cursor}, not by"
                f" {spec.cursor}. Unless that column was renamed, the next extract is refused:"
                f" `loadsheet run {pipeline.name} --tables {table.name} --full-refresh`"
            )
    return notes


def _unfilled_notes(pipeline: Pipeline, tables: list[TableStatus]) -> list[str]:
    """A sentence for each table whose older rows lack the values of new columns."""
    notes = []
    for table in tables:
        if not table.unfilled or not table.in_spec:
            continue
        advice = "set fill: auto, or run a full refresh"
        if pipeline.table(table.name).fill:
            advice = "the next run fills them"
        names = ", ".join(table.unfilled)
        notes.append(f"{table.name}: older rows have no values in {names}: {advice}")
    return notes


def _is_read_by_another(watermark: Watermark, spec: Incremental) -> bool:
    return spec.by == "data_interval" and watermark.interval_cursor not in (None, spec.cursor)


def begin_on_warehouse(session: PinnedSession) -> datetime:
    """Make the session read-only, with short timeouts; returns the warehouse's clock."""
    limits = {"statement_timeout": _QUERY_TIMEOUT, "lock_timeout": _LONGEST_LOCK}
    session.pin(limits, read_only=True)
    row = session.execute("SELECT clock_timestamp()").fetchone()
    assert row
    return row[0]  # type: ignore[no-any-return]


def ledger_state(session: Session, pipeline: Pipeline) -> LedgerState:
    """The pipeline's entries. Raises Refused if a newer Loadsheet has created the ledger."""
    ledger.refuse_newer(ledger.version(session))
    there = _tables_of_ledger(session)
    if "scope" not in there:
        return LedgerState(
            watermarks={}, unfilled={}, searches={}, loads={}, builds={}, failures={}
        )
    names = {
        "pipeline": pipeline.name,
        "schema": pipeline.warehouse.schema,
        "mart_schema": pipeline.warehouse.mart_schema,
    }
    # In the order of the query, which is the order on the page.
    watermarks = {}
    for name, value, cursor, by, read in session.execute(_WATERMARKS, names).fetchall():
        listed = tuple(intervals.as_list(read))
        watermarks[name] = Watermark(
            value=value, cursor=cursor, interval_cursor=by, intervals=listed
        )
    lacking = {}
    for name, recorded, columns in session.execute(_UNFILLED, names).fetchall():
        found = unfilled.read(unfilled.checked(session, recorded))
        if found:
            lacking[name] = found.names(answers.columns(session, columns) or ())
    searches = {}
    for name, checked_at, gone in session.execute(_SEARCHES, names).fetchall():
        searches[name] = Search(at=checked_at, gone=gone)
    loads = _entries(session, LastCommit, _LOADS, names)
    builds = _entries(session, LastCommit, _BUILDS, names)
    failures: list[Failure] = []
    # Only a step adds this table to the ledger of an earlier version.
    if "failure" in there:
        failures = _entries(session, Failure, _FAILURES, names)
    looks: list[Verified] = []
    if "verified" in there:
        looks = verified.read(session, **names)
    return LedgerState(
        watermarks=watermarks,
        unfilled=lacking,
        searches=searches,
        loads={load.name: load for load in loads},
        builds={build.name: build for build in builds},
        failures={(failure.kind, failure.name): failure for failure in failures},
        verified={(look.kind, look.name, look.is_whole): look for look in looks},
    )


def _tables_of_ledger(session: Session) -> set[str]:
    """Those of the ledger's tables that earlier versions may lack."""
    names = ["scope", "failure", "verified"]
    query = """
        SELECT name FROM unnest(%s::text[]) AS name
        WHERE to_regclass('loadsheet.' || name) IS NOT NULL"""
    return {name for (name,) in session.execute(query, (names,))}


def _entries(session: Session, kind: type[Any], query: str, names: dict[str, str]) -> list[Any]:
    with session.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(query, names).fetchall()


def _mart(pipeline: Pipeline, transform: Transform) -> Relation:
    return Relation(pipeline.warehouse.mart_schema, transform.name)


def _table_status(
    pipeline: Pipeline,
    name: str,
    target: Relation,
    rows: RowCount,
    state: LedgerState,
    in_spec: bool,
    at: datetime,
) -> TableStatus:
    last = state.loads.get(name)
    watermark = state.watermarks.get(name, Watermark(value=None, cursor=None))
    missing: list[MissingInterval] = []
    spec = pipeline.table(name).incremental if in_spec else None
    # The gaps of another column are not this one's.
    if spec and spec.by == "data_interval" and not _is_read_by_another(watermark, spec):
        for gap in gaps_until(pipeline, watermark.intervals, at):
            missing.append(
                MissingInterval(
                    gap=gap,
                    airflow=airflow_command(pipeline, gap),
                    command_line=command_line(pipeline, [name], gap),
                )
            )
    return TableStatus(
        name=name,
        target=str(target),
        rows=rows,
        last=last,
        # No run will ever repair a table that has left the spec.
        failure=state.open_failure("table", name) if in_spec else None,
        in_spec=in_spec,
        watermark=watermark.value,
        cursor=watermark.cursor,
        gaps=missing,
        unfilled=state.unfilled.get(name, []),
        search=state.searches.get(name),
        verified=state.verified.get(("table", name, True)),
        verified_in_part=state.verified.get(("table", name, False)),
    )


def _transform_status(
    session: Session,
    pipeline: Pipeline,
    transform: Transform,
    rows: RowCount,
    state: LedgerState,
) -> TransformStatus:
    target = _mart(pipeline, transform)
    last = state.builds.get(transform.name)
    due = ""
    if last:
        inputs = relations_read(pipeline, transform)
        inputs += external_inputs(session, pipeline, transform)
        job = mart.decide_build(session, pipeline, transform, target, inputs, full=False)
        due = job.reason if job else ""
    return TransformStatus(
        name=transform.name,
        target=str(target),
        rows=rows,
        last=last,
        failure=state.open_failure("transform", transform.name),
        materialized=transform.materialized,
        due=due,
        verified=state.verified.get(("transform", transform.name, True)),
        verified_in_part=state.verified.get(("transform", transform.name, False)),
    )
