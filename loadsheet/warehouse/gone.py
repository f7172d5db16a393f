"""Rows that are gone from the source leave the target, or are marked as deleted, by the keys that a
load brings.

The keys come with the manifest of an increment, and are applied in the transaction that merges its
rows: the fence, the hashes and the ledger hold for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from loadsheet.errors import CheckFailed, Refused, Superseded
from loadsheet.lake.manifest import Manifest
from loadsheet.postgres import Session
from loadsheet.spec.models import Table
from loadsheet.sql import merging
from loadsheet.sql.merging import DELETED_AT
from loadsheet.sql.text import Relation, ident, typed
from loadsheet.sql.types import TIME_TYPES
from loadsheet.warehouse import apply, ledger, lookups, side_effects, tables, tombstones
from loadsheet.warehouse.copying_in import Arriving, copy_parts
from loadsheet.wording import counted

if TYPE_CHECKING:
    from loadsheet.lake.store import Lake

MARKS = {DELETED_AT: TIME_TYPES[0]}
"""The column of a target that keeps deleted rows, with its type."""
# A row that is marked is not counted as deleted. `plan` also reads ledgers of earlier versions.
_HAS_MARKED = """
SELECT EXISTS (SELECT FROM loadsheet.load
    WHERE target = %s AND CAST(to_jsonb(load) ->> 'gone' AS bigint) > deleted)
"""


def keeps_deleted(table: Table) -> bool:
    """Whether rows that are gone from the source stay in the target, marked."""
    return table.deletes is not None and table.deletes.action == "soft"


def lacks_objects(session: Session, target: Relation, table: Table) -> bool:
    """Whether the existing target of a merged table lacks what its deletes need: transforms may
    read it before a row is deleted."""
    if keeps_deleted(table):
        return DELETED_AT not in tables.columns_of(session, target)
    assert table.deletes
    return table.deletes.action == "hard" and not tombstones.exist(session, target)


def live_rows(session: Session, target: Relation) -> str:
    """SQL condition on the target's rows that are not marked as deleted."""
    if DELETED_AT in tables.columns_of(session, target):
        return f"{DELETED_AT} IS NULL"
    return "TRUE"


def has_marked(session: Session, target: Relation) -> bool:
    """Whether a load has ever marked rows of the target."""
    return session.execute(_HAS_MARKED, (str(target),)).fetchone() == (True,)


def had_marks(session: Session, target: Relation) -> bool:
    """Whether earlier loads have marked rows of the target as deleted, whatever the spec says now.
    A column of that name alone may be the user's own."""
    if tables.columns_of(session, target).get(DELETED_AT) != MARKS[DELETED_AT]:
        return False
    return has_marked(session, target)


def marked_keys(
    session: Session, target: Relation, key: Mapping[str, str], most: int
) -> list[list[str]]:
    """The keys of rows that earlier loads have marked as deleted, each as the texts of its columns,
    `most` at most. `key` has the types of its columns in the source; none is returned where the
    target has others."""
    types = tables.columns_of(session, target)
    if any(types.get(name) != its_type for name, its_type in key.items()):
        return []
    if not had_marks(session, target):
        return []
    texts = ", ".join(f"format('%s', {ident(name)})" for name in key)
    rows = session.execute(
        f"SELECT {texts} FROM {target.sql} WHERE {DELETED_AT} IS NOT NULL LIMIT {most}".encode()
    )
    return [list(row) for row in rows]


def refuse_shared_target(session: Session, target: Relation, pipeline: str) -> None:
    """Raises Refused where another pipeline has loaded the target: what is gone from one source may
    be a row of the other."""
    if ledger.has_loads_of_others(session, target, pipeline):
        raise Refused(
            f"{target}: another pipeline has loaded it, too: what is gone from one source may be"
            " a row of the other; nothing was written. Set `deletes: null` for this table, or"
            " give one pipeline another warehouse.schema"
        )


def refuse_many(target: Relation, gone: int, rows: int, max_delete: float, pipeline: str) -> None:
    """Raises CheckFailed when `gone` of the target's `rows` are more than the share
    `max_delete`."""
    if gone <= apply.most_of(rows, max_delete):
        return
    is_or_are = "is" if gone == 1 else "are"
    raise CheckFailed(
        f"{gone:,} of the {counted(rows, 'row')} of {target} {is_or_are} gone from the source, more"
        f" than deletes.max_delete {max_delete:g} allows; nothing was loaded or deleted. Check the"
        " source. If the rows are meant to be gone, raise max_delete, or read the table again:"
        f" `loadsheet run {pipeline} --tables {target.name} --full-refresh` (Airflow: full_refresh"
        " in the trigger form)",
        "deletes.max_delete",
        gone,
    )


