"""The extract step: reads the new rows of a source table into the lake.

The fence is taken late, just before the first object is stored: an attempt that finds nothing new
writes nothing and overtakes no other run. Parts are stored while others are filled, so the thread
that takes the fence is usually an upload thread; the one that reads, where the load begins early.

    step's thread                          upload thread of a PartWriter
    read_scope: what is already loaded
    decide which rows to read
    BEGIN, snapshot, checks
    key_search.find: which rows are gone   (only where the spec asks for it)
    copy_rows: COPY fills parts       ---> PartStore.put: take_fence_once, then Lake.put(part)
    COMMIT on the source
    nothing new? delete the parts, skip    (usually there are none, and no fence was taken)
    upload.finish: the last part      ---> PartStore.put, as above
    take_fence_once: returns the same fence, or takes it for a table without any rows
    Lake.put(manifest), seal_attempt       from here on the load step can use the attempt
"""

from __future__ import annotations

import json
import logging
import time

import psycopg

from loadsheet.checks import Check, Checked
from loadsheet.engine import deletes, details, news, resume, snapshot
from loadsheet.engine.attempt import Attempt, HasNews
from loadsheet.engine.early import EarlyLoad, EarlyLoads
from loadsheet.engine.origin import wait_until_durable
from loadsheet.engine.reading import Upload, file_format
from loadsheet.engine.seal import seal
from loadsheet.engine.sessions import IdleSession, Open
from loadsheet.engine.snapshot import Copied
from loadsheet.errors import Refused
from loadsheet.failpoints import reach
from loadsheet.lake.gone import store_keys
from loadsheet.lake.manifest import FILE_NAME, Manifest
from loadsheet.lake.parts import Layout, PartStore, Progress
from loadsheet.lake.store import Lake
from loadsheet.outcome import Outcome, RunRequest, nothing_new_since, skipped
from loadsheet.pinned import PINNED, PinnedSession
from loadsheet.redact import summary
from loadsheet.source import catalog, selection
from loadsheet.source.rows import Last, Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.copying import FileFormat
from loadsheet.sql.types import without_modifier
from loadsheet.warehouse import adopt, current, intervals, ledger
from loadsheet.warehouse.drift import KEY
from loadsheet.warehouse.gone import keeps_deleted
from loadsheet.wording import counted

_log = logging.getLogger(__name__)
# What is said of a table by its description. A lost session is none.
_VERDICTS = (Refused, psycopg.ProgrammingError, psycopg.DataError)


def extract(
    pipeline: Pipeline,
    table: Table,
    request: RunRequest,
    source: PinnedSession,
    lake: Lake,
    warehouse: Open,
    progress: Progress,
    early: EarlyLoads | None = None,
    described: SourceTable | None = None,
) -> Outcome:
    """Store the table's new rows in the lake; `.load_id` names them for the load.

    `warehouse` opens a session; a second one where the first was ended while rows were read. With
    `early`, the load of a large table begins meanwhile. `described` is the table as it was a moment
    ago, which saves asking before the snapshot; in the snapshot it is asked either way.
    Skipped when there is nothing new; then nothing was written anywhere. Raises Refused, HeldBack
    or Overtaken (see `loadsheet.errors`), psycopg and minio errors for trouble with the servers.
    """
    with IdleSession(warehouse) as kept:
        attempt = Attempt(pipeline, table, request, lake, kept)
        if described:
            try:
                with _early(attempt, early) as load:
                    return _extract(attempt, source, progress, load, described)
            except catalog.Changed as error:
                _log.info("%s. Starting again", error)
            except _VERDICTS as error:
                # By a description that no snapshot has confirmed it is none either: the cursor may
                # have another type by now, or be gone.
                if attempt.has_snapshot:
                    raise
                _log.info("%s. Describing the table again", summary(error))
        with _early(attempt, early) as load:
            return _extract(attempt, source, progress, load)


