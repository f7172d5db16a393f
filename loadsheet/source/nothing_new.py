"""Which of many tables have no row that an extraction would read, asked in a few statements for all
of them.

An extraction asks some 25 questions of a table before it knows that nothing is new, and most of the
answers are the same for all tables of a source. Here each question is asked once. Only what is
known is answered: plain tables that are merged by a cursor under the terms of their last load, with
a cursor that needs no closer look. About any other table nothing is said, and its own step looks.

All of it belongs into one transaction: `lock`, the snapshot, then the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from loadsheet.answers import known, take_once
from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.source import catalog, defaults, holdback, identity, selection, sequences, zones
from loadsheet.source.origins import Place as ColumnPlace
from loadsheet.source.rows import (
    INITIAL_VALUE,
    LOOKBACK,
    OLDEST_TRANSACTION,
    WATERMARK_PLACE,
    Last,
    Place,
)
from loadsheet.source.table import SourceTable
from loadsheet.source.ties import Ties
from loadsheet.source.window import since
from loadsheet.spec.models import Incremental, Table
from loadsheet.sql.text import Relation, ident, literal, typed
from loadsheet.sql.types import TIME_TYPES, without_modifier

# Reading a larger table takes longer than its own step's questions.
MOST_BYTES = 1 << 20
# Finding out that a larger one has no row above a watermark takes an index.
_MOST_SCANNED = 8 << 20
_WHOLE_NUMBERS = ("smallint", "integer", "bigint")
# A question about many tables is a long statement, which reads little: compiling one about 100
# tables took 9 s, and running it 0.02.
NOT_COMPILED = "SET LOCAL jit = off"
# A table that is locked is not waited for, and no question may keep the run from its steps.
_LIMITS = f"SET LOCAL statement_timeout = '10s'; SET LOCAL lock_timeout = '1s'; {NOT_COMPILED}"

# A view, a foreign table, a partition and what others inherit from need a closer look; so does a
# table whose rows a policy may hide, and what is not PostgreSQL's own kind of tables.
_PLAIN = """
SELECT c.oid, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
JOIN pg_am ON pg_am.oid = relam
WHERE nspname = %s AND relname = ANY (%s) AND relkind = 'r' AND amname = 'heap'
    AND c.oid >= 16384 AND NOT (relispartition OR relhassubclass OR relrowsecurity)
    AND has_table_privilege(c.oid, 'SELECT')
"""
# A column's default is asked for as `origins` does.
_CURSORS = """
SELECT a.attrelid, a.attgenerated = '', coalesce(
        pg_get_expr(adbin, adrelid),
        (SELECT format('nextval(%%L::regclass)', objid::regclass) FROM pg_depend
         WHERE classid = 'pg_class'::regclass AND deptype = 'i'
             AND refclassid = 'pg_class'::regclass
             AND refobjid = a.attrelid AND refobjsubid = a.attnum),
        pg_get_expr(typdefaultbin, 0)
    )
FROM unnest(%s::oid[], %s::int[]) AS cursor (oid, attnum)
JOIN pg_attribute a ON attrelid = cursor.oid AND a.attnum = cursor.attnum
JOIN pg_type ON pg_type.oid = atttypid
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = a.attnum
"""
_SEARCHED_QUICKLY = """
SELECT cursor.oid FROM unnest(%s::oid[], %s::int[]) AS cursor (oid, attnum)
WHERE pg_relation_size(oid) <= %s OR EXISTS (
    SELECT FROM pg_index JOIN pg_class x ON x.oid = indexrelid
    JOIN pg_am ON pg_am.oid = x.relam AND amname = 'btree'
    WHERE indrelid = cursor.oid AND indisvalid AND indpred IS NULL AND indkey[0] = cursor.attnum)
"""
_SMALL = "SELECT oid FROM pg_class WHERE oid = ANY (%s::oid[]) AND pg_table_size(oid) <= %s"
# A planner that expects many new rows reads a table from its start until it meets the first. They
# are at its end: this took 0.26 s for two tables of 2 M rows, of which 1 % were new.
_BY_INDEX = "SET LOCAL enable_seqscan = off"
_NEXT_TRANSACTION = "SELECT txid_snapshot_xmax(txid_current_snapshot())"


@dataclass(frozen=True, kw_only=True)
class Read:
    """A table, and where its last load ended."""

    table: Table
    source: SourceTable
    last: Last

    @property
    def spec(self) -> Incremental:
        """How it is read; only tables with a cursor are asked about."""
        assert self.table.incremental
        return self.table.incremental

    @property
    def type(self) -> str:
        """The cursor's type, without its modifier."""
        return without_modifier(self.source.column(self.spec.cursor).type)

    @property
    def watermark(self) -> str:
        """SQL for the watermark."""
        return typed(self.last.watermark or "", self.type)

    @property
    def is_by_time(self) -> bool:
        """Whether the cursor is a time."""
        return self.type in TIME_TYPES

    @property
    def place(self) -> ColumnPlace:
        """The cursor's column."""
        return ColumnPlace(self.source.oid, self.source.column(self.spec.cursor).attnum)

    @property
    def zone(self) -> str:
        """The zone that a cursor without one is stamped in."""
        return self.spec.time_zone or zones.UTC


