"""Which rows an extraction reads, and how far the watermark may move when they are committed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import psycopg

from loadsheet.errors import HeldBack, Refused
from loadsheet.outcome import RunRequest
from loadsheet.postgres import Session
from loadsheet.source import holdback, identity, origins, sequences, ties, zones
from loadsheet.source.bounds import Cursor
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Incremental, Mode, Table
from loadsheet.spec.schedule import seconds
from loadsheet.sql.text import ident, typed
from loadsheet.sql.types import widens, without_modifier

_log = logging.getLogger(__name__)
_INITIAL_VALUE = "initial_value"
_UNIQUE = "unique"
WATERMARK_FACTS = ("leaves", "oldest_transaction", "ties", _INITIAL_VALUE, _UNIQUE)
"""Facts of a load that belong to its watermark: a load of an interval leaves them as they were."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rows to read from one table, and what to do with them in the target. Cursor values are
    text as the source writes them."""

    action: Literal["replace", "merge", "append"]
    where: str = ""
    """SQL condition on the source table; empty reads all."""
    sample: str = ""
    """SQL condition of a sample run; empty reads all."""
    lower: str | None = None
    """The watermark, the initial value or the start of the interval that rows are read from."""
    upper: str | None = None
    """The watermark once the rows are committed, where `moves_watermark`."""
    moves_watermark: bool = False
    clock: str | None = None
    """For a cursor without a time zone: the lowest value it can be stamped with from now on."""
    held_by: str = ""
    """The open transaction that keeps the watermark from moving further; empty: none does."""
    waiting: str = ""
    """The rows that are not read yet although no transaction holds them back; empty: none are."""
    repeats: bool = False
    """Whether rows with the last watermark's value, which were read before, may be among them."""
    compares: bool = False
    """Whether later rows may share the watermark's value, and only a comparison of the rows that
    have it (`compare_ties`) shows whether there are some."""
    tied: str = ""
    """SQL condition on the rows that have the last watermark's value, which `where` includes;
    empty: there are none to compare."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the next run must know about this one: it is kept in the manifest, next to the source's
    identity."""


@dataclass(frozen=True, kw_only=True)
class Last:
    """The last load of a table: its watermark, and the source's columns at that time."""

    watermark: str | None
    cursor: str | None
    """The column the watermark belongs to; None where an older ledger does not record it."""
    source_oid: int | None
    places: Mapping[str, int]
    """Each column's attnum."""
    types: Mapping[str, str]
    source: dict[str, str] | None = None
    """The source, as `identity` saw it; None where an older ledger does not record it."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What is recorded of the source and of what was read; empty in an older ledger."""
        return self.source or {}


def decide(
    session: Session,
    table: Table,
    source: SourceTable,
    last: Last | None,
    request: RunRequest,
    *,
    replaces_rows: bool = False,
) -> Selection:
    """The rows of `table` that this run reads. Waits for open transactions where the cursor needs
    it.

    `last` is None when the target has never been loaded; `replaces_rows` tells that it has rows all
    the same, those of another pipeline. Raises Refused when the spec and the
    source contradict each other or late commits could be missed, HeldBack when the source may still
    write into the interval.
    """
    mode = refuse_mode(table, source)
    is_full = request.is_full(table.name)
    if not table.incremental:
        return Selection(action="replace" if is_full or last is None else mode)
    window = _Window(session, source, table.incremental, mode)
    if table.incremental.by == "data_interval" or request.explicit_interval:
        if is_full:
            return window.everything()
        return window.interval(request)
    if is_full or last is None:
        rows = window.from_the_start()
        if mode != "merge" and (last is not None or replaces_rows):
            _refuse_incomplete_replacement(session, source, rows)
        return rows
    if last.watermark is not None:
        _refuse_changed_cursor(source, table.incremental.cursor, last)
    elif mode == "append" and last.cursor is None:
        raise Refused(
            f"{source.relation} was loaded without a cursor before: appending to those rows would"
            " double them; run a full refresh of this table"
        )
    if request.accept_source and last.source:
        # Another server numbers its transactions in its own way.
        kept = {name: fact for name, fact in last.source.items() if name != "oldest_transaction"}
        last = replace(last, source=kept)
    return window.above(last, identity.new_leaves(source, last.source_oid, last.source))


def compare_ties(
    session: Session, table: Table, source: SourceTable, rows: Selection, last: Mapping[str, str]
) -> Selection:
    """`rows` without those that have the watermark's value, where they are as they were read; and
    with the fact that the next run compares. `last` are the facts of the last load.

    To call in the snapshot that the rows are read in, or a row that comes in between is lost.
    """
    if not rows.compares or rows.upper is None:
        return rows
    assert table.incremental
    values = [rows.upper]
    if rows.tied and rows.lower is not None and rows.lower != rows.upper:
        values.insert(0, rows.lower)
    found = ties.fingerprints(session, source, table.incremental.cursor, values)
    where = rows.where
    if rows.tied and found[0] == last.get("ties"):
        where = f"({where}) AND ({rows.tied}) IS NOT TRUE"
    return replace(rows, where=where, facts={**rows.facts, "ties": found[-1]})


