"""Whether the key and the cursor are reliable, by the source's catalog, its statistics and a
limited look at its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg

from loadsheet.errors import LoadsheetError
from loadsheet.postgres import Session
from loadsheet.preview.models import StepPreview
from loadsheet.preview.sessions import NOT_KNOWN, UNANSWERED
from loadsheet.source import selection
from loadsheet.source.rows import Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Incremental, Table
from loadsheet.sql import merging
from loadsheet.sql.text import ident, idents
from loadsheet.warehouse import apply

_MOST_ROWS_CHECKED = 200_000
# Correlation of the cursor with the place of the rows, from 1 (stored in its order) to -1.
_LEAST_CORRELATION = 0.9
# Of fewer rows the correlation shows nothing.
_FEW_ROWS = 1000
# A table of this size takes long enough to read that a missing index is worth a warning.
_LARGE_BYTES = 8 << 20

# A table that others inherit from has two rows of statistics; the inherited ones are of all rows.
_CURSOR = """
SELECT cursor.oid, EXISTS (
    SELECT FROM pg_index JOIN pg_class i ON i.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
    WHERE indrelid = cursor.oid AND amname = 'btree' AND indisvalid AND indpred IS NULL
      AND indkey[0] = attnum), null_frac, correlation
FROM unnest(%(oids)s::oid[], %(attnums)s::int[], %(tables)s::text[], %(names)s::text[])
    AS cursor (oid, attnum, relation, name)
LEFT JOIN LATERAL (
    SELECT null_frac, correlation FROM pg_stats
    WHERE schemaname = %(schema)s AND tablename = relation AND attname = name
    ORDER BY inherited DESC LIMIT 1) statistics ON true
"""
# The columns of indkey after the first indnkeyatts are included ones (INCLUDE): the index does not
# keep them unique.
_UNIQUE_INDEX = """
SELECT EXISTS (
    SELECT FROM pg_index
    WHERE indrelid = %(oid)s AND indisunique AND indisvalid AND indimmediate
      AND indpred IS NULL AND indexprs IS NULL
      AND (indkey::int2[])[0:indnkeyatts - 1] <@ %(attnums)s::int2[])
"""


class CursorFacts(NamedTuple):
    """What the source's catalog and statistics tell about a cursor."""

    has_index: bool
    null_share: float | None
    correlation: float | None


def cursor_facts(
    session: Session, cursors: Sequence[tuple[SourceTable, Incremental]]
) -> dict[int, CursorFacts]:
    """The facts about cursors of tables in one schema, by the tables' oids."""
    columns = [source.column(spec.cursor) for source, spec in cursors]
    values = {
        "oids": [source.oid for source, _ in cursors],
        "attnums": [column.attnum for column in columns],
        "schema": cursors[0][0].relation.schema,
        "tables": [source.relation.name for source, _ in cursors],
        "names": [column.name for column in columns],
    }
    return {row[0]: CursorFacts(*row[1:]) for row in session.execute(_CURSOR, values)}


def check_cursor(preview: StepPreview, session: Session, source: SourceTable, table: Table) -> bool:
    """Add remarks about the cursor's index, order and NULLs; returns whether an index begins with
    it."""
    spec = table.incremental
    if not spec:
        return False
    facts = cursor_facts(session, [(source, spec)])[source.oid]
    note_cursor(preview, session, source, table, facts)
    return facts.has_index


def note_cursor(
    preview: StepPreview,
    session: Session | None,
    source: SourceTable,
    table: Table,
    facts: CursorFacts,
) -> None:
    """Add the remarks that follow from the `facts`. Rows without a cursor are looked for in the
    `session`; None: there are none that stop the extract."""
    spec = table.incremental
    assert spec
    relation = source.relation
    has_index, null_share, correlation = facts
    # No index can be added to a view.
    if not has_index and source.is_table:
        is_large = (preview.table_bytes or 0) > _LARGE_BYTES
        preview.add_remark(
            "warning" if is_large else "note",
            "cursor-index",
            f"no index begins with cursor {spec.cursor}: every run reads the whole table to find "
            "what is new",
            f"CREATE INDEX ON {relation.sql} ({ident(spec.cursor)});",
        )
    if spec.cursor in source.key:
        preview.add_remark(
            "note",
            "cursor-updates",
            f"cursor {spec.cursor} is part of the key: added rows are read, changed rows are not",
        )
    if spec.cursor not in source.not_null:
        _check_nulls(preview, session, source, table, spec, null_share)
    has_many_rows = (preview.table_rows or 0) > _FEW_ROWS
    if correlation is not None and correlation < _LEAST_CORRELATION and has_many_rows:
        preview.add_remark(
            "note",
            "cursor-order",
            f"rows are not stored in the order of {spec.cursor} (correlation {correlation:.2f}): "
            "this is fine if every change sets it to the current time; a row that gets a value "
            "below the watermark is never read",
        )


