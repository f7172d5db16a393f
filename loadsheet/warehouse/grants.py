"""The exact privileges and comments of a table or a view, read from one and given to another that
takes its place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from loadsheet.postgres import Session
from loadsheet.sql.text import Relation, ident, literal

# Also what default privileges have given the relation, and the owner's own, which may have been
# revoked. A system column (`ctid`) can have some, too.
_GRANTS = """
SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(rolname) END,
    privilege_type, is_grantable, attname
FROM (
    SELECT NULL::name AS attname, coalesce(relacl, acldefault('r', relowner)) AS acl
    FROM pg_class WHERE oid = to_regclass(%(name)s)
    UNION ALL
    SELECT attname, attacl FROM pg_attribute
    WHERE attrelid = to_regclass(%(name)s) AND NOT attisdropped AND attacl IS NOT NULL
) granted, aclexplode(acl) WITH ORDINALITY AS item (grantor, grantee, privilege_type,
    is_grantable, place)
LEFT JOIN pg_roles ON pg_roles.oid = grantee
ORDER BY attname NULLS FIRST, place
"""
_COMMENTS = """
SELECT attname, description FROM pg_description
LEFT JOIN pg_attribute ON attrelid = objoid AND attnum = objsubid AND objsubid <> 0
WHERE objoid = to_regclass(%(name)s) AND classoid = 'pg_class'::regclass
"""
_COLUMNS = """
SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%(name)s) AND NOT attisdropped
"""


class Grant(NamedTuple):
    """A privilege of a role."""

    grantee: str
    """As SQL."""
    privilege: str
    is_grantable: bool
    column: str | None
    """None for a privilege on the whole relation."""


class Comment(NamedTuple):
    """A comment on a relation, or on one of its columns."""

    column: str | None
    text: str


def grants_of(session: Session, relation: Relation) -> tuple[Grant, ...]:
    """All privileges on the existing relation, in the order of its access list."""
    rows = session.execute(_GRANTS, {"name": relation.sql}).fetchall()
    return tuple(Grant(*row) for row in rows)


def comments_of(session: Session, relation: Relation) -> tuple[Comment, ...]:
    """The comments on the existing relation and its columns."""
    rows = session.execute(_COMMENTS, {"name": relation.sql}).fetchall()
    return tuple(Comment(*row) for row in rows)


def restore(
    session: Session,
    kind: str,
    relation: Relation,
    grants: Sequence[Grant],
    comments: Collection[Comment],
) -> None:
    """Give the relation (`kind` is TABLE or VIEW) exactly these privileges, and these comments.

    Those on columns that it does not have are left out. Default privileges may have given it some
    that it is not to have.
    """
    columns = {row[0] for row in session.execute(_COLUMNS, {"name": relation.sql})} | {None}
    wanted = tuple(grant for grant in grants if grant.column in columns)
    present = grants_of(session, relation)
    if present != wanted:
        # It revokes the privileges on columns as well.
        for grantee in sorted({grant.grantee for grant in present}):
            session.execute(f"REVOKE ALL ON {relation.sql} FROM {grantee}")
        for grant in wanted:
            session.execute(_statement(grant, relation))
    for comment in comments:
        if comment.column not in columns:
            continue
        on = f"{kind} {relation.sql}"
        if comment.column is not None:
            on = f"COLUMN {relation.sql}.{ident(comment.column)}"
        session.execute(f"COMMENT ON {on} IS {literal(comment.text)}")


def _statement(grant: Grant, relation: Relation) -> str:
    what = grant.privilege
    if grant.column is not None:
        what += f" ({ident(grant.column)})"
    option = " WITH GRANT OPTION" if grant.is_grantable else ""
    return f"GRANT {what} ON {relation.sql} TO {grant.grantee}{option}"
