"""Whether an extract would find anything new, as the engine tells it: rows of an increment, other content of a whole
table; and whether what it finds may be what was loaded before."""

from __future__ import annotations

from loadsheet.plan.preview import Changes, StepPreview
from loadsheet.postgres import Session
from loadsheet.preview import sizes
from loadsheet.preview.sessions import UNANSWERED
from loadsheet.source.bounds import TIMESTAMPTZ
from loadsheet.source.catalog import SourceTable
from loadsheet.source.reading import Reading
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.types import TIME_TYPES, without_modifier
from loadsheet.warehouse.fence import Scope, last_was_held


def of_increment(found: StepPreview, table: Table, source: SourceTable) -> Changes:
    """Whether rows would be read. A run that waits for who holds it back may find more than there is now."""
    if not found.rows_are_exact or (not found.rows and found.held_by and _waits(table, source)):
        return "maybe"
    return "yes" if found.rows else "no"


def _waits(table: Table, source: SourceTable) -> bool:
    spec = table.incremental
    by_time = spec is not None and without_modifier(source.column(spec.cursor).type) == TIMESTAMPTZ
    return not by_time or table.mode_with_key(bool(source.key)) != "merge"


def of_whole(
    found: StepPreview, pipeline: Pipeline, session: Session, source: SourceTable, rows: Reading, seen: Scope
) -> Changes:
    """Whether the content differs from the last load's, where it is small enough to be compared."""
    if found.fails or (found.table_bytes or 0) > sizes.COMPARED_BYTES or not source.is_table:
        return "maybe"
    try:
        content = sizes.content_sha256(pipeline, session, source, rows)
    except UNANSWERED:
        return "maybe"
    return "no" if content == seen.content_sha256 else "yes"


def reads_again(table: Table, source: SourceTable, rows: Reading, seen: Scope, warehouse: Session) -> bool:
    """Whether what is read may all be there already: below the watermark, above one that had to stay low, or in a
    whole table whose content is another one only by its columns, or was never compared."""
    spec = table.incremental
    if not spec:
        before = {column["name"]: column["type"] for column in seen.columns or ()}
        return seen.content_sha256 is None or before != {column.name: column.type for column in source.columns}
    if rows.action != "merge":
        return False
    if seen.watermark is None or spec.lookback is not None or spec.nulls == "include":
        return True
    kind = source.column(spec.cursor).type
    is_fine = kind == TIMESTAMPTZ or without_modifier(kind) not in TIME_TYPES
    return not is_fine or last_was_held(warehouse, seen)


def told(found: StepPreview, table: Table) -> str:
    """The extract in words."""
    cursor = table.incremental.cursor if table.incremental else ""
    if found.changes == "no":
        return f"nothing new since {cursor} {found.lower}" if cursor else "nothing new: its content is as it was loaded"
    if not cursor:
        return f"all rows{_size(found)}{'; loaded if they differ' if found.changes == 'maybe' else ''}"
    above = f"rows of {cursor} above {found.lower}" if found.lower is not None else "all rows"
    if found.held_by and not found.rows:
        return f"{above}, when those who hold them back have ended"
    return f"{above}{_size(found)}"


def _size(found: StepPreview) -> str:
    if found.rows is None:
        return ""
    return f": {'' if found.rows_are_exact else 'about '}{found.rows:,} rows, {sizes.shown(found.bytes or 0)}"
