"""Swap a freshly built table into a target's place, in one short transaction, with everything that
belonged to the old table."""

from __future__ import annotations

from collections.abc import Collection

import psycopg

from loadsheet.errors import Refused
from loadsheet.failpoints import reach
from loadsheet.postgres import Session
from loadsheet.redact import message
from loadsheet.sql.text import Relation, ident, idents, literal
from loadsheet.warehouse import belongings, grants, tables
from loadsheet.warehouse.belongings import Belonging

# Without the primary key, which the new table gets from the spec or the source.
_INDEXES = """
SELECT i.relname, pg_get_indexdef(i.oid), indisunique
FROM pg_index JOIN pg_class i ON i.oid = indexrelid
WHERE indrelid = {oid} AND NOT indisprimary
"""
_OWNER = """
SELECT rolname, rolname = current_user FROM pg_class JOIN pg_roles r ON r.oid = relowner
WHERE pg_class.oid = {oid}
"""
_OPTIONS = """
SELECT option_name, option_value FROM pg_class, pg_options_to_table(reloptions)
WHERE oid = {oid}
UNION ALL
SELECT 'toast.' || option_name, option_value
FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid, pg_options_to_table(t.reloptions)
WHERE c.oid = {oid}
"""

# From PostgreSQL 18 on, NOT NULL has a name.
_NOT_NULLS = """
SELECT attname, conname FROM pg_constraint
JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
WHERE conrelid = {oid} AND contype = 'n'
"""

# A key of 2 M rows does not fit into the server's usual 64 MB; sorting it on disk takes a quarter
# longer.
_SORT_IN_MEMORY = """
SELECT set_config('maintenance_work_mem', '256MB', true)
WHERE pg_size_bytes(current_setting('maintenance_work_mem')) < pg_size_bytes('256MB')
"""
# What fits into memory is sorted by one process while other tables are loaded: more of them would
# take their CPU. A table that is loaded alone has the server's workers: 3 M rows in another order
# than the key's take 0.7 s then instead of 1.1.
_SORT_IN_ONE_PROCESS = """
SELECT set_config('max_parallel_maintenance_workers', '0', true)
WHERE pg_relation_size(to_regclass(%s)) < pg_size_bytes('256MB') AND EXISTS (
    SELECT FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND application_name LIKE 'loadsheet:%%' AND xact_start IS NOT NULL
)
"""

_LONGEST_NAME = 63  # in bytes

# What a CREATE INDEX can fail with because of the new rows or their types.
_DOES_NOT_FIT = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DataError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.UndefinedObject,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.DatatypeMismatch,
)


class WouldLose(Exception):
    """The swap would not keep something that hangs on the table; nothing was changed."""

    def __init__(self, belonging: Belonging):
        super().__init__(belonging.what)
        self.belonging = belonging


def rename_new(session: Session, fresh: Relation, target: Relation, key: tuple[str, ...]) -> None:
    """Rename `fresh` to `target`, which does not exist yet, and give it a primary key on `key`."""
    session.execute(f"ALTER TABLE {fresh.sql} RENAME TO {ident(target.name)}")
    for column, name in session.execute(_of(_NOT_NULLS, target)).fetchall():
        as_usual = _not_null_of(target, column)
        # PostgreSQL would cut a longer one, and so give two columns the same.
        if name == _not_null_of(fresh, column) and len(as_usual.encode()) <= _LONGEST_NAME:
            _rename_constraint(session, target, name, as_usual)
    # After the rename, because PostgreSQL names a key after its table.
    add_primary_key(session, target, key)


def _not_null_of(table: Relation, column: str) -> str:
    """What PostgreSQL calls the constraint, where that is not too long for a name."""
    return f"{table.name}_{column}_not_null"


def swap_in(
    session: Session,
    fresh: Relation,
    target: Relation,
    key: tuple[str, ...],
    kept: Collection[str] = (),
) -> None:
    """Rename `fresh` to `target` and give it a primary key on `key`; the old table is dropped.

    Everything on the old table is carried over; its columns `kept` have no values in `fresh`, and
    may have none. Readers see the old table until the commit and the new one after it, never an
    empty one.

    Raises WouldLose when something cannot be carried over; the target is then as it was, and
    `fresh` is still there. Raises Refused when an index of the old table cannot hold the new rows.
    """
    # All that takes long comes before the lock, from which on readers wait for the commit.
    add_primary_key(session, fresh, key)
    index_names = _copy_indexes(session, target, fresh)
    with session.transaction():
        if kept:
            # Readers go on while the columns are looked through.
            session.execute(f"LOCK TABLE {target.sql} IN SHARE ROW EXCLUSIVE MODE")
            for values in belongings.values_in(session, target, kept):
                raise WouldLose(values)
        _exchange(session, fresh, target, key, index_names)