def _check_nulls(
    preview: StepPreview,
    session: Session | None,
    source: SourceTable,
    table: Table,
    spec: Incremental,
    null_share: float | None,
) -> None:
    """Add a remark about rows without a cursor; an error if they stop the extract.

    `null_share` is their share of the table by its statistics.
    """
    if spec.nulls != "fail":
        treatment = "is never read" if spec.nulls == "exclude" else "is read again by every run"
        share = f" (about {null_share:.1%} of the rows)" if null_share else ""
        preview.add_remark(
            "note",
            "cursor-null",
            f"a row without {spec.cursor}{share} {treatment}: nulls is {spec.nulls}",
        )
        return
    try:
        if session:
            selection.refuse_null_cursors(session, table, source)
    except LoadsheetError as error:
        preview.add_error("cursor-null", str(error))
        return
    except UNANSWERED:
        share = NOT_KNOWN if null_share is None else f"about {null_share:.1%} of the rows"
        preview.add_remark(
            "error" if null_share else "note",
            "cursor-null",
            f"rows without {spec.cursor}: {share}; one of them stops the extract",
        )
        return
    except psycopg.errors.InsufficientPrivilege:
        return
    alter = f"ALTER TABLE {source.relation.sql} ALTER COLUMN {ident(spec.cursor)} SET NOT NULL;"
    preview.add_remark(
        "note",
        "cursor-null",
        f"{spec.cursor} may be NULL; no row is, but one would stop the extract",
        alter if source.is_table else "",
    )


def check_key(
    preview: StepPreview, session: Session, source: SourceTable, table: Table, to_read: Selection
) -> str:
    """Add remarks about a key that the source itself does not keep unique, by the rows to read.

    Returns why the load of these rows would fail; empty if it would not.
    """
    key = source.key
    if not key:
        if table.incremental and table.mode is None:
            message = f"{source.relation} has no primary key to merge by: its rows are appended"
            preview.add_remark("note", "key", message)
        return ""
    if table.mode_with_key(True) == "append" or source.key_is_enforced:
        return ""
    attnums = [source.column(name).attnum for name in key]
    values = {"oid": source.oid, "attnums": attnums}
    is_unique = session.execute(_UNIQUE_INDEX, values).fetchone() == (True,)
    if is_unique and source.not_null.issuperset(key):
        return ""
    where = f" WHERE {to_read.where}" if to_read.where else ""
    rows = f"SELECT {idents(key)} FROM {source.relation.sql}{where} LIMIT {_MOST_ROWS_CHECKED}"
    names = ", ".join(key)
    try:
        nulls = _first_value(session, merging.count_null_keys(f"({rows}) sample", key))
        has_duplicates = False
        if not is_unique:
            has_duplicates = _first_value(session, merging.has_duplicates(f"({rows}) sample", key))
    except UNANSWERED:
        message = f"whether the key ({names}) is unique is {NOT_KNOWN}"
        preview.add_remark("warning", "key", message)
        return ""
    if nulls:
        return apply.incomplete_key_message(nulls, key)
    if has_duplicates and not table.incremental:
        return apply.duplicate_key_message(key)
    if has_duplicates:
        message = f"rows share the key ({names}): only the newest of each is kept"
        preview.add_remark("warning", "key", message)
    elif not is_unique:
        _warn_of_unenforced_key(preview, source)
    return ""


def _first_value(session: Session, query: str) -> Any:
    """The first column of the query's first row: a number, or whether something is so."""
    row = session.execute(query).fetchone()
    return row[0] if row else 0


def _warn_of_unenforced_key(preview: StepPreview, source: SourceTable) -> None:
    checked = f"in the first {_MOST_ROWS_CHECKED:,} rows at most"
    if preview.rows_are_exact:
        checked = "in all rows to read"
    names = ", ".join(source.key)
    index = f"CREATE UNIQUE INDEX ON {source.relation.sql} ({idents(source.key)});"
    preview.add_remark(
        "warning",
        "key",
        f"the key ({names}) is unique {checked}, but nothing in the source keeps it so",
        index if source.is_table else "",
    )
