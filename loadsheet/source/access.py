"""Which roles read what is below a relation, and which of them do not see all of it.

A view reads the tables below it as its owner, or with `security_invoker` as the role that reads the
view. A policy of row level security may hide rows from that role. In our sessions the server then
refuses the query (`row_security` in `pinned.PINNED`), so that no row is missing unseen. The
catalogs tell which table and which role it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from loadsheet.errors import Refused
from loadsheet.sql.grants import grant, grant_select
from loadsheet.sql.text import Relation, ident

# As PostgreSQL decides it (check_enable_rls). The query of a view names the view itself, too.
_READERS = r"""
WITH RECURSIVE me AS (
    SELECT oid FROM pg_roles WHERE rolname = current_user
), below (oid, reader) AS (
    SELECT CAST(%(oid)s AS oid), oid FROM me
    UNION
    SELECT c.oid, CASE WHEN EXISTS (
            SELECT FROM pg_options_to_table(v.reloptions)
            WHERE option_name = 'security_invoker' AND option_value::boolean
        ) THEN me.oid ELSE v.relowner END
    FROM me, below JOIN pg_class v ON v.oid = below.oid AND v.relkind = 'v'
    JOIN pg_rewrite ON ev_class = v.oid AND ev_type = '1',
    regexp_matches(ev_action::text, ':relid (\d+)', 'g') found
    JOIN pg_class c ON c.oid = found[1]::oid
    WHERE c.oid <> v.oid
)
SELECT nspname, relname, rolname, c.oid = %(oid)s,
    relrowsecurity AND NOT (rolsuper OR rolbypassrls)
        AND (relforcerowsecurity OR NOT pg_has_role(reader, relowner, 'USAGE')),
    NOT (has_table_privilege(reader, c.oid, 'SELECT')
        OR has_any_column_privilege(reader, c.oid, 'SELECT'))
FROM below JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = relnamespace
JOIN pg_roles ON pg_roles.oid = reader
ORDER BY c.oid, reader
"""
# Functions run as the role that reads the view, whoever owns it.
_FUNCTIONS = r"""
WITH RECURSIVE below (oid) AS (
    SELECT CAST(%(oid)s AS oid)
    UNION
    SELECT found[1]::oid FROM below JOIN pg_class v ON v.oid = below.oid AND v.relkind = 'v'
    JOIN pg_rewrite ON ev_class = v.oid AND ev_type = '1',
    regexp_matches(ev_action::text, ':relid (\d+)', 'g') found
)
SELECT DISTINCT f.oid::regprocedure::text, current_user::text
FROM below JOIN pg_class v ON v.oid = below.oid AND v.relkind = 'v'
JOIN pg_rewrite ON ev_class = v.oid AND ev_type = '1',
regexp_matches(ev_action::text, ':(?:(?:op)?funcid|aggfnoid|winfnoid) (\d+)', 'g') found
JOIN pg_proc f ON f.oid = found[1]::oid
WHERE NOT has_function_privilege(f.oid, 'EXECUTE') ORDER BY 1
"""


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """What keeps a relation from being read, and the SQL that removes it."""

    what: str
    fix: str


class RowsHidden(Refused):
    """Row level security hides rows of a relation. `fix` is the SQL that shows them."""

    def __init__(self, text: str, fix: str):
        self.fix = fix
        super().__init__(text)


def refuse_hidden_rows(session: psycopg.Connection[Any], relation: Relation, oid: int) -> None:
    """Raises RowsHidden, with the way on, where row level security hides rows of the relation, or
    of a table below it, from the role that reads them."""
    hidden = hidden_rows(session, oid)
    if hidden:
        fixes = " ".join(dict.fromkeys(obstacle.fix for obstacle in hidden))
        whats = "; ".join(obstacle.what for obstacle in hidden)
        raise RowsHidden(f"{relation}: {whats}: run {fixes} or read as the table's owner", fixes)


def hidden_rows(session: psycopg.Connection[Any], oid: int) -> list[Obstacle]:
    """The tables at or below a relation of which a role sees only some rows."""
    found = []
    for schema, name, role, _, hides_rows, _ in session.execute(_READERS, {"oid": oid}):
        if hides_rows:
            table = Relation(schema, name)
            what = f"{table} has row level security, and role {role} would see only some rows of it"
            found.append(Obstacle(what=what, fix=f"ALTER ROLE {ident(role)} BYPASSRLS;"))
    return found


def forbidden_below(session: psycopg.Connection[Any], oid: int) -> list[Obstacle]:
    """The tables and functions below a view that the role which needs them may not use."""
    found = []
    for schema, name, role, is_top, _, lacks_select in session.execute(_READERS, {"oid": oid}):
        if lacks_select and not is_top:
            table = Relation(schema, name)
            what = f"it reads {table} as role {role}, which may not"
            found.append(Obstacle(what=what, fix=grant_select(table, role)))
    for function, role in session.execute(_FUNCTIONS, {"oid": oid}):
        what = f"it calls {function}, which role {role} may not"
        found.append(Obstacle(what=what, fix=grant("EXECUTE", f"FUNCTION {function}", role)))
    return found
