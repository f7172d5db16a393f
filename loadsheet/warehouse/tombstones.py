"""The keys of rows that `deletes: hard` has removed from a staging table, for transforms that read
it: a table next to it, `<table>__deleted`, with the primary key, `_deleted_at` and `_load_id`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.spec.models import Table
from loadsheet.sql.merging import DELETED_AT, LOAD_ID, TOMBSTONES
from loadsheet.sql.text import Relation, ident, idents, literal
from loadsheet.sql.types import TIME_TYPES, widens
from loadsheet.warehouse import drift, tables
from loadsheet.warehouse.drift import Drift

MARK, MARK_END = "Keys of rows that were deleted from ", " (Loadsheet)"
"""The comment of such a table, before and after the name of its staging table."""
_COMMENT = "SELECT obj_description(to_regclass(%s), 'pg_class')"
# PostgreSQL cuts a longer name off, without the end that tells it from the staging table's.
_MOST_BYTES = 63 - len(TOMBSTONES)


def are_kept(table: Table, key: tuple[str, ...]) -> bool:
    """Whether the staging table has tombstones; `key` is the source's."""
    if table.deletes is None or table.deletes.action != "hard":
        return False
    return table.mode_with_key(bool(key)) == "merge"


def relation_of(target: Relation) -> Relation:
    """The table of the target's tombstones."""
    start = target.name.encode()[:_MOST_BYTES].decode(errors="ignore")
    return Relation(target.schema, start + TOMBSTONES)


def exist(session: Session, target: Relation) -> bool:
    """Whether there is the table of the target's tombstones."""
    return tables.kind(session, relation_of(target)) is not None


def refuse_loading(session: Session, target: Relation) -> None:
    """Raises Refused where the target of a table that was never loaded is one of tombstones: a
    source table may have such a name, too."""
    owner = owner_of(session, target)
    if owner:
        raise Refused(
            f"{target} has the keys of rows that `deletes: hard` has deleted from {owner}, so no"
            " table can be loaded there: leave this table out, or load it by a pipeline with"
            " another warehouse.schema"
        )


def owner_of(session: Session, relation: Relation) -> Relation | None:
    """The staging table whose tombstones the relation is; None where it is another table."""
    row = session.execute(_COMMENT, (relation.sql,)).fetchone()
    start, end = f"{MARK}{relation.schema}.", MARK_END
    if not row or not row[0] or not (row[0].startswith(start) and row[0].endswith(end)):
        return None
    return Relation(relation.schema, row[0][len(start) : -len(end)])


def ensure(session: Session, target: Relation, key: tuple[str, ...], changed: Drift) -> None:
    """Create the table of the existing target's tombstones, or give it the names and types of its
    key, which a load may have `changed`.

    Where its keys are not of that key, or not of its types, it begins again without any: such a
    load is a full refresh, after which transforms are built in full. Raises Refused where another
    table has its name.
    """
    tombstones = relation_of(target)
    types = tables.columns_of(session, target)
    if exist(session, target):
        if not _are_ours(session, target):
            raise Refused(
                f"{tombstones} exists and was not made by Loadsheet: `deletes: hard` keeps the keys"
                f" of deleted rows of {target.name} there. Drop or rename it"
            )
        follow(session, target, changed)
        if _fit(session, tombstones, {name: types[name] for name in key}):
            return
        session.execute(f"DROP TABLE IF EXISTS {tombstones.sql}")
    columns = [f"{ident(name)} {types[name]} NOT NULL" for name in key]
    columns += [f"{DELETED_AT} {TIME_TYPES[0]} NOT NULL", f"{LOAD_ID} bigint NOT NULL"]
    session.execute(f"CREATE TABLE {tombstones.sql} ({', '.join(columns)})")
    session.execute(f"CREATE INDEX ON {tombstones.sql} ({LOAD_ID})")
    session.execute(f"COMMENT ON TABLE {tombstones.sql} IS {literal(_comment(target))}")


def follow(session: Session, target: Relation, changed: Drift) -> None:
    """Rename the columns of the target's tombstones, if there are any, as the target's were
    renamed, also where the spec keeps no tombstones now or the target is restored: two names that
    were exchanged look later as if they had not been."""
    if not (changed.renamed or changed.replaced) or not _are_ours(session, target):
        return
    tombstones = relation_of(target)
    found = tables.columns_of(session, tombstones)
    renamed = {old: new for old, new in changed.renamed.items() if old in found}
    blocked = set(renamed.values()) & (found.keys() - renamed.keys())
    if blocked or changed.replaced.keys() & {renamed.get(name, name) for name in found}:
        session.execute(f"DROP TABLE {tombstones.sql}")  # they are keys of another column
        return
    drift.rename_columns(session, tombstones, replace(changed, renamed=renamed))


def _are_ours(session: Session, target: Relation) -> bool:
    found = session.execute(_COMMENT, (relation_of(target).sql,)).fetchone()
    return found == (_comment(target),)


def _comment(target: Relation) -> str:
    return f"{MARK}{target}{MARK_END}"


def _fit(session: Session, tombstones: Relation, key: Mapping[str, str]) -> bool:
    """Whether the tombstones have the columns and types of the `key` now; they are widened for
    it."""
    found = tables.columns_of(session, tombstones)
    names = [name for name in found if name not in (DELETED_AT, LOAD_ID)]
    if set(names) != key.keys():
        return False
    for name in names:
        before, now = found[name], key[name]
        if before == now:
            continue
        if not widens(before, now):
            return False
        session.execute(f"ALTER TABLE {tombstones.sql} ALTER {ident(name)} TYPE {now}")
    return True


def record(
    session: Session,
    keys: Relation,
    target: Relation,
    key: tuple[str, ...],
    deleted_at: str,
    load_no: int,
) -> None:
    """Write the `keys` down as deleted at that time (SQL) by the load."""
    session.execute(
        f"INSERT INTO {relation_of(target).sql} ({idents(key)}, {DELETED_AT}, {LOAD_ID})"
        f" SELECT {idents(key)}, {deleted_at}, {load_no} FROM {keys.sql}"
    )
