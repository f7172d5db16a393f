"""Loads that begin early: while their table is still extracted, in a run that does both.

    the extraction's threads        the early load's thread          the load step
    offer(rows), block after block
      compressed into parts  -----> a session, a transaction, a
                                    new table; one COPY of them
      Lake.put(part), stored(part)
    no_more_rows             -----> the end of that COPY
    seal_attempt
    keep                                                             take: the thread ends
                                                                     lock, fence, other parts, ...

It is an optimisation that may be dropped at any moment: its transaction is rolled back, and the
load step reads everything from the lake. It decides nothing, and holds no lock on the target.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import copy_context

import psycopg

from loadsheet.deadline import remaining
from loadsheet.engine.diagnosis import is_full
from loadsheet.errors import TimedOut
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import Part
from loadsheet.pinned import PinnedSession
from loadsheet.redact import on_one_line, summary
from loadsheet.source.rows import Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Table
from loadsheet.sql.copying import FileFormat
from loadsheet.sql.text import Relation
from loadsheet.warehouse import foreseeing, ledger, older_sessions, tables, turn
from loadsheet.warehouse.arrival import Arrival, Begun
from loadsheet.warehouse.gone import keeps_deleted
from loadsheet.warehouse.scope import Scope

_log = logging.getLogger(__name__)

# Rows that wait for the warehouse. With that many, neither side waits for the other's short pauses;
# they are in the processor's cache no longer, so more would gain nothing.
_MOST_WAITING_BYTES = 4 << 20
# A session and a transaction cost 25 ms. Loading so many rows takes no longer.
_FIRST_BYTES = 1 << 20
# The extraction goes as fast as the warehouse takes rows, as in a pipe. But it holds the source's
# snapshot: a warehouse that stands still for so long is left behind. Nor does the load's
# transaction wait longer for a source that sends nothing.
_PATIENCE_SECONDS = 30.0
# How long a thread may take to notice that its session is shut.
_ENDING_SECONDS = 1.0
# A process that finds no session left waits for one for 5 s. Looking takes 7 ms, and 1 ms of CPU.
_LOOK_EVERY_SECONDS = 2.0
_ENDED = "the extraction has failed, or another step needs its session"


class _Dropped(Exception):
    """Rolls a transaction back."""


class _NoSession(_Dropped):
    """Others need the session."""

    def __init__(self) -> None:
        super().__init__("the warehouse gives no further session")


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _Dropped) else on_one_line(summary(error))


class _Pipe:
    """Blocks of rows, on their way from the thread that reads them to the one that loads them."""

    def __init__(self) -> None:
        self._blocks: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._has_ended = False
        self.is_shut = False
        """Whether the blocks are of no use any more."""
        self.waiting = 0
        """Bytes that were added and not copied yet."""

    def put(self, block: bytes) -> bool:
        """Add a block, and wait until there is room for the next. False where there is none for
        too long, or the pipe was shut. Raises TimedOut when the step's time is up."""
        with self._changed:
            if self.is_shut:
                return False
            self._blocks.append(block)
            self.waiting += len(block)
            self._changed.notify_all()
            while self.waiting >= _MOST_WAITING_BYTES and not self.is_shut:
                # Half of the step's time is left for an extraction that no one holds up.
                if not self._changed.wait(min(_PATIENCE_SECONDS, remaining() / 2)):
                    return False
            return not self.is_shut

    def end(self) -> None:
        """There are no more blocks."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def shut(self) -> None:
        """No blocks are taken or added any more: those who wait go on."""
        with self._changed:
            self.is_shut = True
            self._blocks.clear()
            self._changed.notify_all()

    def blocks(self) -> Iterator[bytes]:
        """The blocks, until the end. Raises _Dropped where none comes for too long, or the pipe was
        shut."""
        while True:
            with self._changed:
                while not self._blocks and not self._has_ended and not self.is_shut:
                    if not self._changed.wait(_PATIENCE_SECONDS):
                        raise _Dropped("the source sends no rows")
                if self.is_shut:
                    raise _Dropped(_ENDED)
                if not self._blocks:
                    return
                block = self._blocks.popleft()
            yield block
            with self._changed:
                self.waiting -= len(block)
                self._changed.notify_all()
            reach("early.block_copied")


class EarlyLoads:
    """The early loads of a run, which end with it.

    `spare` opens a session if the warehouse gives one at once; `probe` a further one, to see that
    there are more. Within the block of `held`, the steps of others wait for this thread's session.
    """

    def __init__(
        self,
        spare: Callable[[], AbstractContextManager[PinnedSession]],
        probe: Callable[[], PinnedSession],
        held: Callable[[], AbstractContextManager[None]],
    ):
        self.spare = spare
        self.probe = probe
        self.held = held
        self.finds_no_session = False
        """Whether the warehouse had none left for one of them. Then no other begins: behind a pool,
        finding that out takes 5 s."""
        self._begun: set[EarlyLoad] = set()
        self._sealed: dict[str, EarlyLoad] = {}
        self._claiming = threading.Lock()

    @property
    def have_begun(self) -> bool:
        """Whether there is one that may have a session."""
        return bool(self._begun)

    def add(self, load: EarlyLoad) -> None:
        """Remember a load that has begun, until it is claimed."""
        with self._claiming:
            self._begun.add(load)

    def claim(self, load: EarlyLoad) -> bool:
        """Whether the caller is the one that has to end the load. Its step, its own thread and the
        steps that need its session may want to at the same time."""
        with self._claiming:
            is_first = load in self._begun
            self._begun.discard(load)
        return is_first

    def keep(self, load_id: str, load: EarlyLoad) -> None:
        """Keep a load whose attempt is sealed for the load step."""
        self._sealed[load_id] = load

    def has(self, load_id: str) -> bool:
        """Whether the load step of `load_id` finds a load that has begun."""
        return load_id in self._sealed

    def take(self, load_id: str) -> EarlyLoad | None:
        """The load that the load step of `load_id` goes on with (`going_on`); None where there is
        none, or it has failed."""
        load = self._sealed.pop(load_id, None)
        if load and self.claim(load) and load.is_ready():
            return load
        return None

    def drop_all(self) -> None:
        """End all of them, to make room for other sessions or at the end of the run."""
        for load in list(self._begun):
            load.drop()


class EarlyLoad:
    """The load of one attempt, which begins with the first rows that `offer` gets after `expect`.
    A context manager around the extraction: at its end the load is dropped, unless it is kept.
    Without `loads` it does nothing. `fence` takes the attempt's, or gives the one it has."""

    def __init__(
        self,
        loads: EarlyLoads | None,
        pipeline: str,
        table: Table,
        target: Relation,
        seen: Scope,
        fence: Callable[[], int],
    ):
        self._loads = loads
        self._pipeline = pipeline
        self._table = table
        self._target = target
        self._seen = seen
        self._fence = fence
        self.is_expected = False
        """Whether rows may be offered."""
        self._is_kept = False
        self._opened = ExitStack()
        """The session."""
        self._transaction = ExitStack()
        self._session: PinnedSession | None = None
        self._arrival: Arrival | None = None
        self._rows = _Pipe()
        self._parts: list[Part] = []
        self._thread: threading.Thread | None = None

    @property
    def _has_failed(self) -> bool:
        return self._rows.is_shut

    def __enter__(self) -> EarlyLoad:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._is_kept:
            self.drop()

    def expect(self, described: SourceTable, rows: Selection, format: FileFormat) -> None:
        """From now on, rows may be offered: those of `described`, of which each will be loaded."""
        # Arrow's copies of parts need more memory than there is beside an extraction.
        if format == "parquet" or not self._table.overlap:
            return
        if self._loads is None or self._loads.finds_no_session:
            return
        self._described, self._selected, self._format = described, rows, format
        self.is_expected = True

    def offer(self, rows: bytes) -> None:
        """Whole rows, as COPY sends them, which are on their way into the lake as well. Called by
        the thread that reads them; waits where the warehouse is slower. Raises TimedOut, and what
        taking the fence raises."""
        if not self.is_expected or self._has_failed:
            return
        if self._thread is None and self._rows.waiting + len(rows) >= _FIRST_BYTES:
            self._start()
        if not self._rows.put(rows) and not self._has_failed:
            _log.info("%s: not loaded early: the warehouse stands still", self._target)
            self.drop()

    def stored(self, part: Part) -> None:
        """A part that the lake has acknowledged. All of its rows were offered."""
        self._parts.append(part)

    def no_more_rows(self) -> None:
        """All rows were read: a load that has not begun gains nothing any more."""
        self._rows.end()
        self.is_expected = self._thread is not None

    def _start(self) -> None:
        assert self._loads
        # Here, because a pool's only session may be the load's afterwards.
        fence = self._fence()
        # A daemon: a process that ends must not wait for a warehouse that stands still.
        thread = threading.Thread(
            target=copy_context().run,
            args=(self._work, fence),
            name="loadsheet-early",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError as error:
            # The system gives the process no further thread.
            self._rows.shut()
            _log.info("%s: not loaded early: %s", self._target, summary(error))
            return
        self._thread = thread
        # Not before: from now on any step may end it, which waits for the thread.
        self._loads.add(self)
        if self._has_failed:
            self._loads.claim(self)

    def keep(self, load_id: str) -> None:
        """The attempt is sealed: the load step can go on."""
        if self._thread and self._loads and not self._has_failed:
            self._is_kept = True
            self._loads.keep(load_id, self)

    def is_ready(self) -> bool:
        """Whether all that was offered has arrived, and the transaction still stands. Else the load
        is dropped. From now on the session belongs to the caller's step."""
        assert self._thread
        try:
            # Half of the step's time is left for a load from the lake.
            self._thread.join(min(_PATIENCE_SECONDS, remaining() / 2))
            if self._thread.is_alive() or self._has_failed or self._session is None:
                self._end()
                return False
            self._session.begin_step()
        except psycopg.Error as error:
            _log.info("%s: its early load was lost: %s", self._target, _reason(error))
            self._end()
            return False
        except BaseException:
            self._end()
            raise
        return True

    @contextmanager
    def going_on(self) -> Iterator[tuple[PinnedSession, Begun]]:
        """The session of a load that is ready, and what has begun in it."""
        assert self._loads and self._session and self._arrival
        self._arrival.early = tuple(self._parts)
        begun = Begun(transaction=self._transaction.pop_all(), arrival=self._arrival)
        # It is a step's session now, which that step gives back.
        with self._loads.held(), self._opened.pop_all():
            yield self._session, begun

    def drop(self) -> None:
        """Roll back what has begun, unless another thread ends it."""
        if self._loads and self._loads.claim(self):
            self._end()

    def _end(self) -> None:
        """Roll back what has begun. Returns when the thread has ended, unless it hangs."""
        assert self._thread
        self._rows.shut()
        if self._session:
            # It may be waiting for the server.
            with suppress(OSError, psycopg.Error):
                self._session.shut()
        self._thread.join(_ENDING_SECONDS)
        # One that hangs within COPY has the session's lock. It rolls back when it wakes.
        if not self._thread.is_alive():
            self._roll_back()

    def _work(self, fence: int) -> None:
        """What the thread does."""
        assert self._loads
        try:
            arrival = self._begin(self._loads, fence)
            arrival.copy_early(self._giving_way(self._loads))
            self._arrival = arrival
            reach("early.copied")
        # Whatever it is, the load step meets it again, if it is not over by then.
        except Exception as error:
            why = self._why(error)
            self._rows.shut()
            self._loads.finds_no_session |= isinstance(error, _NoSession)
            _log.info("%s: not loaded early: %s", self._target, why)
        if self._has_failed:
            self._loads.claim(self)
            # Also where another thread has ended it, which does not wait for a session that is
            # still being opened.
            self._roll_back()

    def _why(self, error: Exception) -> str:
        """Why it has ended. A session that was shut to end it has an error of its server."""
        if self._has_failed:
            return _ENDED
        try:
            remaining()
        except TimedOut:
            return "the extraction's time is up"
        return _reason(error)

    def _begin(self, loads: EarlyLoads, fence: int) -> Arrival:
        """Open the transaction and make the table that rows arrive in."""
        try:
            session = self._opened.enter_context(loads.spare())
        except psycopg.OperationalError as error:
            if is_full(error):
                raise _NoSession() from error
            raise
        self._session = session
        if self._has_failed:
            raise _Dropped(_ENDED)
        target, table = self._target, self._table
        # Outside of the transaction: it must hold no lock on the target, nor keep others from
        # creating schemas.
        tables.ensure_schema(session, target.schema)
        schema = foreseeing.arrival_schema(
            session,
            target,
            self._described.columns,
            self._described.oid,
            self._seen,
            self._key,
            replaces=self._selected.action == "replace" and not keeps_deleted(table),
        )
        self._transaction.enter_context(session.transaction())
        older_sessions.name(session, self._pipeline, table.name, target, fence)
        if turn.takes_all_sessions(session, loads.probe):
            raise _NoSession()
        # No load gets this number: that is drawn under the target's lock.
        place = Relation(schema, f"_loadsheet_{ledger.draw_number(session)}")
        arrival = Arrival(session, place, target, self._described.columns, self._format)
        arrival.create({}, self._key if self._described.key_is_enforced else ())
        reach("early.begun")
        return arrival

    def _giving_way(self, loads: EarlyLoads) -> Iterator[bytes]:
        """The blocks, as long as the warehouse has a session left. Another process cannot ask for
        that of this load. Raises _NoSession where there is none."""
        assert self._session
        looked_at = time.monotonic()
        for block in self._rows.blocks():
            yield block
            if time.monotonic() - looked_at < _LOOK_EVERY_SECONDS:
                continue
            if turn.takes_all_sessions(self._session, loads.probe):
                raise _NoSession()
            looked_at = time.monotonic()

    @property
    def _key(self) -> tuple[str, ...]:
        keyed = self._table.mode_with_key(bool(self._described.key)) != "append"
        return self._described.key if keyed else ()

    def _roll_back(self) -> None:
        for stack in (self._transaction.pop_all(), self._opened.pop_all()):
            with suppress(_Dropped, psycopg.Error), stack:
                raise _Dropped
