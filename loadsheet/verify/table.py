"""Compares one staging table with its source.

warehouse: lock, snapshot, read the scope     first, so that what commits meanwhile is newer
source:    lock, snapshot, describe
which columns can be compared, which rows must be equal (`settled`)
digests of both sides                         equal buckets end here
rows of the buckets that differ               missing, extra, different, or newer
values of the first different rows
"""

from __future__ import annotations

from dataclasses import replace

import psycopg

from loadsheet.comparison import compare
from loadsheet.comparison.compare import Sides
from loadsheet.comparison.pairs import table_sides
from loadsheet.comparison.ranges import gentle_ranges
from loadsheet.comparison.snapshot import locked_snapshot, refuse_without_ledger
from loadsheet.engine.attempt import last_of
from loadsheet.errors import Overtaken, Refused
from loadsheet.pinned import PinnedSession
from loadsheet.postgres import Session
from loadsheet.source import catalog, identity, selection, zones
from loadsheet.source.rows import Last
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.merging import ordered
from loadsheet.sql.text import Relation, typed
from loadsheet.sql.types import without_modifier
from loadsheet.verify.look import Look
from loadsheet.verify.models import SinceUnfit, TableVerdict
from loadsheet.verify.rows import count_rows
from loadsheet.warehouse import extensions, tables
from loadsheet.warehouse.scope import Scope, read_scope

_OTHER_PIPELINES = """
SELECT DISTINCT pipeline FROM loadsheet.scope
WHERE target = %s AND pipeline <> %s AND last_load_no IS NOT NULL ORDER BY 1
"""
# The rows that the target has after its last load, where that load has replaced all of them.
_REPLACED = """
SELECT extracted - duplicates FROM loadsheet.load WHERE load_no = %s AND action = 'replace'
"""


def verify_table(
    pipeline: Pipeline,
    table: Table,
    look: Look,
    source: PinnedSession,
    warehouse: PinnedSession,
) -> TableVerdict:
    """Compare the table's target with its source, by the rows that both have now.

    Reads only, in one snapshot on each side. A verdict stays true next to writers, loads and full
    refreshes: rows that may have been written after the last load are no differences. Raises
    psycopg errors; what cannot be compared is a verdict, too.
    """
    target = Relation(pipeline.warehouse.schema, table.name)
    verdict = TableVerdict(
        table=table.name, target=str(target), is_whole=look.is_whole, part=look.part
    )
    try:
        if tables.kind(warehouse, target) is None:
            _scope(warehouse, pipeline, table, target)
            verdict.lose_target()
            return verdict
        with locked_snapshot(warehouse, [target]) as verdict.at:
            scope = _scope(warehouse, pipeline, table, target)
            verdict.through = scope.last_load_no or 0
            verdict.watermark = scope.watermark
            last = last_of(warehouse, pipeline.name, target, scope)
            offered = extensions.offered(warehouse, pipeline, target, False)
            schema = pipeline.source.schema
            expected = catalog.describe(source, schema, table, lambda: offered)
            before = identity.see_before(source)
            with catalog.locked_snapshot(source, table, expected, lambda: offered) as described:
                _refuse_other(source, table, described, last, before)
                _compare(verdict, table, look, target, described, scope, last, source, warehouse)
    except (Refused, Overtaken) as error:
        verdict.state = "not compared"
        verdict.why = str(error)
        verdict.takes_since = not isinstance(error, SinceUnfit)
    return verdict


def _scope(session: Session, pipeline: Pipeline, table: Table, target: Relation) -> Scope:
    refuse_without_ledger(session)
    scope = read_scope(session, pipeline.name, table.name, target)
    if scope.last_load_no is None:
        raise Refused(f"{pipeline.name} has never loaded {target}")
    others = session.execute(_OTHER_PIPELINES, (str(target), pipeline.name)).fetchall()
    if others:
        names = ", ".join(name for (name,) in others)
        raise Refused(f"{names} has loaded {target} as well, from a source that is not read here")
    return scope


def _refuse_other(
    source: PinnedSession,
    table: Table,
    described: SourceTable,
    last: Last,
    before: identity.Identity | None,
) -> None:
    """Raises Refused where the source's table is not the one that was loaded, or was read by
    another cursor."""
    spec = table.incremental
    facts = zones.facts(described, spec) if spec else {}
    _, difference = identity.observe(source, last.source, before)
    changes = identity.table_changes(described, last.source_oid, last.source, facts)
    changes = [*difference.changes, *changes]
    if changes:
        raise Refused(
            f"{described.relation}: the source changed since the last load: {', '.join(changes)}"
        )
    if spec:
        selection.refuse_changed_cursor(described, spec, last)


