"""Which rows an extraction reads, and how far the watermark may move when they are committed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from loadsheet.errors import HeldBack, Refused
from loadsheet.outcome import RunRequest
from loadsheet.source import holdback
from loadsheet.source.catalog import SourceTable
from loadsheet.spec.duration import is_number, seconds
from loadsheet.spec.models import Incremental, Mode, Table
from loadsheet.sql.text import ident, typed
from loadsheet.sql.types import NUMBER_TYPES, TIME_TYPES, Column, without_modifier

Action = Literal["replace", "merge", "append"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What to read and what to do with it. Cursor values are text in the source server's own form."""

    action: Action
    where: str = ""
    """SQL condition on the source table; empty reads all."""
    lower: str | None = None
    upper: str | None = None
    """The watermark once the rows are committed, where `moves_watermark`."""
    moves_watermark: bool = False
    held_by: str = ""
    """Who keeps the watermark from moving further."""


def decide(
    session: psycopg.Connection[Any], table: Table, source: SourceTable, watermark: str | None, first: bool,
    request: RunRequest,
) -> Reading:  # fmt: skip
    """The reading of `table` for this run; waits for open transactions where the cursor needs it.

    `watermark` is the last committed one, `first` whether the target has never been loaded. Raises Refused when the
    spec and the source contradict each other or late commits could be missed, HeldBack when an interval is not closed.
    """
    mode = table.mode_with_key(bool(source.key))
    if mode == "merge" and not source.key:
        raise Refused(f"{source.relation} has no primary key in the source: give primary_key, or mode: append")
    full = first or request.is_full(table.name)
    if not table.incremental:
        return Reading(action="replace" if full else mode)
    if mode == "append" and (table.incremental.lookback is not None or table.incremental.nulls == "include"):
        raise Refused(
            f"{source.relation} is appended to (it has no primary key), so no row may be read twice: give primary_key, "
            "or drop incremental.lookback and nulls: include"
        )
    rows = _Window(session, source, table.incremental, mode)
    if table.incremental.by == "data_interval" or request.explicit_interval:
        return rows.everything() if request.is_full(table.name) else rows.interval(request)
    if request.is_full(table.name) or (first and table.incremental.initial_value is None):
        return rows.up_to_now()
    return rows.above(None if first else watermark)


