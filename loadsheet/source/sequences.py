"""Whether a sequence gives a cursor's numbers in the order in which rows are written.

Hold-back waits for transactions that are open. A number that was drawn before its transaction began
is out of its sight: it may be used at any time, below numbers that have been read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg

from loadsheet.answers import is_number, unreadable
from loadsheet.errors import Refused
from loadsheet.source import origins
from loadsheet.source.holdback import way_on
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Incremental
from loadsheet.sql.drawing import DRAWING
from loadsheet.sql.grants import grant, grant_schema
from loadsheet.sql.text import literal
from loadsheet.sql.types import NUMBER_TYPES, without_modifier

# The sequences that the columns of a cursor (`origins.places`) own or draw from. Last, which of the
# columns draw, and another table that draws from the same sequence. Where it is ours, others have
# copied the default (LIKE, a partition that was detached) and harm no one.
_SEQUENCES = f"""
WITH place (relation, attnum, is_read) AS (
    SELECT * FROM unnest(%(relations)s::oid[], %(attnums)s::int[], %(are_read)s::bool[])
), drawing (relation, attnum, sequence, owns) AS ({DRAWING}), used (sequence, columns, is_ours) AS (
    SELECT seqrelid, array_agg(DISTINCT relation || '.' || attnum), bool_or(owns AND is_read)
    FROM drawing JOIN place USING (relation, attnum)
    JOIN pg_sequence ON seqrelid = drawing.sequence
    GROUP BY seqrelid
)
SELECT sequence::oid, sequence::regclass::text, seqcache, seqincrement, seqcycle,
    relpersistence <> 'p', columns,
    (SELECT min(relation::regclass::text) FROM drawing
     WHERE drawing.sequence = used.sequence AND NOT is_ours
         AND relation NOT IN (SELECT relation FROM place WHERE is_read))
FROM used JOIN pg_sequence ON seqrelid = sequence JOIN pg_class c ON c.oid = sequence ORDER BY 2
"""
# The function raises an error for a role that may not read the sequence.
_LAST_NUMBERS = """
SELECT oid, number FROM (
    SELECT oid, CASE WHEN has_sequence_privilege(oid, 'SELECT')
        AND has_schema_privilege(relnamespace, 'USAGE') THEN pg_sequence_last_value(oid) END
    FROM pg_class WHERE oid = ANY (%s::oid[])
) sequence (oid, number) WHERE number IS NOT NULL
"""
_LACKING_SCHEMA = """
SELECT current_user::text,
    CASE WHEN NOT has_schema_privilege(relnamespace, 'USAGE')
        THEN (SELECT nspname FROM pg_namespace n WHERE n.oid = relnamespace) END
FROM pg_class WHERE oid = %s
"""


class _Sequence(NamedTuple):
    oid: int
    name: str
    cache: int
    increment: int
    cycles: bool
    is_unlogged: bool
    columns: list[str]
    """Which columns draw numbers from it for the cursor."""
    other: str | None
    """Another table that draws from it, where it is not ours."""


def refuse_disorder(
    session: psycopg.Connection[Any], table: SourceTable, spec: Incremental, has_lookback: bool
) -> None:
    """Raises Refused, with the way on, unless each number of the cursor is drawn when its row is
    written, or no sequence gives it. A lookback makes up for all but numbers that fall."""
    cursor = spec.cursor
    if without_modifier(table.column(cursor).type) not in NUMBER_TYPES:
        return
    is_view = table.beneath.definition is not None
    sequences = _sequences(session, table, spec)
    for sequence in sequences:
        if sequence.increment < 0 and not is_view:
            raise Refused(
                f"{table.relation}: sequence {sequence.name} counts down, so later rows have lower"
                f" numbers than {cursor} was read up to: name another cursor, or read the whole"
                " table (remove incremental)"
            )
    why = _why_late(sequences)
    if why and not has_lookback:
        raise Refused(f"{table.relation}: {why} {way_on(spec)}")


def refuse_set_back(
    session: psycopg.Connection[Any], table: SourceTable, spec: Incremental, watermark: str
) -> None:
    """Raises Refused, with the way on, where the sequence that gives the cursor's numbers has
    not counted as far as the `watermark`: later rows would be below it; and where this role may not
    read that sequence, which would hide it.
    """
    cursor = spec.cursor
    kind = without_modifier(table.column(cursor).type)
    if kind not in NUMBER_TYPES:
        return
    if not is_number(watermark):
        raise Refused(
            f"{table.relation}: the ledger of the warehouse has {watermark!r} as the highest"
            f" {cursor} that was read, which is no number: run a full refresh of this table"
        )
    for sequence in _sequences(session, table, spec):
        try:
            last = _last_number(session, sequence)
        except psycopg.errors.InsufficientPrivilege:
            raise _unreadable(session, table, cursor, sequence) from None
        if last is None or _in_type(session, last, kind) >= Decimal(watermark):
            continue
        raise Refused(
            f"{table.relation}: sequence {sequence.name} has counted to {last}, but increments were"
            f" read up to {cursor} {watermark}, and later rows would be below that. If the sequence"
            " was set back, run a full refresh of this table. If rows came with numbers of their"
            f" own, let it count on from there: SELECT setval({literal(sequence.name)},"
            f" {math.ceil(Decimal(watermark))});"
        )


def in_order(
    session: psycopg.Connection[Any], watermarks: Mapping[origins.Place, str]
) -> set[origins.Place]:
    """Of columns of plain tables, each read up to its watermark (a whole number), those that
    `refuse_disorder` and `refuse_set_back` would let pass: in one question for all. Leaves out what
    needs a closer look."""
    values = {
        "relations": [place.relation for place in watermarks],
        "attnums": [place.attnum for place in watermarks],
        "are_read": [True] * len(watermarks),
    }
    drawn: dict[str, list[_Sequence]] = {}
    for row in session.execute(_SEQUENCES, values):
        sequence = _Sequence(*row)
        for column in sequence.columns:
            drawn.setdefault(column, []).append(sequence)
    lasts = _last_numbers(session, [one.oid for found in drawn.values() for one in found])

    def is_in_order(place: origins.Place) -> bool:
        found = drawn.get(f"{place.relation}.{place.attnum}", [])
        # Of two tables that draw from one sequence, each is another one to the other.
        if _why_late(found) or any(len(sequence.columns) > 1 for sequence in found):
            return False
        return all(lasts.get(one.oid, -1) >= int(watermarks[place]) for one in found)

    return {place for place in watermarks if is_in_order(place)}


def _last_numbers(session: psycopg.Connection[Any], oids: Sequence[int]) -> dict[int, int]:
    """The last number of each sequence that this role may read, and that has given one."""
    return dict(session.execute(_LAST_NUMBERS, (list(oids),)).fetchall())


def _in_type(session: psycopg.Connection[Any], number: int, kind: str) -> Decimal:
    """The number as the cursor's type holds it: a real has 6 digits."""
    if kind != "real":
        return Decimal(number)
    row = session.execute(f"SELECT CAST({number} AS {kind})::text").fetchone()
    if row is None or not is_number(row[0]):
        raise unreadable(session, "no number where one was asked for")
    return Decimal(row[0])


