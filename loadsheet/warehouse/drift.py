"""Schema drift: the source's columns differ from those that the target was made from.

Drift is applied by the table's policy, or refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import psycopg

from loadsheet import answers
from loadsheet.errors import CheckFailed, Refused
from loadsheet.failpoints import reach
from loadsheet.postgres import Session
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation, ident, idents
from loadsheet.sql.types import MOST_COLUMNS, Column, changed_text, widens
from loadsheet.warehouse import belongings, tables
from loadsheet.warehouse.belongings import Belonging
from loadsheet.warehouse.scope import Scope
from loadsheet.wording import counted

# A view, policy, trigger or generated column uses the column.
_IS_USED = (
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.DependentObjectsStillExist,
)
# Also what an index's expression or operator class makes of the new type.
_CANNOT_ALTER = (
    *_IS_USED,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedObject,
    psycopg.errors.AmbiguousFunction,
    psycopg.errors.DatatypeMismatch,
    psycopg.errors.CannotCoerce,
    psycopg.errors.InvalidObjectDefinition,
)

LOST = "was loaded before, and was dropped or renamed in the target since"
_OTHER_COLUMN = (
    "is not the column that older rows were loaded from (dropped and added, or excluded for a "
    "while)"
)

KEY = "key"
"""The fact of a load that names the columns of the key that its target got, as JSON."""
_COLUMN_GRANTS = """
SELECT DISTINCT attname, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(rolname) END
FROM pg_attribute, aclexplode(attacl) acl LEFT JOIN pg_roles ON pg_roles.oid = grantee
WHERE attrelid = to_regclass(%(target)s) AND attname = ANY (%(columns)s) ORDER BY 1, 2
"""
_LAST_ATTNUM = """
SELECT coalesce(max(attnum), 0) FROM pg_attribute WHERE attrelid = to_regclass(%s)
"""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How the arriving columns differ from the target's."""

    renamed: dict[str, str]
    """Old name -> new name."""
    added: tuple[Column, ...]
    widened: tuple[Column, ...]
    narrowed: dict[str, str]
    """Column -> its new, narrower type; the target keeps the wider one."""
    left: dict[str, str]
    """Column -> the wider type that it had in the source at an earlier load, and still has in the
    target."""
    dropped: tuple[str, ...]
    """Columns that arrived last time and no longer do."""
    replaced: dict[str, str]
    """Column -> why the target's older rows do not hold its values, as text for a message."""
    incompatible: dict[str, str]
    """Column -> what does not fit, as text for a message."""
    given: dict[str, str]
    """Column -> the type that another user gave it in the target, and that holds what arrives."""
    misfits: dict[str, str]
    """Column -> the type that another user gave it in the target, and that does not."""
    kept: dict[str, str]
    """Columns that only the target has, with their types. Dropped columns are kept."""
    former: tuple[str, ...]
    """Those of them that the source has had: no row that arrives has a value in them."""
    clashing: tuple[str, ...]
    """Columns that the source has now, and that were added to the target before: their values may
    be the user's."""

    @property
    def own(self) -> list[str]:
        """The kept columns that the source never had: their values may be the user's."""
        return [name for name in self.kept if name not in self.former]

    def notes(self, all_rows_arrive: bool, fills: bool = False) -> list[str]:
        """What changed, one text per change. Where `all_rows_arrive`, no older row is left with
        NULL in an added column; where the load `fills` them, not for long."""
        notes = [f"renamed {old} to {new}" for old, new in self.renamed.items()]
        older_rows = " (NULL in older rows until a full refresh)"
        if all_rows_arrive:
            older_rows = ""
        elif fills:
            older_rows = " (NULL in older rows until they are filled)"
        for column in self.added:
            notes.append(f"added {column.name} {column.type}{older_rows}")
        for column in self.widened:
            notes.append(f"widened {column.name} to {column.type}")
        for name, type_name in self.narrowed.items():
            notes.append(f"{name} is now {type_name} in the source")
        for name in self.dropped:
            notes.append(f"{name} is no longer read from the source")
        return notes


