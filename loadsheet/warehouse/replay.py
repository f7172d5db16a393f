"""Replays loads into a table of its own: the rows and columns that a target had after each.

A replayed load is a load like any other: the same merge, the same drift, the same checks of parts
and rows. Only its number and the state before it are those of the past.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from loadsheet.errors import Refused
from loadsheet.lake.manifest import Manifest, Part
from loadsheet.lake.store import Lake
from loadsheet.postgres import Session
from loadsheet.spec.models import Table
from loadsheet.sql.merging import DELETED_AT
from loadsheet.sql.text import Relation
from loadsheet.warehouse import fence, integrity, intervals, tables
from loadsheet.warehouse.history import LoggedLoad
from loadsheet.warehouse.ledger import Effect
from loadsheet.warehouse.load_transaction import LoadTransaction
from loadsheet.warehouse.scope import Scope
from loadsheet.wording import counted

_OID = "SELECT to_regclass(%s)::oid"


def working_table(place: Relation) -> Relation:
    """The table in which the rows for `place` are replayed. Always the same one, so that the next
    restore finds what a killed one has left."""
    name = hashlib.sha256(str(place).encode()).hexdigest()[:16]
    return Relation(place.schema, f"_loadsheet_restore_{name}")


class _ReplayedLoad(LoadTransaction):
    """Makes a table that is never published, and whose rows cost no WAL."""

    create_table = "CREATE UNLOGGED TABLE"

    def _had_marks(self) -> bool:
        # The ledger knows the loads of the target, and all columns here come from loads.
        known = {column["name"] for column in self.scope.columns or ()}
        columns = tables.columns_of(self.session, self.target)
        return DELETED_AT in columns and DELETED_AT not in known | self.scope.former.keys()


class Replay:
    """The rows of `target` after each load of a chain, in the table `working`; and what the ledger
    knew of the target then."""

    def __init__(
        self,
        session: Session,
        lake: Lake,
        target: Relation,
        table: Table,
        working: Relation,
        accept_counts: bool,
    ):
        self.session = session
        self.lake = lake
        self.target = target
        # What the policies allowed then was decided then. The manifests tell which rows were gone.
        self.table = replace(table, schema_contract="evolve", max_shrink=1.0, deletes=None)
        self.working = working
        self.accept_counts = accept_counts
        self.done: list[LoggedLoad] = []
        self.scope = Scope()
        """The ledger's scope after the last replayed load."""
        self.dropped: list[dict[str, Any]] = []
        """The recorded columns that the table has, and that the last load has not read."""
        self.reads: list[tuple[Any, Any]] = []
        """The data intervals that were read then, each by its start and its end."""
        self.rows = 0
        """The rows that the ledger explains."""
        self.parts: list[Part] = []
        self.manifest: Manifest | None = None
        """Of the last replayed load that was no fill."""
        self._oid: int | None = None

    def is_intact(self) -> bool:
        """Whether the working table is still the one that this replay has filled."""
        return self._working_oid() == self._oid

    def apply(self, load: LoggedLoad, manifest: Manifest) -> None:
        """Replay one load, whose manifest was checked. The first makes the working table.

        Raises Corrupt when the lake does not hold the manifest's rows, and Refused when the load
        does something else than it did by the ledger.
        """
        # A load of the whole table has kept the rows that were marked as deleted before.
        keeps_rows = manifest.action == "replace" and not load.whole
        if not self.done and (manifest.builds_on_target or keeps_rows):
            raise Refused(
                f"{self.target}: load {load.load_no} is the oldest that the ledger knows, and was"
                " built on earlier rows; nothing was changed"
            )
        transaction = _ReplayedLoad(
            self.session,
            self.lake,
            manifest,
            self.working,
            self.table,
            lambda rows, size: None,
            self.scope,
            load.load_no,
        )
        try:
            effect = transaction.write()
        except Refused as error:
            text = str(error).replace(str(self.working), str(self.target))
            raise Refused(f"load {load.load_no} cannot be replayed: {text}") from error
        if not load.whole:
            self._refuse_other_effect(load, effect)
        lacking = transaction.unfilled_columns()
        if manifest.action == "fill":
            source = (self.scope.source or {}) | fence.position(manifest)
            self.scope = replace(self.scope, last_load_no=load.load_no, source=source)
        else:
            self._advance(load, manifest, {} if effect.replaced else transaction.drift.left)
        self.scope = replace(self.scope, unfilled_columns=asdict(lacking) if lacking else None)
        self.rows = load.rows_after(self.rows)
        self.parts += (*manifest.parts, *manifest.gone)
        self.done.append(load)
        self._oid = self._working_oid()

    def refuse_other_rows(self) -> None:
        """Raises Refused where the table has not as many rows as the ledger explains."""
        rows = integrity.count_rows(self.session, self.working)
        if rows != self.rows and not self.accept_counts:
            raise self._other(f"has {counted(self.rows, 'row')} by the ledger, and {rows:,}")
        self.rows = rows

    def columns(self) -> list[dict[str, Any]]:
        """The recorded columns of the working table: those of the last load, then earlier ones."""
        return [*(self.scope.columns or ()), *self.dropped]

    def reads_column(self, name: str) -> bool:
        """Whether a column of this name came from the source."""
        return any(column["name"] == name for column in self.columns())

    def has_marks(self) -> bool:
        """Whether the working table has the column that marks deleted rows."""
        columns = tables.columns_of(self.session, self.working)
        return DELETED_AT in columns and not self.reads_column(DELETED_AT)

    def _refuse_other_effect(self, load: LoggedLoad, effect: Effect) -> None:
        by_ledger = Effect(inserted=load.inserted, updated=load.updated, deleted=load.deleted)
        if str(by_ledger) != str(effect) and not self.accept_counts:
            raise self._other(f"load {load.load_no}: {by_ledger} by the ledger, and {effect}")

    def _other(self, what: str) -> Refused:
        return Refused(
            f"{self.target}: {what} when replayed from the lake, so nothing was changed. Another"
            " user has probably changed the table between two loads; the lake does not know that."
            " To restore what the loads alone have written, add --accept-counts"
        )

    def _advance(self, load: LoggedLoad, manifest: Manifest, left: dict[str, str]) -> None:
        """The scope after the load, as `fence.advance_watermark` has recorded it then."""
        columns = [asdict(column) for column in manifest.columns]
        for column in columns:
            if column["name"] in left:
                column["left"] = left[column["name"]]
        names = {column["name"] for column in columns}
        existing = tables.columns_of(self.session, self.working)
        self.dropped = [
            column
            for column in self.columns()
            if column["name"] in existing and column["name"] not in names
        ]
        before = self.scope
        moves = manifest.moves_watermark
        self.scope = Scope(
            watermark=manifest.upper if moves else before.watermark,
            cursor=manifest.cursor if moves else before.cursor,
            last_load_no=load.load_no,
            content_sha256=manifest.content_sha256,
            source_oid=manifest.source_oid,
            columns=columns,
            former={column["name"]: _left(column) for column in self.dropped},
            source=manifest.source,
        )
        read = intervals.advanced(self.table, manifest)
        if not read["builds"]:
            self.reads = []
        if read["read_to"] is not None:
            self.reads.append((read["read_from"], read["read_to"]))
        if manifest.repairs and self.manifest:
            # It has read no range of the cursor.
            manifest = replace(manifest, upper=self.manifest.upper)
        self.manifest = manifest

    def _working_oid(self) -> int | None:
        row = self.session.execute(_OID, (self.working.sql,)).fetchone()
        return row[0] if row else None


def _left(column: dict[str, Any]) -> str:
    return str(column.get("left", column["type"]))


def numbers(loads: Iterable[LoggedLoad]) -> list[int]:
    """The numbers of the loads."""
    return [load.load_no for load in loads]
