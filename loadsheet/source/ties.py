"""Rows that share the watermark's value.

Rows written later may have the same value as the watermark: dates, buckets of minutes, Unix
seconds, batch numbers. An append stops below the value that may still get rows (`bounds`). A merge
reads the watermark's own rows again if they were written after the last load's snapshot, which the
transaction id of a row shows (`xmin`). A view does not have one: there, all of them are read again
if one has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from loadsheet.source.table import SourceTable
from loadsheet.sql.text import ident, typed
from loadsheet.sql.types import without_modifier

# A unique index proves that no later row has the value of an earlier one, if it covers all rows,
# holds at once and compares as the type does. That of a parent does not cover inheriting tables. A
# sequence gives each number once (`sequences`).
_IS_UNIQUE = """
SELECT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = %(oid)s AND attname = %(cursor)s AND attidentity <> ''
) OR EXISTS (
    SELECT FROM pg_attribute a JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum
    JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = d.oid
        AND refclassid = 'pg_class'::regclass
    JOIN pg_sequence ON seqrelid = refobjid
    WHERE attrelid = %(oid)s AND attname = %(cursor)s
) OR EXISTS (
    SELECT FROM pg_index JOIN pg_class c ON c.oid = indrelid
    JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = indkey[0]
    JOIN pg_opclass o ON o.oid = indclass[0] AND opcdefault
    WHERE indrelid = %(oid)s AND attname = %(cursor)s AND indnkeyatts = 1 AND indisunique
        AND indisvalid AND indimmediate AND indpred IS NULL AND indexprs IS NULL
        AND (relkind = 'p' OR NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid)))
"""
# A transaction that the last snapshot did not see has an id from its oldest open one on.
# Transaction ids are numbers modulo 2^32, and 2^31 of them can be compared.
_COMPARABLE = 2_000_000_000
_OLDEST_NOW = """
SELECT txid_snapshot_xmax(txid_current_snapshot()), NOT EXISTS (
    SELECT FROM pg_class LEFT JOIN pg_am ON pg_am.oid = relam
    WHERE pg_class.oid = ANY (%s) AND amname IS DISTINCT FROM 'heap')
"""
# The sum does not depend on the order of the rows. A type without a hash function has a text.
_FINGERPRINTS = """
SELECT {cursor} = {last}, count(*) || ':' || sum(hashtextextended(ROW({columns})::text, 0))
FROM {relation} WHERE {cursor} IN ({values}) GROUP BY 1
"""


def are_possible(session: psycopg.Connection[Any], source: SourceTable, cursor: str) -> bool:
    """Whether a later row may have the same `cursor` as an earlier one."""
    row = session.execute(_IS_UNIQUE, {"oid": source.oid, "cursor": cursor}).fetchone()
    return row != (True,)


def written_since(
    session: psycopg.Connection[Any], source: SourceTable, oldest: str | None
) -> str | None:
    """SQL condition on the rows written since the snapshot whose oldest open transaction was
    `oldest`; None where the relation's rows do not show it."""
    row = session.execute(_OLDEST_NOW, (list(source.beneath.leaves),)).fetchone()
    assert row
    now, has_ids = row
    if not (has_ids and source.is_table):
        return None
    if oldest is None or not 0 <= now - int(oldest) < _COMPARABLE:
        return "TRUE"
    return f"age(xmin) <= age(CAST('{int(oldest) % 2**32}' AS xid))"


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