def compare_columns(
    arriving: Sequence[Column],
    source_oid: int,
    existing: dict[str, str],
    scope: Scope,
    domains: Mapping[str, str] = MappingProxyType({}),
) -> Drift:
    """The drift between the columns that arrive and the target's (`existing`: name to type;
    `domains`: the types below those that are domains).

    A column is known by its attnum, which the last load recorded, as long as the source table is
    the same one: a rename keeps the attnum, and a column that was dropped and added again under
    the same name has another. A type that is not the one that the last load has left was given by
    another user, and so was a domain. It stays.
    """
    before: dict[int, dict[str, Any]] = {}
    if scope.source_oid == source_oid:
        before = {column["attnum"]: column for column in scope.columns or ()}
    existing = {name: type_name for name, type_name in existing.items() if name != LOAD_ID}
    renamed = _find_renames(arriving, before, existing)
    # From here on the target's columns have their new names.
    types = {renamed.get(name, name): type_name for name, type_name in existing.items()}
    arriving_names = {column.name for column in arriving}
    arriving_attnums = {column.attnum for column in arriving}
    below = {renamed.get(name, name): type_name for name, type_name in domains.items()}
    loaded = dict(scope.former)
    for recorded in scope.columns or ():
        name = renamed.get(recorded["name"], recorded["name"])
        loaded[name] = recorded.get("left", recorded["type"])
    # Before a first load, nothing tells whose types an existing target has.
    is_unknown = scope.last_load_no is None
    added, widened = [], []
    narrowed, left, incompatible = {}, {}, {}
    given, misfits = {}, {}
    for column in arriving:
        target_type = types.get(column.name)
        if target_type is None:
            added.append(column)
            continue
        if target_type == column.type:
            continue
        last = loaded.get(column.name)
        is_given = is_unknown or column.name in below or last not in (None, target_type)
        holds = below.get(column.name, target_type)
        if is_given and (holds == column.type or widens(column.type, holds)):
            given[column.name] = target_type
        elif is_given and (column.name in below or last == column.type):
            misfits[column.name] = target_type
        elif widens(target_type, column.type):
            widened.append(column)
        elif not widens(column.type, target_type):
            incompatible[column.name] = (
                f"is {target_type} in the target and {column.type} in the source"
            )
        # A target that is wider from the start has not drifted.
        elif last is not None:
            left[column.name] = target_type
            if before.get(column.attnum, {}).get("type") not in (None, column.type):
                narrowed[column.name] = column.type
    dropped = tuple(c["name"] for n, c in before.items() if n not in arriving_attnums)
    kept = {name: type_ for name, type_ in types.items() if name not in arriving_names}
    # Also a column that was renamed to a name which the target still has.
    last_read = [column["name"] for column in scope.columns or ()]
    return Drift(
        renamed=renamed,
        added=tuple(added),
        widened=tuple(widened),
        narrowed=narrowed,
        left=left,
        dropped=dropped,
        replaced=_find_replaced(arriving, before, renamed, types),
        incompatible=incompatible,
        given=given,
        misfits=misfits,
        kept=kept,
        former=tuple(name for name in kept if name in (*last_read, *scope.former)),
        clashing=_find_clashing(arriving, before, types, scope),
    )


def _find_renames(
    arriving: Sequence[Column], before: dict[int, dict[str, Any]], existing: dict[str, str]
) -> dict[str, str]:
    """Old name -> new name, of the renames that the target can follow."""
    renamed = {}
    for column in arriving:
        if column.attnum not in before:
            continue
        old = before[column.attnum]["name"]
        if old != column.name and old in existing:
            renamed[old] = column.name
    # The target may still hold a dropped column of the new name. Giving up one rename can block
    # another whose new name it would have freed, so repeat until none is blocked.
    while True:
        blocked = [old for old, new in renamed.items() if new in existing and new not in renamed]
        if not blocked:
            return renamed
        for old in blocked:
            del renamed[old]


