"""What one try at extracting a table has observed, and its fence."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from loadsheet.engine.sessions import IdleSession
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import load_prefix
from loadsheet.outcome import RunRequest
from loadsheet.plan.gaps import gaps_between, sentences
from loadsheet.postgres import Session
from loadsheet.source.rows import INITIAL_VALUE, Last, Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.extensions import Offered
from loadsheet.sql.text import Relation
from loadsheet.warehouse import (
    adopt,
    extensions,
    fence,
    foreseeing,
    integrity,
    intervals,
    ledger,
    tables,
)
from loadsheet.warehouse.integrity import Change
from loadsheet.warehouse.intervals import Read
from loadsheet.warehouse.scope import Scope, read_scope, started_from

if TYPE_CHECKING:
    from loadsheet.lake.store import Lake


@dataclass(frozen=True)
class _Fenced:
    """What belongs to an attempt from the moment it has the fence."""

    fence: int
    load_id: str
    prefix: str
    """Where the attempt's objects are in the lake."""


class HasNews(Exception):
    """A look cannot tell that the table has nothing new, so the table must be extracted."""


class Attempt:
    """One try at extracting a table: what it has observed, and its fence once it has taken it.

    One that `only_looks` never takes a fence: it raises HasNews instead.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        table: Table,
        request: RunRequest,
        lake: Lake,
        warehouse: IdleSession,
        only_looks: bool = False,
    ):
        self.pipeline = pipeline
        self.table = table
        self.request = request
        self.lake = lake
        self.warehouse = warehouse
        self.only_looks = only_looks
        self.target = Relation(pipeline.warehouse.schema, table.name)
        self.started = time.monotonic()
        with warehouse.session.transaction():
            ledger.ensure(warehouse.session)
            self._observe(warehouse.session)
        reach("extract.observed")
        self.accepted = ""
        """The changes of the source that the run was told to accept."""
        self.remarks: list[str] = []
        """What the outcome's message adds about what was found while rows were read."""
        self.read_at = ""
        """The source's clock when its rows were looked at."""
        self.has_snapshot = False
        """Whether the snapshot that is read shows the table as it was described."""
        self.source_is_durable = False
        """Whether a crash of the source can no longer take back what was read."""
        self._fenced: _Fenced | None = None
        self._taking_fence = threading.Lock()

    def _observe(self, session: Session) -> None:
        """Read what the ledger says of the table, and what the target is. Raises Refused."""
        name = self.pipeline.name
        self.seen: Scope = read_scope(session, name, self.table.name, self.target)
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

    @property
    def repairs(self) -> bool:
        """Whether only the rows that differ are read. A target that is gone or empty is filled from
        the start, as in any run."""
        return self.table.name in self.request.repair and not self.is_first

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
            lambda session: foreseeing.refuse_too_many_columns(
                session,
                self.target,
                described.columns,
                described.oid,
                self.seen,
                rows.action,
            )
        )

    @property
    def must_fill(self) -> bool:
        """Whether older rows of the target wait for the values of columns that drift added."""
        if self.table.fill is None or self.request.sample or self.is_first:
            return False
        return self.seen.unfilled is not None

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

        Raises Overtaken when the table's scope is no longer the one that was observed, HasNews in a
        look.
        """
        if self.only_looks:
            raise HasNews
        # A large table has several writers, each with an upload thread. The warehouse's session is
        # free: while rows are read, the step's own thread uses only the source's.
        with self._taking_fence:
            if self._fenced is None:
                self._fenced = self.warehouse.use(self._take_fence)
        return self._fenced

    def record_unchanged(
        self, checked_at: str | None, gone_rows: int, again: fence.SeenAgain | None
    ) -> None:
        """Record that there is nothing to load, although the whole table was compared with what its
        last load has left. `checked_at` is when deleted rows were searched for, by the source's
        clock, and `gone_rows` how many were found; `again` is the source's table, where its rows
        were written again with the same values. Raises Overtaken when that load is no longer the
        last."""
        # Parts that turned out to hold nothing new have taken the fence.
        fenced = self._fenced.fence if self._fenced else self.seen.fence
        name, table = self.pipeline.name, self.table.name
        self.warehouse.use(
            lambda session: fence.record_unchanged(
                session, name, table, self.target, self.seen, fenced, checked_at, gone_rows, again
            )
        )

    def _take_fence(self, session: Session) -> _Fenced:
        name, table = self.pipeline.name, self.table.name
        with session.transaction():
            number = fence.take_fence(session, name, table, self.target, self.seen, self.storage)
            load_id = ledger.next_load_id(session, name, table, self.target, self.request.run_id)
        # Random as well, because a warehouse restored from a backup gives out the same fence again.
        attempt = f"{number:08d}-{uuid.uuid4().hex[:8]}"
        reach("extract.fenced")
        return _Fenced(number, load_id, load_prefix(self.pipeline, table, load_id) + attempt)


def last_of(session: Session, pipeline: str, target: Relation, seen: Scope) -> Last:
    """Where the last load ended: the next reading starts there. `session` is one of the
    warehouse."""
    # An older ledger does not record it with the watermark.
    if seen.watermark is not None and INITIAL_VALUE not in (seen.source or {}):
        return as_last(seen, started_from(session, pipeline, target.name, target))
    return as_last(seen)


def as_last(seen: Scope, started_from: str | None = None) -> Last:
    """Where the last load ended, as its scope tells; `started_from` only where that does not."""
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
