"""Whether a sequence gives a cursor's numbers in the order in which rows are written.

Hold-back waits for transactions that are open. A number that was drawn before its transaction began
is out of its sight: it may be used at any time, below numbers that have been read.
"""

from __future__ import annotations

from typing import Any

import psycopg

from loadsheet.errors import Refused
from loadsheet.source.holdback import OVERLAP
from loadsheet.source.table import SourceTable
from loadsheet.sql.types import NUMBER_TYPES, without_modifier

# The sequences that the column owns (serial, identity) or draws its default from, also in a
# partition that has a default of its own. `others` is a table that draws from the same one.
_SEQUENCES = """
WITH RECURSIVE part (oid) AS (
    SELECT %(oid)s::oid
    UNION
    SELECT inhrelid FROM part JOIN pg_inherits ON inhparent = part.oid
), drawing (relation, attnum, sequence) AS (
    SELECT refobjid, refobjsubid, objid FROM pg_depend
    WHERE classid = 'pg_class'::regclass AND deptype IN ('a', 'i')
        AND refclassid = 'pg_class'::regclass
    UNION
    SELECT adrelid, adnum, refobjid FROM pg_attrdef d
    JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = d.oid
    WHERE refclassid = 'pg_class'::regclass
), used (sequence) AS (
    SELECT DISTINCT seqrelid FROM drawing
    JOIN part ON part.oid = relation
    JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = drawing.attnum
    JOIN pg_sequence ON seqrelid = drawing.sequence
    WHERE attname = %(column)s
)
SELECT sequence::regclass::text, seqcache, seqincrement, seqcycle,
    (SELECT min(relation::regclass::text) FROM drawing
     WHERE drawing.sequence = used.sequence AND relation NOT IN (SELECT oid FROM part))
FROM used JOIN pg_sequence ON seqrelid = sequence ORDER BY 1
"""


def refuse_disorder(
    session: psycopg.Connection[Any], table: SourceTable, cursor: str, has_lookback: bool
) -> None:
    """Raises Refused, with the way on, unless each number of `cursor` is drawn when its row is
    written, or no sequence gives it. A lookback makes up for all but numbers that fall."""
    if without_modifier(table.column(cursor).type) not in NUMBER_TYPES:
        return
    values = {"oid": table.oid, "column": cursor}
    rows = session.execute(_SEQUENCES, values).fetchall()
    for sequence, _, increment, _, _ in rows:
        if increment < 0:
            raise Refused(
                f"{table.relation}: sequence {sequence} counts down, so later rows have lower"
                f" numbers than {cursor} was read up to: name another cursor, or read the whole"
                " table (remove incremental)"
            )
    why = _why_late(rows)
    if why and not has_lookback:
        raise Refused(f"{table.relation}: {why} {OVERLAP}")


def _why_late(rows: list[tuple[Any, ...]]) -> str:
    """Why a low number may be used late, and what to do about it; empty where none may."""
    for sequence, cache, increment, cycles, other in rows:
        if cache > 1:
            return (
                f"sessions take numbers from sequence {sequence} in blocks of {cache}, and may use"
                " one long after higher ones were read: run"
                f" ALTER SEQUENCE {sequence} CACHE 1; and reconnect them"
            )
        if increment > 1:
            return (
                f"sequence {sequence} counts in steps of {increment}: applications that take the"
                " numbers between (pooled ids) may use one long after higher ones were read: name"
                " another cursor"
            )
        if cycles:
            return (
                f"sequence {sequence} begins again after its highest number: run"
                f" ALTER SEQUENCE {sequence} NO CYCLE;"
            )
        if other:
            return (
                f"sequence {sequence} also gives numbers to {other}, so an application may take one"
                " before it writes, and use it long after higher ones were read: name another"
                " cursor"
            )
    if len(rows) > 1:
        names = ", ".join(row[0] for row in rows)
        return (
            f"its numbers come from several sequences ({names}), which count separately:"
            " name another cursor"
        )
    return ""
