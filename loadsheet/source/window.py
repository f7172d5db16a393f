"""Which rows of a table lie above a watermark or in an interval of its cursor."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

import psycopg

from loadsheet.errors import HeldBack, Refused
from loadsheet.outcome import RunRequest
from loadsheet.plan.gaps import moment_of
from loadsheet.postgres import Session
from loadsheet.source import holdback, origins, sequences, zones
from loadsheet.source.bounds import Cursor
from loadsheet.source.rows import (
    INITIAL_VALUE,
    INTERVAL_CURSOR,
    INTERVAL_PLACE,
    LOOKBACK,
    UNIQUE,
    WATERMARK_PLACE,
    Last,
    Place,
    Selection,
)
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Incremental, Mode
from loadsheet.sql.text import typed
from loadsheet.wording import counted

_log = logging.getLogger(__name__)


def refuse_appended_interval(source: SourceTable, mode: Mode) -> None:
    """Raises Refused unless the table is merged, where reading an interval again changes
    nothing."""
    if mode != "merge":
        raise Refused(
            f"{source.relation} has mode: append, and an interval read twice would double its rows:"
            " merge it (mode: merge, which needs a primary_key)"
        )


def refuse_unseen_writers(session: Session, source: SourceTable, spec: Incremental) -> None:
    """Raises Refused, with the way on, where a row may come late without being held back."""
    origins.refuse_late_rows(source, spec)
    holdback.refuse_unseen_transactions(session, source, spec)
    sequences.refuse_disorder(session, source, spec, has_lookback=False)
    origins.refuse_shifted(session, source, spec)


def since(cursor: str, value: str, written_since: str) -> str:
    """SQL for the rows above a watermark, and those with its value that meet `written_since`. The
    arguments are SQL, too."""
    return f"{cursor} >= {value} AND ({cursor} > {value} OR {written_since})"


class Window:
    """The ways to select rows by the cursor of one table, each with the watermark that follows."""

    def __init__(self, session: Session, source: SourceTable, spec: Incremental, mode: Mode):
        self._session = session
        self._source = source
        self._spec = spec
        self._mode = mode
        self._cursor = Cursor(session, source, spec)
        # What is kept of the spec: under another one, the watermark, or the intervals that were
        # read, mean something else.
        self._facts = zones.facts(source, spec)
        self._place = str(Place.of(source, spec.cursor))
        if spec.by == "data_interval":
            self._facts |= {INTERVAL_CURSOR: spec.cursor, INTERVAL_PLACE: self._place}

    def everything(self) -> Selection:
        """All rows. Tables read by interval have no watermark to move."""
        return Selection(
            action="replace",
            where=self._with_nulls("TRUE"),
            complete_until=self._complete_until_now(),
            facts=self._facts,
        )

    def _complete_until_now(self) -> str | None:
        """The time below which a snapshot that is taken from now on sees every row; None where it
        cannot be known."""
        if not self._cursor.is_time:
            return None
        if not holdback.sees_open_transactions(self._session, self._source):
            return None
        moment = holdback.now(self._session)
        holder = holdback.open_since(self._session, moment)
        if holder:
            moment = holder.since or ""
        if not moment:
            return None
        until = datetime.fromisoformat(moment)
        # The cursor's type may round a time down, by a second at most.
        return (until - timedelta(seconds=1)).isoformat()

    def from_the_start(self) -> Selection:
        """All rows from the initial value on, which replace those in the target."""
        self._refuse_unfit_initial_value()
        return self._rows("replace", self._spec.initial_value, self._from_the_initial_value)

    def above(self, last: Last, new_leaves: Sequence[int]) -> Selection:
        """Rows above the last watermark; all rows of `new_leaves` (of partitions that were
        attached, for example), where they may be anywhere; and those that an initial value has left
        out. A merge also reads new rows that share the watermark's value. The next watermark is at
        least this one.

        Raises Refused where rows of new leaves would be appended below the watermark.
        """
        action: Literal["merge", "append"] = "merge" if self._mode == "merge" else "append"
        watermark = last.watermark
        self._refuse_unfit_initial_value()
        if watermark is None:
            return self._rows(action, self._spec.initial_value, self._from_the_initial_value)
        with self._session.transaction():
            self._cursor.refuse_clock_set_back(self._lower(watermark))
            also = [self._rows_of(new_leaves, watermark), self._rows_before(last, watermark)]
            above, tied = self._above(last, watermark)
            self._cursor.ask_early(self._mode, watermark)
        self._refuse_lost_uniqueness(last, watermark)
        rows = self._rows(action, watermark, above, watermark, also)
        facts = {**rows.facts, INITIAL_VALUE: self._earliest_start(last)}
        return replace(rows, facts=facts, tied=tied, repeats=self._reads_ties)

    def _refuse_lost_uniqueness(self, last: Last, watermark: str) -> None:
        """Raises Refused where an append has read up to a value that no later row could share, and
        now one could: its rows cannot be told from those that were appended."""
        was_unique = last.facts.get(UNIQUE)
        if self._mode == "merge" or not was_unique or not self._cursor.ties.are_possible:
            return
        raise Refused(
            f"{self._source.relation}: {self._spec.cursor} was unique when rows were appended up to"
            f" {watermark}, and is not any more, so later rows may have that value, too. Create a"
            " unique index on it again, or run a full refresh of this table"
        )

    def _above(self, last: Last, watermark: str) -> tuple[str, str]:
        """SQL for the rows above the watermark, and with its value those written since; and for the
        rows with its value, where only a comparison shows whether there are new ones."""
        name = self._cursor.sql
        value = typed(watermark, self._cursor.type)
        # Rows that the last run's lookback was there for may have come since.
        before = last.facts.get(LOOKBACK)
        if before and before != self._spec.lookback and self._mode == "merge":
            lower = f"least({self._lower(watermark)}, {self._cursor.before(value, before)})"
            return f"{name} >= {lower}", ""
        if self._spec.lookback is not None:
            return f"{name} >= {self._lower(watermark)}", ""
        if not self._reads_ties:
            return f"{name} > {value}", ""
        oldest = last.facts.get("oldest_transaction")
        written_since = self._cursor.ties.written_since(oldest)
        if written_since is None:
            return f"{name} >= {value}", f"{name} = {value}"
        return since(name, value, written_since), ""

    @property
    def _reads_ties(self) -> bool:
        """Whether the rows that have the watermark's value are read again. A lookback reads them
        anyway, an append never."""
        return self._mode == "merge" and self._spec.lookback is None

    def _earliest_start(self, last: Last) -> str:
        """The lowest initial value that rows were read from; empty where there was none."""
        start = self._spec.initial_value
        before = last.start
        if before is None or start is None:
            return start or ""
        if before == "" or self._cursor.higher(start, before) == start:
            return before
        return start

    @property
    def _from_the_initial_value(self) -> str:
        """SQL for the rows of the first load; empty for all."""
        value = self._spec.initial_value
        if value is None:
            return ""
        return f"{self._cursor.sql} >= {typed(value, self._cursor.type)}"

    def _rows_before(self, last: Last, watermark: str) -> str:
        """SQL for the rows that an initial value has left out, and that the spec wants now; empty
        where there are none.

        Raises Refused where no record tells which rows were appended before.
        """
        before = last.start
        if before == "":
            return ""  # all rows were read
        cursor = self._cursor
        start = self._spec.initial_value
        # Above the watermark, the increment reads them.
        bounds = [f"{cursor.sql} <= {typed(watermark, cursor.type)}"]
        if before is None and self._mode != "merge":
            raise Refused(
                f"{self._source.relation}: the ledger has no record of the first load, so where in"
                f" {self._spec.cursor} it began to append is not known: run a full refresh of this"
                " table"
            )
        if before is not None:
            bounds.append(f"{cursor.sql} < {typed(before, cursor.type)}")
        if start is not None:
            if before is not None and cursor.higher(start, before) == start:
                return ""
            bounds.append(f"{cursor.sql} >= {typed(start, cursor.type)}")
        _log.info(
            "%s: reading rows before %s, because initial_value was moved back",
            self._source.relation,
            before or "the watermark",
        )
        return " AND ".join(bounds)

    def _rows_of(self, leaves: Sequence[int], watermark: str) -> str:
        """SQL for the rows of new leaves; empty where the watermark's condition finds them all."""
        # Those without rows yet, as next month's partition, will get theirs above the watermark.
        filled = self._session.execute(
            "SELECT oid, oid::regclass::text AS name FROM pg_class"
            " WHERE oid = ANY (%s) AND pg_relation_size(oid) > 0 ORDER BY oid",
            (list(leaves),),
        ).fetchall()
        if not filled:
            return ""
        names = ", ".join(name for _, name in filled)
        # A view does not show which table a row comes from.
        rows = "TRUE"
        if self._source.is_table:
            oids = ",".join(str(oid) for oid, _ in filled)
            rows = f"tableoid = ANY ('{{{oids}}}'::oid[])"
        if self._mode != "merge":
            older = f"{self._cursor.sql} <= {typed(watermark, self._cursor.type)}"
            exists = f"SELECT 1 FROM {self._source.relation.sql} WHERE {rows} AND {older} LIMIT 1"
            if self._session.execute(exists).fetchone():
                raise Refused(
                    f"{self._source.relation}: {names} was attached since the last load, with rows"
                    f" up to the watermark {watermark}. Whether they were appended before, as rows"
                    " of another partition, cannot be known: run a full refresh of this table"
                )
            return ""
        _log.info("%s: reading all rows, because %s is new", self._source.relation, names)
        return rows

    def interval(self, request: RunRequest) -> Selection:
        """Rows of the run's interval `[start, end)`.

        Waits until no open transaction can write into it. Raises Refused when there is no interval
        or it does not fit the table, HeldBack when it stays open for longer than `hold_back`.
        """
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
        refuse_unseen_writers(self._session, self._source, self._spec)
        complete_until = self._end_so_far(request, end)
        moment = end if self._cursor.is_time else holdback.now(self._session)
        holder = holdback.wait_until_ended(self._session, moment, self._spec.hold_back)
        if holder:
            raise HeldBack(
                f"{self._source.relation}: {holder.who} may still write before {end}; end it, then"
                " retry"
            )
        lower, upper = self._cursor.at(start), self._cursor.at(end)
        condition = f"{self._cursor.sql} >= {lower} AND {self._cursor.sql} < {upper}"
        if not request.explicit_interval:
            condition = self._with_late_rows(condition, lower, upper)
        return Selection(
            action="merge",
            where=self._with_nulls(condition),
            lower=start,
            upper=end,
            complete_until=complete_until,
            clock=self._cursor.clock(),
            facts=self._facts,
        )

    def _with_late_rows(self, condition: str, lower: str, upper: str) -> str:
        """The condition of an interval from `lower` to `upper`, and of the rows below it that may
        have come since they were read: those of the lookback; else those that have the newest value
        below, if rows written in this interval may have it, too."""
        name = self._cursor.sql
        if self._spec.lookback is not None:
            return (
                f"{name} >= {self._cursor.before(lower, self._spec.lookback)} AND {name} < {upper}"
            )
        shared = self._cursor.shared_below(lower)
        if shared is None:
            return condition
        _log.info(
            "%s: reading the rows with %s again, which later ones may share",
            self._source.relation,
            shared,
        )
        return f"({condition} OR {name} = {typed(shared, self._cursor.type)})"

    def _end_so_far(self, request: RunRequest, end: str) -> str | None:
        """The interval's end, or the source's clock where the interval that a person asks for ends
        later. To call before the wait for open transactions; None for a table with a watermark,
        and for bounds that are no moments, such as numbers and times without an offset."""
        if not self._cursor.is_time or self._spec.by != "data_interval":
            return None
        if not request.explicit_interval:
            return end
        now = holdback.now(self._session)
        ends_at = moment_of(end)
        if ends_at is None:
            return None
        clock = moment_of(now)
        if clock is not None and ends_at > clock:
            return now
        return end

    def _refuse_unfit_initial_value(self) -> None:
        value = self._spec.initial_value
        if value is not None and not self._is_value(value):
            raise Refused(
                f"{self._source.relation}: incremental.initial_value {value!r} is no value of the"
                f" cursor {self._spec.cursor}, which is {self._cursor.type}"
            )

    def _is_value(self, text: str) -> bool:
        """Whether `text` is a value of the cursor's type: a time is none of a number's."""
        try:
            self._session.execute(f"SELECT {typed(text, self._cursor.type)}")
        except psycopg.DataError:
            return False
        return True

    def _refuse_misfits(self, *bounds: str) -> None:
        """Raises Refused when a bound is no value of the cursor's type."""
        for bound in bounds:
            if not self._is_value(bound):
                raise Refused(
                    f"{self._source.relation}: the interval's bound {bound} is no value of the"
                    f" cursor {self._spec.cursor}, which is {self._cursor.type}; choose the tables"
                    " that the interval is for (--tables)"
                )

    def _wait_for_the_clock(self, end: str) -> None:
        """Wait until the interval is over by the source's clock: by the scheduler's it is, but the
        source stamps the rows."""
        left = f"extract(epoch FROM {typed(end, 'timestamptz')} - clock_timestamp())::float8"
        row = self._session.execute(f"SELECT {left}").fetchone()
        assert row
        (early,) = row
        if early > self._spec.hold_back.total_seconds():
            raise HeldBack(
                f"{self._source.relation}: the interval ends at {end}, which by the source's clock"
                f" is {counted(round(early), 'second')} away: rows may still be written into it."
                " Retry then, and compare the two machines' clocks"
            )
        if early > 0:
            holdback.refuse_to_wait("the end of the interval by the source's clock")
            _log.info("the interval is over in %.1f s by the source's clock; waiting", early)
            time.sleep(early)

    def _rows(
        self,
        action: Literal["replace", "merge", "append"],
        start: str | None,
        lower: str,
        floor: str | None = None,
        also: Sequence[str] = (),
    ) -> Selection:
        """The rows from `start` on that the condition `lower` selects, and those that one of the
        conditions `also` selects; the next watermark is not below `floor`.

        A merge reads all visible rows there, also those that the watermark may not pass yet:
        reading such a row again changes nothing. An append must read each row once, so it stops at
        the safe bound.
        """
        upper, held_by = self._cursor.safe_upper(self._mode)
        if held_by:
            _log.info("%s: held back by %s", self._source.relation, held_by)
        name = self._cursor.sql
        conditions = []
        if lower:
            conditions.append(lower)
        if self._mode != "merge":
            safe = "FALSE" if upper is None else f"{name} <= {typed(upper, self._cursor.type)}"
            conditions.append(safe)
        condition = " AND ".join(conditions) or "TRUE"
        for more in also:
            if more:
                condition = f"({condition} OR {more} AND {name} IS NOT NULL)"
        return Selection(
            action=action,
            where=self._with_nulls(condition),
            lower=start,
            upper=self._cursor.higher(floor, upper),
            moves_watermark=True,
            clock=self._cursor.clock(),
            held_by=held_by,
            waiting=self._cursor.waiting(upper) if self._mode != "merge" and not held_by else "",
            compares=self._reads_ties and not self._cursor.ties.have_writers,
            facts=self._facts_of_watermark(),
        )

    def _facts_of_watermark(self) -> dict[str, str]:
        start = self._spec.initial_value or ""
        facts = {**self._facts, INITIAL_VALUE: start, WATERMARK_PLACE: self._place}
        if self._spec.lookback is not None:
            facts[LOOKBACK] = self._spec.lookback
        if self._mode != "merge" and not self._cursor.is_time:
            facts[UNIQUE] = "" if self._cursor.ties.are_possible else "yes"
        return facts

    def _lower(self, watermark: str) -> str:
        """SQL for the watermark minus the lookback."""
        return self._cursor.before(typed(watermark, self._cursor.type), self._spec.lookback)

    def _with_nulls(self, condition: str) -> str:
        if self._spec.nulls == "include" and condition != "TRUE":
            return f"({condition} OR {self._cursor.sql} IS NULL)"
        if self._spec.nulls == "exclude" and condition == "TRUE":
            return f"{self._cursor.sql} IS NOT NULL"
        return condition  # a comparison excludes NULLs already
