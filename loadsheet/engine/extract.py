"""The extract step: reads the new rows of a source table into the lake.

Three threads or sessions take part, and the fence is taken late: only when there is something to
store, just before the first object.

    step's thread                     reader (COPY)                 upload thread
    observe scope (no lock)
    decide which rows to read
    BEGIN, snapshot, checks
    read_and_store ------------------> blocks of rows -> part full -> Lake.put(part)
                                                                      first time: take the fence
    COMMIT on the source
    nothing new? discard, skip        (the fence was never taken)
    finish: last part ----------------------------------------------> as above
    Lake.put(manifest), fence.seal    from here on the load step can use the attempt
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid

from loadsheet.engine import resume
from loadsheet.errors import Overtaken
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import FILE_NAME, Manifest, Part, load_prefix
from loadsheet.lake.parts import Layout, PartStore, PartWriter, Progress
from loadsheet.lake.store import Lake
from loadsheet.outcome import Outcome, RunRequest, skipped
from loadsheet.postgres import PINNED, Session
from loadsheet.source import catalog, fitness, holdback, identity, selection, stream
from loadsheet.source.selection import Last, Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.copying import FileFormat, WireFormat, select_columns
from loadsheet.sql.text import Relation
from loadsheet.sql.types import without_modifier
from loadsheet.warehouse import fence, ledger, tables
from loadsheet.warehouse.fence import Scope


def extract(
    pipeline: Pipeline,
    table: Table,
    request: RunRequest,
    source: Session,
    lake: Lake,
    warehouse: Session,
    progress: Progress,
) -> Outcome:
    """Store the table's new rows in the lake; `.load_id` names them for the load.

    Skipped when there is nothing new; then nothing was written anywhere. Raises Refused, HeldBack
    or Overtaken (see `loadsheet.errors`), psycopg and minio errors for trouble with the servers.
    """
    attempt = _Attempt(pipeline, table, request, lake, warehouse)
    if table.name in request.resumes:
        earlier = _done_earlier(pipeline, table, request, warehouse)
        if earlier:
            return earlier
    described = catalog.describe(source, pipeline.source.schema, table)
    layout = Layout(file_format(pipeline, described), described.columns, described.key)
    layout.encoder()  # what is missing, or cannot be carried, is said before anything is read
    rows = selection.decide(source, table, described, attempt.last, request)
    if request.sample:
        from loadsheet.engine import sample  # it imports the SQL parser, which no other run needs

        rows = sample.sampled_rows(source, described, rows, request.sample)
    reach("extract.decided")
    manifest = attempt.run(source, described, rows, layout, progress)
    held = f"; held back by {rows.held_by}" if rows.held_by else ""
    if attempt.accepted:
        held += f"; accepted: {attempt.accepted}"
    if rows.action == "append" and table.mode is None:
        held += "; appended, because there is no primary key to merge by"
    if manifest is None:
        ledger.clear_failure(warehouse, pipeline.name, "table", table.name)
        since = f" since {rows.lower}" if rows.lower else ""
        return skipped(f"nothing new{since}{held}")
    return Outcome(
        status="done",
        message=f"{manifest.rows:,} rows, {manifest.size:,} bytes of {manifest.format}{held}",
        load_id=manifest.load_id,
        counts={"extracted": manifest.rows, "bytes": manifest.size},
    )


def _done_earlier(
    pipeline: Pipeline, table: Table, request: RunRequest, warehouse: Session
) -> Outcome | None:
    """The outcome, where this run loaded or extracted the table before it was stopped."""
    if resume.has_loaded(warehouse, pipeline.name, table.name, request.run_id):
        return skipped("loaded before the run was stopped")
    load_id = resume.sealed_load(warehouse, pipeline.name, table.name, request.run_id)
    if not load_id:
        return None
    return Outcome(status="done", message="extracted before the run was stopped", load_id=load_id)


class _Attempt:
    """One try at extracting a table. Its fence is taken when there is something to write, not
    before."""

    def __init__(
        self, pipeline: Pipeline, table: Table, request: RunRequest, lake: Lake, warehouse: Session
    ):
        self.pipeline = pipeline
        self.table = table
        self.request = request
        self.lake = lake
        self.warehouse = warehouse
        self.target = Relation(pipeline.warehouse.schema, table.name)
        self.started = time.monotonic()
        ledger.ensure(warehouse)
        self.seen: Scope = fence.read_scope(warehouse, pipeline.name, table.name)
        # Asked once, with the scope: what is read, and whether it is all there is, must rest on the
        # same answer.
        never_loaded = self.seen.last_load_no is None
        self.is_first = never_loaded or tables.kind(warehouse, self.target) is None
        reach("extract.observed")
        self.fence = 0
        self.load_id = ""
        self.prefix = ""
        self.accepted = ""
        self._fencing = threading.Lock()

    @property
    def last(self) -> Last | None:
        """Where the last load ended; None for a table that is read from the start."""
        return None if self.is_first else last_of(self.seen)

    def fenced_prefix(self) -> str:
        """Where the attempt stores its objects in the lake; the first call takes the fence.

        Called from the upload thread before the first part, so that a table with nothing new never
        takes a fence and never overtakes another run.
        """
        with self._fencing:
            if not self.prefix:
                self._take_fence()
        return self.prefix

    def _take_fence(self) -> None:
        with self.warehouse.transaction():
            self.fence = fence.take_fence(
                self.warehouse, self.pipeline.name, self.table.name, self.target, self.seen
            )
            self.load_id = ledger.next_load_id(
                self.warehouse, self.pipeline.name, self.table.name, self.request.run_id
            )
        load = load_prefix(self.pipeline, self.table.name, self.load_id)
        self.prefix = f"{load}{self.fence:08d}-{uuid.uuid4().hex[:8]}"
        reach("extract.fenced")

    def run(
        self,
        source: Session,
        expected: SourceTable,
        rows: Selection,
        layout: Layout,
        progress: Progress,
    ) -> Manifest | None:
        """Read in one snapshot and store; None when there was nothing new."""
        with source.transaction():
            source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            if expected.is_table:
                # Before the snapshot: a table rewritten or truncated after it would look empty to
                # it.
                source.execute(f"LOCK TABLE {expected.relation.sql} IN ACCESS SHARE MODE")
            described = catalog.describe(source, self.pipeline.source.schema, self.table)
            if described != expected:
                raise Overtaken(
                    f"{described.relation}: its columns or key changed while it was being read;"
                    " retry"
                )
            reach("extract.snapshot")
            selection.refuse_null_cursors(source, self.table, described)
            fitness.refuse_values(source, described, self.table, rows.where, self.warehouse)
            read_at = holdback.now(source)
            origin = self._origin(source, described, rows)
            store = PartStore(self.lake, self.fenced_prefix, layout, progress)
            upload = read_and_store(source, described, rows, store)
        reach("extract.copied")
        if self._nothing_new(upload):
            self._discard(upload)
            return None
        upload.finish()
        reach("extract.parts_stored")
        manifest = self._manifest(described, rows, layout.format, upload, read_at, origin)
        self._seal(manifest)
        return manifest

    def _origin(self, source: Session, described: SourceTable, rows: Selection) -> dict[str, str]:
        """The source's identity, asked in the snapshot's own session. Raises SourceChanged unless
        the watermark is one of this source's, or need not be; Refused when another pipeline's rows
        in the target would suffer."""
        origin, changes, lags = identity.observe(source, self.seen.source)
        if not self.request.is_full(self.table.name):
            whose = (self.pipeline.name, self.target, self.seen)
            fence.refuse_foreign_rows(
                self.warehouse, *whose, origin, described.oid, rows.action == "append"
            )
        changes += identity.table_changes(described, self.seen.source_oid)
        if changes and self.table.incremental and rows.action != "replace":
            if not self.request.accept_source:
                identity.refuse(described, self.pipeline.name, changes, lags)
            self.accepted = ", ".join(changes)
        return origin

    def _seal(self, manifest: Manifest) -> None:
        """Store the manifest, then tell the ledger which one it is: from here on the attempt can be
        loaded."""
        name = f"{self.fenced_prefix()}/{FILE_NAME}"
        stored = manifest.to_json()
        self.lake.put(name, stored)
        reach("extract.manifest_stored")
        fence.seal_attempt(self.warehouse, manifest, name, hashlib.sha256(stored).hexdigest())
        reach("extract.sealed")

    def _nothing_new(self, upload: Upload) -> bool:
        """No row of an increment; the same content as last time where the whole table is read.

        A changed source that was accepted is news, to be remembered by a load even without rows.
        """
        if self.is_first or self.accepted or self.request.is_full(self.table.name):
            return False
        if self.table.incremental:
            return upload.rows == 0
        return upload.content_sha256 == self.seen.content_sha256

    def _discard(self, upload: Upload) -> None:
        """Leave nothing behind of a table that turned out to be the same."""
        reach("extract.unchanged")
        upload.abandon()
        for part in upload.parts:
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
        self.fenced_prefix()
        cursor = self.table.incremental and described.column(self.table.incremental.cursor)
        keyed = self.table.mode_with_key(bool(described.key)) != "append"
        return Manifest(
            load_id=self.load_id,
            pipeline=self.pipeline.name,
            table=self.table.name,
            run_id=self.request.run_id,
            fence=self.fence,
            action=rows.action,
            builds_on_target=rows.action != "replace" and not self.is_first,
            format=format,
            columns=described.columns,
            key=described.key if keyed else (),
            key_is_enforced=described.key_is_enforced,
            source_oid=described.oid,
            cursor=cursor.name if cursor else None,
            cursor_type=without_modifier(cursor.type) if cursor else None,
            lower=rows.lower,
            upper=rows.upper,
            moves_watermark=rows.moves_watermark,
            read_at=read_at,
            clock=rows.clock,
            rows=upload.rows,
            parts=tuple(upload.parts),
            content_sha256=upload.content_sha256,
            held_by=rows.held_by,
            seconds=time.monotonic() - self.started,
            source=origin,
            settings=PINNED,
        )


def last_of(seen: Scope) -> Last:
    """Where the last load ended: the next reading starts there."""
    columns = seen.columns or []
    return Last(
        watermark=seen.watermark,
        cursor=seen.cursor,
        source_oid=seen.source_oid,
        places={c["name"]: c["attnum"] for c in columns},
        types={c["name"]: c["type"] for c in columns},
    )


def file_format(pipeline: Pipeline, described: SourceTable) -> FileFormat:
    """`auto` is binary where every column's bytes mean the same on both sides, else csv.

    Raises Refused for a table that does not survive in Parquet.
    """
    if pipeline.lake.format == "parquet":
        fitness.refuse_for_parquet(described)
    if pipeline.lake.format != "auto":
        return pipeline.lake.format
    if all(column.exact_in_binary for column in described.columns):
        return "binary"
    return "csv"


# Sessions that read one large table side by side.
READERS = 2


class Upload:
    """The rows of a reading on their way into the lake: a writer per page range, in the table's
    order. `rows` is known when the reading has ended."""

    def __init__(self, writers: list[PartWriter], contents: list[hashlib._Hash]):
        self._writers, self._contents = writers, contents
        self.rows = 0

    @property
    def parts(self) -> list[Part]:
        """All that is stored so far."""
        return [part for writer in self._writers for part in writer.parts]

    @property
    def content_sha256(self) -> str | None:
        """Of the uncompressed rows, where the whole table is read to find out whether it has
        changed."""
        if not self._contents:
            return None
        digests = b"".join(content.digest() for content in self._contents)
        return hashlib.sha256(digests).hexdigest()

    def finish(self) -> None:
        """Store what is still held."""
        for writer in self._writers:
            writer.finish()

    def abandon(self) -> None:
        """Store nothing more."""
        for writer in self._writers:
            writer.abandon()


def read_and_store(
    source: Session, described: SourceTable, rows: Selection, store: PartStore
) -> Upload:
    """Read `rows` of the table in the open snapshot, many of them by way of further sessions, and
    cut them into parts.

    Raises psycopg errors, those of the lake, and Corrupt when the stream of rows broke off.
    """
    # Arrow's copy of a part must not be held twice.
    readers = 1 if store.layout.format == "parquet" else READERS
    conditions = (
        stream.page_ranges(source, described, readers) if rows.action == "replace" else ["TRUE"]
    )
    contents = []
    writers = []
    jobs = []
    for condition in conditions:
        if rows.where == "":
            contents.append(hashlib.sha256(repr((described.columns, described.key)).encode()))
        writer = PartWriter(store, contents[-1] if contents else None)
        writers.append(writer)
        tests = [test for test in (rows.where, rows.sample, condition) if test not in ("", "TRUE")]
        where = " AND ".join(f"({test})" for test in tests)
        select = select_columns(described.relation, described.columns, where)
        # The last part of a single range waits in memory: the table may turn out to be unchanged,
        # and then nothing is stored. Of several ranges each last part is stored at once.
        at_end = writer.end if len(conditions) == 1 else writer.finish
        jobs.append(stream.Job(select, writer.take, at_end))
    upload = Upload(writers, contents)
    try:
        upload.rows = sum(_read(source, jobs, store.layout.wire, readers))
    except BaseException:
        upload.abandon()  # no upload may continue after its step has failed
        raise
    return upload


def _read(source: Session, jobs: list[stream.Job], wire: WireFormat, readers: int) -> list[int]:
    if len(jobs) > 1 or stream.is_many(source, jobs[0].select):
        counts = stream.copy_parallel(source, jobs, wire, min(readers, len(jobs)))
        if counts is not None:
            return counts
    return [stream.copy(source, job, wire) for job in jobs]
