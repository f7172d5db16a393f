"""The extract step: reads the new rows of a source table into the lake.

The fence is taken late, just before the first object is stored: an attempt that finds nothing new
writes nothing and overtakes no other run. Parts are stored while others are filled, so the thread
that takes the fence is usually an upload thread.

    step's thread                          upload thread of a PartWriter
    read_scope: what is already loaded
    decide which rows to read
    BEGIN, snapshot, checks
    read_and_store: COPY fills parts  ---> PartStore.put: take_fence_once, then Lake.put(part)
    COMMIT on the source
    nothing new? delete the parts, skip    (usually there are none, and no fence was taken)
    upload.finish: the last part      ---> PartStore.put, as above
    take_fence_once: returns the same fence, or takes it for a table without any rows
    Lake.put(manifest), seal_attempt       from here on the load step can use the attempt
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
import uuid
from dataclasses import dataclass
from functools import cached_property

from loadsheet.engine import details, resume
from loadsheet.engine.reading import Upload, file_format, read_and_store
from loadsheet.engine.sessions import IdleSession, Open
from loadsheet.errors import Overtaken
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import FILE_NAME, Manifest, load_prefix
from loadsheet.lake.parts import Layout, PartStore, Progress
from loadsheet.lake.store import Lake
from loadsheet.outcome import Outcome, RunRequest, skipped
from loadsheet.pinned import PINNED, PinnedSession
from loadsheet.plan.gaps import gaps_between, sentences
from loadsheet.postgres import Session
from loadsheet.source import beneath, catalog, fitness, holdback, identity, selection
from loadsheet.source.rows import (
    INITIAL_VALUE,
    INTERVAL_CURSOR,
    WATERMARK_FACTS,
    Last,
    Selection,
)
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.copying import FileFormat
from loadsheet.sql.extensions import Offered
from loadsheet.sql.text import Relation
from loadsheet.sql.types import without_modifier
from loadsheet.warehouse import (
    adopt,
    extensions,
    fence,
    integrity,
    intervals,
    ledger,
    load_transaction,
    tables,
)
from loadsheet.warehouse.drift import KEY
from loadsheet.warehouse.fence import Scope
from loadsheet.warehouse.integrity import Change
from loadsheet.warehouse.intervals import Read
from loadsheet.wording import counted

_log = logging.getLogger(__name__)


def extract(
    pipeline: Pipeline,
    table: Table,
    request: RunRequest,
    source: PinnedSession,
    lake: Lake,
    warehouse: Open,
    progress: Progress,
) -> Outcome:
    """Store the table's new rows in the lake; `.load_id` names them for the load.

    `warehouse` opens a session; a second one where the first was ended while rows were read.
    Skipped when there is nothing new; then nothing was written anywhere. Raises Refused, HeldBack
    or Overtaken (see `loadsheet.errors`), psycopg and minio errors for trouble with the servers.
    """
    with IdleSession(warehouse) as kept:
        attempt = _Attempt(pipeline, table, request, lake, kept)
        return _extract(attempt, source, progress)


def _extract(attempt: _Attempt, source: PinnedSession, progress: Progress) -> Outcome:
    pipeline, table, request = attempt.pipeline, attempt.table, attempt.request
    # What was loaded or extracted before does not count on a target that was harmed since.
    if table.name in request.resumes and attempt.change is None:
        earlier = _outcome_before_the_stop(attempt)
        if earlier:
            return earlier
    with source.transaction():
        last = catalog.last_read(attempt.seen.source_oid, attempt.seen.columns)
        described = catalog.describe(source, pipeline.source.schema, table, attempt.ask_types, last)
    layout = Layout(file_format(pipeline, described), described.columns, described.key)
    # Before anything is read: this fails where pyarrow is missing or a type cannot be stored.
    layout.encoder()
    attempt.refuse_append_to_others_rows(described)
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
    manifest = attempt.run(source, described, rows, layout, progress)
    remarks = _remarks(table, rows, attempt)
    if manifest is None:
        attempt.warehouse.use(
            lambda session: ledger.clear_failure(session, pipeline.name, "table", attempt.target)
        )
        _record_empty_interval(attempt, rows)
        since = f" since {rows.lower}" if rows.lower else ""
        message = "; ".join([f"nothing new{since}", *remarks])
        return skipped(message, remarks, reason="nothing new")
    stored = f"{counted(manifest.rows, 'row')}, {counted(manifest.size, 'byte')}"
    return Outcome(
        status="done",
        message="; ".join([f"{stored} of {manifest.format}", *remarks]),
        load_id=manifest.load_id,
        counts={"extracted": manifest.rows, "bytes": manifest.size},
        remarks=remarks,
    )


def _record_empty_interval(attempt: _Attempt, rows: Selection) -> None:
    """Record an interval without rows as read. True whatever other runs have done meanwhile, so it
    needs no fence."""
    read = attempt.interval_of(rows)
    if read:
        name = attempt.pipeline.name
        attempt.warehouse.use(lambda session: intervals.record(session, name, attempt.target, read))


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


def _remarks(table: Table, rows: Selection, attempt: _Attempt) -> tuple[str, ...]:
    """What the outcome's message adds to the numbers; empty for most extractions."""
    remarks: list[str] = []
    if rows.held_by:
        remarks.append(f"held back by {rows.held_by}")
    if rows.waiting:
        remarks.append(rows.waiting)
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


