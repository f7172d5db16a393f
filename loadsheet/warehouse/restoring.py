"""Puts the rows of a replay into the place of a target, or into a new table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from loadsheet.lake.manifest import Manifest
from loadsheet.lake.store import Lake
from loadsheet.postgres import Session
from loadsheet.sql.merging import DELETED_AT, LOAD_ID
from loadsheet.sql.text import Relation, idents
from loadsheet.sql.types import Column
from loadsheet.warehouse import drift, fence, ledger, tables
from loadsheet.warehouse.arrival import Arrival
from loadsheet.warehouse.belongings import Belonging
from loadsheet.warehouse.drift import Drift
from loadsheet.warehouse.history import LoggedLoad
from loadsheet.warehouse.ledger import Effect
from loadsheet.warehouse.load_transaction import LoadTransaction
from loadsheet.warehouse.replay import Replay
from loadsheet.warehouse.scope import Scope, read_scope, recorded_columns
from loadsheet.warehouse.unfilled import Unfilled


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What a restore has put into its place."""

    rows: int
    watermark: str | None
    newer_columns: tuple[str, ...]
    """Columns of the target that came after the restored load: they have no values now."""
    wider_columns: tuple[str, ...] = ()
    """Columns that keep the wider type that they got after the restored load, because something
    that hangs on the target uses them."""


class _Placement(LoadTransaction):
    """A load of all rows of a replay, each with the number of the load that wrote it then."""

    def __init__(
        self,
        session: Session,
        lake: Lake,
        replay: Replay,
        place: Relation,
        manifest: Manifest,
        scope: Scope,
        load_no: int,
    ):
        self.working = replay.working
        self.has_marks = replay.has_marks()
        super().__init__(
            session,
            lake,
            manifest,
            place,
            replay.table,
            lambda rows, size: None,
            scope,
            load_no,
        )
        self.stamp = None
        self.wider: list[str] = []
        # The rows bring their marks, and no others stay.
        self.keeps_deleted = False

    def _receive(self, schema: str, kept: dict[str, str]) -> Relation:
        table = Relation(schema, f"_loadsheet_{self.load_no}")
        columns, format = self.manifest.columns, self.manifest.format
        Arrival(self.session, table, self.target, columns, format).create(kept)
        self.session.execute(f"ALTER TABLE {table.sql} ADD COLUMN {LOAD_ID} bigint NOT NULL")
        own = (DELETED_AT, LOAD_ID) if self.has_marks else (LOAD_ID,)
        names = idents([*(column.name for column in columns), *own])
        self.session.execute(
            f"INSERT INTO {table.sql} ({names}) SELECT {names} FROM {self.working.sql}"
        )
        return table

    def _add_load_id(self, table: Relation) -> None:
        """Each row has brought its own."""

    def _apply_difference(self, fresh: Relation, changed: Drift, obstacle: Belonging) -> Effect:
        """In place, a column that was widened after the restored load has the wide type."""
        effect = super()._apply_difference(fresh, changed, obstacle)
        arriving = {column.name: column.type for column in self.manifest.columns}
        types = {name: arriving[name] for name in changed.left}
        self.wider = drift.narrow_columns(self.session, self.target, types)
        return effect


def place_elsewhere(session: Session, lake: Lake, replay: Replay, place: Relation) -> Placed:
    """Make the rows of the replay the new table `place`, with the target's primary key. It is no
    target: the ledger does not know it."""
    manifest = _manifest(session, replay)
    placement = _Placement(session, lake, replay, place, manifest, Scope(), replay.done[-1].load_no)
    placement.write()
    return Placed(rows=manifest.rows, watermark=replay.scope.watermark, newer_columns=())


