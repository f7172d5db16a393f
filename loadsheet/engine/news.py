"""What is new since the last load: whether what an extraction has read needs a load, and whether
that is known before it is read."""

from __future__ import annotations

from loadsheet.engine.attempt import Attempt
from loadsheet.engine.reading import Upload
from loadsheet.postgres import Session
from loadsheet.source.rows import INTERVAL_CURSOR, Selection


def is_nothing_new(attempt: Attempt, rows: Selection, upload: Upload) -> bool:
    """Whether an increment has no row, or a whole table the same content as last time.

    A changed source that was accepted is news: a load must record it, even without rows. So is the
    first interval that is read by its cursor.
    """
    if _is_certain_of(attempt, rows):
        return False
    if _reads_only_news(attempt):
        return upload.rows == 0
    return attempt.seen.has_content(upload.content_sha256, rows.action)


def is_certain(attempt: Attempt) -> bool:
    """Whether there is something to load, whatever is read."""
    if attempt.is_first or attempt.accepted or attempt.request.is_full(attempt.table.name):
        return True
    if attempt.repairs:
        return False
    # The load step goes on with the fill of older rows.
    return attempt.change is not None or attempt.must_fill


def _is_certain_of(attempt: Attempt, rows: Selection) -> bool:
    """The same, where it is known which rows are read."""
    if is_certain(attempt):
        return True
    recorded = (attempt.seen.source or {}).get(INTERVAL_CURSOR)
    return not attempt.repairs and rows.facts.get(INTERVAL_CURSOR, recorded) != recorded


def may_begin_early(attempt: Attempt, source: Session, rows: Selection) -> bool:
    """Whether the load may begin while the rows are read.

    Not where they may turn out to be the same as last time; nor in the database that is read, where
    the hold-back of other extractions would wait for the load's transaction.
    """
    ends = [
        (session.info.host, session.info.port, session.info.dbname)
        for session in (source, attempt.warehouse.session)
    ]
    is_news = _is_certain_of(attempt, rows) or _reads_only_news(attempt)
    return is_news and ends[0] != ends[1]


def is_compared(attempt: Attempt, rows: Selection) -> bool:
    """Whether the content of the rows is compared with that of the last load, by its hash. Of a
    table with a cursor the rows are counted instead, and to hash them would take half a second of
    CPU per gigabyte."""
    return rows.where == "" and attempt.table.incremental is None


def _reads_only_news(attempt: Attempt) -> bool:
    """Whether each row that is read is news, so that it will be loaded."""
    return attempt.repairs or attempt.table.incremental is not None
