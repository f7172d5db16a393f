"""A mart's columns follow its SELECT: how they differ, and what is done about it.

The rows of a build in full are all at hand, so a mart whose columns differ is swapped for a new
table. Where something depends on the table, its columns are altered in place, as far as that is
known to be exact, or the build is refused before anything is written. `loadsheet plan --connect`
asks the same question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg

from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation, ident
from loadsheet.sql.types import widens
from loadsheet.warehouse import belongings, mart_views, swap, tables
from loadsheet.warehouse.mart_views import Hanger, Hanging

# A SELECT gives a column neither a default nor an identity, and does not compute it.
_COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod)
    || CASE WHEN attcollation <> typcollation
        THEN ' COLLATE ' || attcollation::regcollation ELSE '' END,
    NOT atthasdef AND attidentity = ''
FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
# What keeps PostgreSQL from altering or dropping the column, except for what goes with the column.
_USERS = """
SELECT DISTINCT v.oid, nspname, relname, v.relkind::text,
    regexp_replace(pg_describe_object(d.classid, d.objid, 0), '^rule _RETURN on ', '')
FROM pg_depend d
JOIN pg_attribute a ON attrelid = refobjid AND attnum = refobjsubid
LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    AND rulename = '_RETURN'
LEFT JOIN pg_class v ON v.oid = r.ev_class
LEFT JOIN pg_namespace n ON n.oid = v.relnamespace
LEFT JOIN pg_attrdef own ON d.classid = 'pg_attrdef'::regclass AND own.oid = d.objid
    AND own.adrelid = attrelid AND own.adnum = attnum
WHERE refclassid = 'pg_class'::regclass AND refobjid = to_regclass(%(table)s)
  AND attname = %(column)s AND own.oid IS NULL
  AND (d.classid IN ('pg_rewrite'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass,
                     'pg_proc'::regclass, 'pg_publication_rel'::regclass, 'pg_attrdef'::regclass)
       OR d.classid = 'pg_constraint'::regclass AND d.objid IN (
           SELECT oid FROM pg_constraint WHERE confrelid = refobjid))
ORDER BY 5
"""
_FOREIGN_KEYS = """
SELECT f.conrelid::regclass::text, quote_ident(f.conname) FROM pg_constraint f
JOIN pg_constraint k ON k.conindid = f.conindid AND k.contype = 'p'
WHERE k.conrelid = to_regclass(%s) AND f.contype = 'f' ORDER BY 1, 2
"""


@dataclass(frozen=True, kw_only=True)
class Differences:
    """How the columns of a SELECT differ from the mart's."""

    added: dict[str, str]
    dropped: dict[str, str]
    retyped: dict[str, tuple[str, str]]
    """Column -> the mart's type and the SELECT's."""
    is_reordered: bool
    others: tuple[str, ...]
    """Columns of the mart that no SELECT has made. They are kept."""
    given: dict[str, str]
    """Column -> the type that another user gave it in the mart, and that holds the SELECT's. It
    is kept."""

    @property
    def fit(self) -> bool:
        """Whether the SELECT's rows fit the mart exactly as it is."""
        return not (self.added or self.dropped or self.retyped)

    @property
    def notes(self) -> list[str]:
        """What changed, one text per column."""
        notes = [f"added {name} {type_name}" for name, type_name in self.added.items()]
        for name, (old, new) in self.retyped.items():
            notes.append(f"{name} is {new}, was {old}")
        notes += [f"dropped {name}" for name in self.dropped]
        notes += [f"kept {name}, which was added to the table" for name in self.others]
        return notes