def look_at(
    pipeline: Pipeline,
    table: Table,
    request: RunRequest,
    source: PinnedSession,
    lake: Lake,
    warehouse: Open,
) -> Outcome | None:
    """The outcome of `extract` where it would find nothing new, with all that it would record. None
    where it would find something, or where that cannot be known without reading many rows.

    Nothing is stored, and no fence is taken. Raises as `extract`.
    """
    with IdleSession(warehouse) as kept:
        try:
            attempt = Attempt(pipeline, table, request, lake, kept, only_looks=True)
            is_resumed = table.name in request.resumes
            if is_resumed or attempt.repairs or news.is_certain(attempt):
                return None
            return _extract(attempt, source, lambda rows, size: None, _early(attempt, None))
        except HasNews:
            return None


def _early(attempt: Attempt, loads: EarlyLoads | None) -> EarlyLoad:
    return EarlyLoad(
        loads,
        attempt.pipeline.name,
        attempt.table,
        attempt.target,
        attempt.seen,
        lambda: attempt.take_fence_once().fence,
    )


def _extract(
    attempt: Attempt,
    source: PinnedSession,
    progress: Progress,
    early: EarlyLoad,
    described: SourceTable | None = None,
) -> Outcome:
    pipeline, table, request = attempt.pipeline, attempt.table, attempt.request
    # What was loaded or extracted before does not count on a target that was harmed since.
    if table.name in request.resumes and attempt.change is None:
        earlier = _outcome_before_the_stop(attempt)
        if earlier:
            return earlier
    if described is None:
        with source.transaction():
            last = catalog.last_read(attempt.seen.source_oid, attempt.seen.columns)
            schema, ask = pipeline.source.schema, attempt.ask_types
            described = catalog.describe(source, schema, table, ask, last)
    layout = Layout(file_format(pipeline, described), described.columns, described.key)
    # Before anything is read: this fails where pyarrow is missing or a type cannot be stored.
    layout.encoder()
    attempt.refuse_append_to_others_rows(described)
    deletes.refuse_unfit(table, described)
    if attempt.repairs:
        from loadsheet.engine import repair  # it compares whole rows, which few runs do

        rows = repair.decide(table, described, attempt)
    else:
        rows = selection.decide(
            source, table, described, attempt.last, request, replaces_rows=attempt.other is not None
        )
    if request.sample:
        from loadsheet.engine import sample  # it imports the SQL parser, which no other run needs

        rows = sample.sampled_rows(source, described, rows, request.sample)
    _log.debug(
        "%s: action %s, lower bound %s, upper bound %s",
        described.relation,
        rows.action,
        rows.lower,
        rows.upper,
    )
    attempt.refuse_too_many_columns(described, rows)
    _show_rows(described, rows, attempt.last)
    reach("extract.decided")
    manifest = _read_and_seal(attempt, source, described, rows, layout, progress, early)
    remarks = _remarks(table, rows, attempt)
    if manifest is None:
        attempt.warehouse.use(
            lambda session: ledger.clear_failure(session, pipeline.name, "table", attempt.target)
        )
        _record_empty_interval(attempt, rows)
        _record_look(attempt, rows)
        if attempt.repairs:
            return skipped("; ".join(["no row is missing or different", *remarks]), remarks)
        return nothing_new_since(rows.lower, remarks, bool(rows.held_by))
    stored = f"{counted(manifest.rows, 'row')}, {counted(manifest.size, 'byte')}"
    return Outcome(
        status="done",
        message="; ".join([f"{stored} of {manifest.format}", *remarks]),
        load_id=manifest.load_id,
        counts={"extracted": manifest.rows, "bytes": manifest.size},
        remarks=remarks,
        held_back=bool(rows.held_by),
        lag_seconds=manifest.lag_seconds,
        checked=_checked(table),
    )


def _checked(table: Table) -> tuple[Checked, ...]:
    """The check that the source's rows have passed, if there is one."""
    spec = table.incremental
    if spec is None or spec.nulls != "fail":
        return ()
    has_cursor = Check(assertion="not_null", success=True, columns=(spec.cursor,))
    return (Checked(kind="table", name=table.name, checks=(has_cursor,)),)


