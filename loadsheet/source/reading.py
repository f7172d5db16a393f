"""Which rows an extraction reads, and how far the watermark may move when they are committed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import psycopg

from loadsheet.errors import HeldBack, Refused
from loadsheet.outcome import RunRequest
from loadsheet.postgres import Session
from loadsheet.source import holdback
from loadsheet.source.bounds import Cursor
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Incremental, Mode, Table
from loadsheet.spec.schedule import is_number, seconds
from loadsheet.sql.text import ident, typed
from loadsheet.sql.types import NUMBER_TYPES, widens, without_modifier


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What to read and what to do with it. Cursor values are text in the source server's own
    form."""

    action: Literal["replace", "merge", "append"]
    where: str = ""
    """SQL condition on the source table; empty reads all."""
    sample: str = ""
    """SQL condition of a run for development; empty reads all."""
    lower: str | None = None
    upper: str | None = None
    """The watermark once the rows are committed, where `moves_watermark`."""
    moves_watermark: bool = False
    clock: str | None = None
    """For a cursor without a zone: the lowest value it may be stamped with from now on."""
    held_by: str = ""
    """Who keeps the watermark from moving further."""


@dataclass(frozen=True, kw_only=True)
class Last:
    """What the last load of a table left for the next: its watermark, and the source's columns as
    they were."""

    watermark: str | None
    cursor: str | None
    """The column the watermark is of; None where an older ledger does not say."""
    source_oid: int | None
    places: Mapping[str, int]
    types: Mapping[str, str]


def decide(
    session: Session, table: Table, source: SourceTable, last: Last | None, request: RunRequest
) -> Reading:
    """The reading of `table` for this run; waits for open transactions where the cursor needs it.

    `last` is None when the target has never been loaded. Raises Refused when the spec and the
    source contradict each other or late commits could be missed, HeldBack when an interval is not
    closed.
    """
    mode = refuse_mode(table, source)
    full = request.is_full(table.name)
    if not table.incremental:
        return Reading(action="replace" if full or last is None else mode)
    window = _Window(session, source, table.incremental, mode)
    if table.incremental.by == "data_interval" or request.explicit_interval:
        return window.everything() if full else window.interval(request)
    if full or last is None:
        return window.from_the_start()
    if last.watermark is not None:
        _refuse_changed_cursor(source, table.incremental.cursor, last)
    elif mode == "append" and last.cursor is None:
        raise Refused(
            f"{source.relation} was loaded without a cursor before: appended to what is there, its"
            " rows would be doubled; run a full refresh of this table"
        )
    return window.above(last.watermark)


def refuse_mode(table: Table, source: SourceTable) -> Mode:
    """The table's mode. Raises Refused where it does not go with the source's key and the rest of
    the spec."""
    mode = table.mode_with_key(bool(source.key))
    if mode == "merge" and not source.key:
        raise Refused(
            f"{source.relation} has no primary key in the source: give primary_key, or mode: append"
        )
    spec = table.incremental
    if spec and mode == "append" and (spec.lookback is not None or spec.nulls == "include"):
        raise Refused(
            f"{source.relation} is appended to, so no row may be read twice: merge it (mode: merge,"
            " which needs a primary_key), or drop incremental.lookback and nulls: include"
        )
    return mode


def refuse_appended_interval(source: SourceTable, mode: Mode) -> None:
    """Raises Refused unless rows of an interval are merged."""
    if mode != "merge":
        raise Refused(
            f"{source.relation} is appended to, and an interval read twice would double its rows:"
            " merge it (mode: merge, which needs a primary_key)"
        )


def _refuse_changed_cursor(source: SourceTable, name: str, last: Last) -> None:
    """Raises Refused when the watermark is of another column, or its values are ordered otherwise
    now."""
    now = source.column(name)
    then = last.cursor or name
    was = last.types.get(then, now.type)
    if (now.attnum != last.places.get(then)) if source.oid == last.source_oid else (then != name):
        change = f"is not the column {then} that increments were read by"
    elif not _same_order(was, now.type):
        change = f"was {was} and is {now.type} now"
    else:
        return
    raise Refused(f"{source.relation}: cursor {name} {change}; run a full refresh of this table")


def _same_order(one: str, other: str) -> bool:
    before, after = without_modifier(one), without_modifier(other)
    return widens(before, after) or widens(after, before)


