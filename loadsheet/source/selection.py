"""Which rows an extraction reads, and how far the watermark may move when they are committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from loadsheet.checks import Check
from loadsheet.errors import CheckFailed, HeldBack, Refused
from loadsheet.outcome import RunRequest
from loadsheet.postgres import Session
from loadsheet.source import holdback, identity, sequences, ties, zones
from loadsheet.source.rows import (
    INTERVAL_CURSOR,
    INTERVAL_PLACE,
    WATERMARK_PLACE,
    Last,
    Selection,
)
from loadsheet.source.table import SourceTable
from loadsheet.source.window import Window
from loadsheet.spec.models import Incremental, Mode, Table
from loadsheet.sql.text import ident
from loadsheet.sql.types import widens, without_modifier
from loadsheet.wording import counted


def decide(
    session: Session,
    table: Table,
    source: SourceTable,
    last: Last | None,
    request: RunRequest,
    *,
    replaces_rows: bool = False,
) -> Selection:
    """The rows of `table` that this run reads. Waits for open transactions where the cursor needs
    it.

    `last` is None when the target has never been loaded; `replaces_rows` tells that it has rows all
    the same, those of another pipeline. Raises Refused when the spec and the
    source contradict each other or late commits could be missed, HeldBack when the source may still
    write into the interval.
    """
    mode = refuse_mode(table, source)
    is_full = request.is_full(table.name)
    if not table.incremental:
        return Selection(action="replace" if is_full or last is None else mode)
    window = Window(session, source, table.incremental, mode)
    if table.incremental.by == "data_interval" or request.explicit_interval:
        if is_full:
            return window.everything()
        if table.incremental.by == "data_interval":
            refuse_changed_cursor(source, table.incremental, last)
        return window.interval(request)
    if is_full or last is None:
        rows = window.from_the_start()
        if mode != "merge" and (last is not None or replaces_rows):
            _refuse_incomplete_replacement(session, source, rows)
        return rows
    refuse_changed_cursor(source, table.incremental, last)
    if last.watermark is None and mode == "append" and last.cursor is None:
        raise Refused(
            f"{source.relation} was loaded without a cursor before: appending to those rows would"
            " double them; run a full refresh of this table"
        )
    if request.accept_source and last.source:
        # Another server numbers its transactions in its own way.
        kept = {name: fact for name, fact in last.source.items() if name != "oldest_transaction"}
        last = replace(last, source=kept)
    return window.above(last, identity.new_leaves(source, last.source_oid, last.source))


def compare_ties(
    session: Session, table: Table, source: SourceTable, rows: Selection, last: Mapping[str, str]
) -> Selection:
    """`rows` without those that have the watermark's value, where they are as they were read; and
    with the fact that the next run compares. `last` are the facts of the last load.

    To call in the snapshot that the rows are read in, or a row that comes in between is lost.
    """
    if not rows.compares or rows.upper is None:
        return rows
    assert table.incremental
    values = [rows.upper]
    if rows.tied and rows.lower is not None and rows.lower != rows.upper:
        values.insert(0, rows.lower)
    found = ties.fingerprints(session, source, table.incremental.cursor, values)
    where = rows.where
    if rows.tied and found[0] == last.get("ties"):
        where = f"({where}) AND ({rows.tied}) IS NOT TRUE"
    return replace(rows, where=where, facts={**rows.facts, "ties": found[-1]})


def refuse_mode(table: Table, source: SourceTable) -> Mode:
    """The table's mode. Raises Refused where the source's key or the rest of the spec contradict
    it."""
    mode = table.mode_with_key(bool(source.key))
    if mode == "merge" and not source.key:
        raise Refused(
            f"{source.relation} has no primary key in the source: set primary_key, or mode: append"
        )
    spec = table.incremental
    if spec and mode == "append" and (spec.lookback is not None or spec.nulls == "include"):
        raise Refused(
            f"{source.relation} has mode: append, so no row may be read twice: merge it (mode:"
            " merge, which needs a primary_key), or drop incremental.lookback and nulls: include"
        )
    return mode


def _refuse_incomplete_replacement(session: Session, source: SourceTable, rows: Selection) -> None:
    """Raises HeldBack where the rows that are safe to append now may be fewer than the target
    has."""
    held_by = rows.held_by
    if rows.upper is None and not held_by:
        # No row is visible, perhaps because they are being loaded again.
        holder = holdback.open_since(session, holdback.now(session))
        held_by = holder.who if holder else ""
    if held_by:
        raise HeldBack(
            f"{source.relation}: {held_by} may still write rows, and a full refresh would replace"
            " the table by those before them; nothing was written. End it, or retry when it has"
            " ended"
        )


def refuse_unknown_zone(session: Session, source: SourceTable, spec: Incremental) -> None:
    """Raises Refused, with the way on, where the cursor has no time zone and the zone of its
    writers is not known."""
    if zones.is_zoneless(without_modifier(source.column(spec.cursor).type)):
        zones.of_writers(session, source, spec)


def refuse_changed_cursor(source: SourceTable, spec: Incremental, last: Last | None) -> None:
    """Raises Refused where increments were read by another column, or by a type that orders values
    in another way: the watermark would be another one's, and the recorded intervals would hide that
    no run has read them by this column."""
    if last is None:
        return
    last_name = last.facts.get(INTERVAL_CURSOR)
    fact = INTERVAL_PLACE
    if spec.by == "watermark":
        last_name = None if last.watermark is None else last.cursor or spec.cursor
        fact = WATERMARK_PLACE
    if last_name is None:
        return
    name = spec.cursor
    column = source.column(name)
    place = last.place(fact, last_name)
    last_type = place.type if place else column.type
    is_another = last_name != name
    if place and source.oid == place.oid:
        # In the same table a column keeps its attnum, also when it is renamed.
        is_another = column.attnum != place.attnum
    elif place is None and source.oid == last.source_oid:
        is_another = True
    if is_another:
        change = f"is not the column {last_name} that increments were read by"
    elif not _has_same_order(last_type, column.type):
        change = f"was {last_type} and is {column.type} now"
    else:
        return
    raise Refused(f"{source.relation}: cursor {name} {change}; run a full refresh of this table")


def _has_same_order(one: str, other: str) -> bool:
    before = without_modifier(one)
    after = without_modifier(other)
    return widens(before, after) or widens(after, before)


def refuse_sequence_set_back(
    session: Session, table: Table, source: SourceTable, rows: Selection, last: Last | None
) -> None:
    """Raises Refused where later rows would be below the watermark that `rows` were read from. To
    call when the source is known to be the one that the watermark came from."""
    spec = table.incremental
    if spec is None or spec.lookback is not None or last is None or last.watermark is None:
        return
    if rows.moves_watermark and rows.action != "replace":
        sequences.refuse_set_back(session, source, spec, last.watermark)


def refuse_null_cursors(session: Session, table: Table, source: SourceTable) -> None:
    """Raises CheckFailed, with their number, when rows have no cursor value and the spec does not
    say what to do with them."""
    spec = table.incremental
    if not spec or spec.nulls != "fail" or spec.cursor in source.not_null:
        return
    row = session.execute(
        f"SELECT count(*) FROM {source.relation.sql} WHERE {ident(spec.cursor)} IS NULL"
    ).fetchone()
    if row and row[0]:
        found = f"{counted(row[0], 'row')} with NULL"
        raise CheckFailed(
            f"{source.relation}: {counted(row[0], 'row has', 'rows have')} no {spec.cursor}, so no"
            " increment would read them; set incremental.nulls to include or exclude",
            "incremental.nulls",
            row[0],
            Check(assertion="not_null", success=False, columns=(spec.cursor,), found=found),
        )
