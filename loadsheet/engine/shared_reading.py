"""One large table, read by several processes in one snapshot: the extract task, which owns the
attempt, and tasks that help it (`extract_tasks`).

    extract task                                  a read task
    fence; snapshot, exported
    offer: snapshot, ranges of pages, prefix ---> finds the offer of its run
    locks a range, reads it, stores its parts,    the same, until all ranges are locked
    records them
    waits for the ranges that others have locked
    what is recorded of each range: the manifest,
    and the seal, which ends the offer

The locks are advisory ones of the source, held by the transactions that read: with a process its
locks go, and the extract task reads the range again. It holds one itself, so that others notice
when it is gone. The key of that is a hash of the offer, which holds SQL, and its holder must be of
the reader's own role, so that they take no offer that it has not made. Locks keep two processes
from reading the same rows, no more than that: what is right does not depend on them. A range may be
read twice, in the same snapshot, into parts of different names; the first record counts. Nothing is
recorded after the seal, nor after a newer fence.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg

from loadsheet.deadline import remaining
from loadsheet.engine.attempt import Attempt
from loadsheet.engine.reading import (
    READERS,
    Upload,
    content_hash,
    content_sha256,
    read_and_store,
    select_rows,
)
from loadsheet.engine.sessions import IdleSession
from loadsheet.engine.table_step import TableStep
from loadsheet.errors import Fenced
from loadsheet.lake.manifest import Part
from loadsheet.lake.parts import Layout, PartStore, PartWriter
from loadsheet.outcome import Outcome, RunRequest, skipped
from loadsheet.pinned import PinnedSession
from loadsheet.postgres import Session
from loadsheet.source import stream
from loadsheet.source.rows import Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger, tables
from loadsheet.warehouse.scope import read_scope
from loadsheet.warehouse.shared_read import RangeRecord, SharedRead, SharedReads
from loadsheet.wording import counted

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

# The extract task waits for a range that another process reads twice as long as its own slowest one
# took, and at least so long: a process that was stopped keeps its locks.
_PATIENCE_SECONDS = 30.0
_POLL_SECONDS = 0.25
# How long a task waits for an offer, besides the time that the extract may wait for open
# transactions. Before it offers its ranges, that asks the catalogs, and compares keys perhaps.
_LONGEST_WAIT_SECONDS = 60.0
_LOOK_SECONDS = 1.0
# Airflow's API server is asked whether the extract task has ended.
_ASK_SECONDS = 5.0
# What the server says where an exported snapshot is gone, or was never there.
_NO_SNAPSHOT = (psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedObject)
# Each process numbers its parts from a start of its own, and would need 80 TB to reach the next.
_PARTS_PER_PROCESS = 10_000_000


def is_read_whole(session: Session, pipeline: Pipeline, table: Table, request: RunRequest) -> bool:
    """Whether the run's extraction of the table replaces all rows of the target, as the ledger has
    it now: only then others can help. `session` is one of the warehouse."""
    if request.is_full(table.name):
        return True
    if request.explicit_interval:
        return False
    if table.mode_with_key(True) == "replace":
        return True
    target = Relation(pipeline.warehouse.schema, table.name)
    seen = read_scope(session, pipeline.name, table.name, target)
    return seen.last_load_no is None or tables.kind(session, target) is None


def read_together(
    attempt: Attempt,
    source: PinnedSession,
    described: SourceTable,
    rows: Selection,
    store: PartStore,
    is_hashed: bool,
    is_loaded_meanwhile: bool,
) -> Upload:
    """As `reading.read_and_store`, with the help of other tasks where the table is large enough.
    They may come and go at any time; without them this process reads all rows.

    Raises Fenced where another extraction has begun meanwhile.
    """
    conditions = []
    if rows.action == "replace" and not rows.sample:
        count = READERS * attempt.table.extract_tasks
        conditions = stream.page_ranges(source, described, count)
    if len(conditions) < 2:
        return read_and_store(source, described, rows, store, is_hashed, is_loaded_meanwhile)
    fenced = attempt.take_fence_once()
    read = SharedRead(
        prefix=fenced.prefix,
        fence=fenced.fence,
        load_id=fenced.load_id,
        snapshot=stream.export_snapshot(source),
        relation=described.relation,
        where=rows.where,
        conditions=tuple(conditions),
        is_hashed=is_hashed,
        format=store.layout.format,
        columns=described.columns,
        key=described.key,
    )
    book = _Book(attempt.warehouse, attempt.pipeline, attempt.table)
    ranges = _Ranges(book, read, store, "", 1 if is_loaded_meanwhile else READERS)
    # No other session can have it: the prefix, which is hashed with the rest, is new.
    source.execute(f"SELECT {_lock_of_extract(read)}")
    book.use(lambda session: book.reads.offer(session, read))
    ranges.read(source, range(ranges.count), lambda number: _lock_of_range(read, number))
    waiting_since = time.monotonic()
    while missing := ranges.missing():
        is_slow = time.monotonic() - waiting_since > max(_PATIENCE_SECONDS, 2 * ranges.slowest)
        # Locked by this session, so that those that read need no lock.
        lost = [n for n in missing if is_slow or _is_given(source, _lock_of_range(read, n))]
        if lost:
            _log.info("reading %s again, whose task is gone or slow", counted(len(lost), "range"))
            ranges.read(source, lost, lambda number: "TRUE")
            waiting_since = time.monotonic()
        else:
            time.sleep(min(_POLL_SECONDS, remaining()))
    records = book.use(lambda session: book.reads.records(session, read))
    readers = {record.reader for record in records} - {""}
    if readers:
        attempt.remarks.append(f"read by {counted(len(readers) + 1, 'task')}")
    return _SharedUpload(records)


class _SharedUpload(Upload):
    """The rows of all ranges, which are in the lake."""

    def __init__(self, records: Iterable[RangeRecord]):
        super().__init__([], [])
        self._records = tuple(records)
        self.rows = sum(record.rows for record in self._records)

    @property
    def parts(self) -> list[Part]:
        """What is stored, in the table's order."""
        return [part for record in self._records for part in record.parts]

    @property
    def content_sha256(self) -> str | None:
        """As that of a read by one process."""
        digests = []
        for record in self._records:
            if record.content_sha256 is None:
                return None
            digests.append(bytes.fromhex(record.content_sha256))
        return content_sha256(digests)


