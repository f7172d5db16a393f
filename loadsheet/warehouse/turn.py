"""Turns: of the steps that extract a table again, one at a time does.

A turn is about progress only. Without it, two such steps could overtake each other for ever; the
fence keeps the rows right either way. So a turn that is lost, because its process sleeps or its
line is cut, harms nothing, and is not noticed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

import psycopg

from loadsheet.pinned import PinnedSession
from loadsheet.postgres import Session
from loadsheet.redact import summary
from loadsheet.sql.text import Relation

_log = logging.getLogger(__name__)
# Well below the time after which the server ends a transaction that idles
# (`postgres.WAREHOUSE_SETTINGS`), which is how a process that sleeps loses its turn.
_PING_SECONDS = 5.0
_TRY_EVERY_SECONDS = 0.2
# How long the work may wait for a session while the turn has one.
_GIVE_WAY_SECONDS = 5.0


@contextlib.contextmanager
def turn(connect: Callable[[], PinnedSession], pipeline: str, target: Relation) -> Iterator[None]:
    """Within the block, no other process has the turn for the pipeline's table `target`. Waits for
    it; the step's own time limit ends the wait.

    `connect` opens a session for the turn alone. Where the server has none left for the turn, or
    none but that one, the block runs without the turn. Raises psycopg errors where the turn cannot
    be asked for.
    """
    try:
        session = connect()
    except psycopg.OperationalError as error:
        _log.debug("no turn of %s: %s", target, summary(error))
        yield
        return
    key = _key(pipeline, target)
    is_over = takes_all = False
    with contextlib.closing(session):
        try:
            while not is_over and not takes_all:
                # A lock of a transaction, because a pooler may give each transaction another
                # session. It is asked for again and again: many that wait within transactions would
                # take all sessions of a pool, and the one that has the turn needs another.
                with session.transaction():
                    is_mine = _take(session, key)
                    takes_all = is_mine and takes_all_sessions(session, connect)
                    if is_mine and not takes_all:
                        with _kept_awake(session):
                            yield
                        is_over = True
                if not is_mine:
                    time.sleep(_TRY_EVERY_SECONDS)
        except psycopg.Error:
            # What was done in the turn is done, also where its transaction was lost meanwhile.
            if not is_over and not takes_all:
                raise
    if takes_all:
        _log.info("%s: the warehouse gives one session only, so no turn is taken", target)
        yield


def is_taken(session: Session, pipeline: str, target: Relation) -> bool:
    """Whether a step that extracts the pipeline's table again has the turn now."""
    with session.transaction():
        row = session.execute(
            "SELECT pg_try_advisory_xact_lock_shared(hashtextextended(%s, 0))",
            (_key(pipeline, target),),
        ).fetchone()
    return row == (False,)


def _key(pipeline: str, target: Relation) -> str:
    return f"loadsheet:turn:{pipeline}:{target}"


def takes_all_sessions(session: PinnedSession, connect: Callable[[], PinnedSession]) -> bool:
    """Whether other work finds no session while this one's transaction is open: a role may have a
    CONNECTION LIMIT, and a pool one session. Such a pool lets it wait, perhaps for ever, so this
    one is then shut."""
    gave_way = threading.Event()

    def give_way() -> None:
        gave_way.set()
        session.shut()

    timer = threading.Timer(_GIVE_WAY_SECONDS, give_way)
    timer.daemon = True
    timer.start()
    try:
        connect().close()
    except psycopg.OperationalError:
        return True
    finally:
        timer.cancel()
    return gave_way.is_set()


def _take(session: PinnedSession, key: str) -> bool:
    row = session.execute(
        "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (key,)
    ).fetchone()
    return row == (True,)


@contextlib.contextmanager
def _kept_awake(session: PinnedSession) -> Iterator[None]:
    """Within the block, the server does not end the session's transaction as idle, unless this
    process sleeps."""
    over = threading.Event()

    def ping() -> None:
        with contextlib.suppress(psycopg.Error):
            while not over.wait(_PING_SECONDS):
                session.execute("SELECT")

    thread = threading.Thread(target=ping, name="loadsheet-turn", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