def _outcome_before_the_stop(attempt: _Attempt) -> Outcome | None:
    """The outcome, where this run loaded or extracted the table before it was stopped."""
    warehouse = attempt.warehouse.session
    names = (attempt.pipeline.name, attempt.table.name, attempt.target, attempt.request.run_id)
    if resume.has_loaded(warehouse, *names):
        return skipped("loaded before the run was stopped")
    load_id = resume.extracted_load_id(warehouse, *names)
    if not load_id:
        return None
    return Outcome(status="done", message="extracted before the run was stopped", load_id=load_id)


@dataclass(frozen=True)
class _Fenced:
    """What belongs to an attempt from the moment it has the fence."""

    fence: int
    load_id: str
    prefix: str
    """Where the attempt's objects are in the lake."""


class _Attempt:
    """One try at extracting a table: what it has observed, and its fence once it has taken it."""

    def __init__(
        self,
        pipeline: Pipeline,
        table: Table,
        request: RunRequest,
        lake: Lake,
        warehouse: IdleSession,
    ):
        self.pipeline = pipeline
        self.table = table
        self.request = request
        self.lake = lake
        self.warehouse = warehouse
        self.target = Relation(pipeline.warehouse.schema, table.name)
        self.started = time.monotonic()
        with warehouse.session.transaction():
            ledger.ensure(warehouse.session)
            self._observe(warehouse.session)
        reach("extract.observed")
        self.accepted = ""
        """The changes of the source that the run was told to accept."""
        self._fenced: _Fenced | None = None
        self._taking_fence = threading.Lock()

    def _observe(self, session: Session) -> None:
        """Read what the ledger says of the table, and what the target is. Raises Refused."""
        name = self.pipeline.name
        self.seen: Scope = fence.read_scope(session, name, self.table.name, self.target)
        # Asked once, with the scope: which rows are read, and whether they are all there are, must
        # follow from the same answer.
        was_loaded = self.seen.last_load_no is not None
        self.exists = tables.kind(session, self.target) is not None
        self.is_first = not (was_loaded and self.exists)
        self.storage = self.seen.storage
        """The target's storage when its rows were last known to be those of the ledger."""
        self.change: Change | None = None
        """How the target differs from what the ledger says."""
        if was_loaded and not self.request.is_full(self.table.name):
            self._check_target(session)
        self.other: str | None = None
        """The pipeline that has loaded the target before, where this one never has."""
        if self.exists and not was_loaded and not self.request.sample:
            self.other = adopt.loaded_as(session, name, self.target)

    def _check_target(self, session: Session) -> None:
        """Find out whether the target is what its loads have left. Raises Refused where it is not,
        and this run would not make up for that."""
        self.change = Change("is gone", is_empty=True)
        if self.exists:
            storage, self.change = integrity.observe(session, self.target, self.seen.storage)
            if self.change is None:
                self.storage = storage
        if self.change:
            self.is_first = integrity.is_first_load(
                self.target, self.pipeline, self.table, self.change, self.request.explicit_interval
            )

    @cached_property
    def _offered(self) -> Offered:
        # Asked once: the table is described twice, and must not differ.
        in_full = self.request.is_full(self.table.name)
        return self.warehouse.use(
            lambda session: extensions.offered(session, self.pipeline, self.target, in_full)
        )

    def ask_types(self) -> Offered:
        """The types of extensions that the warehouse has for the target."""
        return self._offered

    def refuse_append_to_others_rows(self, described: SourceTable) -> None:
        """Raises Refused where this would be a first load into rows that another pipeline has
        appended: this one may be that pipeline under a new name."""
        if self.other is None or self.request.is_full(self.table.name):
            return
        if self.table.mode_with_key(bool(described.key)) == "append":
            adopt.refuse_first_append(
                self.warehouse.session, self.target, self.other, self.pipeline.name
            )

    def refuse_too_many_columns(self, described: SourceTable, rows: Selection) -> None:
        """Raises Refused, before anything is read, where the target cannot take the columns."""
        recorded = {column["name"] for column in self.seen.columns or ()}
        # The columns of the last load have found their place.
        if not self.exists or recorded.issuperset(column.name for column in described.columns):
            return
        self.warehouse.use(
            lambda session: load_transaction.refuse_too_many_columns(
                session,
                self.target,
                described.columns,
                described.oid,
                self.seen,
                rows.action,
            )
        )

    @property
    def last(self) -> Last | None:
        """Where the last load ended; None for a table that is read from the start."""
        if self.is_first:
            return None
        return self._last

    @cached_property
    def _last(self) -> Last:
        return self.warehouse.use(
            lambda session: last_of(session, self.pipeline.name, self.target, self.seen)
        )

    def interval_of(self, rows: Selection) -> Read | None:
        """The data interval that is read completely with `rows`."""
        return intervals.read_by(self.table, rows.action, rows.lower, rows.complete_until)

    def gaps(self, rows: Selection) -> list[str]:
        """The data intervals before and after this one that no run has read, for the message."""
        read = self.interval_of(rows)
        if read is None or rows.action == "replace" or self.is_first:
            return []
        before = intervals.as_list(self.seen.intervals)
        found = gaps_between(self.pipeline, before, also=(read.start, read.end))
        return sentences(self.pipeline, [self.table.name], found)

    def take_fence_once(self) -> _Fenced:
        """Take the fence at the first call, from any thread; later calls return the same one.

        Raises Overtaken when the table's scope is no longer the one that was observed.
        """
        # A large table has several writers, each with an upload thread. The warehouse's session is
        # free: while rows are read, the step's own thread uses only the source's.
        with self._taking_fence:
            if self._fenced is None:
                self._fenced = self.warehouse.use(self._take_fence)
        return self._fenced

    def _take_fence(self, session: Session) -> _Fenced:
        name, table = self.pipeline.name, self.table.name
        with session.transaction():
            number = fence.take_fence(session, name, table, self.target, self.seen, self.storage)
            load_id = ledger.next_load_id(session, name, table, self.target, self.request.run_id)
        # Random as well, because a warehouse restored from a backup gives out the same fence again.
        attempt = f"{number:08d}-{uuid.uuid4().hex[:8]}"
        reach("extract.fenced")
        return _Fenced(number, load_id, load_prefix(self.pipeline, table, load_id) + attempt)

    def run(
        self,
        source: PinnedSession,
        expected: SourceTable,
        rows: Selection,
        layout: Layout,
        progress: Progress,
    ) -> Manifest | None:
        """Read in one snapshot and store; None when there was nothing new."""
        with source.snapshot():
            # Before the snapshot: a table rewritten or truncated after it would look empty to it.
            catalog.lock(source, expected)
            source.fix_snapshot()
            described = catalog.describe(
                source, self.pipeline.source.schema, self.table, self.ask_types
            )
            # The rows to read were decided by the catalog as it was before the snapshot.
            if described != expected:
                raise Overtaken(
                    f"{described.relation}: its columns or key changed while it was being read;"
                    " retry"
                )
            if not described.is_table:
                # What could not be locked before the snapshot is locked by reading it.
                source.execute(f"SELECT FROM {described.relation.sql} LIMIT 0")
                leaf = beneath.rewritten(source, described.beneath)
                if leaf:
                    raise Overtaken(
                        f"{described.relation}: {leaf} below it was truncated or rewritten while it"
                        " was being read; retry"
                    )
            reach("extract.snapshot")
            selection.refuse_null_cursors(source, self.table, described)
            last_facts = self.seen.source or {}
            rows = selection.compare_ties(source, self.table, described, rows, last_facts)
            where = rows.where
            self.warehouse.use(
                lambda session: fitness.refuse_values(source, described, self.table, where, session)
            )
            # A cursor value later than this is a mistake; its row must not win over later versions.
            read_at = holdback.now(source)
            origin = self._identify_source(source, described, rows)
            selection.refuse_sequence_set_back(source, self.table, described, rows, self.last)
            # Called by the upload threads before each part, so the first part takes the fence.
            store = PartStore(self.lake, lambda: self.take_fence_once().prefix, layout, progress)
            upload = read_and_store(source, described, rows, store)
        # The last part is stored after the source's transaction: an open snapshot keeps the source
        # from cleaning up dead rows.
        reach("extract.copied")
        if self._is_nothing_new(upload):
            self._discard(upload)
            if self.interval_of(rows):
                # It is recorded as read: a crash must not bring rows back into it.
                identity.wait_until_durable(source, origin)
            elif rows.lower is None:
                # The whole table is as the last load left it, so what was read earlier is older.
                self.warehouse.use(
                    lambda session: fence.overtake_pending(
                        session, self.pipeline.name, self.table.name, self.target
                    )
                )
            return None
        upload.finish()
        reach("extract.parts_stored")
        identity.wait_until_durable(source, origin)
        manifest = self._manifest(described, rows, layout.format, upload, read_at, origin)
        self._seal(manifest)
        prefix = f"{self.lake.bucket}/{self.take_fence_once().prefix}"
        details.show(
            f"Stored in the lake: {manifest.load_id}",
            {
                "load id": manifest.load_id,
                "prefix": prefix,
                "manifest": f"{prefix}/{FILE_NAME}",
                "parts": len(manifest.parts),
                "format": manifest.format,
                **details.amount(manifest.rows, manifest.size, self.started),
            },
        )
        return manifest

    def _identify_source(
        self, source: Session, described: SourceTable, rows: Selection
    ) -> dict[str, str]:
        """The source's identity, asked in the snapshot's own session.

        Raises SourceChanged where the watermark belongs to another source, unless the run accepts
        it or reads everything; Refused where the load would harm another pipeline's rows.
        """
        origin, changes, lags = identity.observe(source, self.seen.source)
        if not self.request.is_full(self.table.name):
            self.warehouse.use(
                lambda session: fence.refuse_foreign_rows(
                    session,
                    self.pipeline.name,
                    self.target,
                    self.seen,
                    origin,
                    described.oid,
                    rows.action == "append",
                )
            )
        facts = {**identity.table_facts(described), **rows.facts}
        last = self.seen.source or {}
        changes += identity.table_changes(described, self.seen.source_oid, last, facts)
        origin |= facts
        if rows.action != "replace" and not rows.moves_watermark:
            # An interval does not read all rows of new leaves, for example: the watermark's next
            # run does.
            for name in WATERMARK_FACTS:
                origin.pop(name, None)
                if name in last:
                    origin[name] = last[name]
            # A person may ask for an interval of a table that has a watermark now.
            if INTERVAL_CURSOR in last:
                origin.setdefault(INTERVAL_CURSOR, last[INTERVAL_CURSOR])
        if changes and self.table.incremental and rows.action != "replace":
            if not self.request.accept_source:
                identity.refuse(described, self.pipeline.name, changes, lags)
            self.accepted = ", ".join(changes)
        return origin

    def _is_nothing_new(self, upload: Upload) -> bool:
        """Whether an increment has no row, or a whole table the same content as last time.

        A changed source that was accepted is news: a load must record it, even without rows.
        """
        if self.is_first or self.accepted or self.request.is_full(self.table.name):
            return False
        if self.change:
            return False
        if self.table.incremental:
            return upload.rows == 0
        return upload.content_sha256 == self.seen.content_sha256

    def _discard(self, upload: Upload) -> None:
        """Remove the parts of a table whose content turned out to be the same."""
        reach("extract.unchanged")
        upload.abandon()
        parts = upload.parts
        _log.debug("%s: nothing new, %d stored parts to remove", self.target, len(parts))
        for part in parts:
            self.lake.remove(part.name)

    def _manifest(
        self,
        described: SourceTable,
        rows: Selection,
        format: FileFormat,
        upload: Upload,
        read_at: str,
        origin: dict[str, str],
    ) -> Manifest:
        # A table without any rows has stored no part, so nothing has taken the fence yet.
        fenced = self.take_fence_once()
        cursor = self.table.incremental and described.column(self.table.incremental.cursor)
        keyed = self.table.mode_with_key(bool(described.key)) != "append"
        key = described.key if keyed else ()
        return Manifest(
            load_id=fenced.load_id,
            pipeline=self.pipeline.name,
            table=self.table.name,
            run_id=self.request.run_id,
            fence=fenced.fence,
            action=rows.action,
            builds_on_target=rows.action != "replace" and not self.is_first,
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
            read_at=read_at,
            clock=rows.clock,
            rows=upload.rows,
            parts=tuple(upload.parts),
            content_sha256=upload.content_sha256,
            held_by=rows.held_by,
            seconds=time.monotonic() - self.started,
            source={**origin, KEY: json.dumps(list(key))},
            settings=PINNED,
        )

    def _seal(self, manifest: Manifest) -> None:
        """Store the manifest, then record its name and hash in the ledger.

        Raises Overtaken when another extraction has taken the fence in the meantime.
        """
        name = f"{self.take_fence_once().prefix}/{FILE_NAME}"
        content = manifest.to_json()
        self.lake.put(name, content)
        reach("extract.manifest_stored")
        sha256 = hashlib.sha256(content).hexdigest()
        self.warehouse.use(
            lambda session: fence.seal_attempt(session, manifest, self.target, name, sha256)
        )
        _log.debug("%s: sealed %s", self.target, name)
        reach("extract.sealed")


def last_of(session: Session, pipeline: str, target: Relation, seen: Scope) -> Last:
    """Where the last load ended: the next reading starts there. `session` is one of the
    warehouse."""
    started_from = None
    # An older ledger does not record it with the watermark.
    if seen.watermark is not None and INITIAL_VALUE not in (seen.source or {}):
        started_from = fence.started_from(session, pipeline, target.name, target)
    places: dict[str, int] = {}
    types: dict[str, str] = {}
    for column in seen.columns or ():
        places[column["name"]] = column["attnum"]
        types[column["name"]] = column["type"]
    return Last(
        watermark=seen.watermark,
        cursor=seen.cursor,
        source_oid=seen.source_oid,
        places=places,
        types=types,
        source=seen.source,
        started_from=started_from,
    )