class _Book:
    """The ledger, for the threads of this process."""

    def __init__(self, warehouse: IdleSession, pipeline: Pipeline, table: Table):
        target = Relation(pipeline.warehouse.schema, table.name)
        self.reads = SharedReads(pipeline.name, table.name, target)
        self._warehouse = warehouse
        self._using = threading.Lock()

    def use(self, work: Callable[[PinnedSession], Result]) -> Result:
        """As `IdleSession.use`; one thread at a time."""
        with self._using:
            return self._warehouse.use(work)


class _Ranges:
    """The ranges of a shared read, as one process reads them."""

    def __init__(self, book: _Book, read: SharedRead, store: PartStore, reader: str, sessions: int):
        self._book = book
        self.count = len(read.conditions)
        self.slowest = 0.0
        """Seconds that the slowest range of this process took."""
        self.rows = self.taken = 0
        """Rows and ranges that this process has recorded."""
        self._read = read
        self._store = store
        self._reader = reader
        self._sessions = sessions

    def read(
        self,
        session: PinnedSession,
        numbers: Iterable[int],
        lock: Callable[[int], str],
        snapshot: str = "",
    ) -> None:
        """Read and record those of the ranges whose `lock` this process gets, as SQL, in the
        snapshot of `session` or the exported one."""
        writers: list[PartWriter] = []
        jobs = [self._job(number, lock(number), writers) for number in numbers]
        try:
            wire = self._store.layout.wire
            counts = stream.copy_parallel(session, jobs, wire, self._sessions, snapshot)
            if counts is None:
                with _in_snapshot(session, snapshot):
                    for job in jobs:
                        stream.copy(session, job, wire)
        except BaseException:
            for writer in writers:
                writer.abandon()
            raise

    def missing(self) -> set[int]:
        """The ranges that are not recorded yet."""
        return set(range(self.count)) - self._recorded()

    def is_over(self) -> bool:
        """Whether nothing is to be read any more: all is recorded, or nothing can be."""
        try:
            return not self.missing()
        except Fenced:
            return True

    def _recorded(self) -> set[int]:
        return self._book.use(lambda session: self._book.reads.recorded(session, self._read))

    def _job(self, number: int, lock: str, writers: list[PartWriter]) -> stream.Job:
        read, book = self._read, self._book
        content = content_hash(read.columns, read.key) if read.is_hashed else None
        writer = PartWriter(self._store, content)
        writers.append(writer)
        began = 0.0

        def is_open() -> bool:
            nonlocal began
            began = time.monotonic()
            return number not in self._recorded()

        def done(rows: int) -> None:
            self.slowest = max(self.slowest, time.monotonic() - began)
            record = RangeRecord(
                reader=self._reader,
                rows=rows,
                parts=tuple(writer.parts),
                content_sha256=content.hexdigest() if content else None,
            )
            if book.use(lambda session: book.reads.record(session, read, number, record)):
                self.rows += rows
                self.taken += 1

        tests = (read.where, read.conditions[number])
        select = select_rows(read.relation, read.columns, tests, is_range=True)
        claim = stream.Claim(lock, is_open, done)
        return stream.Job(select, writer.take, writer.finish, claim)