def _exchange(
    session: Session,
    fresh: Relation,
    target: Relation,
    key: tuple[str, ...],
    index_names: list[tuple[str, str]],
) -> None:
    """Put `fresh` into the target's place. Raises WouldLose when something is not as before."""
    session.execute(f"LOCK TABLE {target.sql} IN ACCESS EXCLUSIVE MODE")
    before = belongings.inventory(session, target)
    for belonging in before:
        # Something may have been added while the rows were copied.
        is_kept = belonging.is_carried or belongings.comes_with(belonging, key)
        # The columns of `fresh` have the collations that they are to have.
        if not (is_kept or belonging.is_collation):
            raise WouldLose(belonging)
    old_key = tables.primary_key_of(session, target)
    # GRANT takes no lock on the table, but waits for a session that has renamed it.
    old = Relation(target.schema, f"{fresh.name}_old")
    session.execute(f"ALTER TABLE {target.sql} RENAME TO {ident(old.name)}")
    _copy_properties(session, old, fresh)
    not_nulls = dict(session.execute(_of(_NOT_NULLS, old)).fetchall())
    session.execute(f"DROP TABLE {old.sql}")
    reach("swap.dropped")
    session.execute(f"ALTER TABLE {fresh.sql} RENAME TO {ident(target.name)}")
    new_key = tables.primary_key_of(session, target)
    # Constraints were named after the fresh table.
    if old_key and new_key:
        _rename_constraint(session, target, new_key[0], old_key[0])
    for column, name in session.execute(_of(_NOT_NULLS, target)).fetchall():
        _rename_constraint(session, target, name, not_nulls.get(column, name))
    # The names are free only now that the old table is gone.
    for temporary, name in index_names:
        index = Relation(target.schema, temporary)
        session.execute(f"ALTER INDEX {index.sql} RENAME TO {ident(name)}")
    has_same_key = old_key is not None and old_key[1] == key
    expected = [one for one in before if not belongings.comes_with(one, key)]
    _verify(session, target, expected, has_same_key)


def _rename_constraint(session: Session, table: Relation, now: str, name: str) -> None:
    if now != name:
        rename = f"RENAME CONSTRAINT {ident(now)} TO {ident(name)}"
        session.execute(f"ALTER TABLE {table.sql} {rename}")


def _verify(
    session: Session, target: Relation, before: list[Belonging], has_same_key: bool
) -> None:
    """Raises WouldLose when something does not hang on the target as it did before.

    An event trigger may give a new table what the old one did not have.
    """
    after = set(belongings.inventory(session, target))
    columns = tables.columns_of(session, target)
    expected = set()
    for belonging in before:
        is_gone = belonging.column is not None and belonging.column not in columns
        if not is_gone:
            expected.add(belonging)
    for belonging in sorted(after ^ expected, key=str):
        if belonging.is_collation:
            continue
        if has_same_key or belonging.what != belongings.PRIMARY_KEY:
            raise WouldLose(belonging)


def add_primary_key(session: Session, table: Relation, key: tuple[str, ...]) -> None:
    """Give `table` a primary key on the columns `key`; do nothing if there are none."""
    if not key:
        return
    session.execute(_SORT_IN_MEMORY)
    session.execute(_SORT_IN_ONE_PROCESS, (table.sql,))
    session.execute(f"ALTER TABLE {table.sql} ADD PRIMARY KEY ({idents(key)})")


def _copy_indexes(session: Session, old: Relation, new: Relation) -> list[tuple[str, str]]:
    """Create the indexes of `old` on `new`; returns the temporary and the final name of each."""
    on_old = f"{_quoted(session, old.schema)}.{_quoted(session, old.name)}"
    names = []
    indexes = session.execute(_of(_INDEXES, old)).fetchall()
    for number, (name, definition, is_unique) in enumerate(indexes):
        create = "CREATE UNIQUE INDEX" if is_unique else "CREATE INDEX"
        head = f"{create} {_quoted(session, name)} ON {on_old} "
        assert definition.startswith(head), definition
        temporary = f"{new.name}_{number}"
        body = definition.removeprefix(head)
        try:
            session.execute(f"{create} {ident(temporary)} ON {new.sql} {body}")
        except _DOES_NOT_FIT as error:
            index = Relation(old.schema, name)
            raise Refused(
                f"{old}: index {index} cannot hold the new rows: {message(error)}; change what the "
                f"source sends, or run: DROP INDEX {index.sql};"
            ) from error
        names.append((temporary, name))
    return names


def _copy_properties(session: Session, old: Relation, new: Relation) -> None:
    """Give `new` the owner, the exact privileges, the comments and the options of `old`."""
    owner, is_own = session.execute(_of(_OWNER, old)).fetchone() or ("", True)
    if not is_own:
        session.execute(f"ALTER TABLE {new.sql} OWNER TO {ident(owner)}")
    of_old = grants.grants_of(session, old)
    grants.restore(session, "TABLE", new, of_old, grants.comments_of(session, old))
    for name, value in session.execute(_of(_OPTIONS, old)).fetchall():
        session.execute(f"ALTER TABLE {new.sql} SET ({name} = {literal(value)})")


def _of(query: str, table: Relation) -> str:
    """The catalog query about this table."""
    return query.format(oid=f"{literal(table.sql)}::regclass")


def _quoted(session: Session, name: str) -> str:
    """The name as the server quotes it in an index definition."""
    row = session.execute("SELECT quote_ident(%s)", (name,)).fetchone()
    return str(row[0]) if row else name
