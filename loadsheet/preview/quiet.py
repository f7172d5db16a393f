"""Previews of tables that have nothing new, asked for many at once: a table by itself takes more
than forty questions."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import psycopg

from loadsheet.engine.nothing_new import FEWEST, Quiet, is_simple, quiet_tables
from loadsheet.pinned import PinnedSession
from loadsheet.plan.steps import step_id
from loadsheet.preview import columns, sizes
from loadsheet.preview.columns import CursorFacts
from loadsheet.preview.extracts import ExtractPreview
from loadsheet.preview.loads import LoadPreviewer
from loadsheet.preview.models import StepPreview
from loadsheet.redact import summary
from loadsheet.source.rows import Selection
from loadsheet.spec.models import Pipeline
from loadsheet.sql.copying import select_columns
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation
from loadsheet.warehouse import tables

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class QuietPreview:
    """What the two steps of a table with nothing new would do."""

    extract: StepPreview
    load: StepPreview


def preview_quiet(
    pipeline: Pipeline, source: PinnedSession, warehouse: PinnedSession
) -> dict[str, QuietPreview]:
    """The previews of tables with a cursor that are known to have nothing new, by name. About the
    others nothing is said. Raises psycopg.OperationalError when a session is lost."""
    asked = [table for table in pipeline.tables if table.incremental and is_simple(table)]
    if len(asked) < FEWEST:
        return {}
    previews: dict[str, QuietPreview] = {}
    for part in quiet_tables(pipeline, asked, source, warehouse):
        # Of a key that the source does not enforce, the rows would have to be looked at.
        quiet = [one for one in part.quiet if one.source.key_is_enforced]
        try:
            if quiet:
                previews |= _previews(pipeline, quiet, source, warehouse)
        except psycopg.Error as error:
            if source.broken or warehouse.broken:
                raise
            _log.info("each table is previewed by itself: %s", summary(error))
    return previews


def _previews(
    pipeline: Pipeline, quiet: list[Quiet], source: PinnedSession, warehouse: PinnedSession
) -> dict[str, QuietPreview]:
    cursors = [(one.source, one.table.incremental) for one in quiet]
    facts = columns.cursor_facts(source, [(table, spec) for table, spec in cursors if spec])
    found_sizes = sizes.plain_sizes(source, [one.source.oid for one in quiet])
    schema = pipeline.warehouse.schema
    targets = [Relation(schema, one.table.name) for one in quiet]
    existing = tables.plain_columns(warehouse, targets)
    previews = {}
    for one, target in zip(quiet, targets, strict=True):
        has_columns = target in existing and LOAD_ID in existing[target]
        if not has_columns or one.source.oid not in facts or one.source.oid not in found_sizes:
            continue
        step = _extract(one, facts[one.source.oid], *found_sizes[one.source.oid])
        rows = Selection(action="merge", where=one.where)
        load = StepPreview(id=step_id("load", target.name), changes="no")
        extract = ExtractPreview(step, one.source, rows)
        given = (load, warehouse, target, one.table, one.source, one.scope, extract)
        LoadPreviewer(*given).skip(existing[target])
        previews[target.name] = QuietPreview(extract=step, load=load)
    return previews


def _extract(quiet: Quiet, facts: CursorFacts, rows: int | None, size: int | None) -> StepPreview:
    spec = quiet.table.incremental
    assert spec
    watermark = quiet.scope.watermark
    preview = StepPreview(
        id=step_id("extract", quiet.table.name),
        changes="no",
        does=f"nothing new since {spec.cursor} {watermark}",
        action="merge",
        lower=watermark,
        upper=watermark,
        held_by=quiet.held_by,
        rows=0,
        rows_are_exact=True,
        bytes=0,
        table_rows=rows,
        table_bytes=size,
        sql=select_columns(quiet.source.relation, quiet.source.columns, quiet.where),
        # A later row may have the watermark's own value.
        reads_again=True,
    )
    columns.note_cursor(preview, None, quiet.source, quiet.table, facts)
    return preview