class _Window:
    """Conditions on the cursor of one table, each with the watermark that may follow from it."""

    def __init__(self, session: Session, source: SourceTable, spec: Incremental, mode: Mode):
        self._session, self._source, self._spec, self._mode = session, source, spec, mode
        self._cursor = Cursor(session, source, spec)

    def everything(self) -> Reading:
        """All rows; the watermark stays (interval tables have none)."""
        return Reading(action="replace", where=self._with_nulls("TRUE"))

    def from_the_start(self) -> Reading:
        """All rows from the initial value on, in place of what the target has."""
        return self._rows("replace", self._spec.initial_value, ">=")

    def above(self, watermark: str | None) -> Reading:
        """Rows above the watermark, which never goes back."""
        action: Literal["merge", "append"] = "merge" if self._mode == "merge" else "append"
        if watermark is None:
            return self._rows(action, self._spec.initial_value, ">=")
        self._cursor.refuse_ahead(self._lower(watermark, watermark))
        return self._rows(action, watermark, ">", floor=watermark)

    def interval(self, request: RunRequest) -> Reading:
        """Rows of the run's interval `[start, end)`, once no open transaction can still write into
        it."""
        start, end = request.interval_start, request.interval_end
        if start is None or end is None:
            raise Refused(
                f"{self._source.relation} is incremental by data_interval, but this run has none: "
                "give interval_start and interval_end in the trigger form (or --from and --to)"
            )
        refuse_appended_interval(self._source, self._mode)
        self._refuse_misfits(start, end)
        if self._cursor.is_time and not request.explicit_interval:
            self._wait_for_the_clock(end)
        holdback.sees(self._session, self._source, self._spec.cursor)
        moment = end if self._cursor.is_time else holdback.now(self._session)
        if holder := holdback.wait_until_ended(self._session, moment, self._spec.hold_back):
            raise HeldBack(
                f"{self._source.relation}: {holder.who} may still write before {end}; end it, then"
                " retry"
            )
        name = self._cursor.sql
        condition = f"{name} >= {self._cursor.at(start)} AND {name} < {self._cursor.at(end)}"
        where, clock = self._with_nulls(condition), self._cursor.clock()
        return Reading(action="merge", where=where, lower=start, upper=end, clock=clock)

    def _refuse_misfits(self, *bounds: str) -> None:
        """Raises Refused when a bound is no value of the cursor's type: times for a number, numbers
        for a time."""
        for bound in bounds:
            try:
                self._session.execute(f"SELECT {typed(bound, self._cursor.type)}")
            except psycopg.DataError:
                raise Refused(
                    f"{self._source.relation}: the interval's bound {bound} is no value of the"
                    f" cursor {self._spec.cursor}, which is {self._cursor.type}; choose the tables"
                    " it is meant for (--tables)"
                ) from None

    def _wait_for_the_clock(self, end: str) -> None:
        """The scheduler's clock says that the interval is over, but rows are stamped by the
        source's."""
        clock = (
            f"SELECT extract(epoch FROM {typed(end, 'timestamptz')} - clock_timestamp())::float8"
        )
        row = self._session.execute(clock).fetchone()
        early = row[0] if row else 0
        if early > self._spec.hold_back.total_seconds():
            raise HeldBack(
                f"{self._source.relation}: the interval ends at {end}, which by the source's clock"
                f" is {early:,.0f} seconds away: rows may still be written into it; retry then, and"
                " compare the two machines' clocks"
            )
        time.sleep(max(early, 0))

    def _rows(
        self,
        action: Literal["replace", "merge", "append"],
        start: str | None,
        comparison: str,
        floor: str | None = None,
    ) -> Reading:
        """Rows from `start` on.

        A merge reads whatever is visible there, also what the watermark may not pass yet: reading
        such a row again changes nothing. An append must read each row once, so it stops at the safe
        bound.
        """
        upper, held_by = self._cursor.safe_upper(self._mode)
        conditions = (
            [f"{self._cursor.sql} {comparison} {self._lower(start, floor)}"]
            if start is not None
            else []
        )
        if self._mode != "merge":
            conditions.append(
                f"{self._cursor.sql} <= {typed(upper, self._cursor.type)}"
                if upper is not None
                else "FALSE"
            )
        return Reading(
            action=action,
            where=self._with_nulls(" AND ".join(conditions) or "TRUE"),
            lower=start,
            upper=self._cursor.higher(floor, upper),
            moves_watermark=True,
            clock=self._cursor.clock(),
            held_by=held_by,
        )

    def _lower(self, start: str, floor: str | None) -> str:
        """The lower bound as SQL: the watermark less the lookback, the initial value as it is."""
        bound, lookback = typed(start, self._cursor.type), self._spec.lookback
        if floor is None or lookback is None:
            return bound
        if self._cursor.is_time:
            return f"{bound} - interval '{seconds(lookback)} seconds'"
        if self._cursor.type in NUMBER_TYPES and is_number(lookback):
            return f"{bound} - {typed(lookback, 'numeric')}"
        raise Refused(
            f"{self._source.relation}: lookback {lookback} does not fit a cursor of type"
            f" {self._cursor.type}"
        )

    def _with_nulls(self, condition: str) -> str:
        if self._spec.nulls == "include":
            return f"({condition} OR {self._cursor.sql} IS NULL)"
        return (
            condition
            if condition != "TRUE" or self._spec.nulls == "fail"
            else f"{self._cursor.sql} IS NOT NULL"
        )


def refuse_null_cursors(session: Session, table: Table, source: SourceTable) -> None:
    """Raises Refused, with their number, when rows have no cursor and the spec does not say what to
    do with them."""
    spec = table.incremental
    if not spec or spec.nulls != "fail" or spec.cursor in source.not_null:
        return
    row = session.execute(
        f"SELECT count(*) FROM {source.relation.sql} WHERE {ident(spec.cursor)} IS NULL"
    ).fetchone()
    if row and row[0]:
        raise Refused(
            f"{source.relation}: {row[0]} rows have no {spec.cursor}, so an increment would never"
            " see them; set incremental.nulls to include or exclude"
        )