def _record_empty_interval(attempt: Attempt, rows: Selection) -> None:
    """Record an interval without rows as read. True whatever other runs have done meanwhile, so it
    needs no fence."""
    read = attempt.interval_of(rows)
    if read:
        name = attempt.pipeline.name
        attempt.warehouse.use(lambda session: intervals.record(session, name, attempt.target, read))


def _record_look(attempt: Attempt, rows: Selection) -> None:
    """Record that the target has all that the source has, or what keeps this from being known."""
    reads_all_news = rows.moves_watermark or attempt.table.incremental is None
    if not attempt.pipeline.promises_freshness or not reads_all_news or attempt.repairs:
        return
    # A merge reads all visible rows, also those that the watermark may not pass yet.
    waits_for = "" if rows.action == "merge" else rows.held_by or rows.waiting
    held_by = {attempt.target: waits_for}
    name, read_at = attempt.pipeline.name, attempt.read_at
    attempt.warehouse.use(lambda session: current.record_looks(session, name, held_by, read_at))


def _show_rows(described: SourceTable, rows: Selection, last: Last | None) -> None:
    """Log which rows are read, and where that leaves the watermark."""
    window = f"from {rows.lower}" if rows.lower else "all rows"
    if rows.upper:
        window += f" up to {rows.upper}"
    after = "stays" if rows.action != "replace" else "none"
    if rows.moves_watermark:
        after = rows.upper or "stays"
    details.show(
        f"Rows of {described.relation}",
        {
            "mode": rows.action,
            "window": window,
            "condition": rows.where,
            "watermark before": (last.watermark if last else None) or "none",
            "watermark after the load": after,
            "held back by": rows.held_by,
            "waiting": rows.waiting,
        },
    )


def _remarks(table: Table, rows: Selection, attempt: Attempt) -> tuple[str, ...]:
    """What the outcome's message adds to the numbers; empty for most extractions."""
    remarks: list[str] = []
    if rows.held_by:
        remarks.append(f"held back by {rows.held_by}")
    if rows.waiting:
        remarks.append(rows.waiting)
    remarks += attempt.remarks
    remarks += attempt.gaps(rows)
    if attempt.change:
        remarks.append(f"{attempt.target} {attempt.change.what}")
    if attempt.other:
        remarks.append(
            adopt.note(attempt.target, attempt.other, attempt.pipeline.name, table, attempt.request)
        )
    if attempt.accepted:
        remarks.append(f"accepted: {attempt.accepted}")
    if rows.action == "append" and table.mode is None:
        remarks.append("appended, because there is no primary key to merge by")
    return tuple(remarks)


def _outcome_before_the_stop(attempt: Attempt) -> Outcome | None:
    """The outcome, where this run loaded or extracted the table before it was stopped."""
    warehouse = attempt.warehouse.session
    names = (attempt.pipeline.name, attempt.table.name, attempt.target, attempt.request.run_id)
    if resume.has_loaded(warehouse, *names) and not attempt.must_fill:
        return skipped("loaded before the run was stopped")
    load_id = resume.extracted_load_id(warehouse, *names)
    if not load_id:
        return None
    return Outcome(status="done", message="extracted before the run was stopped", load_id=load_id)


def _read_and_seal(
    attempt: Attempt,
    source: PinnedSession,
    expected: SourceTable,
    rows: Selection,
    layout: Layout,
    progress: Progress,
    early: EarlyLoad,
) -> Manifest | None:
    """Read in one snapshot and store; None when there was nothing new."""
    # The fence is asked for by the upload threads before each part, so the first part takes it.
    store = PartStore(
        attempt.lake,
        lambda: attempt.take_fence_once().prefix,
        layout,
        progress,
        on_rows=early.offer,
        on_stored=early.stored,
    )
    copied = snapshot.copy_rows(attempt, source, expected, rows, store, early)
    # A last part that may hold nothing new is stored after the source's transaction: an open
    # snapshot keeps the source from cleaning up dead rows.
    reach("extract.copied")
    if not copied.found.is_news and news.is_nothing_new(attempt, copied.rows, copied.upload):
        _end_without_news(attempt, source, copied)
        return None
    if attempt.only_looks:
        copied.upload.abandon()
        raise HasNews
    copied.upload.finish()
    reach("extract.parts_stored")
    wait_until_durable(attempt, source, copied.origin)
    manifest = _manifest(attempt, copied, layout.format)
    seal(attempt, manifest)
    early.keep(manifest.load_id)
    _show_stored(attempt, manifest)
    return manifest