def _last_number(session: psycopg.Connection[Any], sequence: _Sequence) -> int | None:
    """The last number that was drawn, or the one before the first."""
    with session.transaction():
        row = session.execute(
            f"SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM {sequence.name}"
        ).fetchone()
    return int(row[0]) if row else None


def _unreadable(
    session: psycopg.Connection[Any], table: SourceTable, cursor: str, sequence: _Sequence
) -> Refused:
    row = session.execute(_LACKING_SCHEMA, (sequence.oid,)).fetchone()
    assert row
    fixes = [grant("SELECT", f"SEQUENCE {sequence.name}", row[0])]
    if row[1]:
        fixes.insert(0, grant_schema("USAGE", row[1], row[0]))
    return Refused(
        f"{table.relation}: role {row[0]} may not read sequence {sequence.name}, which gives the"
        f" numbers of {cursor}: if it were set back, later rows would be below the watermark"
        f" unseen. Run {' '.join(fixes)}"
    )


def _sequences(
    session: psycopg.Connection[Any], table: SourceTable, spec: Incremental
) -> list[_Sequence]:
    places = origins.places(session, table, spec)
    values = {
        "relations": [place.relation for place in places],
        "attnums": [place.attnum for place in places],
        "are_read": list(places.values()),
    }
    return [_Sequence(*row) for row in session.execute(_SEQUENCES, values)]


def _why_late(sequences: list[_Sequence]) -> str:
    """Why a low number may be used late, and what to do about it; empty where none may."""
    for sequence in sequences:
        name = sequence.name
        if sequence.cache > 1:
            return (
                f"sessions take numbers from sequence {name} in blocks of {sequence.cache}, and may"
                " use one long after higher ones were read: run"
                f" ALTER SEQUENCE {name} CACHE 1; and reconnect them"
            )
        if sequence.increment < 0:
            return f"sequence {name} counts down, so later rows may have lower numbers"
        if sequence.is_unlogged:
            return f"sequence {name} is unlogged, and begins again after a crash of the source"
        if sequence.increment > 1:
            return (
                f"sequence {name} counts in steps of {sequence.increment}: applications that take"
                " the numbers between (pooled ids) may use one long after higher ones were read:"
                " name another cursor"
            )
        if sequence.cycles:
            return (
                f"sequence {name} begins again after its highest number: run"
                f" ALTER SEQUENCE {name} NO CYCLE;"
            )
        if sequence.other:
            return (
                f"sequence {name} also gives numbers to {sequence.other}, so an application may"
                " take one before it writes, and use it long after higher ones were read: name"
                " another cursor"
            )
    # A column may own a sequence that it does not draw from.
    columns = {column for sequence in sequences for column in sequence.columns}
    if len(sequences) > 1 and len(columns) > 1:
        names = ", ".join(sequence.name for sequence in sequences)
        return (
            f"its numbers come from several sequences ({names}), which count separately:"
            " name another cursor"
        )
    return ""