def place_in_target(
    session: Session,
    lake: Lake,
    replay: Replay,
    pipeline: str,
    target: Relation,
    marks_gone: bool,
    run_id: str,
    as_of: LoggedLoad,
    seconds: float,
) -> Placed:
    """Make the rows of the replay the target's, and its scope that of the load `as_of`: the next
    increment reads on from there. The ledger gets a load of the action `restore`.

    `marks_gone`: the target keeps deleted rows, or has kept some. Call it under the target's lock.
    Raises Refused where the rows do not fit what hangs on the target.
    """
    table = target.name
    recorded = recorded_columns(session, pipeline, table, target)
    scope = read_scope(session, pipeline, table, target)
    # All columns that were ever read from the source arrive again, or are the source's at least.
    scope = replace(scope, columns=sorted(recorded, key=_is_read), former={})
    load_no = ledger.draw_number(session)
    manifest = _manifest(session, replay)
    if marks_gone and not replay.reads_column(DELETED_AT):
        manifest = replace(manifest, marks_gone=True)
    placement = _Placement(session, lake, replay, target, manifest, scope, load_no)
    effect = placement.write()
    columns = _columns_after(session, replay, target, recorded, placement)
    number = fence.restore(
        session,
        pipeline,
        table,
        target,
        replay.scope,
        columns,
        _lacking(replay, manifest, columns),
        replay.reads,
        load_no,
        as_of.load_no,
    )
    last = replay.done[-1]
    manifest = replace(
        manifest,
        load_id=ledger.next_load_id(session, pipeline, table, target, run_id),
        pipeline=pipeline,
        run_id=run_id,
        fence=number,
        lower=replay.done[0].lower,
        seconds=0.0,
        parts=tuple(replay.parts),
    )
    ledger.record_load(
        session,
        manifest,
        last.manifest,
        last.sha256,
        target,
        load_no,
        effect,
        0,
        0,
        manifest.rows,
        seconds,
        restored=last.load_no,
    )
    return Placed(
        rows=manifest.rows,
        watermark=replay.scope.watermark,
        newer_columns=tuple(
            column["name"]
            for column in recorded
            if column["name"] in placement.drift.former and _is_read(column)
        ),
        wider_columns=tuple(placement.wider),
    )


def _manifest(session: Session, replay: Replay) -> Manifest:
    """A manifest of all rows of the replay, which are in the warehouse already."""
    last = replay.manifest
    assert last
    types = tables.columns_of(session, replay.working)
    columns = [_column(column, types[column["name"]]) for column in replay.columns()]
    return replace(
        last,
        action="replace",
        builds_on_target=False,
        columns=tuple(columns),
        key_is_enforced=True,
        rows=replay.rows,
        parts=(),
        gone=(),
        gone_rows=0,
        marks_gone=replay.has_marks(),
    )


def _lacking(
    replay: Replay, manifest: Manifest, columns: Sequence[dict[str, Any]]
) -> Unfilled | None:
    """The columns that rows have no values of after the restore: those of then, and those that came
    later. `fill: auto` reads both."""
    before = replay.scope.unfilled
    if replay.table.mode_with_key(bool(manifest.key)) != "merge":
        return None
    arrived = {column["attnum"] for column in replay.scope.columns or ()}
    newer = {column["attnum"] for column in columns if _is_read(column)} - arrived
    if not newer:
        return before
    lacking = set(newer)
    if before and before.source_oid == manifest.source_oid:
        lacking |= set(before.attnums)
    return Unfilled(source_oid=manifest.source_oid, attnums=tuple(sorted(lacking)))


def _column(recorded: dict[str, Any], type_name: str) -> Column:
    fields = {name: value for name, value in recorded.items() if name not in ("left", "dropped")}
    lists = {name: tuple(fields.get(name, ())) for name in ("labels", "inside")}
    return Column(**{**fields, "type": type_name, **lists})


def _is_read(column: dict[str, Any]) -> bool:
    return "dropped" not in column


def _columns_after(
    session: Session,
    replay: Replay,
    target: Relation,
    before: Sequence[dict[str, Any]],
    placement: _Placement,
) -> list[dict[str, Any]]:
    """The target's columns as the ledger is to record them: those of the restored load, and those
    that the target has besides.

    A column that came to the source since then counts as read, without values, as it was when it
    came: the next increment brings values of new rows.
    """
    types = tables.columns_of(session, target)
    given = placement.drift.given
    columns: list[dict[str, Any]] = []
    for column in replay.scope.columns or ():
        now = types[column["name"]]
        has_other = now != column["type"] and column["name"] not in given
        recorded = {name: value for name, value in column.items() if name != "left"}
        columns.append(recorded | {"left": now} if has_other else recorded)
    for column in replay.dropped:
        columns.append({**column, "left": types[column["name"]], "dropped": True})
    names = {column["name"] for column in columns}
    places = {column["attnum"] for column in columns}
    is_same_source = placement.scope.source_oid == replay.scope.source_oid
    for column in before:
        if column["name"] in names or column["name"] not in types:
            continue
        is_known = is_same_source and column["attnum"] not in places
        columns.append(column if is_known else {**column, "dropped": True})
    return columns