def _find_clashing(
    arriving: Sequence[Column],
    before: dict[int, dict[str, Any]],
    types: dict[str, str],
    scope: Scope,
) -> tuple[str, ...]:
    """The target's columns that arrive for the first time."""
    read = {column["name"] for column in before.values()}
    return tuple(
        column.name
        for column in arriving
        if before
        and column.attnum not in before
        and column.name in types
        and column.name not in (*read, *scope.former)
    )


def _find_replaced(
    arriving: Sequence[Column],
    before: dict[int, dict[str, Any]],
    renamed: dict[str, str],
    types: dict[str, str],
) -> dict[str, str]:
    """Column -> why the target's older rows do not hold its values."""
    attnums = {renamed.get(c["name"], c["name"]): attnum for attnum, c in before.items()}
    replaced = {}
    for column in arriving:
        if column.attnum in before and column.name not in types:
            replaced[column.name] = LOST
        is_same = attnums.get(column.name) == column.attnum
        if before and column.name in types and not is_same:
            replaced[column.name] = _OTHER_COLUMN
    # Enums and composites are loaded as text: renaming a label leaves the old one in older rows.
    for column in arriving:
        recorded = before.get(column.attnum)
        if column.name not in types or recorded is None:
            continue
        why = changed_text(recorded, column)
        if why:
            replaced[column.name] = f"{why}, and older rows still show the old text"
    return replaced


def refuse_if_frozen(target: Relation, drift: Drift) -> None:
    """Raises CheckFailed when the columns of a table with a frozen schema changed."""
    changes = drift.notes(all_rows_arrive=True)
    for name, what in (drift.replaced | drift.incompatible).items():
        changes.append(f"{name} {what}")
    if changes:
        raise CheckFailed(
            f"{target}: schema_contract.columns is freeze, but the source changed: "
            f"{'; '.join(changes)}",
            "schema_contract",
        )


def refuse_misfits(target: Relation, drift: Drift, arriving: Sequence[Column]) -> None:
    """Raises Refused, with the statement that helps, where another user gave a column of the target
    a type that does not hold every value that arrives."""
    for column in arriving:
        if column.name in drift.misfits:
            raise Refused(misfit(target, column, drift.misfits[column.name]))


def misfit(target: Relation, column: Column, in_target: str) -> str:
    """That another user gave the target's column a type that does not hold every value of the
    source's, with the statement that helps."""
    name = ident(column.name)
    return (
        f"{target}: column {column.name} was given the type {in_target}, which does not hold every"
        f" {column.type} that arrives. Run: ALTER TABLE {target.sql} ALTER COLUMN {name}"
        f" TYPE {column.type} USING CAST({name} AS {column.type});"
    )


def refuse_unfit(
    session: Session,
    target: Relation,
    drift: Drift,
    arriving: Sequence[Column],
    key: tuple[str, ...],
) -> None:
    """Raises Refused, with the statement that helps, where another user has made a column of the
    target one that does not take what arrives."""
    old_names = {new: old for old, new in drift.renamed.items()}
    names = [old_names.get(column.name, column.name) for column in arriving]
    key_names = [old_names.get(name, name) for name in key]
    belongings.refuse_unfit(session, target, names, key_names)


def given_by_others(
    session: Session, target: Relation, drift: Drift, scope: Scope, key: tuple[str, ...]
) -> list[Belonging]:
    """The types and the primary key that another user gave the target, and that a swap would
    undo."""
    found = []
    for name, type_name in drift.given.items():
        found.append(Belonging(False, name, f"the type {type_name} of column {name}", "", False))
    primary_key = tables.primary_key_of(session, target)
    if primary_key is None:
        return found
    loaded = answers.names(session, (scope.source or {}).get(KEY, "null"))
    has = [drift.renamed.get(name, name) for name in primary_key[1]]
    ours = [list(key), [drift.renamed.get(name, name) for name in loaded or ()]]
    # An older ledger does not tell which key the last load had, and none that of a first load.
    if has not in ours:
        statement = f"ALTER TABLE {target.sql} DROP CONSTRAINT {ident(primary_key[0])}"
        if key:
            statement += f", ADD PRIMARY KEY ({idents(key)})"
        what = f"{belongings.PRIMARY_KEY} ({', '.join(has)})"
        found.append(Belonging(False, None, what, f"{statement};", False))
    return found


