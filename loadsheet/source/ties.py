"""Rows that share the watermark's value.

Rows written later may have the same value as the watermark: dates, buckets of minutes, Unix
seconds, batch numbers. An append stops below the value that may still get rows (`bounds`). A merge
reads the watermark's own rows again if they were written after the last load's snapshot, which the
transaction id of a row shows (`xmin`). A view does not have one: there, all of them are read again
if one has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg

from loadsheet.source.table import SourceTable
from loadsheet.sql.text import ident, typed
from loadsheet.sql.types import without_modifier

# A unique index proves that no later row has the value of an earlier one, if it covers all rows,
# holds at once and compares as the type does. That of a parent does not cover inheriting tables. A
# sequence gives each number once (`sequences`), but not what is computed from it. Only
# PostgreSQL's own kind of tables is known to show who has written a row.
_LOOK = r"""
SELECT NOT (EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = %(oid)s AND attname = %(cursor)s AND attidentity <> ''
) OR EXISTS (
    SELECT FROM pg_attribute a JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum
    JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = d.oid
        AND refclassid = 'pg_class'::regclass
    JOIN pg_sequence ON seqrelid = refobjid
    WHERE attrelid = %(oid)s AND attname = %(cursor)s
        AND pg_get_expr(adbin, adrelid) ~ '^nextval\(''[^'']*''::regclass\)$'
) OR EXISTS (
    SELECT FROM pg_index JOIN pg_class c ON c.oid = indrelid
    JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = indkey[0]
    JOIN pg_opclass o ON o.oid = indclass[0] AND opcdefault
    WHERE indrelid = %(oid)s AND attname = %(cursor)s AND indnkeyatts = 1 AND indisunique
        AND indisvalid AND indimmediate AND indpred IS NULL AND indexprs IS NULL
        AND (relkind = 'p' OR NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid)))),
txid_snapshot_xmax(txid_current_snapshot()), NOT EXISTS (
    SELECT FROM pg_class LEFT JOIN pg_am ON pg_am.oid = relam
    WHERE pg_class.oid = ANY (%(leaves)s) AND amname IS DISTINCT FROM 'heap')
"""
# Transaction ids are numbers modulo 2^32, and 2^31 of them can be compared.
_COMPARABLE = 2_000_000_000
# The sum does not depend on the order of the rows. A type without a hash function has a text.
_FINGERPRINTS = """
SELECT {cursor} = {last}, count(*) || ':' || sum(hashtextextended(ROW({columns})::text, 0))
FROM {relation} WHERE {cursor} IN ({values}) GROUP BY 1
"""


class Ties(NamedTuple):
    """What the catalogs show about rows that share a cursor's value."""

    are_possible: bool
    """Whether a later row may have the same value as an earlier one."""
    newest_transaction: int
    have_writers: bool
    """Whether each row shows the transaction that has written it."""

    def written_since(self, oldest: str | None) -> str | None:
        """SQL condition on the rows written since the snapshot whose oldest open transaction was
        `oldest` (None: all rows); None where rows do not show it.

        A transaction that the snapshot did not see has an id from its oldest open one on.
        """
        if not self.have_writers:
            return None
        if oldest is None or not 0 <= self.newest_transaction - int(oldest) < _COMPARABLE:
            return "TRUE"
        return f"age(xmin) <= age(CAST('{int(oldest) % 2**32}' AS xid))"


def look(session: psycopg.Connection[Any], source: SourceTable, cursor: str) -> Ties:
    """Ask the catalogs about the column `cursor`."""
    values = {"oid": source.oid, "cursor": cursor, "leaves": list(source.beneath.leaves)}
    row = session.execute(_LOOK, values).fetchone()
    assert row
    possible, newest, has_heap = row
    return Ties(possible, newest, has_heap and source.is_table)


def fingerprints(
    session: psycopg.Connection[Any], source: SourceTable, cursor: str, values: Sequence[str]
) -> list[str]:
    """For each of one or two cursor values, the number of its rows and a hash of their selected
    columns; empty where it has no row. Equal rows have equal ones on the same server version."""
    column = source.column(cursor)
    constants = [typed(value, without_modifier(column.type)) for value in values]
    query = _FINGERPRINTS.format(
        cursor=ident(cursor),
        last=constants[-1],
        columns=", ".join(ident(each.name) for each in source.columns),
        relation=source.relation.sql,
        values=", ".join(constants),
    )
    found = dict(session.execute(query).fetchall())
    last = found.get(True, "")
    if len(values) == 1:
        return [last]
    return [found.get(False, ""), last]
