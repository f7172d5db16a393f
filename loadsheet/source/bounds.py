"""How far the watermark of a cursor may move: the highest value that no open transaction can still write below."""

from __future__ import annotations

from typing import Any

import psycopg

from loadsheet.source import holdback
from loadsheet.source.catalog import SourceTable
from loadsheet.spec.models import Incremental, Mode
from loadsheet.sql.text import ident, typed
from loadsheet.sql.types import TIME_TYPES, Column, without_modifier

# A cursor without a zone is written in its clients' zone: the server's default, or UTC.
_DEFAULT_ZONE = "(SELECT reset_val FROM pg_settings WHERE name = 'TimeZone')"


class Cursor:
    """The cursor column of one source table. Values are text in the server's own form, compared in SQL by its type."""

    def __init__(self, session: psycopg.Connection[Any], source: SourceTable, spec: Incremental):
        self._session, self._source, self._spec = session, source, spec
        self._column: Column = source.column(spec.cursor)
        self.type = without_modifier(self._column.type)
        self.is_time = self.type in TIME_TYPES
        self.sql = ident(spec.cursor)

    def safe_upper(self, mode: Mode) -> tuple[str | None, str]:
        """The value the watermark may have after this extraction, and who keeps it from being higher.

        Waits for open transactions where the mode needs it. Raises Refused where they cannot be seen and no lookback
        makes up for that.
        """
        overlap = self._spec.lookback is not None
        sees = holdback.sees(self._session, self._source, required=not overlap)
        limit = self._cap(overlap)
        highest = self._highest(limit)
        if highest is None or not sees:
            return highest, ""
        holder = self._holder(mode)
        if holder is None:
            return highest, ""
        if not self.is_time or holder.since is None:
            return None, holder.who
        return self._highest(f"{limit} AND {self._before(holder.since)}"), holder.who

    def higher(self, one: str | None, other: str | None) -> str | None:
        """The higher of two values; None counts as lowest."""
        if one is None or other is None:
            return one or other
        row = self._session.execute(f"SELECT {typed(other, self.type)} > {typed(one, self.type)}").fetchone()
        return other if row and row[0] else one

    def _holder(self, mode: Mode) -> holdback.Holder | None:
        """A merge by time need not wait: below the oldest open transaction it has a safe watermark at once."""
        moment = holdback.now(self._session)
        if mode == "merge" and self.is_time:
            return holdback.open_since(self._session, moment)
        return holdback.wait_until_ended(self._session, moment, self._spec.hold_back)

    def _highest(self, limit: str) -> str | None:
        # ORDER BY ... LIMIT 1 rather than max(): it exists for every ordered type (uuid too) and uses the same index.
        # Qualified, or ORDER BY would mean the text of the SELECT list, in which '9' > '50'.
        condition = f" AND {limit}" if limit else ""
        row = self._session.execute(
            f"SELECT {self.sql}::text FROM {self._source.relation.sql} r "
            f"WHERE {self.sql} IS NOT NULL{condition} ORDER BY r.{self.sql} DESC LIMIT 1"
        ).fetchone()
        return row[0] if row else None

    def _cap(self, overlap: bool) -> str:
        """For a time cursor, the condition that keeps values below now, where later transactions cannot undercut it.

        Values from the future (`infinity`, year 9999) fail it and so never become the watermark. A coarse cursor (a
        date, `timestamp(0)`) is capped a whole unit lower, because later rows can still share its last value, unless
        an overlap (lookback) is read anyway. Empty for other cursors.
        """
        if not self.is_time:
            return ""
        now = "clock_timestamp()"
        if self.type != "timestamp with time zone":
            now = f"greatest({now} AT TIME ZONE 'UTC', {now} AT TIME ZONE {_DEFAULT_ZONE})"
        step = 0 if overlap else self._unit_seconds()
        row = self._session.execute(f"SELECT ({now} - interval '{step} seconds')::text").fetchone()
        assert row
        includes_today = overlap and self.type == "date"
        return f"{self.sql} {'<=' if includes_today else '<'} {typed(row[0], self.type)}"

    def _before(self, since: str) -> str:
        """The condition that keeps values below what a transaction open since `since` can have stamped."""
        moment = typed(since, "timestamptz")
        if self.type != "timestamp with time zone":
            moment = f"least({moment} AT TIME ZONE 'UTC', {moment} AT TIME ZONE {_DEFAULT_ZONE})"
        return f"{self.sql} < CAST({moment} - interval '{self._unit_seconds()} seconds' AS {self.type})"

    def _unit_seconds(self) -> float:
        """The coarseness of the cursor: one second for `timestamp(0)`, 0 where it resolves microseconds."""
        if self._column.type == self.type:  # no modifier: microseconds, or a date, whose cap is today's midnight
            return 0
        digits = int(self._column.type.split("(")[1].split(")")[0])
        return 0 if digits >= 6 else 10.0**-digits