def help_to_read(
    step: TableStep, number: int, is_over: Callable[[], bool] | None = None
) -> Outcome:
    """Read ranges of the step's table that its extract task offers in the same run, until all are
    taken. `number` tells the readers of a table apart.

    `is_over` tells that the extract task has ended. Skipped where that offers none for some time.
    Raises psycopg errors and those of the lake.
    """
    pipeline, table = step.pipeline, step.table
    names = (pipeline.name, table.name, step.target, step.request.run_id)
    with IdleSession(step.servers.warehouse) as warehouse:
        book = _Book(warehouse, pipeline, table)
        session = warehouse.session
        with session.transaction():
            ledger.ensure(session)
            if not is_read_whole(session, pipeline, table, step.request):
                return skipped("only new rows are read: the extract task needs no help")
            load_id = ledger.next_load_id(session, *names)
        refused: set[str] = set()
        reason = ""
        patience = _LONGEST_WAIT_SECONDS
        if table.incremental:
            patience += table.incremental.hold_back.total_seconds()
        until = time.monotonic() + patience
        ask_at = 0.0
        while time.monotonic() < until:
            if is_over and time.monotonic() >= ask_at:
                ask_at = time.monotonic() + _ASK_SECONDS
                if is_over():
                    return skipped(f"the extract task has ended{reason}")
            read = book.use(book.reads.find)
            if read is None or read.load_id != load_id or read.prefix in refused:
                time.sleep(min(_LOOK_SECONDS, remaining()))
                continue
            outcome = _help(step, number, book, read)
            if isinstance(outcome, Outcome):
                return outcome
            # The next try of the extract task offers its own.
            refused.add(read.prefix)
            reason = f"; {outcome}"
            until = time.monotonic() + patience
    return skipped(f"the extract task has offered nothing to read{reason}")


def _help(step: TableStep, number: int, book: _Book, read: SharedRead) -> Outcome | str:
    """The outcome where no range is left to be taken; else why this offer cannot be read: the
    extract task is gone, and with it its snapshot."""
    layout = Layout(read.format, read.columns, read.key)
    # No load gets this number, and so no other process.
    first = book.use(ledger.draw_number) * _PARTS_PER_PROCESS
    store = PartStore(step.servers.lake, lambda: read.prefix, layout, step.progress, first=first)
    ranges = _Ranges(book, read, store, str(number), READERS)

    def lock(number: int) -> str:
        # NULL where the extract task is gone, this is not the server that it reads from, or the
        # ledger shows another offer than the extract task has made: no more of its SQL is run.
        return f"CASE WHEN {_is_vouched_for(read)} THEN {_lock_of_range(read, number)} END"

    with step.servers.source() as source:
        try:
            ranges.read(source, range(ranges.count), lock, read.snapshot)
        except (stream.Abandoned, Fenced, *_NO_SNAPSHOT):
            # Perhaps because it has all that it needs.
            if not ranges.taken or not ranges.is_over():
                return "an earlier offer has ended"
    if not ranges.taken:
        return skipped("all ranges were taken before")
    message = f"{counted(ranges.taken, 'range')} of {ranges.count}, {counted(ranges.rows, 'row')}"
    return Outcome(status="done", message=message)


@contextmanager
def _in_snapshot(session: PinnedSession, exported: str) -> Iterator[None]:
    """A transaction in the exported snapshot; without a name, the one that is open."""
    if not exported:
        yield
        return
    with session.snapshot(exported):
        session.fix_snapshot()
        yield


def _lock_of_extract(read: SharedRead) -> str:
    """SQL: whether this transaction gets the lock by which others see that the extract task has
    made this offer, and reads on."""
    return f"pg_try_advisory_xact_lock(hashtextextended('{read.sha256}', -1))"


def _is_vouched_for(read: SharedRead) -> str:
    """SQL: whether a session of this role holds that lock. Any role that may connect could take
    it."""
    return f"""EXISTS (
        SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted AND objsubid = 1
            AND database = datid AND datname = current_database() AND usename = session_user
            AND classid::bigint << 32 | objid::bigint = hashtextextended('{read.sha256}', -1))"""


def _lock_of_range(read: SharedRead, number: int) -> str:
    """SQL: whether this transaction gets the range's lock."""
    return f"pg_try_advisory_xact_lock(hashtextextended('{read.sha256}', {number}))"


def _is_given(session: Session, lock: str) -> bool:
    row = session.execute(f"SELECT {lock}").fetchone()
    return row == (True,)
