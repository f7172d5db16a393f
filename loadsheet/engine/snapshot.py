"""Copies a table's new rows into the lake, as one snapshot of the source shows them.

Everything that decides what the rows mean is asked in that snapshot: whether the table is still as
it was described, which source it is, which rows are gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from loadsheet.engine import deletes, news
from loadsheet.engine.attempt import Attempt, HasNews
from loadsheet.engine.early import EarlyLoad
from loadsheet.engine.origin import identify_source
from loadsheet.engine.reading import Upload, has_rows, is_small, read_and_store
from loadsheet.failpoints import reach
from loadsheet.lake.parts import PartStore
from loadsheet.pinned import PinnedSession
from loadsheet.source import catalog, fitness, holdback, identity, selection, ties
from loadsheet.source.rows import OLDEST_TRANSACTION, Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Mode
from loadsheet.warehouse.fence import SeenAgain


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What an attempt has read, and what the source was at that moment."""

    described: SourceTable
    """The table in the snapshot."""
    rows: Selection
    """Which rows were read, with those that the snapshot has added."""
    upload: Upload
    """Their parts; the last one may not be stored yet."""
    origin: dict[str, str]
    """The source's identity, as manifests keep it."""
    found: deletes.Found
    """Which rows are gone."""
    seen_again: SeenAgain | None
    """What to record of a table whose content is that of its last load."""


def copy_rows(
    attempt: Attempt,
    source: PinnedSession,
    expected: SourceTable,
    rows: Selection,
    store: PartStore,
    early: EarlyLoad,
) -> Copied:
    """Read `rows` of the table and store them; those of a large table are loaded `early`.

    `expected` is the table as it was described before the snapshot. An attempt that only looks
    reads little, and raises HasNews where that is not enough. Raises catalog.Changed where the
    table is another one by now, Refused, HeldBack, SourceChanged or Overtaken, psycopg and minio
    errors.
    """
    before = identity.see_before(source)
    with catalog.locked_snapshot(source, attempt.table, expected, attempt.ask_types) as described:
        attempt.has_snapshot = True
        reach("extract.snapshot")
        selection.refuse_null_cursors(source, attempt.table, described)
        last_facts = attempt.seen.source or {}
        rows = selection.compare_ties(source, attempt.table, described, rows, last_facts)
        # A cursor value later than this is a mistake; its row must not win over later versions.
        attempt.read_at = holdback.now(source)
        origin = identify_source(attempt, source, described, rows, before)
        selection.refuse_sequence_set_back(source, attempt.table, described, rows, attempt.last)
        rows, found = _search(attempt, source, described, rows, origin)
        attempt.remarks += found.remarks
        where = rows.where
        attempt.warehouse.use(
            lambda session: fitness.refuse_values(source, described, attempt.table, where, session)
        )
        if attempt.only_looks:
            upload = _read_little(attempt, source, described, rows, store)
        else:
            if news.may_begin_early(attempt, source, rows):
                early.expect(described, rows, store.layout.format)
            upload = _read(attempt, source, described, rows, store, early.is_expected)
            early.no_more_rows()
        seen_again = _seen_again(attempt, source, described, upload, rows.action, origin)
    return Copied(
        described=described,
        rows=rows,
        upload=upload,
        origin=origin,
        found=found,
        seen_again=seen_again,
    )


def _search(
    attempt: Attempt,
    source: PinnedSession,
    described: SourceTable,
    rows: Selection,
    origin: dict[str, str],
) -> tuple[Selection, deletes.Found]:
    """Compare source and target where the run repairs or has to find deleted rows. Returns the rows
    to read, with those that the comparison adds, and what was found."""
    if attempt.repairs:
        from loadsheet.engine import repair  # it compares whole rows, which few runs do

        return repair.find(attempt, source, described, origin)
    if not deletes.is_due(attempt, rows, attempt.read_at):
        return rows, deletes.Found()
    if attempt.only_looks:
        raise HasNews
    from loadsheet.engine import key_search  # most tables need no comparison

    deletes.refuse_copying(source, described)
    found = key_search.find(attempt, source, described, rows, origin, attempt.read_at)
    again = [*found.missing, *found.may_have_moved]
    again += deletes.marked_before(attempt, described, source)
    return key_search.with_keys(rows, described, again), found


def _seen_again(
    attempt: Attempt,
    source: PinnedSession,
    described: SourceTable,
    upload: Upload,
    action: Mode,
    origin: dict[str, str],
) -> SeenAgain | None:
    """What is to be recorded of a table that was copied whole and has the content of its last load:
    which transactions have written its rows now. None where they are those of then, and for what is
    news. Without it, a row that is damaged in the target later would pass for a newer one."""
    if not attempt.seen.has_content(upload.content_sha256, action):
        return None
    last = attempt.seen.source or {}
    look = ties.look(source, described, described.columns[0].name)
    written_since = look.written_since(last.get(OLDEST_TRANSACTION)) or "FALSE"
    rows = Selection(action="replace", where=written_since)
    if not identity.is_another(last, origin) and not has_rows(source, described, rows):
        return None
    return SeenAgain(oid=described.oid, facts=origin)


def _read(
    attempt: Attempt,
    source: PinnedSession,
    described: SourceTable,
    rows: Selection,
    store: PartStore,
    is_loaded_meanwhile: bool,
) -> Upload:
    """Read all of `rows` and store them."""
    is_hashed = news.is_compared(attempt, rows)
    if attempt.table.extract_tasks == 1:
        return read_and_store(source, described, rows, store, is_hashed, is_loaded_meanwhile)
    from loadsheet.engine import shared_reading  # few tables are that large

    return shared_reading.read_together(
        attempt, source, described, rows, store, is_hashed, is_loaded_meanwhile
    )


def _read_little(
    attempt: Attempt,
    source: PinnedSession,
    described: SourceTable,
    rows: Selection,
    store: PartStore,
) -> Upload:
    """What a look reads: of an increment no row, and a whole table only where it is small. Raises
    HasNews where that is not enough."""
    if attempt.table.incremental:
        if has_rows(source, described, rows):
            raise HasNews
        return Upload([], [])
    if not is_small(source, described):
        raise HasNews
    is_hashed = news.is_compared(attempt, rows)
    return read_and_store(source, described, rows, store, is_hashed)