@dataclass(frozen=True, kw_only=True)
class NoNewRows:
    """A table without a row that an extraction would read."""

    name: str
    where: str
    """SQL for the rows that it has none of."""
    held_by: str
    """The open transaction that would hold its watermark back; empty: none would."""


def plain(session: Session, schema: str, tables: Iterable[Table]) -> dict[int, Table]:
    """By their oids, those of the tables that are plain ones, and that this role may read."""
    by_name = {table.name: table for table in tables}
    rows = session.execute(_PLAIN, (schema, list(by_name)))
    return {oid: known(session, by_name, name) for oid, name in rows}


def lock(session: Session, schema: str, tables: Iterable[Table]) -> None:
    """Keep the tables from being truncated or rewritten, as `catalog.lock` does, and the following
    statements from taking long. To call before the snapshot. Raises a psycopg.OperationalError
    where another session has locked one of them."""
    session.execute(_LIMITS)
    names = ", ".join(Relation(schema, table.name).sql for table in tables)
    session.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE NOWAIT".encode())


def describe(session: Session, schema: str, tables: Mapping[int, Table]) -> dict[str, SourceTable]:
    """The tables that are still what they were when they were locked, by name."""
    still = plain(session, schema, tables.values())
    kept = {oid: table for oid, table in tables.items() if oid in still}
    return catalog.describe_plain(session, schema, kept)


def small(session: Session, oids: Sequence[int]) -> set[int]:
    """Of these tables, those that are read whole in a moment."""
    if not oids:
        return set()
    return {oid for (oid,) in session.execute(_SMALL, (list(oids), MOST_BYTES))}


def written_again(session: Session, tables: Sequence[tuple[SourceTable, str | None]]) -> set[int]:
    """Of these plain tables, those with a row that was written since the snapshot whose oldest open
    transaction is given with each; by their oids."""
    if not tables:
        return set()
    newest = _next_transaction(session)
    tests = []
    for table, oldest in tables:
        since_then = _written_since(newest, oldest)
        tests.append(
            f"SELECT {table.oid} WHERE EXISTS (SELECT FROM {table.relation.sql} WHERE {since_then})"
        )
    return {oid for (oid,) in session.execute(" UNION ALL ".join(tests).encode())}


def searched_quickly(session: Session, cursors: Sequence[ColumnPlace]) -> set[int]:
    """Of these columns of plain tables, those whose highest values are found in a moment: by an
    index, or because the table is small. By the table's oid."""
    rows = session.execute(_SEARCHED_QUICKLY, (*_as_arrays(cursors), _MOST_SCANNED))
    return {oid for (oid,) in rows}


def _as_arrays(places: Sequence[ColumnPlace]) -> tuple[list[int], list[int]]:
    return [place.relation for place in places], [place.attnum for place in places]


def without_new_rows(
    session: Session, reads: Sequence[Read], source: identity.Identity
) -> list[NoNewRows]:
    """The tables without a row that an extraction would read now. To call in the snapshot."""
    reads = [read for read in reads if _is_as_before(read, source)]
    reads = _with_plain_cursors(session, reads)
    if not reads or not holdback.sees_writers_of(session, [read.source.oid for read in reads]):
        return []
    holder = holdback.open_since(session, holdback.now(session))
    held_by = holder.who if holder else ""
    if holder:
        # Where the extraction waits for a transaction, there may be rows when it has ended.
        reads = [read for read in reads if read.is_by_time]
    newest = _next_transaction(session)
    wheres = [_where(read, newest) for read in reads]
    tests = []
    for number, (read, where) in enumerate(zip(reads, wheres, strict=True)):
        tests.append(f"SELECT {number} WHERE {_test(read, where)}")
    if not tests:
        return []
    session.execute(_BY_INDEX)
    found = session.execute(" UNION ALL ".join(tests).encode()).fetchall()
    session.execute("SET LOCAL enable_seqscan TO DEFAULT")
    quiet = []
    left = set(range(len(reads)))
    for (number,) in found:
        # Another table would be taken for one without news.
        take_once(session, left, number)
        quiet.append(
            NoNewRows(name=reads[number].table.name, where=wheres[number], held_by=held_by)
        )
    return quiet


