"""The upper bound of an extraction: how far a cursor can be trusted to be complete.

`date_trunc('minute', now())` in a timestamptz column stamps all rows of a minute alike. A watermark
on the running minute would hide the rest of it, and nothing in the catalogs says so: the values
themselves must tell.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import Connection, sql

from loadsheet.errors import Refused
from loadsheet.source import holdback
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Incremental, Mode
from loadsheet.sql.text import ident, typed
from loadsheet.sql.types import TIME_TYPES, Column, without_modifier

TIMESTAMPTZ = "timestamp with time zone"

# A cursor without a zone is stamped in its writer's: UTC, the server's default, or what a role or
# database was given.
_ZONES = """
SELECT 'UTC' AS zone UNION SELECT reset_val FROM pg_settings WHERE name = 'TimeZone'
UNION SELECT split_part(setting, '=', 2) FROM pg_db_role_setting, unnest(setconfig) setting
      WHERE setting ILIKE 'timezone=%%'
      AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
"""
# Per zone, the lowest value that may be stamped from `since` on and the highest that can have been
# stamped until now. They are the clock's at both moments, but for the hour that is lived twice when
# summer time ends: zones change at quarters of an hour, so these are tried for a day to come and a
# day back.
_SPANS = f"""
WITH moment AS (
    SELECT now, coalesce(%(since)s, now) AS since FROM (SELECT clock_timestamp() AS now) clock
), quarter AS (
    SELECT to_timestamp(floor(extract(epoch FROM since) / 900) * 900) AS since,
           to_timestamp(floor(extract(epoch FROM now) / 900) * 900) AS now FROM moment
)
SELECT (min(later AT TIME ZONE zone) - %(margin)s)::text,
    (max(earlier AT TIME ZONE zone) + %(margin)s)::text FROM (
    SELECT since AS later, now AS earlier FROM moment
    UNION ALL
    SELECT since + n * interval '15 minutes',
        now - (n - 1) * interval '15 minutes' - interval '1 microsecond'
    FROM quarter, generate_series(1, 100) n
) moments, ({_ZONES}) zones GROUP BY zone
"""


class Cursor:
    """The cursor column of one source table. Values are text in the server's own form, compared in
    SQL by its type."""

    def __init__(self, session: psycopg.Connection[Any], source: SourceTable, spec: Incremental):
        self._session, self._source, self._spec = session, source, spec
        self._column: Column = source.column(spec.cursor)
        self.type = without_modifier(self._column.type)
        self.is_time = self.type in TIME_TYPES
        self.sql = ident(spec.cursor)

    def safe_upper(self, mode: Mode) -> tuple[str | None, str]:
        """The value the watermark may have after this extraction, and who keeps it from being
        higher.

        Waits for open transactions where the mode needs it. Raises Refused where they cannot be
        seen and no lookback makes up for that.
        """
        overlap = self._spec.lookback is not None
        sees = holdback.sees(self._session, self._source, self._spec.cursor, required=not overlap)
        limit = self._settled(includes_today=overlap)
        highest = self._unshared(limit)
        if highest is None or not sees:
            return highest, ""
        holder = self._holder(mode)
        if holder is None:
            return highest, ""
        if not self.is_time or holder.since is None:
            return None, holder.who
        return (
            self._unshared(f"{limit} AND {self._settled(holder.since)}", holder.since),
            holder.who,
        )

    def newest_query(self) -> str:
        """SQL for the highest value there is now, as text, even if open transactions may still
        write below it; none from the future."""
        return self._highest_query(self._settled(includes_today=True))

    def at(self, moment: str) -> str:
        """`moment` as a bound in the cursor's type (SQL): from that moment on nothing is stamped
        below it.

        Without a zone in the cursor that is the lowest of its writers' clocks. Other cursors: the
        value as it is.
        """
        if not self.is_time or self.type == TIMESTAMPTZ:
            return typed(moment, self.type)
        return f"CAST({self._lowest(moment)} AS {self.type})"

    def clock(self) -> str | None:
        """For a cursor without a zone, the lowest value that may be stamped from now on; None for
        others."""
        if not self.is_time or self.type == TIMESTAMPTZ:
            return None
        row = self._session.execute(f"SELECT ({self._lowest(None)})::text").fetchone()
        return row[0] if row else None

    def _lowest(self, moment: str | None) -> str:
        lows = [typed(low, "timestamp") for low, _ in self._spans(moment, margin=0)]
        return f"least({', '.join(lows)})"

    def refuse_ahead(self, lower: str) -> None:
        """Raises Refused when `lower` (SQL), above which to read, is ahead of the source's clock.

        The clock was set back, then: what was stamped since is below the watermark and would never
        be read.
        """
        if not self.is_time:
            return
        latest = self._latest(self._spans())
        row = self._session.execute(
            f"SELECT {lower} > {latest}, ({lower})::text, ({latest})::text"
        ).fetchone()
        if row and row[0]:
            raise Refused(
                f"{self._source.relation}: increments were read up to {self._spec.cursor} {row[1]},"
                f" but the source's clock says {row[2]}: it was set back, and rows stamped since"
                " would be missed. Run a full refresh of this table"
            )

    def higher(self, one: str | None, other: str | None) -> str | None:
        """The higher of two values; None counts as lowest."""
        if one is None or other is None:
            return one or other
        row = self._session.execute(
            f"SELECT {typed(other, self.type)} > {typed(one, self.type)}"
        ).fetchone()
        return other if row and row[0] else one

    def _holder(self, mode: Mode) -> holdback.Holder | None:
        """A merge by time need not wait: below the oldest open transaction it has a safe watermark
        at once.

        Where the cursor has no zone that is less sure than waiting, because a session may use a
        zone of its own.
        """
        moment = holdback.now(self._session)
        if mode == "merge" and self.type == TIMESTAMPTZ:
            return holdback.open_since(self._session, moment)
        return holdback.wait_until_ended(self._session, moment, self._spec.hold_back)

    def _highest(self, limit: str) -> str | None:
        row = self._session.execute(self._highest_query(limit)).fetchone()
        return row[0] if row else None

    def _highest_query(self, limit: str) -> str:
        # ORDER BY ... LIMIT 1 rather than max(): it exists for every ordered type (uuid too) and
        # uses the same index. Qualified, or ORDER BY would mean the text of the SELECT list, in
        # which '9' > '50'.
        condition = f" AND {limit}" if limit else ""
        return (
            f"SELECT {self.sql}::text FROM {self._source.relation.sql} r "
            f"WHERE {self.sql} IS NOT NULL{condition} ORDER BY r.{self.sql} DESC LIMIT 1"
        )

    def _unshared(self, limit: str, since: str | None = None) -> str | None:
        """The highest value that rows stamped from `since` (or now) on cannot have as well."""
        highest = self._highest(limit)
        if not self.is_time or self.type == "date" or self._spec.lookback is not None:
            return highest
        while highest is not None and is_coarse(highest):
            lows = [low for low, _ in self._spans(since, margin=0)]
            limit += f" AND {self.sql} < {typed(highest, self.type)}"
            below = self._highest(limit)
            if not is_shared(self._session, self.type, highest, below, lows):
                break
            highest = below
        return highest

    def _settled(self, since: str | None = None, includes_today: bool = False) -> str:
        """For a time cursor, the condition on values that nothing written by transactions since
        `since` undercuts.

        Values from the future (`infinity`, year 9999) fail it and so never become the watermark. A
        coarse cursor (a date, `timestamp(0)`) stops a whole unit lower, because later rows can
        still share its last value, unless an overlap (lookback) is read anyway. Empty for other
        cursors.
        """
        if not self.is_time:
            return ""
        spans = self._spans(since)
        latest = self._latest(spans)
        if includes_today and self.type == "date":
            return f"{self.sql} <= {latest}"
        if len(spans) == 1:
            return f"{self.sql} < {typed(spans[0][0], self.type)}"
        unsettled = [f"{typed(low, self.type)} AND {typed(high, self.type)}" for low, high in spans]
        return " AND ".join(
            [f"{self.sql} < {latest}"] + [f"{self.sql} NOT BETWEEN {span}" for span in unsettled]
        )

    def _spans(
        self, since: str | None = None, margin: float | None = None
    ) -> list[tuple[str, str]]:
        """Per zone of the cursor's writers, the values that may still be undercut by transactions
        since `since`."""
        seconds = self._unit_seconds() if margin is None else margin
        values = {"since": since, "margin": timedelta(seconds=seconds)}
        if self.type == TIMESTAMPTZ:
            span = self._session.execute(
                "SELECT (coalesce(%(since)s, now) - %(margin)s)::text, (now + %(margin)s)::text "
                "FROM (SELECT clock_timestamp() AS now) clock",
                values,
            )
            return span.fetchall()
        return self._session.execute(_SPANS, values).fetchall()

    def _latest(self, spans: list[tuple[str, str]]) -> str:
        return f"greatest({', '.join(typed(high, self.type) for _, high in spans)})"

    def _unit_seconds(self) -> float:
        """The coarseness of the cursor: one second for `timestamp(0)`, 0 where it resolves
        microseconds."""
        # no modifier: microseconds, or a date, whose cap is today's midnight
        if self._column.type == self.type:
            return 0
        digits = int(self._column.type.split("(")[1].split(")")[0])
        return 0 if digits >= 6 else 10.0**-digits


# A value may be a whole hour or day in some zone when it is a quarter of an hour in UTC. Its
# neighbour below tells how coarse the column can be at most: days are 23 hours long at least.
_SHARED = """
SELECT coalesce(bool_or(low > v AND low < v + length), false)
FROM {pair}, unnest(ARRAY[{lows}]) low,
     (VALUES (interval '1 millisecond', interval '1 millisecond', 'milliseconds', 1),
             ('1 second', '1 second', 'second', 1), ('1 minute', '1 minute', 'minute', 1),
             ('1 hour', '1 hour', 'minute', 15), ('1 day', '23 hours', 'minute', 15)
     ) unit (length, shortest, name, minutes)
WHERE v = date_trunc(name, v) AND CAST(extract(minute FROM v) AS int) % minutes = 0
  AND (below IS NULL OR below <= v - shortest)
"""


def is_coarse(value: str) -> bool:
    """Whether `value`, a time as the server writes it, is a whole millisecond or more."""
    return not re.search(r"\.\d{4}", value)


def is_shared(
    session: Connection[Any], type_name: str, value: str, below: str | None, lows: list[str]
) -> bool:
    """Whether rows stamped from one of the `lows` on can have `value` as well; `below` is the next
    lower value.

    True only for values that are a whole unit which has not ended yet.
    """
    kind = sql.SQL(f"CAST({{}} AS {type_name})")
    pair = sql.SQL("(SELECT {} AS v, {} AS below) pair").format(
        kind.format(value), kind.format(below)
    )
    times = sql.SQL(", ").join(kind.format(low) for low in lows)
    found = session.execute(sql.SQL(_SHARED).format(pair=pair, lows=times)).fetchone()
    return found == (True,)