def _end_without_news(attempt: Attempt, source: PinnedSession, copied: Copied) -> None:
    """Leave nothing in the lake, and record what is known now."""
    rows, found = copied.rows, copied.found
    _discard(attempt, copied.upload)
    if copied.seen_again or attempt.interval_of(rows):
        # It is recorded as read: a crash must not bring rows back into it.
        wait_until_durable(attempt, source, copied.origin)
    read_all = rows.lower is None and not attempt.repairs and not attempt.interval_of(rows)
    if found.checked_at or read_all:
        # The whole table, or each of its keys, is as the last load left it.
        attempt.record_unchanged(found.checked_at, found.gone_rows, copied.seen_again)


def _discard(attempt: Attempt, upload: Upload) -> None:
    """Remove the parts of a table whose content turned out to be the same."""
    reach("extract.unchanged")
    upload.abandon()
    parts = upload.parts
    _log.debug("%s: nothing new, %d stored parts to remove", attempt.target, len(parts))
    for part in parts:
        attempt.lake.remove(part.name)


def _manifest(attempt: Attempt, copied: Copied, format: FileFormat) -> Manifest:
    # A table without any rows has stored no part, so nothing has taken the fence yet.
    fenced = attempt.take_fence_once()
    described, rows, found = copied.described, copied.rows, copied.found
    cursor = attempt.table.incremental and described.column(attempt.table.incremental.cursor)
    keyed = attempt.table.mode_with_key(bool(described.key)) != "append"
    key = described.key if keyed else ()
    columns = [described.column(name) for name in key]
    gone = store_keys(attempt.lake, lambda: fenced.prefix, columns, found.gone)
    return Manifest(
        load_id=fenced.load_id,
        pipeline=attempt.pipeline.name,
        table=attempt.table.name,
        run_id=attempt.request.run_id,
        fence=fenced.fence,
        action=rows.action,
        builds_on_target=rows.action != "replace" and not attempt.is_first,
        format=format,
        columns=described.columns,
        key=key,
        key_is_enforced=described.key_is_enforced,
        source_oid=described.oid,
        cursor=cursor.name if cursor else None,
        cursor_type=without_modifier(cursor.type) if cursor else None,
        lower=rows.lower,
        upper=rows.complete_until or rows.upper,
        moves_watermark=rows.moves_watermark,
        read_at=attempt.read_at,
        clock=rows.clock,
        rows=copied.upload.rows,
        parts=tuple(copied.upload.parts),
        repairs=attempt.repairs,
        gone=gone,
        gone_rows=found.gone.count,
        marks_gone=keeps_deleted(attempt.table) and not attempt.request.sample,
        deletes_checked_at=found.checked_at,
        gone_found=found.gone_rows if found.checked_at else None,
        has_all_rows=rows.are_all,
        content_sha256=copied.upload.content_sha256,
        held_by=rows.held_by,
        seconds=time.monotonic() - attempt.started,
        source={**copied.origin, KEY: json.dumps(list(key))},
        settings=PINNED,
    )


def _show_stored(attempt: Attempt, manifest: Manifest) -> None:
    """Log what is in the lake now, and where."""
    prefix = f"{attempt.lake.bucket}/{attempt.take_fence_once().prefix}"
    details.show(
        f"Stored in the lake: {manifest.load_id}",
        {
            "load id": manifest.load_id,
            "prefix": prefix,
            "manifest": f"{prefix}/{FILE_NAME}",
            "parts": len(manifest.parts),
            "format": manifest.format,
            **details.amount(manifest.rows, manifest.size, attempt.started),
        },
    )