def add_column(session: Session, target: Relation) -> None:
    """Give the target the column for the time of a row's deletion, unless it has it.

    Raises Refused where it has another column of that name.
    """
    found = tables.columns_of(session, target).get(DELETED_AT)
    if found is None:
        session.execute(f"ALTER TABLE {target.sql} ADD COLUMN {DELETED_AT} {MARKS[DELETED_AT]}")
    elif found != MARKS[DELETED_AT]:
        raise Refused(
            f"{target} has a column {DELETED_AT} of type {found}, and `deletes: soft` needs one of"
            " type timestamp with time zone: drop or rename it"
        )


def deleted_at(manifest: Manifest) -> str:
    """SQL for the time at which rows were found to be gone: the source's, when it was read."""
    return typed(manifest.read_at, MARKS[DELETED_AT])


def refuse_changed_spec(manifest: Manifest, table: Table) -> None:
    """Raises Superseded, after which the table is read again, where the spec has been changed since
    the keys were found: it may say now that such rows stay."""
    if not manifest.gone:
        return
    removes = table.deletes is not None and table.deletes.removes
    if not removes or manifest.marks_gone != keeps_deleted(table):
        raise Superseded(
            f"{manifest.pipeline}.{manifest.table}: `deletes` was changed in the pipeline file"
            " since the table was read; nothing was written"
        )


def remove(
    session: Session,
    lake: Lake,
    manifest: Manifest,
    target: Relation,
    table: Table,
    load_no: int,
) -> int:
    """Delete or mark the target's rows whose keys the manifest lists, and return how many there
    were. Rows that are marked become rows of the load `load_no`.

    Raises Corrupt when the keys are not those of the manifest, and Refused when they are too many,
    when another pipeline has loaded the target, and when a trigger has kept a row.
    """
    key = manifest.key
    refuse_shared_target(session, target, manifest.pipeline)
    if table.deletes:
        live = live_rows(session, target) if manifest.marks_gone else "TRUE"
        rows = tables.count_rows(session, f"{target.sql} WHERE {live}")
        most = table.deletes.max_delete
        refuse_many(target, manifest.gone_rows, rows, most, manifest.pipeline)
    keys = Relation("pg_temp", f"_loadsheet_{load_no}_gone")
    types = tables.columns_of(session, target)
    columns = ", ".join(f"{ident(name)} {types[name]}" for name in key)
    session.execute(f"CREATE TEMPORARY TABLE {keys.sql} ({columns}) ON COMMIT DROP")
    arriving = Arriving(parts=manifest.gone, rows=manifest.gone_rows, format="csv", columns=key)
    copy_parts(session, lake, arriving, keys, target, lambda rows, size: None)
    # A delete writes little, so that finding the rows counts: a third of 200,000 rows with a text
    # in their key took 0.22 s by index, and 0.15 s by a join of all.
    with lookups.lookup_of(session, keys, target, key, part=8) as listed:
        if manifest.marks_gone:
            return _mark(session, listed, target, key, deleted_at(manifest), load_no)
        if tombstones.are_kept(table, key):
            tombstones.record(session, keys, target, key, deleted_at(manifest), load_no)
        return _delete(session, listed, target, key)


def _delete(session: Session, keys: str, target: Relation, key: tuple[str, ...]) -> int:
    deleted = session.execute(merging.delete_same(target.sql, keys, key)).rowcount
    _refuse_left(session, keys, target, key, "TRUE")
    return deleted


def _mark(
    session: Session,
    keys: str,
    target: Relation,
    key: tuple[str, ...],
    deleted_at: str,
    load_no: int,
) -> int:
    marking = merging.mark_same(target.sql, keys, key, deleted_at, load_no)
    marked = session.execute(marking).rowcount
    _refuse_left(session, keys, target, key, f"t.{DELETED_AT} IS NULL")
    return marked


def _refuse_left(
    session: Session, keys: str, target: Relation, key: tuple[str, ...], where: str
) -> None:
    triggers = side_effects.suppressing_triggers(session, target)
    if triggers:
        count = f"{merging.count_same(target.sql, keys, key)} WHERE {where}"
        left = session.execute(count).fetchone()
        side_effects.refuse_suppressed(target, triggers, left[0] if left else 0)