def refuse_mode(table: Table, source: SourceTable) -> Mode:
    """The table's mode. Raises Refused where the source's key or the rest of the spec contradict
    it."""
    mode = table.mode_with_key(bool(source.key))
    if mode == "merge" and not source.key:
        raise Refused(
            f"{source.relation} has no primary key in the source: set primary_key, or mode: append"
        )
    spec = table.incremental
    if spec and mode == "append" and (spec.lookback is not None or spec.nulls == "include"):
        raise Refused(
            f"{source.relation} has mode: append, so no row may be read twice: merge it (mode:"
            " merge, which needs a primary_key), or drop incremental.lookback and nulls: include"
        )
    return mode


def refuse_appended_interval(source: SourceTable, mode: Mode) -> None:
    """Raises Refused unless the table is merged, where reading an interval again changes
    nothing."""
    if mode != "merge":
        raise Refused(
            f"{source.relation} has mode: append, and an interval read twice would double its rows:"
            " merge it (mode: merge, which needs a primary_key)"
        )


def _refuse_incomplete_replacement(session: Session, source: SourceTable, rows: Selection) -> None:
    """Raises HeldBack where the rows that are safe to append now may be fewer than the target
    has."""
    held_by = rows.held_by
    if rows.upper is None and not held_by:
        # No row is visible, perhaps because they are being loaded again.
        holder = holdback.open_since(session, holdback.now(session))
        held_by = holder.who if holder else ""
    if held_by:
        raise HeldBack(
            f"{source.relation}: {held_by} may still write rows, and a full refresh would replace"
            " the table by those before them; nothing was written. End it, or retry when it has"
            " ended"
        )


def refuse_unseen_writers(session: Session, source: SourceTable, spec: Incremental) -> None:
    """Raises Refused, with the way on, where a row may come late without being held back."""
    holdback.sees_open_transactions(session, source)
    sequences.refuse_disorder(session, source, spec.cursor, has_lookback=False)
    origins.refuse_shifted(session, source, spec)


def refuse_unknown_zone(session: Session, source: SourceTable, spec: Incremental) -> None:
    """Raises Refused, with the way on, where the cursor has no time zone and the zone of its
    writers is not known."""
    if zones.is_zoneless(without_modifier(source.column(spec.cursor).type)):
        zones.of_writers(session, source, spec)


def _refuse_changed_cursor(source: SourceTable, name: str, last: Last) -> None:
    """Raises Refused when the watermark belongs to another column, or to a type that orders values
    differently."""
    column = source.column(name)
    last_name = last.cursor or name
    last_type = last.types.get(last_name, column.type)
    is_another = last_name != name
    if source.oid == last.source_oid:
        # In the same table a column keeps its attnum, also when it is renamed.
        is_another = column.attnum != last.places.get(last_name)
    if is_another:
        change = f"is not the column {last_name} that increments were read by"
    elif not _has_same_order(last_type, column.type):
        change = f"was {last_type} and is {column.type} now"
    else:
        return
    raise Refused(f"{source.relation}: cursor {name} {change}; run a full refresh of this table")


def _has_same_order(one: str, other: str) -> bool:
    before = without_modifier(one)
    after = without_modifier(other)
    return widens(before, after) or widens(after, before)


