"""The upper bound of an extraction: how far a cursor can be trusted to be complete.

A writer may stamp rows with `date_trunc('minute', now())`: all rows of one minute then share a
value. A watermark on the current minute would hide the rows still to come in it. Nothing in the
catalogs shows such a habit, so it is detected from the values.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import Connection, sql

from loadsheet.errors import Refused
from loadsheet.source import holdback, sequences
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Incremental, Mode
from loadsheet.sql.text import ident, typed
from loadsheet.sql.types import TIME_TYPES, Column, without_modifier

TIMESTAMPTZ = "timestamp with time zone"

# A cursor without a time zone is stamped in the zone of its writer: UTC, the server's default, or
# the setting of a role or database.
_ZONES = """
SELECT 'UTC' AS zone UNION SELECT reset_val FROM pg_settings WHERE name = 'TimeZone'
UNION SELECT split_part(setting, '=', 2) FROM pg_db_role_setting, unnest(setconfig) setting
      WHERE setting ILIKE 'timezone=%%'
      AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
"""
# Per zone, the lowest value that can be stamped from `since` on and the highest that can have been
# stamped until now. Both are the clock's reading at these moments, except when summer time ends and
# one hour is repeated. Zones change at quarters of an hour, so every quarter of the next and of the
# previous day is tried.
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
    """The cursor column of one source table. Values are text as the server writes them; they are
    compared in SQL, as values of the column's type."""

    def __init__(self, session: psycopg.Connection[Any], source: SourceTable, spec: Incremental):
        self._session = session
        self._source = source
        self._spec = spec
        self._column: Column = source.column(spec.cursor)
        self.type = without_modifier(self._column.type)
        self.is_time = self.type in TIME_TYPES
        self.sql = ident(spec.cursor)
        self._shared: str | None = None
        """The highest value that is not over yet."""

    def safe_upper(self, mode: Mode) -> tuple[str | None, str]:
        """The highest value the watermark may have after this extraction, and the session that
        keeps it from being higher (empty: none does).

        Waits for open transactions where the mode needs it. Raises Refused where this role cannot
        see them and no lookback makes up for that.
        """
        has_lookback = self._spec.lookback is not None
        sees_transactions = holdback.sees_open_transactions(
            self._session, self._source, required=not has_lookback
        )
        sequences.refuse_disorder(self._session, self._source, self._spec.cursor, has_lookback)
        settled = self._settled(includes_today=has_lookback)
        highest = self._highest_unshared(settled)
        if highest is None or not sees_transactions:
            return highest, ""
        holder = self._holder(mode)
        if holder is None:
            return highest, ""
        if not self.is_time or holder.since is None:
            # Numbers do not show when they were drawn, so no value is known to be safe.
            return None, holder.who
        settled_before = f"{settled} AND {self._settled(holder.since)}"
        return self._highest_unshared(settled_before, holder.since), holder.who

    def waiting(self, upper: str | None) -> str:
        """How many rows above `upper` wait for their unit of time to end, for messages; empty where
        none does. To call after `safe_upper`."""
        if self._shared is None:
            return ""
        above = ""
        if upper is not None:
            above = f" AND {self.sql} > {typed(upper, self.type)}"
        row = self._session.execute(
            f"SELECT count(*) FROM {self._source.relation.sql}"
            f" WHERE {self.sql} <= {typed(self._shared, self.type)}{above}"
        ).fetchone()
        assert row
        return (
            f"{row[0]:,} rows wait, because later rows may share their {self._spec.cursor}, for"
            f" example {self._shared}"
        )

    def newest_query(self) -> str:
        """SQL for the highest value in the table now, as text. Values from the future do not
        count; open transactions may still write below it."""
        return self._highest_query(self._settled(includes_today=True))

    def at(self, moment: str) -> str:
        """SQL for a bound in the cursor's type: from `moment` on, no row is stamped below it.

        Where the cursor has no time zone, that is the lowest of its writers' clocks. For cursors
        other than times, `moment` is the bound itself.
        """
        if not self.is_time or self.type == TIMESTAMPTZ:
            return typed(moment, self.type)
        return f"CAST({self._lowest(moment)} AS {self.type})"

    def clock(self) -> str | None:
        """For a cursor without a time zone, the lowest value that can be stamped from now on; None
        for others."""
        if not self.is_time or self.type == TIMESTAMPTZ:
            return None
        row = self._session.execute(f"SELECT ({self._lowest(None)})::text").fetchone()
        return row[0] if row else None

    def _lowest(self, moment: str | None) -> str:
        lows = [typed(low, "timestamp") for low, _ in self._spans(moment, margin=0)]
        return f"least({', '.join(lows)})"

    def refuse_clock_set_back(self, lower: str) -> None:
        """Raises Refused when `lower` (SQL), above which rows are read, is later than the source's
        clock.

        The clock was set back then: rows stamped since are below the watermark, and no increment
        would read them.
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
                f" but the source's clock shows {row[2]}. The clock was set back, and increments"
                " would miss the rows stamped since. Run a full refresh of this table"
            )

    def higher(self, one: str | None, other: str | None) -> str | None:
        """The higher of two values; None counts as lowest."""
        if one is None or other is None:
            return one or other
        row = self._session.execute(
            f"SELECT {typed(other, self.type)} > {typed(one, self.type)}"
        ).fetchone()
        if row and row[0]:
            return other
        return one

    def _holder(self, mode: Mode) -> holdback.Holder | None:
        """The open transaction that limits the watermark, if any.

        A merge by time does not wait: everything below the oldest open transaction is a safe
        watermark at once. A cursor without a time zone waits all the same, because a session may
        stamp rows in a zone that we do not know of.
        """
        moment = holdback.now(self._session)
        if mode == "merge" and self.type == TIMESTAMPTZ:
            return holdback.open_since(self._session, moment)
        return holdback.wait_until_ended(self._session, moment, self._spec.hold_back)

    def _highest(self, limit: str) -> str | None:
        row = self._session.execute(self._highest_query(limit)).fetchone()
        return row[0] if row else None

    def _highest_query(self, limit: str) -> str:
        # ORDER BY ... LIMIT 1 and not max(): it works for every ordered type (uuid too) and uses
        # the same index. The name is qualified, or ORDER BY would take the text of the SELECT list,
        # where '9' > '50'.
        condition = f" AND {limit}" if limit else ""
        return (
            f"SELECT {self.sql}::text FROM {self._source.relation.sql} r "
            f"WHERE {self.sql} IS NOT NULL{condition} ORDER BY r.{self.sql} DESC LIMIT 1"
        )

    def _highest_unshared(self, limit: str, since: str | None = None) -> str | None:
        """The highest value within `limit` that no row stamped from `since` (or now) on can share.

        A lookback reads such rows again, so with one any highest value will do.
        """
        highest = self._highest(limit)
        if not self.is_time or self.type == "date" or self._spec.lookback is not None:
            return highest
        while highest is not None and is_coarse(highest):
            lows = [low for low, _ in self._spans(since, margin=0)]
            limit += f" AND {self.sql} < {typed(highest, self.type)}"
            below = self._highest(limit)
            if not is_shared(self._session, self.type, highest, below, lows):
                break
            self._shared = self._shared or highest
            highest = below
        return highest

    def _settled(self, since: str | None = None, includes_today: bool = False) -> str:
        """For a time cursor, the condition on values below which no transaction since `since` can
        write. Empty for other cursors.

        Values from the future (`infinity`, year 9999) fail it and so never become the watermark. A
        coarse cursor (a date, `timestamp(0)`) stops a whole unit lower, because later rows can
        still share its last value. `includes_today` allows today's date all the same: a lookback
        reads it again.
        """
        if not self.is_time:
            return ""
        spans = self._spans(since)
        latest = self._latest(spans)
        if includes_today and self.type == "date":
            return f"{self.sql} <= {latest}"
        if len(spans) == 1:
            return f"{self.sql} < {typed(spans[0][0], self.type)}"
        conditions = [f"{self.sql} < {latest}"]
        for low, high in spans:
            unsettled = f"{typed(low, self.type)} AND {typed(high, self.type)}"
            conditions.append(f"{self.sql} NOT BETWEEN {unsettled}")
        return " AND ".join(conditions)

    def _spans(
        self, since: str | None = None, margin: float | None = None
    ) -> list[tuple[str, str]]:
        """Per zone of the cursor's writers, the lowest and the highest of the values that
        transactions since `since` can still write. `margin`, in seconds, widens the span; by
        default it is the cursor's unit."""
        if margin is None:
            margin = self._unit_seconds()
        values = {"since": since, "margin": timedelta(seconds=margin)}
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
        """The cursor's unit: 1 for `timestamp(0)`, 0 where it resolves microseconds."""
        # No modifier means microseconds, or a date, which is limited by today's midnight anyway.
        if self._column.type == self.type:
            return 0
        digits = int(self._column.type.split("(")[1].split(")")[0])
        if digits >= 6:
            return 0
        return 10.0**-digits


# A value that is a quarter of an hour in UTC may be a whole hour or day in some zone. The next
# lower value shows how coarse the column can be at most; a day has at least 23 hours.
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
    """Whether rows stamped from one of the `lows` on can have `value` as well.

    `below` is the next lower value in the table. True only for a value that stands for a whole unit
    of time (a second, a minute, ...) which has not ended yet.
    """
    kind = sql.SQL(f"CAST({{}} AS {type_name})")
    pair = sql.SQL("(SELECT {} AS v, {} AS below) pair").format(
        kind.format(value), kind.format(below)
    )
    times = sql.SQL(", ").join(kind.format(low) for low in lows)
    row = session.execute(sql.SQL(_SHARED).format(pair=pair, lows=times)).fetchone()
    return row == (True,)