def refuse_changed_key(
    session: Session,
    target: Relation,
    key: tuple[str, ...],
    remedy: str,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Raises Refused, with the `remedy`, when the target's primary key is not `key`.

    Rows matched by a key that the target does not keep unique would be duplicated, or would
    overwrite each other. `renamed` are columns of the target that are yet to get their new names.
    """
    primary_key = tables.primary_key_of(session, target)
    columns = primary_key[1] if primary_key else ()
    refuse_other_key(target, columns, key, remedy, renamed)


def refuse_other_key(
    target: Relation,
    columns: Sequence[str],
    key: tuple[str, ...],
    remedy: str,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """As `refuse_changed_key`, of a target whose primary key has these `columns`."""
    target_key = tuple(renamed.get(name, name) for name in columns)
    if set(target_key) != set(key):
        raise Refused(
            f"{target}: the primary key is {_key_text(target_key)} in the target and "
            f"{_key_text(key)} in the source or spec; {remedy}"
        )


def _key_text(key: tuple[str, ...]) -> str:
    return f"({', '.join(key)})" if key else "none"


def refuse_replaced_columns(target: Relation, drift: Drift, remedy: str) -> None:
    """Raises Refused, with the `remedy`, when rows that do not arrive would keep the values of
    another column."""
    _refuse_columns(target, drift.replaced, remedy)


def refuse_misplaced(session: Session, target: Relation, drift: Drift) -> None:
    """Raises Refused, with the statements that help, where a column of the target would get the
    values of another column of the source, and someone relies on what it was: roles have privileges
    on it, or it has values that the user has put there.

    For loads that write all rows; others refuse such columns anyway.
    """
    others = [name for name, why in drift.replaced.items() if why == _OTHER_COLUMN]
    grants = session.execute(_COLUMN_GRANTS, {"target": target.sql, "columns": others}).fetchall()
    if grants:
        name = grants[0][0]
        statements = " ".join(
            f"REVOKE ALL ({ident(column)}) ON {target.sql} FROM {role};" for column, role in grants
        )
        raise Refused(
            f"{target}: column {name} {_OTHER_COLUMN}, and roles have privileges on it, which may"
            f" not be meant for its new values. Run: {statements} and grant again what is meant"
        )
    for name in belongings.columns_with_values(session, target, drift.clashing):
        raise Refused(
            f"{target}: column {name} was added to the table and has values, and the source has a"
            f" column of that name now. Keep yours under another name: ALTER TABLE {target.sql}"
            f" RENAME COLUMN {ident(name)} TO ...;"
        )


def refuse_incompatible_columns(target: Relation, drift: Drift, remedy: str) -> None:
    """Raises Refused, with the `remedy`, when a column's type cannot be altered in place."""
    _refuse_columns(target, drift.incompatible, remedy)


def _refuse_columns(target: Relation, columns: dict[str, str], remedy: str) -> None:
    for name, what in columns.items():
        raise Refused(f"{target}: column {name} {what}; {remedy}")


def refuse_too_many_columns(
    session: Session, target: Relation, drift: Drift, arriving: int, in_place: bool, remedy: str
) -> None:
    """Raises Refused where the target would have more columns than PostgreSQL allows: one that is
    altered `in_place` (with the `remedy`), whose dropped columns count, or a new one for `arriving`
    columns."""
    if in_place:
        row = session.execute(_LAST_ATTNUM, (target.sql,)).fetchone()
        used = row[0] if row else 0
        if drift.added and used + len(drift.added) > MOST_COLUMNS:
            raise Refused(
                f"{target} has used {used:,} of the {MOST_COLUMNS:,} columns that PostgreSQL gives"
                f" a table, dropped ones included, and {len(drift.added)} more would be added;"
                f" {remedy}, or leave columns out with columns.exclude"
            )
        return
    needed = arriving + len(drift.kept) + 1
    if needed > MOST_COLUMNS:
        raise Refused(
            f"{target} would have {counted(needed, 'column')} with _load_id and the"
            f" {len(drift.kept)} that"
            f" are no longer read from the source, more than the {MOST_COLUMNS:,} that PostgreSQL"
            " allows: drop some of those in the warehouse, or leave columns out with"
            " columns.exclude"
        )


def alter_columns(
    session: psycopg.Connection[Any], target: Relation, drift: Drift, remedy: str
) -> None:
    """Apply the drift to the target's columns in place.

    Raises Refused, with the `remedy`, when a type does not fit, and when PostgreSQL cannot alter a
    column because something uses it.
    """
    refuse_incompatible_columns(target, drift, remedy)
    refuse_attached(session, target, drift)
    rename_columns(session, target, drift)
    lost = []
    if drift.widened:
        lost = belongings.lost_by_a_new_type(session, target)
    for column, clause in _clauses(drift):
        _alter(session, target, column, clause)
        reach("load.altered")
    for statement in lost:
        session.execute(statement)


def narrow_columns(session: Session, target: Relation, types: Mapping[str, str]) -> list[str]:
    """Give columns of the target the narrower types that all of its rows fit, and return those of
    them that cannot get theirs, because something uses them."""
    lost = belongings.lost_by_a_new_type(session, target) if types else []
    used = []
    for name, type_name in types.items():
        try:
            with session.transaction():
                column = ident(name)
                session.execute(f"ALTER TABLE {target.sql} ALTER COLUMN {column} TYPE {type_name}")
        except _CANNOT_ALTER:
            used.append(name)
    for statement in lost:
        session.execute(statement)
    return used


def refuse_attached(session: Session, target: Relation, drift: Drift) -> None:
    """Raises Refused, with the statement that helps, where the target is attached to another table
    and its columns can change only with that one's."""
    old_names = {new: old for old, new in drift.renamed.items()}
    changed = [*drift.renamed, *(old_names.get(c.name, c.name) for c in drift.widened)]
    added = [column.name for column in drift.added]
    if changed or added:
        belongings.refuse_inherited(session, target, changed, added)


def _alter(session: Session, target: Relation, column: str, clause: str) -> None:
    try:
        with session.transaction():
            session.execute(f"ALTER TABLE {target.sql} {clause}")
    except _CANNOT_ALTER as error:
        advice = "drop what uses it first"
        indexes = belongings.indexes_on(session, target, [column])
        if indexes and not isinstance(error, _IS_USED):
            advice += ", and create it again afterwards. Indexes use the column:"
            for index in indexes:
                advice += f" DROP INDEX {index};"
        raise Refused(
            f"{target}: cannot {clause}: {error.diag.message_primary}; {advice}"
        ) from error


def alter_clauses(drift: Drift) -> list[str]:
    """The clauses of ALTER TABLE that add and widen the target's columns."""
    return [clause for _, clause in _clauses(drift)]


def _clauses(drift: Drift) -> list[tuple[str, str]]:
    """Each column to add or widen, and its clause."""
    added = [(c.name, f"ADD COLUMN {ident(c.name)} {c.type}") for c in drift.added]
    widened = [(c.name, f"ALTER COLUMN {ident(c.name)} TYPE {c.type}") for c in drift.widened]
    return added + widened


def rename_columns(session: Session, target: Relation, drift: Drift) -> None:
    """Rename the target's columns as the source's were renamed."""
    for clause in rename_clauses(drift):
        session.execute(f"ALTER TABLE {target.sql} {clause}")


def rename_clauses(drift: Drift) -> list[str]:
    """The clauses of ALTER TABLE that rename the target's columns as the source's were renamed.

    Where a column takes a name that another one gives up (a swap), all go through temporary names.
    """
    pairs = list(drift.renamed.items())
    if drift.renamed.keys() & set(drift.renamed.values()):
        to_temporary, from_temporary = [], []
        for number, (old, new) in enumerate(drift.renamed.items()):
            to_temporary.append((old, f"_loadsheet_{number}"))
            from_temporary.append((f"_loadsheet_{number}", new))
        pairs = to_temporary + from_temporary
    return [f"RENAME COLUMN {ident(old)} TO {ident(new)}" for old, new in pairs]
