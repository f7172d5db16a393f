"""Swap a freshly built table into a target's place, in one short transaction, with everything that
belonged to the old table."""

from __future__ import annotations

from loadsheet.failpoints import reach
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation, ident, idents, literal
from loadsheet.warehouse import tables

# Without the primary key, which the new table gets from the spec or the source.
_INDEXES = """
SELECT i.relname, pg_get_indexdef(i.oid), indisunique
FROM pg_index JOIN pg_class i ON i.oid = indexrelid
WHERE indrelid = {oid} AND NOT indisprimary
"""
# The owner's privileges come with the ownership.
_GRANTS = """
SELECT privilege_type, coalesce(quote_ident(rolname), 'PUBLIC'), is_grantable, NULL::text
FROM pg_class, aclexplode(relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE pg_class.oid = {oid} AND a.grantee <> relowner
UNION ALL
SELECT privilege_type, coalesce(quote_ident(rolname), 'PUBLIC'), is_grantable, attname
FROM pg_attribute, aclexplode(attacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE attrelid = {oid} AND NOT attisdropped
"""
_COMMENTS = """
SELECT objsubid, attname, description FROM pg_description
LEFT JOIN pg_attribute ON attrelid = objoid AND attnum = objsubid
WHERE objoid = {oid} AND classoid = 'pg_class'::regclass
"""
_OWNER = """
SELECT rolname, rolname = current_user, array_to_string(reloptions, ', ')
FROM pg_class JOIN pg_roles r ON r.oid = relowner WHERE pg_class.oid = {oid}
"""

# A key of 2 M rows does not fit into the server's usual 64 MB; sorting it on disk takes a quarter
# longer.
_SORT_IN_MEMORY = """
SELECT set_config('maintenance_work_mem', '256MB', true)
WHERE pg_size_bytes(current_setting('maintenance_work_mem')) < pg_size_bytes('256MB')
"""
# What fits into memory is sorted by one process: more of them would take CPU from the tables that
# are loaded at the same time.
_SORT_IN_ONE_PROCESS = """
SELECT set_config('max_parallel_maintenance_workers', '0', true)
WHERE pg_relation_size(to_regclass(%s)) < pg_size_bytes('256MB')
"""


def swap_in(session: Session, fresh: Relation, target: Relation, key: tuple[str, ...]) -> None:
    """Rename `fresh` to `target` and give it a primary key on `key`.

    Indexes, grants, comments, owner and options of an existing target are carried over. Readers
    see the old table until the commit and the new one after it, never an empty one.
    """
    if tables.kind(session, target) is None:
        session.execute(f"ALTER TABLE {fresh.sql} RENAME TO {ident(target.name)}")
        # After the rename, because PostgreSQL names a key after its table.
        add_primary_key(session, target, key)
        return
    # All that takes long comes before DROP TABLE, from which on readers wait for the commit.
    add_primary_key(session, fresh, key)
    index_names = _copy_indexes(session, target, fresh)
    _copy_properties(session, target, fresh)
    old_key = tables.primary_key_of(session, target)
    session.execute(f"DROP TABLE {target.sql}")
    reach("swap.dropped")
    session.execute(f"ALTER TABLE {fresh.sql} RENAME TO {ident(target.name)}")
    new_key = tables.primary_key_of(session, target)
    # The key was named after the fresh table.
    if old_key and new_key:
        now, before = ident(new_key[0]), ident(old_key[0])
        session.execute(f"ALTER TABLE {target.sql} RENAME CONSTRAINT {now} TO {before}")
    # The names are free only now that the old table is gone.
    for temporary, name in index_names:
        index = Relation(target.schema, temporary)
        session.execute(f"ALTER INDEX {index.sql} RENAME TO {ident(name)}")


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
        session.execute(f"{create} {ident(temporary)} ON {new.sql} {body}")
        names.append((temporary, name))
    return names


def _copy_properties(session: Session, old: Relation, new: Relation) -> None:
    """Give `new` the grants, comments, options and owner of `old`."""
    grants = session.execute(_of(_GRANTS, old)).fetchall()
    for privilege, grantee, is_grantable, column in grants:
        what = f"{privilege} ({ident(column)})" if column else privilege
        option = " WITH GRANT OPTION" if is_grantable else ""
        session.execute(f"GRANT {what} ON {new.sql} TO {grantee}{option}")
    for place, column, text in session.execute(_of(_COMMENTS, old)).fetchall():
        on = f"COLUMN {new.sql}.{ident(column)}" if place else f"TABLE {new.sql}"
        session.execute(f"COMMENT ON {on} IS {literal(text)}")
    row = session.execute(_of(_OWNER, old)).fetchone()
    owner, is_own, options = row or ("", True, None)
    if options:
        session.execute(f"ALTER TABLE {new.sql} SET ({options})")
    if not is_own:
        session.execute(f"ALTER TABLE {new.sql} OWNER TO {ident(owner)}")


def _of(query: str, table: Relation) -> str:
    """The catalog query about this table."""
    return query.format(oid=f"{literal(table.sql)}::regclass")


def _quoted(session: Session, name: str) -> str:
    """The name as the server quotes it in an index definition."""
    row = session.execute("SELECT quote_ident(%s)", (name,)).fetchone()
    return str(row[0]) if row else name
