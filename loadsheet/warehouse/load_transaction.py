"""Applies the rows of a load to its target, under the target's lock (docs/protocol.md)."""

from __future__ import annotations

import logging
from dataclasses import replace

import psycopg

from loadsheet.errors import Refused, TargetLost
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import Manifest
from loadsheet.lake.parts import Progress
from loadsheet.lake.store import Lake
from loadsheet.postgres import Session
from loadsheet.spec.models import Table
from loadsheet.sql import merging
from loadsheet.sql.merging import DELETED_AT, LOAD_ID
from loadsheet.sql.text import Relation, ident, typed
from loadsheet.warehouse import (
    apply,
    drift,
    gone,
    integrity,
    ledger,
    side_effects,
    tombstones,
    unfilled,
    write,
)
from loadsheet.warehouse.arrival import Arrival
from loadsheet.warehouse.belongings import Belonging
from loadsheet.warehouse.drift import Drift
from loadsheet.warehouse.foreseeing import FULL_REFRESH_REMEDY, existing_shape, swap_obstacles
from loadsheet.warehouse.ledger import Effect
from loadsheet.warehouse.scope import Scope
from loadsheet.warehouse.swap import WouldLose
from loadsheet.warehouse.unfilled import Unfilled
from loadsheet.wording import counted

_log = logging.getLogger(__name__)

# Why the rows of a target that keeps deleted rows are changed in place.
_DELETED_ROWS = Belonging(
    is_object=False,
    column=DELETED_AT,
    what="rows that are marked as deleted, or may get some (deletes: soft)",
    definition="",
    is_carried=False,
)


