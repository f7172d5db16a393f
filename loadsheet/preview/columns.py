"""Whether key and cursor can be relied on, by the source's catalog and statistics and a bounded
look at its rows."""

from __future__ import annotations

import psycopg

from loadsheet.errors import LoadsheetError
from loadsheet.postgres import Session
from loadsheet.preview.models import Severity, StepPreview
from loadsheet.preview.sessions import NOT_KNOWN, UNANSWERED
from loadsheet.source import reading
from loadsheet.source.reading import Reading
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Table
from loadsheet.sql import merging
from loadsheet.sql.text import ident, idents

_LOOKED_AT = 200_000
_IN_ORDER = 0.9
_CURSOR = """
SELECT EXISTS (SELECT FROM pg_index JOIN pg_class i ON i.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
               WHERE indrelid = %(oid)s AND amname = 'btree' AND indisvalid AND indpred IS NULL
               AND indkey[0] = %(attnum)s),
       (SELECT ROW(null_frac, correlation)::text FROM pg_stats
        WHERE schemaname = %(schema)s AND tablename = %(table)s AND attname = %(name)s ORDER BY inherited DESC LIMIT 1)
"""
_UNIQUE = """
SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = %(oid)s AND indisunique AND indisvalid AND indimmediate
               AND indpred IS NULL AND indexprs IS NULL
               AND (indkey::int2[])[0:indnkeyatts - 1] <@ %(attnums)s::int2[])
"""


def about_cursor(found: StepPreview, session: Session, source: SourceTable, table: Table) -> bool:
    """Adds what speaks against the cursor; whether an index finds its rows."""
    spec = table.incremental
    if not spec:
        return False
    column = source.column(spec.cursor)
    relation, size = source.relation, found.table_bytes or 0
    values = {
        "oid": source.oid,
        "attnum": column.attnum,
        "schema": relation.schema,
        "table": relation.name,
        "name": column.name,
    }
    indexed, statistics = session.execute(_CURSOR, values).fetchone() or (False, None)
    null_share, correlation = (
        float(part) if part else None for part in (statistics or "(,)")[1:-1].split(",")
    )
    if not indexed and source.is_table:
        message = f"no index begins with cursor {spec.cursor}: every run reads the whole table to find what is new"
        fix = f"CREATE INDEX ON {relation.sql} ({ident(spec.cursor)});"
        found.tell("warning" if size > 8 << 20 else "note", "cursor-index", message, fix)
    if spec.cursor in source.key:
        message = f"cursor {spec.cursor} is part of the key: rows that are added are read, rows that change are not"
        found.tell("note", "cursor-updates", message)
    _nulls(found, session, source, table, null_share, indexed)
    if correlation is not None and correlation < _IN_ORDER and (found.table_rows or 0) > 1000:
        message = (
            f"rows do not lie in the order of {spec.cursor} (correlation {correlation:.2f}): right if every change "
            "sets it to now; a row given a lower value than the watermark is never seen"
        )
        found.tell("note", "cursor-order", message)
    return bool(indexed)


def _nulls(
    found: StepPreview,
    session: Session,
    source: SourceTable,
    table: Table,
    share: float | None,
    indexed: bool,
) -> None:
    spec = table.incremental
    if not spec or spec.cursor in source.not_null:
        return
    if spec.nulls != "fail":
        treated = "is never carried" if spec.nulls == "exclude" else "is read again by every run"
        known = f" (about {share:.1%} of the rows)" if share else ""
        found.tell(
            "note",
            "cursor-null",
            f"a row without {spec.cursor}{known} {treated}: nulls is {spec.nulls}",
        )
        return
    try:
        reading.refuse_null_cursors(session, table, source)
    except LoadsheetError as error:
        found.error("cursor-null", str(error))
        return
    except UNANSWERED:
        known = f"about {share:.1%} of the rows" if share is not None else NOT_KNOWN
        severity: Severity = "error" if share else "note"
        found.tell(
            severity,
            "cursor-null",
            f"rows without {spec.cursor}: {known}; one of them stops the extract",
        )
        return
    except psycopg.errors.InsufficientPrivilege:
        return
    fix = f"ALTER TABLE {source.relation.sql} ALTER COLUMN {ident(spec.cursor)} SET NOT NULL;"
    fix = fix if source.is_table else ""
    found.tell(
        "note",
        "cursor-null",
        f"{spec.cursor} may be NULL; no row is, but one would stop the extract",
        fix,
    )


def about_key(
    found: StepPreview, session: Session, source: SourceTable, table: Table, rows: Reading
) -> str:
    """Adds what the rows that would be read say of a key that the source itself does not keep
    unique.

    Returns what would stop the load of these rows; empty where nothing does.
    """
    key = source.key
    if table.mode_with_key(bool(key)) == "append" or not key or source.key_is_enforced:
        if not key and table.incremental and table.mode is None:
            found.tell(
                "note",
                "key",
                f"{source.relation} has no primary key to merge by: its rows are appended",
            )
        return ""
    attnums = [source.column(name).attnum for name in key]
    unique = session.execute(_UNIQUE, {"oid": source.oid, "attnums": attnums}).fetchone() == (True,)
    if unique and source.not_null.issuperset(key):
        return ""
    where = f" WHERE {rows.where}" if rows.where else ""
    sample = f"(SELECT {idents(key)} FROM {source.relation.sql}{where} LIMIT {_LOOKED_AT}) sample"
    names = ", ".join(key)
    try:
        counted = session.execute(merging.count_null_keys(sample, key)).fetchone()
        doubled = (
            None if unique else session.execute(merging.has_duplicates(sample, key)).fetchone()
        )
    except UNANSWERED:
        found.tell("warning", "key", f"whether the key ({names}) is unique is {NOT_KNOWN}")
        return ""
    if counted and counted[0]:
        return f"{counted[0]:,} rows have no complete key ({names}): name a key that is never NULL"
    if doubled and doubled[0] and not table.incremental:
        return f"rows share the key ({names}): it must be unique, or an incremental cursor tell the newest"
    if doubled and doubled[0]:
        found.tell(
            "warning", "key", f"rows share the key ({names}): only the newest of each is kept"
        )
    elif not unique:
        seen = (
            "in all rows to be read"
            if found.rows_are_exact
            else f"in the first {_LOOKED_AT:,} rows at most"
        )
        fix = (
            f"CREATE UNIQUE INDEX ON {source.relation.sql} ({idents(key)});"
            if source.is_table
            else ""
        )
        found.tell(
            "warning",
            "key",
            f"the key ({names}) is unique {seen}, but nothing in the source keeps it so",
            fix,
        )
    return ""