@dataclass(kw_only=True)
class Change:
    """What is done to a mart whose columns differ from its SELECT's."""

    differences: Differences
    in_place: bool
    because: str = ""
    """What keeps the mart from being swapped."""
    views: list[Relation] = field(default_factory=list)
    """View transforms to drop first and to make again afterwards."""
    clauses: list[str] = field(default_factory=list)
    """The clauses of ALTER TABLE, in place or on the table that will be swapped out."""
    retyping: list[str] = field(default_factory=list)
    """Those that give columns new types, after the others."""
    lost_indexes: list[str] = field(default_factory=list)
    """Indexes that go with the dropped columns."""

    @property
    def notes(self) -> list[str]:
        """What changed, for the step's message."""
        notes = list(self.differences.notes)
        if self.lost_indexes:
            notes.append(f"dropped their indexes {', '.join(self.lost_indexes)}")
        return notes


def read_columns(session: Session, table: Relation) -> dict[str, str]:
    """The columns of a table or view and their types, in order."""
    with mart_views.qualified_names(session):
        rows = session.execute(_COLUMNS, (table.sql,)).fetchall()
    return {name: type_name for name, type_name, _ in rows}


def compare(
    session: Session, target: Relation, arriving: Mapping[str, str], is_as_built: bool
) -> Differences:
    """How `arriving` (column to type, as `read_columns` writes it) differs from the mart. Where the
    transform `is_as_built` last, a type that holds its column's values was given by another
    user."""
    with mart_views.qualified_names(session):
        rows = session.execute(_COLUMNS, (target.sql,)).fetchall()
        domains = tables.domains_of(session, target)
    existing = {name: type_name for name, type_name, _ in rows}
    others = [name for name, _, is_plain in rows if not is_plain and name not in arriving]
    dropped, retyped, given = {}, {}, {}
    for name, type_name in existing.items():
        if name in others:
            continue
        if name not in arriving:
            dropped[name] = type_name
        elif arriving[name] != type_name:
            holds = domains.get(name, type_name)
            if is_as_built and (holds == arriving[name] or widens(arriving[name], holds)):
                given[name] = type_name
            else:
                retyped[name] = (type_name, arriving[name])
    kept_order = [name for name in existing if name in arriving]
    return Differences(
        added={name: new for name, new in arriving.items() if name not in existing},
        dropped=dropped,
        retyped=retyped,
        is_reordered=kept_order != [name for name in arriving if name in existing],
        others=tuple(others),
        given=given,
    )


def change_of(
    session: Session,
    target: Relation,
    arriving: Mapping[str, str],
    key: tuple[str, ...],
    remade: frozenset[Relation],
    is_as_built: bool,
) -> Change | None:
    """What is to be done about the mart's columns; None where they are those of `arriving`.

    `remade` are the view transforms of this pipeline, whose SQL of now is known. Raises Refused,
    with the names of what is in the way, where the columns can neither be swapped nor altered.
    """
    differences = compare(session, target, arriving, is_as_built)
    if differences.fit and not differences.is_reordered:
        return None
    hanging = mart_views.hanging_on(session, target)
    _refuse_views_of_others(session, target, differences, hanging, remade)
    obstacles = _obstacles(session, target, differences, hanging, key)
    if not obstacles:
        return _swapped(session, target, differences, hanging)
    # No reader asks for an order of columns often enough to refuse a build.
    if differences.fit:
        return None
    return _altered(session, target, differences, hanging, key, obstacles)


def _obstacles(
    session: Session,
    target: Relation,
    differences: Differences,
    hanging: Hanging,
    key: tuple[str, ...],
) -> list[str]:
    """What keeps the mart from being swapped, apart from views that are made again."""
    with mart_views.qualified_names(session):
        found = belongings.obstacles(session, target, key=key, is_mart=True)
    obstacles = [one.what for one in found if one.what not in hanging.own_texts]
    for name, type_name in differences.given.items():
        obstacles.append(f"the type {type_name} of column {name}")
    return obstacles + [f"column {name}" for name in differences.others]


def _swapped(
    session: Session, target: Relation, differences: Differences, hanging: Hanging
) -> Change:
    """Indexes, comments and grants are carried over to the new table by column, so the old one must
    lose its dropped columns first."""
    return Change(
        differences=differences,
        in_place=False,
        views=hanging.own,
        clauses=_drop_clauses(differences),
        lost_indexes=_indexes_on(session, target, differences.dropped),
    )


