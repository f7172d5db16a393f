"""The upper bound of an extraction: how far a cursor can be trusted to be complete.

Below the bound no open transaction writes (`holdback`). In an append no later row may share the
bound's value either, because each row is read once. A writer may stamp rows with
`date_trunc('minute', now())`: nothing in the catalogs shows such a habit, so it is detected from
the values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import psycopg
from psycopg import Connection, sql

from loadsheet.answers import unreadable
from loadsheet.errors import Refused
from loadsheet.source import holdback, origins, sequences, ties, zones
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Incremental, Mode
from loadsheet.spec.schedule import seconds
from loadsheet.sql.text import ident, typed
from loadsheet.sql.types import TIME_TYPES, Column, without_modifier
from loadsheet.wording import counted


@dataclass(frozen=True)
class _Asked:
    """What `safe_upper` knows before it looks for open transactions."""

    sees_transactions: bool
    settled: str
    """SQL for the values below which no later transaction writes."""
    highest: str | None
    """The highest of them that the watermark may have."""


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
        """The highest value that later rows may share."""
        self._asked: _Asked | None = None
        self._is_higher: dict[tuple[str, str], bool] = {}
        """By two values: whether the second is above the first."""

    @cached_property
    def ties(self) -> ties.Ties:
        """What is known of rows that share a value."""
        return ties.look(self._session, self._source, self._spec.cursor)

    def safe_upper(self, mode: Mode) -> tuple[str | None, str]:
        """The highest value the watermark may have after this extraction, and the session that
        keeps it from being higher (empty: none does).

        Waits for open transactions where the mode needs it. Raises Refused where this role cannot
        see them and no lookback makes up for that.
        """
        asked, self._asked = self._asked, None
        if asked is None:
            # In one transaction, which costs less than one for each question. It ends before the
            # wait for others, who may wait for its lock on the table.
            with self._session.transaction():
                asked = self._ask(mode)
        if asked.highest is None or not asked.sees_transactions:
            return asked.highest, ""
        holder = self._holder(mode)
        if holder is None:
            return asked.highest, ""
        if not self.is_time or holder.since is None:
            # Numbers do not show when they were drawn, so no value is known to be safe.
            return None, holder.who
        settled_before = f"{asked.settled} AND {self._settled(holder.since)}"
        return self._highest_complete(mode, settled_before, holder.since), holder.who

    def ask_early(self, mode: Mode, watermark: str) -> None:
        """Ask what the next `safe_upper` begins with now, in the open transaction, which saves it
        one; and whether the `watermark` is below that. Raises as `safe_upper`."""
        self._asked = self._ask(mode)
        self.higher(watermark, self._asked.highest)

    def _ask(self, mode: Mode) -> _Asked:
        has_lookback = self._spec.lookback is not None
        origins.refuse_late_rows(self._source, self._spec)
        sees_transactions = True
        if has_lookback:
            sees_transactions = holdback.sees_open_transactions(self._session, self._source)
        else:
            holdback.refuse_unseen_transactions(self._session, self._source, self._spec)
        sequences.refuse_disorder(self._session, self._source, self._spec, has_lookback)
        origins.refuse_shifted(self._session, self._source, self._spec)
        settled = self._settled(includes_today=mode == "merge")
        highest = self._highest_complete(mode, settled)
        return _Asked(sees_transactions, settled, highest)

    def waiting(self, upper: str | None) -> str:
        """How many rows above `upper` wait because later rows may share their value, for messages;
        empty where none does. To call after `safe_upper`."""
        shared = self._shared or self._highest_of_open_unit()
        if shared is None:
            return ""
        above = ""
        if upper is not None:
            above = f" AND {self.sql} > {typed(upper, self.type)}"
        row = self._session.execute(
            f"SELECT count(*) FROM {self._source.relation.sql}"
            f" WHERE {self.sql} <= {typed(shared, self.type)}{above}"
        ).fetchone()
        assert row
        if not row[0]:
            return ""
        text = (
            f"{counted(row[0], 'row waits', 'rows wait')}, because later rows may share their"
            f" {self._spec.cursor}, for example {shared}"
        )
        if not self.is_time:
            text += (
                f", until there is a higher one (a unique index on {self._spec.cursor} ends this)"
            )
        return text

    def _highest_of_open_unit(self) -> str | None:
        """The highest value that is not from the future, for a cursor whose type has coarse units:
        an append does not read the last of them. None for other cursors."""
        if self.type != "date" and not (self.is_time and self._unit_seconds()):
            return None
        highs = [typed(high, self.type) for _, high in self._spans()]
        return self._highest(f"{self.sql} <= greatest({', '.join(highs)})")

    def newest_query(self, present: str | None = None) -> str:
        """SQL for the highest value in the table now, as text. Values from the future do not
        count; open transactions may still write below it. `present` is what `present` gives, where
        it was asked for another cursor of the same kind."""
        if present is None:
            present = self.present()
        return self._highest_query(present and f"{self.sql} {present}")

    @property
    def kind(self) -> tuple[str, str | None, bool]:
        """Cursors of one source that are equal in this have the same `present`."""
        spec = self._spec
        return self._column.type, spec.time_zone, spec.makes_up_for_late_rows

    def present(self) -> str:
        """SQL for the values that are not from the future, to put behind the cursor's name; empty
        where any value is one. Raises Refused where the zone of its writers is not known."""
        return self._settled(includes_today=True).removeprefix(f"{self.sql} ")

    def at(self, moment: str) -> str:
        """SQL for a bound in the cursor's type: from `moment` on, no row is stamped below it.

        Where the cursor has no time zone, that is the lowest of its writers' clocks. For cursors
        other than times, `moment` is the bound itself.
        """
        if not zones.is_zoneless(self.type):
            return typed(moment, self.type)
        return f"CAST({self._lowest(moment)} AS {self.type})"

    def before(self, bound: str, lookback: str | None) -> str:
        """SQL for the bound (SQL) minus the lookback."""
        if lookback is None:
            return bound
        if not self.is_time:
            return f"{bound} - {typed(lookback, 'numeric')}"
        lower = f"{bound} - interval '{seconds(lookback)} seconds'"
        try:
            with self._session.transaction():
                self._session.execute(f"SELECT {lower}")
        except psycopg.DataError:
            return typed("-infinity", self.type)  # before the first day that the type has
        return lower

    def shared_below(self, bound: str) -> str | None:
        """The highest time below `bound` (SQL), if rows that are stamped from the bound on may have
        it, too: an application may stamp them with the beginning of an hour. None where there is no
        such value, and for a date, whose interval ends with its day."""
        if not self.is_time or self.type == "date":
            return None
        with self._session.transaction():
            highest = self._highest(f"{self.sql} < {bound}")
            if highest is None or not is_coarse(highest) or not self.ties.are_possible:
                return None
            below = self._highest(self._below(highest))
            row = self._session.execute(
                f"SELECT ({bound})::text, {self._bucket_end(highest, below)} = {bound}"
            ).fetchone()
            assert row
            start, is_over = row
            # Readings of every hour end with the day that they are read by.
            if is_over or not is_shared(self._session, self.type, highest, below, [start]):
                return None
        return highest

    def _bucket_end(self, value: str, below: str | None) -> str:
        """SQL for the time up to which rows share `value`, if its bucket is as long as the distance
        to the next lower value; NULL where that is none."""
        if below is None:
            return "NULL"
        lower = typed(below, self.type)
        length = f"{typed(value, self.type)} - {lower}"
        return f"CASE WHEN isfinite({lower}) THEN {typed(value, self.type)} + ({length}) END"

    def clock(self) -> str | None:
        """For a cursor without a time zone, the lowest value that can be stamped from now on; None
        for others."""
        if not zones.is_zoneless(self.type):
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
        highs = [typed(high, self.type) for _, high in self._spans()]
        latest = f"greatest({', '.join(highs)})"
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
        if (one, other) not in self._is_higher:
            row = self._session.execute(
                f"SELECT {typed(other, self.type)} > {typed(one, self.type)}"
            ).fetchone()
            self._is_higher[one, other] = bool(row and row[0])
        return other if self._is_higher[one, other] else one

    def _holder(self, mode: Mode) -> holdback.Holder | None:
        """The open transaction that limits the watermark, if any.

        A merge by time does not wait: everything below the oldest open transaction is a safe
        watermark at once.
        """
        if mode == "merge" and self.is_time:
            return holdback.open_now(self._session)
        moment = holdback.now(self._session)
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

    def _highest_complete(self, mode: Mode, limit: str, since: str | None = None) -> str | None:
        """The highest value within `limit` that the watermark may have.

        A merge reads the watermark's own rows again. An append does not, so its watermark has no
        value that a row stamped from `since` (or now) on can share.
        """
        highest = self._highest(limit)
        # Within the limit of an append, a date is over.
        if mode == "merge" or self.type == "date" or not self.ties.are_possible:
            return highest
        if highest is not None and not self.is_time:
            self._shared = highest
            return self._highest(self._below(highest))
        while highest is not None and is_coarse(highest):
            lows = [low for low, _ in self._spans(since, margin=0)]
            below = self._highest(f"{limit} AND {self._below(highest)}")
            if not is_shared(self._session, self.type, highest, below, lows):
                break
            self._shared = self._shared or highest
            highest = below
        return highest

    def _below(self, value: str) -> str:
        return f"{self.sql} < {typed(value, self.type)}"

    def _settled(self, since: str | None = None, includes_today: bool = False) -> str:
        """For a time cursor, the condition on values below which no transaction since `since` can
        write. Empty for other cursors.

        Values from the future (`infinity`, year 9999) fail it and so never become the watermark. A
        coarse cursor (a date, `timestamp(0)`) stops a whole unit lower, because later rows can
        still share its last value. `includes_today` allows today's date all the same, where its
        rows are read again.
        """
        if not self.is_time:
            return ""
        lows = [typed(low, self.type) for low, _ in self._spans(since)]
        comparison = "<"
        if includes_today and self.type == "date":
            comparison = "<="
        return f"{self.sql} {comparison} least({', '.join(lows)})"

    def _spans(
        self, since: str | None = None, margin: float | None = None
    ) -> list[tuple[str, str]]:
        """Per zone of the cursor's writers, the lowest and the highest of the values that
        transactions since `since` can still write. `margin`, in seconds, widens the span; by
        default it is the cursor's unit."""
        if margin is None:
            margin = self._unit_seconds()
        if zones.is_zoneless(self.type):
            return zones.spans(self._session, self._zones, since, margin)
        span = self._session.execute(
            "SELECT (coalesce(%(since)s, now) - %(margin)s)::text, (now + %(margin)s)::text "
            "FROM (SELECT clock_timestamp() AS now) clock",
            {"since": since, "margin": timedelta(seconds=margin)},
        )
        return span.fetchall()

    @cached_property
    def _zones(self) -> list[str]:
        return zones.of_writers(self._session, self._source, self._spec)

    def _unit_seconds(self) -> float:
        """The cursor's unit: 1 for `timestamp(0)`, 0 where it resolves microseconds."""
        # No modifier means microseconds, or a date, which is limited by today's midnight anyway.
        if self._column.type == self.type:
            return 0
        found = re.search(r"\(([0-9])\)", self._column.type)
        if found is None:
            raise unreadable(self._session, "a type of a column that no column has")
        digits = int(found[1])
        if digits >= 6:
            return 0
        return 10.0**-digits