def _is_as_before(read: Read, source: identity.Identity) -> bool:
    """Whether the table is read by the same cursor and on the same terms as by its last load, from
    the same source, so that its watermark means the same."""
    last, spec = read.last, read.spec
    with suppress(Refused):
        mode = selection.refuse_mode(read.table, read.source)
        cursor = read.source.column(spec.cursor)
        expected = {
            WATERMARK_PLACE: str(Place.of(read.source, cursor.name)),
            INITIAL_VALUE: spec.initial_value or "",
            "leaves": identity.table_facts(read.source)["leaves"],
        }
        zone = zones.facts(read.source, spec).get("time_zone")
        return (
            mode == "merge"
            and last.watermark is not None
            and last.cursor == cursor.name
            and last.source_oid == read.source.oid
            and all(last.facts.get(name) == value for name, value in expected.items())
            and last.facts.get("time_zone") == zone
            and "definition" not in last.facts
            and LOOKBACK not in last.facts
            # The target has a place for each column.
            and all(column.name in last.places for column in read.source.columns)
            and not source.since(last.facts).changes
        )
    return False


def _with_plain_cursors(session: Session, reads: Sequence[Read]) -> list[Read]:
    """Those whose cursor takes its values from the clock or a sequence as they are, and whose rows
    above the watermark are found quickly."""
    reads = [read for read in reads if read.is_by_time or read.type in _WHOLE_NUMBERS]
    places = [read.place for read in reads]
    quick = searched_quickly(session, places)
    fit = set()
    by_oid = {read.source.oid: read for read in reads}
    for oid, is_stored, default in session.execute(_CURSORS, _as_arrays(places)):
        if is_stored and _is_known(known(session, by_oid, oid), default):
            fit.add(oid)
    reads = [read for read in reads if read.source.oid in fit & quick]
    return _in_order(session, _in_known_zones(session, reads))


def _is_known(read: Read, default: str | None) -> bool:
    """Whether the cursor's default gives the time of writing, or a number that rises."""
    if default is None:
        return True
    has_zone = not zones.is_zoneless(read.type)

    def is_in_zone(zone: str) -> bool:
        # Of a time without a zone that becomes one with a zone, the settings of sessions tell.
        return not has_zone and zones.is_same(zone, read.zone)

    declared = read.source.column(read.spec.cursor).type
    return defaults.is_known(default, declared, is_in_zone)


def _in_known_zones(session: Session, reads: list[Read]) -> list[Read]:
    """Without those whose cursor has no zone, where it is not known that its writers are in UTC."""
    unsaid = {
        read.source.oid
        for read in reads
        if zones.is_zoneless(read.type) and read.spec.time_zone is None
    }
    if not unsaid or zones.are_all_utc(session):
        return reads
    return [read for read in reads if read.source.oid not in unsaid]


def _in_order(session: Session, reads: list[Read]) -> list[Read]:
    """Without those whose cursor is a number that may come late or was set back."""
    numbers = {read.place: read.last.watermark or "" for read in reads if not read.is_by_time}
    if not numbers:
        return reads
    fit = sequences.in_order(session, numbers)
    return [read for read in reads if read.is_by_time or read.place in fit]


def _where(read: Read, next_transaction: int) -> str:
    """SQL for the rows above the watermark, those with its value that were written since, and those
    without a value that the spec includes."""
    written_since = _written_since(next_transaction, read.last.facts.get(OLDEST_TRANSACTION))
    cursor = ident(read.spec.cursor)
    above = since(cursor, read.watermark, written_since)
    return f"({above} OR {cursor} IS NULL)" if read.spec.nulls == "include" else above


def _next_transaction(session: Session) -> int:
    row = session.execute(_NEXT_TRANSACTION).fetchone()
    assert row
    return int(row[0])


def _written_since(next_transaction: int, oldest: str | None) -> str:
    """SQL condition on the rows of a plain table that were written since."""
    ties = Ties(are_possible=True, newest_transaction=next_transaction, have_writers=True)
    return ties.written_since(oldest) or "TRUE"


def _test(read: Read, where: str) -> str:
    """SQL: whether the table has no row to read, and its watermark is not in the future."""
    cursor = ident(read.spec.cursor)
    rows = f"SELECT FROM {read.source.relation.sql} WHERE"
    tests = [f"NOT EXISTS ({rows} {where})"]
    if read.is_by_time:
        clock = "clock_timestamp()"
        if zones.is_zoneless(read.type):
            clock = f"CAST({clock} AT TIME ZONE {literal(read.zone)} AS {read.type})"
        # Else the clock was set back.
        tests.append(f"{read.watermark} <= {clock}")
    # They are refused.
    if read.spec.nulls == "fail" and read.spec.cursor not in read.source.not_null:
        tests.append(f"NOT EXISTS ({rows} {cursor} IS NULL)")
    return " AND ".join(tests)
