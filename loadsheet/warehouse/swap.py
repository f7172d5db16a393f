"""Put a freshly built table in a target's place, in one short transaction, with all that belonged
to the old one."""

from __future__ import annotations

from loadsheet.failpoints import reach
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation, ident, idents, literal
from loadsheet.warehouse import tables

_INDEXES = """
SELECT i.relname, pg_get_indexdef(i.oid), indisunique FROM pg_index JOIN pg_class i ON i.oid = indexrelid
WHERE indrelid = {oid} AND NOT indisprimary
"""
_GRANTS = """
SELECT privilege_type, coalesce(quote_ident(rolname), 'PUBLIC'), is_grantable, NULL::text
FROM pg_class, aclexplode(relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE pg_class.oid = {oid} AND a.grantee <> relowner
UNION ALL
SELECT privilege_type, coalesce(quote_ident(rolname), 'PUBLIC'), is_grantable, attname
FROM pg_attribute, aclexplode(attacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE attrelid = {oid}
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
# longer. What fits is sorted by one process: more of them would take CPU from the tables that are
# loaded beside this one.
_ROOM_TO_SORT = """
SELECT set_config('maintenance_work_mem', '256MB', true)
WHERE pg_size_bytes(current_setting('maintenance_work_mem')) < pg_size_bytes('256MB')
"""
_ALONE = """
SELECT set_config('max_parallel_maintenance_workers', '0', true)
WHERE pg_relation_size(to_regclass(%s)) < pg_size_bytes('256MB')
"""


def put_in_place(session: Session, fresh: Relation, target: Relation, key: tuple[str, ...]) -> None:
    """Rename `fresh` to `target`, with a primary key on `key`; an existing target's belongings move
    over.

    Readers see the old table until the commit and the new one after it, never an empty one.
    """
    if tables.kind(session, target) is None:
        session.execute(f"ALTER TABLE {fresh.sql} RENAME TO {ident(target.name)}")
        add_key(session, target, key)
        return
    add_key(session, fresh, key)
    renames = _copy_belongings(session, target, fresh)
    old_key = tables.key_of(session, target)
    session.execute(f"DROP TABLE {target.sql}")
    reach("swap.dropped")
    session.execute(f"ALTER TABLE {fresh.sql} RENAME TO {ident(target.name)}")
    new_key = tables.key_of(session, target)
    if old_key and new_key:
        session.execute(
            f"ALTER TABLE {target.sql} RENAME CONSTRAINT {ident(new_key[0])} TO {ident(old_key[0])}"
        )
    for now, before in renames:
        session.execute(f"ALTER INDEX {Relation(target.schema, now).sql} RENAME TO {ident(before)}")


def add_key(session: Session, table: Relation, key: tuple[str, ...]) -> None:
    """Give `table` a primary key, where there are columns for one."""
    if key:
        session.execute(_ROOM_TO_SORT)
        session.execute(_ALONE, (table.sql,))
        session.execute(f"ALTER TABLE {table.sql} ADD PRIMARY KEY ({idents(key)})")


def _copy_belongings(session: Session, old: Relation, new: Relation) -> list[tuple[str, str]]:
    """Indexes, grants, comments, owner and options of `old` for `new`; returns the indexes to
    rename afterwards."""
    oid = f"{literal(old.sql)}::regclass"
    renames = []
    for number, (name, definition, unique) in enumerate(
        session.execute(_INDEXES.format(oid=oid)).fetchall()
    ):
        head = f"CREATE {'UNIQUE ' if unique else ''}INDEX {_quoted(session, name)} ON {_qualified(session, old)} "
        assert definition.startswith(head), definition
        renames.append((f"{new.name}_{number}", name))
        session.execute(
            f"CREATE {'UNIQUE ' if unique else ''}INDEX {ident(renames[-1][0])} ON {new.sql} {definition[len(head) :]}"
        )
    for privilege, grantee, grantable, column in session.execute(
        _GRANTS.format(oid=oid)
    ).fetchall():
        what = f"{privilege} ({ident(column)})" if column else privilege
        option = " WITH GRANT OPTION" if grantable else ""
        session.execute(f"GRANT {what} ON {new.sql} TO {grantee}{option}")
    for place, column, text in session.execute(_COMMENTS.format(oid=oid)).fetchall():
        on = f"COLUMN {new.sql}.{ident(column)}" if place else f"TABLE {new.sql}"
        session.execute(f"COMMENT ON {on} IS {literal(text)}")
    owner, mine, options = session.execute(_OWNER.format(oid=oid)).fetchone() or ("", True, None)
    if options:
        session.execute(f"ALTER TABLE {new.sql} SET ({options})")
    if not mine:
        session.execute(f"ALTER TABLE {new.sql} OWNER TO {ident(owner)}")
    return renames


def _quoted(session: Session, name: str) -> str:
    """The name as the server itself quotes it in a definition."""
    row = session.execute("SELECT quote_ident(%s)", (name,)).fetchone()
    return str(row[0]) if row else name


def _qualified(session: Session, table: Relation) -> str:
    return f"{_quoted(session, table.schema)}.{_quoted(session, table.name)}"
