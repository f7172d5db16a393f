"""Reads the selected rows of a table in the open snapshot, and cuts them into parts in the lake."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence

from loadsheet.engine import details
from loadsheet.lake.manifest import Part
from loadsheet.lake.parts import PART_BYTES, PartStore, PartWriter
from loadsheet.postgres import Session
from loadsheet.source import fitness, stream
from loadsheet.source.rows import Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline
from loadsheet.sql.copying import FileFormat, WireFormat, select_columns
from loadsheet.sql.text import Relation
from loadsheet.sql.types import Column

_log = logging.getLogger(__name__)
# Sessions that read one large table side by side. While it is also loaded there is one: that brings
# rows as fast as the load's COPY takes them. A second one would only take the CPU from that COPY:
# of 3 M rows, on two cores, 6.7 s with one and 7.8 with two.
READERS = 2
_IS_SMALL = """
SELECT pg_table_size(oid) <= %s FROM pg_class
WHERE oid = %s AND relkind = 'r' AND NOT relhassubclass
"""


def file_format(pipeline: Pipeline, described: SourceTable) -> FileFormat:
    """The format of the table's parts: `auto` is binary where every column's bytes mean the same on
    both servers, else csv.

    Raises Refused for a table that Parquet cannot hold unchanged.
    """
    if pipeline.lake.format == "parquet":
        fitness.refuse_for_parquet(described)
    if pipeline.lake.format != "auto":
        return pipeline.lake.format
    if all(column.exact_in_binary for column in described.columns):
        return "binary"
    return "csv"


def content_hash(columns: tuple[Column, ...], key: tuple[str, ...]) -> hashlib._Hash:
    """The hash of a table's content before its first row. Its columns count as content: a change of
    them alone is news as well."""
    return hashlib.sha256(repr((columns, key)).encode())


def content_sha256(digests: Iterable[bytes]) -> str:
    """The hash of a whole table. Each range of pages has its own, because the ranges are read at
    the same time."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


class Upload:
    """The rows of one extraction on their way into the lake: a writer per range of pages, in the
    table's order. `rows` is known when all are read."""

    def __init__(self, writers: list[PartWriter], contents: list[hashlib._Hash]):
        self._writers = writers
        self._contents = contents
        self.rows = 0

    @property
    def parts(self) -> list[Part]:
        """What is stored so far."""
        return [part for writer in self._writers for part in writer.parts]

    @property
    def content_sha256(self) -> str | None:
        """Of the uncompressed rows, where the whole table is read to find out whether it has
        changed."""
        if not self._contents:
            return None
        return content_sha256(content.digest() for content in self._contents)

    def finish(self) -> None:
        """Store what is still held."""
        for writer in self._writers:
            writer.finish()

    def abandon(self) -> None:
        """Store nothing more."""
        for writer in self._writers:
            writer.abandon()


def is_small(source: Session, described: SourceTable) -> bool:
    """Whether the source is a plain table that fits into one part. A view has no size."""
    row = source.execute(_IS_SMALL, (PART_BYTES, described.oid)).fetchone()
    return row == (True,)


def has_rows(source: Session, described: SourceTable, rows: Selection) -> bool:
    """Whether there is one of `rows` in the open snapshot; reads no further than the first."""
    select = f"SELECT 1 FROM {described.relation.sql} WHERE {rows.where or 'TRUE'}"
    return stream.has_row(source, select)


def select_rows(
    relation: Relation, columns: Sequence[Column], tests: Iterable[str], is_range: bool
) -> str:
    """The SELECT of the rows that meet all `tests`; those that are empty or TRUE are left out.

    One of several ranges of pages reads the table alone: the planner sees what inherits from it
    now, not as of the snapshot, and of a table that begins to between two ranges they would read a
    part.
    """
    conditions = [f"({test})" for test in tests if test not in ("", "TRUE")]
    return select_columns(relation, columns, " AND ".join(conditions), is_only=is_range)


def read_and_store(
    source: Session,
    described: SourceTable,
    rows: Selection,
    store: PartStore,
    is_hashed: bool = False,
    is_loaded_meanwhile: bool = False,
) -> Upload:
    """Read `rows` of the table in the open snapshot and cut them into parts. Further sessions help
    with many rows, one of them where the rows are also loaded meanwhile. The upload of a whole
    table has the hash of its content if `is_hashed`.

    Raises psycopg errors, those of the lake, and Corrupt when the stream of rows broke off.
    """
    # Of Parquet, each reader holds Arrow's copy of a part, too.
    most_readers = 1 if store.layout.format == "parquet" else READERS
    readers = 1 if is_loaded_meanwhile else most_readers
    conditions = ["TRUE"]
    if rows.action == "replace":
        # The hash of a table is made of its ranges', so these do not depend on how it is loaded.
        range_readers = most_readers if is_hashed else readers
        conditions = stream.page_ranges(source, described, range_readers)
    contents = []
    writers: list[PartWriter] = []
    jobs = []
    for condition in conditions:
        content = None
        if is_hashed:
            content = content_hash(described.columns, described.key)
            contents.append(content)
        writer = PartWriter(store, content)
        writers.append(writer)
        tests = (rows.where, rows.sample, condition)
        is_range = len(conditions) > 1
        select = select_rows(described.relation, described.columns, tests, is_range)
        # The last part of a single range waits in memory: the table may turn out to be unchanged,
        # and then nothing is stored. That of several ranges, or of what is loaded meanwhile, is
        # stored at once.
        at_end = writer.finish if is_range or is_loaded_meanwhile else writer.end
        jobs.append(stream.Job(select, writer.take, at_end))
    statements = {}
    for number, job in enumerate(jobs, start=1):
        shown = job.select
        if rows.keys:
            shown = shown.replace(rows.keys, "the keys of single rows")
        statements[f"session {number}"] = shown
    details.show(f"SQL on {described.relation}", statements)
    upload = Upload(writers, contents)
    try:
        upload.rows = sum(_copy_all(source, jobs, store.layout.wire, readers))
    except BaseException:
        upload.abandon()  # no upload may continue after its step has failed
        raise
    return upload


def _copy_all(source: Session, jobs: list[stream.Job], wire: WireFormat, readers: int) -> list[int]:
    """The number of rows that each job has copied."""
    if len(jobs) > 1 or stream.is_many(source, jobs[0].select):
        counts = stream.copy_parallel(source, jobs, wire, min(readers, len(jobs)))
        if counts is not None:
            return counts
        # No further session could be opened, or its driver does not know the connection's options.
        _log.debug("no further sessions: one session reads everything")
    return [stream.copy(source, job, wire) for job in jobs]
