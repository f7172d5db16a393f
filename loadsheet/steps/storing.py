"""The rows of an open snapshot on their way into the lake: which sessions read them, and into which parts."""

from __future__ import annotations

import hashlib

from loadsheet.lake.manifest import Part
from loadsheet.lake.parts import PartStore, PartWriter
from loadsheet.postgres import Session
from loadsheet.source import ranges, stream
from loadsheet.source.catalog import SourceTable
from loadsheet.source.reading import Reading
from loadsheet.sql.copying import WireFormat, select_columns

# Sessions that read one large table side by side.
READERS = 2


class Stored:
    """The rows of a reading on their way into the lake: a writer per range, in the table's order."""

    def __init__(self, writers: list[PartWriter], contents: list[hashlib._Hash]):
        self._writers, self._contents = writers, contents
        self.rows = 0

    @property
    def parts(self) -> list[Part]:
        """All that is stored so far."""
        return [part for writer in self._writers for part in writer.parts]

    @property
    def content_sha256(self) -> str | None:
        """Of the uncompressed rows, where the whole table is read to find out whether it has changed."""
        return hashlib.sha256(b"".join(c.digest() for c in self._contents)).hexdigest() if self._contents else None

    def finish(self) -> None:
        """Store what is still held."""
        for writer in self._writers:
            writer.finish()

    def abandon(self) -> None:
        """Store nothing more."""
        for writer in self._writers:
            writer.abandon()


def read_and_store(source: Session, described: SourceTable, rows: Reading, store: PartStore) -> Stored:
    """Read `rows` of the table in the open snapshot, many of them by way of further sessions, and cut them into parts.

    Raises psycopg errors, those of the lake, and Corrupt when the stream of rows broke off.
    """
    readers = 1 if store.layout.format == "parquet" else READERS  # what Arrow holds of a part, nobody should hold twice
    conditions = ranges.split(source, described, readers) if rows.action == "replace" else ["TRUE"]
    contents, writers, jobs = [], [], []
    for condition in conditions:
        if rows.where == "":
            contents.append(hashlib.sha256(repr((described.columns, described.key)).encode()))
        writer = PartWriter(store, contents[-1] if contents else None)
        writers.append(writer)
        where = " AND ".join(f"({c})" for c in (rows.where, rows.sample, condition) if c not in ("", "TRUE"))
        select = select_columns(described.relation, described.columns, where)
        # Of a single range the last part is held back, for it may be the same as last time. Of many it is stored.
        jobs.append(stream.Job(select, writer.take, writer.end if len(conditions) == 1 else writer.finish))
    stored = Stored(writers, contents)
    try:
        stored.rows = sum(_read(source, jobs, store.layout.wire, readers))
    except BaseException:
        stored.abandon()  # nothing of a step may work on when it has failed
        raise
    return stored


def _read(source: Session, jobs: list[stream.Job], wire: WireFormat, readers: int) -> list[int]:
    counts = None
    if len(jobs) > 1 or stream.is_many(source, jobs[0].select):
        counts = stream.copy_apart(source, jobs, wire, min(readers, len(jobs)))
    return counts if counts is not None else [stream.copy(source, job, wire) for job in jobs]