class LoadTransaction:
    """The work inside the transaction: one manifest's rows into a target, whose state before is
    `scope`.

    `load_no` is drawn under the target's lock, so it rises in commit order. `arrival` has the rows
    that have arrived before.
    """

    create_table = "CREATE TABLE"

    def __init__(
        self,
        session: Session,
        lake: Lake,
        manifest: Manifest,
        target: Relation,
        table: Table,
        progress: Progress,
        scope: Scope,
        load_no: int,
        arrival: Arrival | None = None,
    ):
        self.session = session
        self.lake = lake
        self.manifest = manifest
        self.target = target
        self.table = table
        self.progress = progress
        self.load_no = load_no
        self.arrival = arrival
        self.stamp: int | None = load_no
        """The number that every written row gets; None where the rows bring theirs."""
        self.duplicates = 0
        self.notes: list[str] = []
        self.drifted: list[str] = []
        """Those of the notes that tell what schema drift has changed."""
        self.gone_rows = 0
        """The target's rows that this load has deleted or marked, because they are gone."""
        self.keeps_deleted = manifest.marks_gone
        shape = existing_shape(session, target)
        existing = shape.columns
        self.is_new = not existing
        # An increment is not all of the target's rows. Without the others it must not be loaded.
        if self.is_new and manifest.builds_on_target:
            raise TargetLost(
                f"{target} is gone since its rows were read, and the load holds only some of them; "
                "re-run the extract step"
            )
        self.has_unknown_rows = False
        """The target's rows are not those of its loads: they are counted, and what reads the target
        must be built in full."""
        if not self.is_new:
            _, change = integrity.observe_safe(session, target, scope.storage)
            if change and manifest.builds_on_target and manifest.cursor:
                raise TargetLost(
                    f"{target} {change.what} since its rows were read, and the load holds only"
                    " some of them; re-run the extract step"
                )
            is_first = scope.last_load_no is None
            if is_first:
                tombstones.refuse_loading(session, target)
            self.has_unknown_rows = is_first or change is not None or manifest.repairs
        self.scope = scope
        # A sample has the column, too: marts read it.
        has_marks = self.keeps_deleted or gone.keeps_deleted(table)
        if has_marks and not self.is_new:
            gone.add_column(session, target)
        self.marks: dict[str, str] = {}
        """The column that marks deleted rows, where it is ours. In a row that arrives it is NULL:
        one that comes back is no longer deleted, also where the spec keeps none any more."""
        if has_marks or (DELETED_AT in existing and self._had_marks()):
            self.marks = gone.MARKS
            existing.pop(DELETED_AT, None)
        self.drift = drift.compare_columns(
            manifest.columns, manifest.source_oid, existing, scope, shape.domains
        )
        self.key_before = shape.key
        """The columns of the target's primary key, by their names before this load."""
        drift.refuse_misfits(target, self.drift, manifest.columns)
        drift.refuse_unfit(session, target, self.drift, manifest.columns, manifest.key)
        # A fill brings some of the columns, and changes none.
        if existing and table.schema_contract == "freeze" and manifest.action != "fill":
            drift.refuse_if_frozen(target, self.drift)

    def write(self) -> Effect:
        """Write the manifest's rows to the target by the manifest's action.

        Every refusal names the target.
        """
        try:
            if self.manifest.action != "replace" and not self.is_new:
                return self._write_increment()
            effect = self._replace_target()
            self._ensure_tombstones()
            return effect
        except Refused as error:
            if str(self.target) not in str(error):
                error.args = (f"{self.target}: {error}",)
            raise
        except psycopg.errors.ProgramLimitExceeded as error:
            why = error.diag.message_primary or ""
            advice = ""
            # It may fill its page in the source, and not fit with the 8 bytes of _load_id.
            if why.startswith("row is too big"):
                advice = (
                    " with _load_id. Leave columns out with columns.exclude, and run a full refresh"
                    " of this table"
                )
            raise Refused(
                f"{self.target} cannot hold a row of the source: {why}{advice}"
            ) from error

    def count_unknown_rows(self) -> int | None:
        """The target's rows after the load, where the ledger does not explain them; else None."""
        if not self.has_unknown_rows:
            return None
        return integrity.count_rows(self.session, self.target)

    def unfilled_columns(self) -> Unfilled | None:
        """The columns that the target's older rows have no values of after this load."""
        added = [column.attnum for column in self.drift.added]
        is_whole = self.is_new or self.manifest.is_whole
        return unfilled.after_load(self.scope.unfilled, self.manifest, added, is_whole=is_whole)

    def _had_marks(self) -> bool:
        """Whether loads by another setting have marked deleted rows."""
        arrives = {column.name for column in self.manifest.columns}
        return DELETED_AT not in arrives and gone.had_marks(self.session, self.target)

    def _replace_target(self) -> Effect:
        """Copy all rows into a fresh table, then make it the target; or, where that would lose
        something that hangs on the target, change the target's rows in place."""
        own = self.drift.own
        if self.keeps_deleted and not self.is_new:
            return self._replace_in_place(_DELETED_ROWS)
        if not self.is_new:
            drift.refuse_misplaced(self.session, self.target, self.drift)
            obstacles = swap_obstacles(
                self.session, self.target, self.drift, self.scope, self.manifest.key
            )
            if obstacles:
                return self._replace_in_place(obstacles[0])
        fresh = self._receive(self.target.schema, {**self.drift.kept, **self.marks})
        self._add_load_id(fresh)
        rows = self.manifest.rows - self.duplicates
        if not self.is_new:
            self._refuse_shrinking(rows)
            # A swap carries indexes, comments and privileges over by the columns' names.
            drift.rename_columns(self.session, self.target, self.drift)
            self._note_drift(all_rows_arrive=True)
        try:
            return apply.swap_in(self.session, fresh, rows, self.target, self.manifest.key, own)
        except WouldLose as error:
            # Something was added to the target while the rows were copied.
            for name in own:
                self.session.execute(f"ALTER TABLE {fresh.sql} DROP COLUMN {ident(name)}")
            renamed = replace(self.drift, renamed={})
            return self._apply_difference(fresh, renamed, error.belonging)

    def _refuse_shrinking(self, rows: int, live: str = "TRUE") -> None:
        """Raises Refused where the target would lose too many of its `live` rows."""
        max_shrink = self.table.max_shrink
        if max_shrink is None and rows and not self.has_unknown_rows:
            # Most full loads bring about as many rows as the last. Counting the target's is a scan.
            known = integrity.rows_by_ledger(self.session, self.target)
            if known - rows <= apply.most_of(known, apply.DEFAULT_MAX_SHRINK):
                return
        apply.refuse_shrinking(self.session, rows, self.target, max_shrink, live)

    def _replace_in_place(self, obstacle: Belonging) -> Effect:
        """Copy all rows into a temporary table, then apply the difference to the target.

        A permanent table would be part of a publication of the whole schema.
        """
        # All rows arrive, so a column that the source has had has no values from now on.
        former = {name: self.drift.kept[name] for name in self.drift.former}
        fresh = self._receive("pg_temp", {**former, **self.marks})
        rows = self.manifest.rows - self.duplicates
        live = gone.live_rows(self.session, self.target) if self.keeps_deleted else "TRUE"
        self._refuse_shrinking(rows, live)
        self._note_drift(all_rows_arrive=True)
        return self._apply_difference(fresh, self.drift, obstacle)

    def _note_drift(self, all_rows_arrive: bool, fills: bool = False) -> None:
        self.drifted = self.drift.notes(all_rows_arrive, fills)
        self.notes += self.drifted

    def _apply_difference(self, fresh: Relation, changed: Drift, obstacle: Belonging) -> Effect:
        """Make the rows of `fresh` the target's, whose columns and key must all fit."""
        _log.info("%s: changed in place, because %s", self.target, obstacle.reason)
        drift.alter_columns(self.session, self.target, changed, obstacle.remedy)
        key = self.manifest.key
        drift.refuse_changed_key(self.session, self.target, key, obstacle.remedy)
        if not self.keeps_deleted:
            return apply.difference(self.session, fresh, self.target, key, self.stamp)
        # The rows that arrived are not all that the target has.
        self.has_unknown_rows = True
        deleted_at = gone.deleted_at(self.manifest)
        effect, self.gone_rows = apply.difference_with_marks(
            self.session, fresh, self.target, key, self.load_no, deleted_at
        )
        self._note_marks()
        return effect

    def _write_increment(self) -> Effect:
        """Copy the rows into a temporary table, then merge them into the target or append them."""
        remedy = FULL_REFRESH_REMEDY
        drift.refuse_replaced_columns(self.target, self.drift, remedy)
        drift.alter_columns(self.session, self.target, self.drift, remedy)
        drift.refuse_other_key(
            self.target, self.key_before, self.manifest.key, remedy, self.drift.renamed
        )
        if self.manifest.action != "fill":
            fills = unfilled.will_be_filled(self.table, self.manifest)
            is_merged_whole = self.manifest.is_whole and self.manifest.action == "merge"
            self._note_drift(all_rows_arrive=is_merged_whole, fills=fills)
        # A fill brings some of a row's values, so a row that is marked stays marked: the next
        # search for deleted rows finds that it has come back, and reads all of them.
        marks = {} if self.manifest.action == "fill" else self.marks
        incoming = self._receive("pg_temp", marks)
        key = self.manifest.key
        if self.manifest.action == "append" or not key:
            return write.append(self.session, incoming, self.target, self.load_no)
        if self.manifest.action == "fill":
            return self._fill(incoming)
        guard = self._guard_against_older_rows()
        if guard:
            older = write.count_guarded(self.session, incoming, self.target, key, guard)
            if older:
                left_out = counted(older, "row that is", "rows that are")
                self.notes.append(
                    f"left out {left_out} older than what another pipeline has loaded"
                )
        self._ensure_tombstones()
        # First: a row that arrives may have a unique value of one that is gone.
        if self.manifest.gone:
            self.gone_rows = gone.remove(
                self.session, self.lake, self.manifest, self.target, self.table, self.load_no
            )
            reach("load.gone_removed")
        arrived = self.manifest.rows - self.duplicates
        effect = write.merge(
            self.session, incoming, self.target, key, self.load_no, guard, arrived=arrived
        )
        if not self.manifest.marks_gone:
            if self.gone_rows:
                self.notes += side_effects.of_deletes(self.session, self.target)
            return replace(effect, deleted=self.gone_rows)
        self._note_marks()
        return replace(effect, updated=effect.updated + self.gone_rows)

    def _fill(self, incoming: Relation) -> Effect:
        """Update the rows that the target has."""
        # Another pipeline's loads have no fence with ours, so they may have read later.
        if ledger.has_loads_of_others(self.session, self.target, self.manifest.pipeline):
            raise Refused(
                f"{self.target} was loaded by another pipeline meanwhile, so its older rows are not"
                f" filled; {FULL_REFRESH_REMEDY}"
            )
        return write.fill(self.session, incoming, self.target, self.manifest.key, self.load_no)

    def _receive(self, schema: str, kept: dict[str, str]) -> Relation:
        """A new table with the manifest's rows, one per key. It has the columns `kept`, too, in
        which nothing arrives."""
        arrival = self.arrival
        if arrival:
            arrival.refuse_unforeseen(schema, self.manifest)
            arrival.add_columns(kept)
        else:
            table = Relation(schema, f"_loadsheet_{self.load_no}")
            columns, format = self.manifest.columns, self.manifest.format
            arrival = Arrival(self.session, table, self.target, columns, format)
            key = self.manifest.key if self.manifest.key_is_enforced else ()
            arrival.create(kept, key, self.create_table)
        arrival.copy(self.lake, self.manifest, self.progress)
        if self.manifest.key and not self.manifest.key_is_enforced:
            self._drop_duplicates(arrival.table)
        reach("load.filled")
        return arrival.table

    def _ensure_tombstones(self) -> None:
        if tombstones.are_kept(self.table, self.manifest.key):
            tombstones.ensure(self.session, self.target, self.manifest.key, self.drift)
        else:
            tombstones.follow(self.session, self.target, self.drift)

    def _note_marks(self) -> None:
        if self.gone_rows:
            self.notes.append(f"marked {counted(self.gone_rows, 'row')} as deleted")

    def _drop_duplicates(self, table: Relation) -> None:
        # Without a cursor nothing tells which row is the newest, and duplicates are refused.
        cursor, cursor_type = self.manifest.cursor, self.manifest.cursor_type
        newest = None
        if cursor and cursor_type:
            newest = merging.ordered(cursor, cursor_type)
        self.duplicates = apply.one_row_per_key(self.session, table, self.manifest.key, newest)
        if self.duplicates:
            shared = counted(self.duplicates, "row that shared", "rows that shared")
            self.notes.append(f"left out {shared} a key with a newer one")

    def _add_load_id(self, table: Relation) -> None:
        """Give all rows the load's number, in the catalog alone: a column that is added with a
        default costs no byte of a row.

        The default is dropped at once, so that rows of other loads do not get it.
        """
        self.session.execute(
            f"ALTER TABLE {table.sql} ADD COLUMN {LOAD_ID} bigint NOT NULL DEFAULT {self.load_no}"
        )
        self.session.execute(f"ALTER TABLE {table.sql} ALTER {LOAD_ID} DROP DEFAULT")

    def _guard_against_older_rows(self) -> str:
        """The condition that keeps this load from overwriting newer rows of other pipelines; empty
        where no other pipeline has loaded the target, or there is no cursor.

        The fence orders the loads of one pipeline: what it has read last is right, also a row whose
        cursor was corrected to an earlier value.
        """
        cursor, cursor_type = self.manifest.cursor, self.manifest.cursor_type
        if not cursor or not cursor_type:
            return ""
        pipeline = self.manifest.pipeline
        if not ledger.has_loads_of_others(self.session, self.target, pipeline):
            return ""
        # A cursor later than the moment of reading is a mistake, and must not protect its row.
        clock = self.manifest.clock or self.manifest.read_at
        read_at = ledger.newest_clock(self.session, self.target, clock)
        not_older = merging.not_older(cursor, cursor_type, typed(read_at, cursor_type))
        return f"({not_older}) OR NOT {ledger.is_of_others(pipeline)}"
