"""Finds the rows of a target that are gone from the source, by comparing primary keys.

All of it happens in the increment's own snapshot, before its rows are copied:

    source                               warehouse
    digests of ranges of keys            digests of the same ranges
                          equal: no row is gone
    keys in ranges that differ           the same, side by side
                          only in the target: gone
                          only in the source, though the last load must have left it: missing
    gone keys, by their values           none may be there

Ranges are for integer keys in an index that can answer alone. Other keys are compared by the sum
of their hashes, and where that differs in buckets, over which new keys are spread: so the
increment's keys are copied into a temporary table of the warehouse first, and count as the
target's.

Rows that are missing (a key that was updated in place, a row that was deleted in the warehouse) are
read with the increment. So are rows that may have been updated to the key of a deleted one, which
no side lacks: they have the cursor of a row whose key is gone.

Why a gone row is never one that the snapshot was too early to see: every row of the target comes
from a snapshot of an earlier load, and loads are read here between `scope.read_scope` and
`fence.take_fence`, which raises Fenced if another one has committed in between. A source that is
behind an earlier snapshot (a lagging standby, a restored backup) is refused before
(`source.identity`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from loadsheet.answers import key_texts
from loadsheet.comparison import compare, digest, key_ranges
from loadsheet.comparison.compare import Sides
from loadsheet.comparison.digest import Side, Value, shared_hash
from loadsheet.comparison.settled import settled_rows
from loadsheet.comparison.snapshot import STAY_IDLE
from loadsheet.comparison.storable import storable
from loadsheet.engine.attempt import Attempt
from loadsheet.engine.deletes import Found, Keys
from loadsheet.errors import Refused
from loadsheet.failpoints import reach
from loadsheet.postgres import Session
from loadsheet.source.rows import Last, Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Deletes
from loadsheet.sql.copying import select_columns
from loadsheet.sql.text import Relation, ident, typed
from loadsheet.sql.types import Column, has_one_form, widens
from loadsheet.warehouse import apply, drift, gone, tables
from loadsheet.warehouse.foreseeing import FULL_REFRESH_REMEDY
from loadsheet.wording import counted

_log = logging.getLogger(__name__)

# Their keys become part of a statement.
_MOST_MISSING = 10_000
_KEYS_IN_A_LOOKUP = 1000
_MOST_TURNS = 100  # rows that have each taken the key of the one before
_KEYS = Relation("pg_temp", "_loadsheet_keys")
_INCREMENT = Relation("pg_temp", "_loadsheet_increment")


def find(
    attempt: Attempt,
    source: Session,
    described: SourceTable,
    rows: Selection,
    origin: dict[str, str],
    read_at: str,
) -> Found:
    """Search the target for rows that are gone from the source, in the source's open snapshot.

    `rows` are those that this extraction reads; `origin` is what `identity.observe` has seen.
    Raises Refused where too many are gone, and where it cannot be known which.
    """
    deletes, last = attempt.table.deletes, attempt.last
    assert deletes and last
    if deletes.action != "report":
        refuse_unknown_history(described, last, origin)
    name = attempt.pipeline.name
    attempt.warehouse.use(lambda session: gone.refuse_shared_target(session, attempt.target, name))
    settled = settled_rows(source, attempt.table, described, attempt.seen, last)
    # Not repeated in another session: where this one is lost while the source sends keys, the
    # source's transaction is lost, too.
    search = _Search(attempt, source, described, rows, settled)
    found = search.run(attempt.warehouse.session)
    found.checked_at = read_at
    reach("extract.deletes_found")
    return found


def refuse_unknown_history(described: SourceTable, last: Last, origin: dict[str, str]) -> None:
    """Raises Refused where it cannot be known whether the source was set back since the last
    load."""
    if not ("lsn" in origin and "lsn" in last.facts):
        raise Refused(
            f"{described.relation}: the source does not show its WAL position, so rows that a"
            " restored backup lacks would look deleted. Let the role call"
            " pg_current_wal_insert_lsn(), or set `deletes: report`"
        )


def refuse_present(source: Session, described: SourceTable, keys: Iterable[list[str]]) -> None:
    """Raises Refused where one of the keys is in the source after all: look each up by its value,
    which depends on no hash."""
    columns = [described.column(name) for name in described.key]
    names = [f"k{place}" for place in range(len(columns))]
    # The table may have a column of such a name: next to it, each is the key's by its prefix alone.
    same = " AND ".join(
        f"{Value(column.name, column.type, is_cast=column.cast).landed} = _loadsheet_gone.{name}"
        for column, name in zip(columns, names, strict=True)
    )
    rest = iter(keys)
    while batch := list(islice(rest, _KEYS_IN_A_LOOKUP)):
        batch = storable(source, batch)
        if not batch:
            continue
        listed = ", ".join(f"({', '.join(_typed_key(columns, key))})" for key in batch)
        row = source.execute(
            f"SELECT count(*) FROM (VALUES {listed}) _loadsheet_gone ({', '.join(names)})"
            f" WHERE EXISTS (SELECT FROM {described.relation.sql} s WHERE {same})".encode()
        ).fetchone()
        if row != (0,):
            raise Refused(
                f"{described.relation}: a key that looked deleted is in the source;"
                " nothing was loaded or deleted. This is a bug: please report it"
            )


class _Search:
    """One search."""

    def __init__(
        self,
        attempt: Attempt,
        source: Session,
        described: SourceTable,
        rows: Selection,
        settled: str,
    ):
        assert attempt.table.deletes and attempt.last
        self.table = attempt.table
        self.deletes: Deletes = attempt.table.deletes
        self.pipeline = attempt.pipeline.name
        self.source = source
        self.described = described
        self.target = attempt.target
        self.rows = rows
        self.settled = settled
        self.start = attempt.last.start
        self.key = [described.column(name) for name in described.key]
        self.names: list[str] = []
        """Their names in the target."""
        self.in_target: tuple[Value, ...] = ()
        """The same columns, as the target has them."""
        self.loaded_names: dict[int, str] = {}
        if described.oid == attempt.seen.source_oid:
            recorded = attempt.seen.columns or ()
            self.loaded_names = {column["attnum"]: column["name"] for column in recorded}
        self.live = "TRUE"
        """SQL condition on the target's rows that are not marked as deleted."""
        self.may_have_moved_more = False
        """Rows have taken each other's keys in a longer chain than is followed."""

    def run(self, warehouse: Session) -> Found:
        """Compare all keys, in one transaction of the warehouse."""
        with warehouse.transaction():
            warehouse.execute(STAY_IDLE)
            self._fit_key(warehouse)
            if self.deletes.action == "soft":
                self.live = gone.live_rows(warehouse, self.target)
            found = self._by_ranges(warehouse)
            if found is None:
                found = self._by_buckets(warehouse)
            found.lacks_objects = gone.lacks_objects(warehouse, self.target, self.table)
        return found

    def _by_ranges(self, warehouse: Session) -> Found | None:
        """Compare the target as it is: keys that the increment brings differ, too, and are told
        from missing ones by `settled`. None where that is not known to be cheap."""
        if not self._loads_all_rows():
            return None
        sides = self._sides(warehouse, self.target, self.in_target, live=self.live)
        ranges = key_ranges.differing(sides)
        if ranges is None:
            return None
        found = Found()
        if ranges.spans:
            sides = key_ranges.within(sides, ranges.spans)
            found = self._compare(warehouse, sides, compare.by_buckets(sides).buckets)
        self._log_keys("ranges", ranges.keys, found)
        return found

    def _loads_all_rows(self) -> bool:
        """Whether no row of the source stays out of the target for good: in each range there would
        be some."""
        spec = self.table.incremental
        if spec is None:
            return True
        leaves_out_nulls = spec.nulls == "exclude" and spec.cursor not in self.described.not_null
        return spec.by == "watermark" and self.start == "" and not leaves_out_nulls

    def _by_buckets(self, warehouse: Session) -> Found:
        """Compare the target as it will be with the increment: its keys may be in any bucket."""
        self._create_keys(warehouse)
        in_target = tuple(Value(column.name, column.type) for column in self.key)
        expected = "TRUE"
        if self.rows.where:
            # Without the rows that no load has reached yet.
            expected = f"({self.settled}) OR ({self.rows.where})"
        sides = self._sides(warehouse, _KEYS, in_target, expected)
        totals = compare.totals(sides)
        found = Found()
        if totals.buckets:
            found = self._compare(warehouse, sides, totals.buckets)
        self._log_keys("buckets", totals.source_rows, found)
        return found

    def _log_keys(self, way: str, keys: int, found: Found) -> None:
        _log.info(
            "%s: compared %s keys of the source by %s; %s gone, %s missing",
            self.target,
            keys,
            way,
            found.gone_rows,
            len(found.missing),
        )

    def _create_keys(self, warehouse: Session) -> None:
        """Create a view of the keys that the target will have, with the source's names."""
        columns = ", ".join(f"{ident(column.name)} {column.type}" for column in self.key)
        warehouse.execute(f"CREATE TEMPORARY TABLE {_INCREMENT.sql} ({columns}) ON COMMIT DROP")
        if self.rows.where:
            self._copy_increment(warehouse)
        target = f"{self.target.sql} t WHERE {self.live}"
        landed = []
        same = []
        for column, name in zip(self.key, self.names, strict=True):
            landed.append(f"CAST({ident(name)} AS {column.type}) AS {ident(column.name)}")
            same.append(f"t.{ident(name)} = s.{ident(column.name)}")
        # A merge of all rows needs no keys of an increment: what is only in the source, it reads.
        warehouse.execute(
            f"CREATE TEMPORARY VIEW {_KEYS.sql} AS SELECT {', '.join(landed)} FROM {target}"
            f" UNION ALL SELECT {', '.join(ident(column.name) for column in self.key)}"
            f" FROM {_INCREMENT.sql} s"
            f" WHERE NOT EXISTS (SELECT FROM {target} AND {' AND '.join(same)})"
        )

    def _copy_increment(self, warehouse: Session) -> None:
        select = select_columns(self.described.relation, self.key, self.rows.where)
        with (
            self.source.cursor().copy(f"COPY ({select}) TO STDOUT".encode()) as reading,
            warehouse.cursor().copy(f"COPY {_INCREMENT.sql} FROM STDIN".encode()) as writing,
        ):
            for block in reading:
                writing.write(block)
        warehouse.execute(f"ANALYZE {_INCREMENT.sql}")

    def _fit_key(self, warehouse: Session) -> None:
        """Find the key's columns in the target, and a type for each that holds both sides' values.

        Raises Refused where there is none. A column that was renamed, or has another type now, is
        altered by the load that follows.
        """
        in_target = tables.columns_of(warehouse, self.target)
        self.names = [self.loaded_names.get(column.attnum, column.name) for column in self.key]
        key = []
        values = []
        for column, name in zip(self.key, self.names, strict=True):
            found = in_target.get(name, "")
            wide = column.type
            if found and found != wide and not widens(found, wide):
                wide = found if widens(wide, found) and has_one_form(found) else ""
            if not found or not wide:
                raise Refused(
                    f"{self.target}: the key column {column.name} is {found or 'missing'} there and"
                    f" {column.type} in the source, so deleted rows cannot be found: run a full"
                    " refresh of this table"
                )
            key.append(replace(column, type=wide, cast=column.cast or wide != column.type))
            values.append(Value(name, wide, is_cast=wide != found))
        # The rows of before have their values by another key, or none.
        names = tuple(self.names)
        drift.refuse_changed_key(warehouse, self.target, names, FULL_REFRESH_REMEDY)
        self.key = key
        self.in_target = tuple(values)

    def _sides(
        self,
        warehouse: Session,
        relation: Relation,
        in_target: tuple[Value, ...],
        expected: str = "TRUE",
        live: str = "TRUE",
    ) -> Sides:
        common = shared_hash(self.source, warehouse)
        places = tuple(range(len(self.key)))
        in_source = tuple(
            Value(column.name, column.type, is_cast=column.cast) for column in self.key
        )
        source = Side(
            self.described.relation, in_source, places, common, expected=expected, keys_only=True
        )
        return Sides(
            source_session=self.source,
            source=source,
            warehouse_session=warehouse,
            target=Side(relation, in_target, places, common, live=live, keys_only=True),
            settled=self.settled,
        )

    def _compare(self, warehouse: Session, sides: Sides, buckets: list[int]) -> Found:
        """The keys that are on one side only. Raises Refused where too many are gone."""
        found = Found()
        rows = tables.count_rows(warehouse, f"{self.target.sql} WHERE {self.live}")
        most = apply.most_of(rows, self.deletes.max_delete)
        is_report = self.deletes.action == "report"
        missing_rows = 0
        for one in compare.differing_rows(sides, buckets):
            assert one.key
            _, key = one.key
            if one.kind == "extra":
                found.gone_rows += 1
                if not is_report and found.gone_rows <= most:
                    told_by = self.source if one.is_in_source else warehouse
                    key_texts(told_by, key, len(self.key))  # whoever takes it later trusts it
                    found.gone.add(key)
            elif one.kind == "missing" and not self.rows.where:
                found.lacks_rows = True
            elif one.kind == "missing":
                missing_rows += 1
                if missing_rows <= _MOST_MISSING:
                    found.missing.append(key_texts(self.source, key, len(self.key)))
        if not is_report:
            most_share = self.deletes.max_delete
            gone.refuse_many(self.target, found.gone_rows, rows, most_share, self.pipeline)
            refuse_present(self.source, self.described, found.gone)
            found.may_have_moved = self._moved(warehouse, found.gone)
        self._remark(found, missing_rows)
        return found

    # Separate, so that a test can show what happens without it.
    def _moved(self, warehouse: Session, keys: Keys) -> list[list[str]]:
        """The keys of the source's rows that may have had one of the `keys`, which are gone.

        A row that took the key of a deleted one left its own. If its cursor was not touched, no
        increment reads it, but the target's row of the key it left has the same cursor. Another row
        may have taken that key, and so on. Empty where there are too many, as after an import.
        """
        spec = self.table.incremental
        if spec is None or not 0 < keys.count <= _MOST_MISSING:
            return []
        column = self.described.column(spec.cursor)
        name = self.loaded_names.get(column.attnum, column.name)
        if tables.columns_of(warehouse, self.target).get(name) != column.type:
            return []
        cursor = ident(name)
        in_source = Value(column.name, column.type, is_cast=column.cast)
        key = self._sides(warehouse, self.target, self.in_target).source.key_text
        moved: dict[str, list[str]] = {}
        latest = list(keys)
        for _ in range(_MOST_TURNS):
            latest = storable(warehouse, latest)
            found = warehouse.execute(
                f"SELECT DISTINCT {cursor}::text FROM {self.target.sql} WHERE {cursor} IS NOT NULL"
                f" AND {digest.with_keys(self.in_target, latest)}".encode()
            ).fetchall()
            found = storable(self.source, found)
            rows = self.source.execute(
                f"SELECT {key} FROM {self.described.relation.sql}"
                f" WHERE {digest.with_keys([in_source], found)} LIMIT {_MOST_MISSING + 1}".encode()
            ).fetchall()
            texts = {text for (text,) in rows} - moved.keys()
            if len(moved) + len(texts) > _MOST_MISSING:
                return []
            latest = [key_texts(self.source, text, len(self.key)) for text in texts]
            if not latest:
                break
            moved.update(zip(texts, latest, strict=True))
        else:
            self.may_have_moved_more = True
        return list(moved.values())

    def _remark(self, found: Found, missing_rows: int) -> None:
        if found.gone_rows:
            is_report = self.deletes.action == "report"
            remark = f"{counted(found.gone_rows, 'row is', 'rows are')} gone from the source"
            if is_report:
                stays = "stays" if found.gone_rows == 1 else "stay"
                remark += f", and {stays} in the target (deletes: report)"
            found.remarks.append(remark)
        if self.may_have_moved_more:
            found.remarks.append(
                f"more than {counted(_MOST_TURNS, 'row')} have taken each other's keys; to read the"
                f" rest: `loadsheet verify {self.pipeline} {self.target.name} --repair`"
            )
        if missing_rows > _MOST_MISSING:
            found.missing.clear()
            what = counted(missing_rows, "row of the source is", "rows of the source are")
            found.remarks.append(f"{what} missing in the target: run a full refresh of this table")
        elif missing_rows:
            what = counted(missing_rows, "row that was", "rows that were")
            found.remarks.append(f"read {what} missing in the target")


def _typed_key(columns: Iterable[Column], key: Iterable[str]) -> list[str]:
    """The texts of a key as SQL, each in its column's landing type."""
    return [typed(text, column.type) for column, text in zip(columns, key, strict=True)]


def with_keys(rows: Selection, described: SourceTable, keys: list[list[str]]) -> Selection:
    """`rows` and those with one of the `keys`."""
    if not keys or not rows.where:
        return rows
    columns = [described.column(name) for name in described.key]
    values = [Value(column.name, column.type, is_cast=column.cast) for column in columns]
    named = digest.with_keys(values, keys)
    return replace(rows, where=f"({rows.where}) OR {named}", keys=named)