def _altered(
    session: Session,
    target: Relation,
    differences: Differences,
    hanging: Hanging,
    key: tuple[str, ...],
    obstacles: list[str],
) -> Change:
    """Every row arrives, so a column whose type changes may be emptied: its values are written
    again. Rows are found by their key, which must stay."""
    for name, (old, new) in differences.retyped.items():
        if name in key and not widens(old, new):
            raise Refused(
                f"{target}: column {name} is {new} in its SELECT and {old} in the table, and rows"
                f" are found by it; {obstacles[0]} keeps the table from being replaced. Nothing was"
                " written; remove that first, and create it again afterwards"
            )
    touched = [*differences.dropped, *differences.retyped]
    for name in touched:
        users = []
        for user in _users_of(session, target, name):
            if user.text not in hanging.own_texts:
                users.append(user)
        if users:
            _refuse_used(target, name, differences, users, hanging)
    clauses = _drop_clauses(differences)
    for name, type_name in differences.added.items():
        clauses.append(f"ADD COLUMN {ident(name)} {type_name}")
    retyping = []
    for name, (old, new) in differences.retyped.items():
        clause = f"ALTER COLUMN {ident(name)} TYPE {new}"
        if not widens(old, new):
            clause += " USING NULL"
        retyping.append(clause)
    return Change(
        differences=differences,
        in_place=True,
        because=obstacles[0],
        # Views stay where they read nothing that is dropped or altered.
        views=hanging.own if touched else [],
        clauses=clauses,
        retyping=retyping,
        lost_indexes=_indexes_on(session, target, differences.dropped),
    )


def _refuse_views_of_others(
    session: Session,
    target: Relation,
    differences: Differences,
    hanging: Hanging,
    remade: frozenset[Relation],
) -> None:
    """Raises Refused when a view transform of another pipeline reads a dropped column: its SQL of
    now is not known here."""
    for name in differences.dropped:
        for user in _users_of(session, target, name):
            if user.text in hanging.own_texts and user.view not in remade:
                _refuse_used(target, name, differences, [user], hanging)


def _refuse_used(
    target: Relation, name: str, differences: Differences, users: list[Hanger], hanging: Hanging
) -> None:
    what = "is no longer in its SELECT"
    if name in differences.retyped:
        old, new = differences.retyped[name]
        what = f"is {new} in its SELECT and {old} in the table"
    to_drop: list[Hanger] = []
    texts = []
    for user in users:
        above = hanging.above.get(user.text, [])
        to_drop += above or [user]
        text = user.text
        if above:
            text += f" (with {', '.join(hanger.text for hanger in above)} on it)"
        texts.append(text)
    use = mart_views.in_use(texts)
    raise Refused(
        f"{target}: column {name} {what}, but {use}, so nothing was written;"
        f" {mart_views.remedy(to_drop)}"
    )


def _users_of(session: Session, target: Relation, column: str) -> list[Hanger]:
    """What keeps the mart's column from being dropped or altered."""
    users = []
    values = {"table": target.sql, "column": column}
    with mart_views.qualified_names(session):
        for oid, schema, name, kind, text in session.execute(_USERS, values).fetchall():
            view = None if oid is None else Relation(schema, name)
            users.append(Hanger(text, view, kind == "m"))
    return users


def _drop_clauses(differences: Differences) -> list[str]:
    return [f"DROP COLUMN {ident(name)}" for name in differences.dropped]


def _indexes_on(session: Session, target: Relation, columns: Iterable[str]) -> list[str]:
    with mart_views.qualified_names(session):
        return belongings.indexes_on(session, target, columns)


def apply_clauses(session: Session, target: Relation, change: Change) -> None:
    """Alter the mart's columns. Raises Refused where PostgreSQL finds something in the way."""
    _apply(session, target, change, change.clauses)
    if not change.retyping:
        return
    # Read once the dropped columns are gone, with what went with them.
    lost = belongings.lost_by_a_new_type(session, target)
    _apply(session, target, change, change.retyping)
    for statement in lost:
        # A number has neither storage nor compression of its own.
        with suppress(psycopg.errors.FeatureNotSupported), session.transaction():
            session.execute(statement)


