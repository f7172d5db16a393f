"""What the warehouse knows of a pipeline, for people: the ledger's last loads, builds and failures, and row counts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

from loadsheet.postgres import Session
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger

# Counting so many pages (8 MB) takes some 20 ms.
_COUNTED_PAGES = 1_000
_LONGEST = "5s"
# A table that somebody has locked for longer has its rows unknown; the next one is not to wait as well.
_LONGEST_LOCK = "1s"
_WATERMARKS = "SELECT table_name, watermark, cursor FROM loadsheet.scope WHERE pipeline = %s ORDER BY table_name"
_LOADS = """
SELECT scope.table_name AS name, load.target, committed_at AS at, run_id, load_no AS number, action AS how, extracted,
       inserted, updated, deleted, bytes, extract_seconds + load_seconds AS seconds, held_by
FROM loadsheet.scope JOIN loadsheet.load ON load_no = last_load_no WHERE scope.pipeline = %s
"""
_BUILDS = """
SELECT DISTINCT ON (transform) transform AS name, target, committed_at AS at, run_id, run_no AS number,
       CASE WHEN full_build THEN 'full' ELSE 'increment' END AS how, NULL::bigint AS extracted,
       inserted, updated, deleted, NULL::bigint AS bytes, seconds, '' AS held_by
FROM loadsheet.transform_run WHERE pipeline = %s ORDER BY transform, run_no DESC
"""
_FAILURES = """
SELECT kind, name, step, run_id, code, message, since, failed_at AS at, worked_at
FROM loadsheet.failure WHERE pipeline = %s
"""
_SIZE = """
SELECT relkind IN ('r', 'p', 'm'), coalesce(pg_relation_size(oid), 0) / current_setting('block_size')::int,
       reltuples::bigint FROM pg_class WHERE oid = to_regclass(%s)
"""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The last committed load of a table, or build of a transform; `extracted` and `bytes` are a load's."""

    name: str
    target: str
    at: datetime
    run_id: str
    number: int
    how: str
    """`replace`, `merge` or `append`; of a transform `full` or `increment`."""
    extracted: int | None
    inserted: int
    updated: int
    deleted: int
    bytes: int | None
    seconds: float
    held_by: str
    """The source session that kept this load from reading everything; empty when none did."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The last failure of a table or transform."""

    kind: str
    name: str
    step: str
    run_id: str
    code: str
    message: str
    since: datetime
    """The first failure since it last worked."""
    at: datetime
    worked_at: datetime | None
    """None: it has not worked since."""


@dataclass(frozen=True, kw_only=True)
class Watermark:
    """How far a table has come; both None for one without a watermark."""

    value: str | None
    cursor: str | None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """How many rows a target has: None for a view, for what is not there, not to be read by this role, locked, or was
    never estimated. `exact` when they were counted."""

    number: int | None
    exact: bool = False
    is_there: bool = True
    """False: there is no table or view of this name."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the ledger knows of one pipeline, by the names of tables and transforms; empty before the first run."""

    watermarks: dict[str, Watermark]
    loads: dict[str, Work]
    builds: dict[str, Work]
    failures: dict[tuple[str, str], Failure]
    """By `table` or `transform` and name."""


def begin(session: Session) -> datetime:
    """Make the session one that only asks, and briefly; returns the warehouse's clock."""
    row = session.execute(
        "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false), "
        "set_config('default_transaction_read_only', 'on', false), clock_timestamp()", (_LONGEST, _LONGEST_LOCK),
    ).fetchone()  # fmt: skip
    assert row
    return row[3]  # type: ignore[no-any-return]


def known(session: Session, pipeline: str) -> Known:
    """What the ledger says. Raises Refused when a newer Loadsheet has made it."""
    ledger.refuse_newer(ledger.version(session))
    if not _exists(session, "scope"):
        return Known(watermarks={}, loads={}, builds={}, failures={})
    rows = session.execute(_WATERMARKS, (pipeline,)).fetchall()
    # A ledger that no step of this version has met yet has no failures.
    failures = _rows(session, Failure, _FAILURES, pipeline) if _exists(session, "failure") else []
    return Known(
        watermarks={name: Watermark(value=value, cursor=cursor) for name, value, cursor in rows},
        loads={work.name: work for work in _rows(session, Work, _LOADS, pipeline)},
        builds={work.name: work for work in _rows(session, Work, _BUILDS, pipeline)},
        failures={(failure.kind, failure.name): failure for failure in failures},
    )


def rows_in(session: Session, target: Relation) -> Rows:
    """The rows of a table. A large one is estimated by its last VACUUM or ANALYZE."""
    try:
        size = session.execute(_SIZE, (target.sql,)).fetchone()
        if size is None:
            return Rows(number=None, is_there=False)
        is_table, pages, estimate = size
        if is_table and pages <= _COUNTED_PAGES:
            row = session.execute(f"SELECT count(*) FROM {target.sql}").fetchone()
            return Rows(number=row[0] if row else None, exact=True)
    except (
        psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable,
        psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable,
    ):  # fmt: skip
        return Rows(number=None)
    return Rows(number=estimate if is_table and estimate >= 0 else None)


def _exists(session: Session, table: str) -> bool:
    return session.execute("SELECT to_regclass(%s) IS NOT NULL", (f"loadsheet.{table}",)).fetchone() == (True,)


def _rows(session: Session, kind: type[Any], query: str, pipeline: str) -> list[Any]:
    with session.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(query, (pipeline,)).fetchall()