def _compare(
    verdict: TableVerdict,
    table: Table,
    look: Look,
    target: Relation,
    described: SourceTable,
    scope: Scope,
    last: Last,
    source: PinnedSession,
    warehouse: PinnedSession,
) -> None:
    mode = verdict.mode = table.mode_with_key(bool(described.key))
    sides, verdict.left_out, misfits = table_sides(
        table, described, target, scope, last, source, warehouse
    )
    if look.since is not None:
        from_theirs, from_ours = _since(source, look.since, described, table, sides)
        sides = sides._replace(
            source=replace(sides.source, chosen=from_theirs),
            target=replace(sides.target, chosen=from_ours),
        )
    if look.gentle:
        sides = sides._replace(source_ranges=gentle_ranges(source, described))
    found = compare.totals(sides, look.buckets)
    verdict.source_rows = found.source_rows
    verdict.target_rows = found.target_rows
    if found.buckets:
        doubled = count_rows(verdict, sides, found.buckets)
        _judge_extra(verdict, table, mode, doubled, scope, warehouse)
    if verdict.differences:
        verdict.state = "differs"
    elif misfits:
        verdict.state = "not proven"
        verdict.why = f"a column is not compared. {misfits[0]}"
    elif verdict.unproven or (sides.settled == "FALSE" and verdict.newer):
        verdict.state = "not proven"
        verdict.why = (
            "rows differ, and the source does not show whether they were written after the last"
            " load: run the pipeline, then verify again"
        )


def _since(
    session: PinnedSession,
    since: str,
    described: SourceTable,
    table: Table,
    sides: Sides,
) -> tuple[str, str]:
    """The condition that a row's cursor is `since` or higher, on either side. Raises SinceUnfit
    where there is no cursor to compare with it."""
    spec = table.incremental
    if spec is None:
        raise SinceUnfit(f"{described.relation} has no cursor, so --since cannot choose its rows")
    pairs = zip(sides.source.values, sides.target.values, strict=True)
    by_name = {theirs.name: (theirs, ours) for theirs, ours in pairs if not ours.is_lost}
    if spec.cursor not in by_name:
        raise SinceUnfit(f"{described.relation}: its cursor {spec.cursor} cannot be compared")
    theirs, ours = by_name[spec.cursor]
    plain = without_modifier(theirs.type)
    lowest = typed(since, plain)
    try:
        with session.transaction():
            session.execute(f"SELECT {lowest}")
    except psycopg.DataError:
        raise SinceUnfit(
            f"{described.relation}: --since {since} is no {plain}, the type of its cursor"
            f" {spec.cursor}"
        ) from None
    return (
        f"{ordered(theirs.name, plain)} >= {lowest}",
        f"{ordered(ours.name, plain)} >= {lowest}",
    )


def _judge_extra(
    verdict: TableVerdict,
    table: Table,
    mode: str,
    doubled: int,
    scope: Scope,
    warehouse: Session,
) -> None:
    """Keep only what is certain of the rows that the source does not have (now)."""
    extra = verdict.counts["extra"]
    if not extra:
        return
    if mode == "merge":
        # Without deletes no increment removes a row, so it stays until a full refresh. With them it
        # may have been deleted since the last load, and the next one removes it.
        if table.deletes and table.deletes.removes:
            verdict.removes_gone = True
            _keep_certain(verdict, doubled)
        return
    if mode == "replace":
        row = warehouse.execute(_REPLACED, (scope.last_load_no,)).fetchone()
        certain = 0
        if row and verdict.is_whole:
            # More than the last load has left.
            certain = min(max(verdict.target_rows - row[0], 0), extra)
        _keep_certain(verdict, certain)
        return
    # An appended row that was updated since is appended again, and both stay.
    verdict.counts["extra"] = 0
    verdict.named["extra"].clear()


def _keep_certain(verdict: TableVerdict, certain: int) -> None:
    """Only `certain` of the extra rows differ for certain. Unless all do, nothing shows which."""
    verdict.unproven = verdict.counts["extra"] - certain
    verdict.counts["extra"] = certain
    if verdict.unproven:
        verdict.named["extra"].clear()