class _Window:
    """The ways to select rows by the cursor of one table, each with the watermark that follows."""

    def __init__(self, session: Session, source: SourceTable, spec: Incremental, mode: Mode):
        self._session = session
        self._source = source
        self._spec = spec
        self._mode = mode
        self._cursor = Cursor(session, source, spec)
        # What is kept of the spec: under another one, the watermark means something else.
        self._facts = zones.facts(source, spec)

    def everything(self) -> Selection:
        """All rows. Tables read by interval have no watermark to move."""
        return Selection(action="replace", where=self._with_nulls("TRUE"))

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
        self._refuse_lost_uniqueness(last, watermark)
        rows = self._rows(action, watermark, above, watermark, also)
        facts = {**rows.facts, _INITIAL_VALUE: self._earliest_start(last)}
        return replace(rows, facts=facts, tied=tied, repeats=self._reads_ties)

    def _refuse_lost_uniqueness(self, last: Last, watermark: str) -> None:
        """Raises Refused where an append has read up to a value that no later row could share, and
        now one could: its rows cannot be told from those that were appended."""
        was_unique = last.facts.get(_UNIQUE)
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
        if self._spec.lookback is not None:
            return f"{name} >= {self._lower(watermark)}", ""
        value = typed(watermark, self._cursor.type)
        if not self._reads_ties:
            return f"{name} > {value}", ""
        oldest = last.facts.get("oldest_transaction")
        written_since = self._cursor.ties.written_since(oldest)
        if written_since is None:
            return f"{name} >= {value}", f"{name} = {value}"
        return f"{name} >= {value} AND ({name} > {value} OR {written_since})", ""

    @property
    def _reads_ties(self) -> bool:
        """Whether the rows that have the watermark's value are read again. A lookback reads them
        anyway, an append never."""
        return self._mode == "merge" and self._spec.lookback is None

    def _earliest_start(self, last: Last) -> str:
        """The lowest initial value that rows were read from; empty where there was none."""
        start = self._spec.initial_value
        before = last.facts.get(_INITIAL_VALUE)
        # An older ledger does not tell. To append rows that may have been read is wrong.
        if before is None and self._mode != "merge":
            return ""
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
        where there are none."""
        before = last.facts.get(_INITIAL_VALUE, "")
        if not before:
            return ""  # all rows were read, or an older ledger does not tell
        cursor = self._cursor
        start = self._spec.initial_value
        bounds = [f"{cursor.sql} < {typed(before, cursor.type)}"]
        # Above the watermark, the increment reads them.
        bounds.append(f"{cursor.sql} <= {typed(watermark, cursor.type)}")
        if start is not None:
            if cursor.higher(start, before) == start:
                return ""
            bounds.append(f"{cursor.sql} >= {typed(start, cursor.type)}")
        _log.info(
            "%s: reading rows before %s, because initial_value was moved back",
            self._source.relation,
            before,
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
        moment = end if self._cursor.is_time else holdback.now(self._session)
        holder = holdback.wait_until_ended(self._session, moment, self._spec.hold_back)
        if holder:
            raise HeldBack(
                f"{self._source.relation}: {holder.who} may still write before {end}; end it, then"
                " retry"
            )
        name = self._cursor.sql
        condition = f"{name} >= {self._cursor.at(start)} AND {name} < {self._cursor.at(end)}"
        return Selection(
            action="merge",
            where=self._with_nulls(condition),
            lower=start,
            upper=end,
            clock=self._cursor.clock(),
            facts=self._facts,
        )

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
                f" is {early:,.0f} seconds away: rows may still be written into it. Retry then, and"
                " compare the two machines' clocks"
            )
        if early > 0:
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
        facts = {**self._facts, _INITIAL_VALUE: self._spec.initial_value or ""}
        if self._mode != "merge" and not self._cursor.is_time:
            facts[_UNIQUE] = "" if self._cursor.ties.are_possible else "yes"
        return facts

    def _lower(self, watermark: str) -> str:
        """SQL for the watermark minus the lookback."""
        bound = typed(watermark, self._cursor.type)
        lookback = self._spec.lookback
        if lookback is None:
            return bound
        if not self._cursor.is_time:
            return f"{bound} - {typed(lookback, 'numeric')}"
        lower = f"{bound} - interval '{seconds(lookback)} seconds'"
        try:
            with self._session.transaction():
                self._session.execute(f"SELECT {lower}")
        except psycopg.DataError:
            return typed("-infinity", self._cursor.type)  # before the first day that the type has
        return lower

    def _with_nulls(self, condition: str) -> str:
        if self._spec.nulls == "include":
            return f"({condition} OR {self._cursor.sql} IS NULL)"
        if self._spec.nulls == "exclude" and condition == "TRUE":
            return f"{self._cursor.sql} IS NOT NULL"
        return condition  # a comparison excludes NULLs already


def refuse_sequence_set_back(
    session: Session, table: Table, source: SourceTable, rows: Selection, last: Last | None
) -> None:
    """Raises Refused where later rows would be below the watermark that `rows` were read from. To
    call when the source is known to be the one that the watermark came from."""
    spec = table.incremental
    if spec is None or spec.lookback is not None or last is None or last.watermark is None:
        return
    if rows.moves_watermark and rows.action != "replace":
        sequences.refuse_set_back(session, source, spec.cursor, last.watermark)


def refuse_null_cursors(session: Session, table: Table, source: SourceTable) -> None:
    """Raises Refused, with their number, when rows have no cursor value and the spec does not say
    what to do with them."""
    spec = table.incremental
    if not spec or spec.nulls != "fail" or spec.cursor in source.not_null:
        return
    row = session.execute(
        f"SELECT count(*) FROM {source.relation.sql} WHERE {ident(spec.cursor)} IS NULL"
    ).fetchone()
    if row and row[0]:
        raise Refused(
            f"{source.relation}: {row[0]} rows have no {spec.cursor}, so no increment would read"
            " them; set incremental.nulls to include or exclude"
        )