class _Window:
    """Conditions on the cursor of one table, each with the watermark that may follow from it."""

    def __init__(self, session: psycopg.Connection[Any], source: SourceTable, spec: Incremental, mode: Mode):
        self.session, self.source, self.spec, self.mode = session, source, spec, mode
        self.cursor: Column = source.column(spec.cursor)
        self.type = without_modifier(self.cursor.type)
        self.name = ident(spec.cursor)

    def everything(self) -> Reading:
        """All rows; the watermark stays (interval tables have none)."""
        return Reading(action="replace", where=self._null_rule("TRUE"))

    def up_to_now(self) -> Reading:
        """All rows, and the watermark that is safe after them."""
        upper, held_by = self._safe_upper()
        where = self._null_rule("TRUE" if self.mode == "merge" else self._at_most(upper))
        return Reading(action="replace", where=where, upper=upper, moves_watermark=True, held_by=held_by)

    def above(self, watermark: str | None) -> Reading:
        """Rows above the watermark.

        A merge reads whatever is visible above it, also what the watermark may not pass yet: reading such a row again
        changes nothing. An append must read each row once, so it stops at the safe bound.
        """
        upper, held_by = self._safe_upper()
        start = watermark if watermark is not None else self.spec.initial_value
        condition = "TRUE" if start is None else f"{self.name} {'>' if watermark else '>='} {self._lower(start)}"
        if self.mode != "merge":
            condition += f" AND {self._at_most(upper)}"
        upper = self._higher(watermark, upper)
        return Reading(
            action="merge" if self.mode == "merge" else "append", where=self._null_rule(condition),
            lower=start, upper=upper, moves_watermark=upper is not None, held_by=held_by,
        )  # fmt: skip

    def interval(self, request: RunRequest) -> Reading:
        """Rows of the run's interval `[start, end)`, once nobody can still write into it."""
        start, end = request.interval_start, request.interval_end
        if start is None or end is None:
            raise Refused(
                f"{self.source.relation} is incremental by data_interval, but this run has none: "
                "give interval_start and interval_end in the trigger form (or --from and --to)"
            )
        if self.mode != "merge":
            raise Refused(f"{self.source.relation} has no primary key: an interval read twice would double its rows")
        holdback.require_sight(self.session, self.source)
        moment = end if self.type in TIME_TYPES else holdback.now(self.session)
        if holder := holdback.wait_until_ended(self.session, moment, self.spec.hold_back):
            raise HeldBack(f"{self.source.relation}: {holder.who} may still write before {end}; end it, then retry")
        low, high = typed(start, self.type), typed(end, self.type)
        return Reading(
            action="merge",
            where=self._null_rule(f"{self.name} >= {low} AND {self.name} < {high}"),
            lower=start,
            upper=end,
        )

    def _safe_upper(self) -> tuple[str | None, str]:
        """The highest cursor nobody can still write below, and who keeps it from being higher."""
        overlap = self.spec.lookback is not None
        if not overlap:
            holdback.require_sight(self.session, self.source)
        highest = self._highest(limit := holdback.cap(self.session, self.cursor, overlap))
        if holdback.can_see_transactions(self.session):
            return highest, ""
        moment = holdback.now(self.session)
        holder = self._holder(moment)
        if holder is None or highest is None:
            return highest, ""
        if self.type not in TIME_TYPES or holder.since is None:
            return None, holder.who
        return self._highest(f"{limit} AND {self._before(holder.since)}"), holder.who

    def _holder(self, moment: str) -> holdback.Holder | None:
        """A merge by time need not wait: it takes what is below the oldest open transaction as the watermark."""
        if self.mode == "merge" and self.type in TIME_TYPES:
            return holdback.open_since(self.session, moment)
        return holdback.wait_until_ended(self.session, moment, self.spec.hold_back)

    def _before(self, since: str) -> str:
        moment = f"CAST('{since}' AS timestamptz)"
        if self.type != "timestamp with time zone":
            zone = "(SELECT reset_val FROM pg_settings WHERE name = 'TimeZone')"
            moment = f"least({moment} AT TIME ZONE 'UTC', {moment} AT TIME ZONE {zone})"
        return f"{self.name} < CAST({moment} - interval '{holdback.unit_seconds(self.cursor)} seconds' AS {self.type})"

    def _highest(self, limit: str) -> str | None:
        # ORDER BY ... LIMIT 1 rather than max(): it exists for every ordered type (uuid too) and uses the same index.
        row = self.session.execute(
            f"SELECT {self.name}::text FROM {self.source.relation.sql} r WHERE {self.name} IS NOT NULL"
            + (f" AND {limit}" if limit else "") + f" ORDER BY r.{self.name} DESC LIMIT 1"  # not the text: '9' > '50'
        ).fetchone()  # fmt: skip
        return row[0] if row else None

    def _higher(self, one: str | None, other: str | None) -> str | None:
        if one is None or other is None:
            return one or other
        low, high = typed(one, self.type), typed(other, self.type)
        row = self.session.execute(f"SELECT {high} > {low}").fetchone()
        return other if row and row[0] else one

    def _lower(self, start: str) -> str:
        bound = typed(start, self.type)
        if self.spec.lookback is None:
            return bound
        if self.type in TIME_TYPES:
            return f"{bound} - interval '{seconds(self.spec.lookback)} seconds'"
        if self.type in NUMBER_TYPES and is_number(self.spec.lookback):
            return f"{bound} - {typed(self.spec.lookback, 'numeric')}"
        raise Refused(
            f"{self.source.relation}: lookback {self.spec.lookback} does not fit a cursor of type {self.type}"
        )

    def _at_most(self, upper: str | None) -> str:
        return f"{self.name} <= {typed(upper, self.type)}" if upper is not None else "FALSE"

    def _null_rule(self, condition: str) -> str:
        if self.spec.nulls == "include":
            return f"({condition} OR {self.name} IS NULL)"
        return condition if condition != "TRUE" or self.spec.nulls == "fail" else f"{self.name} IS NOT NULL"


def refuse_null_cursors(session: psycopg.Connection[Any], table: Table, source: SourceTable) -> None:
    """Raises Refused, with their number, when rows have no cursor and the spec does not say what to do with them."""
    spec = table.incremental
    if not spec or spec.nulls != "fail" or spec.cursor in source.not_null:
        return
    row = session.execute(f"SELECT count(*) FROM {source.relation.sql} WHERE {ident(spec.cursor)} IS NULL").fetchone()
    if row and row[0]:
        raise Refused(
            f"{source.relation}: {row[0]} rows have no {spec.cursor}, so an increment would never see them; "
            "set incremental.nulls to include or exclude"
        )