# Rows that were stamped with the beginning of a bucket share its value until the bucket ends. How
# long it is shows nowhere, but it is no longer than the distance to the next lower value, give or
# take the days of a month and the hour of a clock change: 31 days after 28 are a tenth more. And a
# bucket that begins between whole minutes is shorter than a minute, one between whole hours shorter
# than an hour, and so on down to milliseconds. What is a quarter of an hour in UTC may be a whole
# hour or day in some zone.
_SHARED = """
SELECT bool_or(low < v + least(
    CASE WHEN isfinite(below) THEN (v - below) * 1.125 END,
    CASE WHEN CAST(extract(microseconds FROM v) AS bigint) % 10000 <> 0 THEN interval '10 ms'
        WHEN CAST(extract(microseconds FROM v) AS bigint) % 100000 <> 0 THEN interval '100 ms'
        WHEN v <> date_trunc('second', v) THEN interval '1 second'
        WHEN v <> date_trunc('minute', v) THEN interval '1 minute'
        WHEN CAST(extract(minute FROM v) AS int) % 15 <> 0 THEN interval '1 hour' END)) IS NOT FALSE
FROM {pair}, unnest(ARRAY[{lows}]) low
"""


def is_coarse(value: str) -> bool:
    """Whether `value`, a time as the server writes it, is a whole millisecond or more."""
    return not re.search(r"\.\d{4}", value)


def is_shared(
    session: Connection[Any], type_name: str, value: str, below: str | None, lows: list[str]
) -> bool:
    """Whether rows stamped from one of the `lows` on may have the time `value` as well.

    `below` is the next lower value in the table. Without one, the length of the value's bucket may
    be anything.
    """
    kind = sql.SQL(f"CAST({{}} AS {type_name})")
    pair = sql.SQL("(SELECT {} AS v, {} AS below) pair").format(
        kind.format(value), kind.format(below)
    )
    times = sql.SQL(", ").join(kind.format(low) for low in lows)
    row = session.execute(sql.SQL(_SHARED).format(pair=pair, lows=times)).fetchone()
    return row == (True,)