def _apply(session: Session, target: Relation, change: Change, clauses: list[str]) -> None:
    for clause in clauses:
        try:
            with session.transaction():
                session.execute(f"ALTER TABLE {target.sql} {clause}")
        except (
            psycopg.ProgrammingError,
            psycopg.NotSupportedError,
            psycopg.DataError,
            psycopg.IntegrityError,
            psycopg.errors.DependentObjectsStillExist,
        ) as error:
            text = f"{target}: cannot {clause}: {error.diag.message_primary}"
            # Other details may show rows.
            if isinstance(error, psycopg.errors.DependentObjectsStillExist):
                text += f" ({error.diag.message_detail})".replace("\n", "; ")
            remedy = "Drop what uses it first"
            indexes = _indexes_on(session, target, change.differences.retyped)
            if indexes and isinstance(error, psycopg.ProgrammingError):
                remedy = (
                    f"Run DROP INDEX {', '.join(indexes)}; then run the pipeline, and create the"
                    " indexes that you need"
                )
            raise Refused(f"{text}; nothing was written. {remedy}") from error


def _other_key(
    session: Session, target: Relation, key: tuple[str, ...]
) -> tuple[str, tuple[str, ...]] | None:
    """Name and columns of the mart's primary key, where it is not on `key`; None without a `key`,
    too, because the mart's is then another user's."""
    primary_key = tables.primary_key_of(session, target)
    if not key or primary_key is None or set(primary_key[1]) == set(key):
        return None
    return primary_key


def refuse_given_key(session: Session, target: Relation, key: tuple[str, ...]) -> None:
    """Raises Refused, with the ways on, where another user gave the mart a primary key that is not
    on `key`. For a transform that is as it was built last."""
    other = _other_key(session, target, key)
    if other is None:
        return
    name, columns = other
    raise Refused(
        f"{target}: it was given the primary key ({', '.join(columns)}), and a build would make it"
        f" ({', '.join(key)}) again. Set unique_key to its columns, or run: ALTER TABLE"
        f" {target.sql} DROP CONSTRAINT {ident(name)};"
    )


def refuse_used_key(session: Session, target: Relation, key: tuple[str, ...]) -> None:
    """Raises Refused where the mart's primary key is not on `key` any more, and a foreign key uses
    it."""
    other = _other_key(session, target, key)
    if other is None:
        return
    with mart_views.qualified_names(session):
        users = session.execute(_FOREIGN_KEYS, (target.sql,)).fetchall()
    for table, name in users:
        raise Refused(
            f"{target}: its key is no longer ({', '.join(other[1])}), but foreign key {name}"
            f" of {table} uses that. Nothing was written. Run: ALTER TABLE {table} DROP CONSTRAINT"
            f" {name};"
        )


def drop_other_key(session: Session, target: Relation, key: tuple[str, ...]) -> None:
    """Drop the mart's primary key where it is not on `key`: rows are found by `key` from now on.

    Without a `key`, the mart's may be another user's, and stays. Raises Refused when something uses
    it.
    """
    other = _other_key(session, target, key)
    if other is None:
        return
    refuse_used_key(session, target, key)
    name, columns = other
    session.execute(f"ALTER TABLE {target.sql} DROP CONSTRAINT {ident(name)}")
    # It has made its columns NOT NULL, and is gone without taking that back.
    for column in columns:
        if column not in key:
            session.execute(f"ALTER TABLE {target.sql} ALTER {ident(column)} DROP NOT NULL")


def add_missing_key(session: Session, target: Relation, key: tuple[str, ...]) -> None:
    """Give the mart its primary key if it has none."""
    if tables.primary_key_of(session, target) is None:
        swap.add_primary_key(session, target, key)
