"""What the ledger knows of the loads of a target, of which a restore chooses one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg.rows import class_row

from loadsheet.errors import InputError, Refused
from loadsheet.lake.history import History
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger

_LOADS = f"""
SELECT load_no, load_id, pipeline, table_name AS table, run_id, fence, action, {ledger.IS_WHOLE}
    AS whole, restored, manifest, manifest_sha256 AS sha256, extracted, duplicates, inserted,
    updated, deleted, counted, bytes, lower_cursor AS lower, committed_at
FROM loadsheet.load WHERE target = %s ORDER BY load_no
"""


@dataclass(frozen=True, kw_only=True)
class LoggedLoad:
    """The ledger's row of a committed load."""

    load_no: int
    load_id: str
    pipeline: str
    table: str
    run_id: str
    fence: int
    action: str
    whole: bool
    restored: int | None
    manifest: str
    sha256: str | None
    """The manifest's; None for loads of earlier versions."""
    extracted: int
    duplicates: int
    inserted: int
    updated: int
    deleted: int
    counted: int | None
    bytes: int
    lower: str | None
    committed_at: datetime

    def rows_after(self, before: int) -> int:
        """The rows that the target had after it, by the ledger; `before` are those before it."""
        if self.counted is not None:
            return self.counted
        if self.whole:
            return self.extracted - self.duplicates
        return before + self.inserted - self.deleted


def read_history(session: Session, target: Relation) -> History[LoggedLoad]:
    """All loads of the target, by all pipelines."""
    with session.cursor(row_factory=class_row(LoggedLoad)) as cursor:
        cursor.execute(_LOADS, (str(target),))
        return History(cursor.fetchall())


def choose(
    history: History[LoggedLoad], pipeline: str, target: Relation, as_of: str | None
) -> LoggedLoad:
    """The load `as_of`: its number, the run that it belongs to, or a time, which chooses the newest
    that was committed by then; None chooses the newest of all.

    Raises InputError where there is none.
    """
    own = [load for load in history.loads if load.pipeline == pipeline]
    if not own:
        raise InputError(f"the ledger knows no load of {target} by {pipeline}")
    found = [load for load in own if as_of in (None, str(load.load_no), load.run_id)]
    moment = None
    if as_of is not None and not found:
        moment = _moment(as_of)
    if moment:
        # Loads are listed with their whole seconds, and such a time must find the load itself.
        until = moment if moment.microsecond else moment + timedelta(microseconds=999_999)
        found = [load for load in own if load.committed_at <= until]
    if not found:
        what = f"{as_of!r}, nor one of a run of that name"
        if moment:
            what = f"that was committed by {moment:%Y-%m-%d %H:%M:%SZ}"
        raise InputError(
            f"{target} has no load {what}: `loadsheet restore {pipeline} {target.name} --list`"
            " shows its loads"
        )
    return found[-1]


def _moment(text: str) -> datetime | None:
    """The time in UTC, which is also meant where no zone is named; None where it is no time."""
    # Python takes a number such as 20260602 for a day.
    if not re.match(r"\d{4}-\d\d-\d\d", text):
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            return moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):  # in UTC it may be before the year 1 or after 9999
        return None


def refuse_others(chain: Iterable[LoggedLoad], pipeline: str, target: Relation) -> None:
    """Raises Refused where another pipeline has loaded some of the rows: they may be in another
    lake, and the order of its loads and ours is not in the manifests."""
    for load in chain:
        if load.pipeline != pipeline:
            raise Refused(
                f"{target}: load {load.load_no} is of the pipeline {load.pipeline!r}, and a restore"
                " knows only tables that one pipeline has loaded; nothing was changed. Read the"
                f" table again: `loadsheet run {pipeline} --tables {target.name} --full-refresh`"
            )
