"""What the source's catalogs say of a table: its columns in order, their landing types, its primary key."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from loadsheet.errors import Refused
from loadsheet.spec.models import Table
from loadsheet.sql.text import Relation
from loadsheet.sql.types import Column, landing

# Domains are followed to their base type; `element` is the type inside an array, a non-array's own type.
_COLUMNS = """
WITH RECURSIVE base (attnum, name, not_null, declared, oid, typmod) AS (
    SELECT attnum, attname, attnotnull, format_type(atttypid, atttypmod), atttypid, atttypmod
    FROM pg_attribute WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT attnum, name, not_null, declared, typbasetype, typtypmod
    FROM base JOIN pg_type ON pg_type.oid = base.oid AND typtype = 'd'
)
SELECT attnum, name, not_null, declared, format_type(base.oid, base.typmod) AS source_type,
       coalesce(inner_type.typname, outer_type.typname) AS element,
       outer_type.typcategory = 'A' AS is_array,
       coalesce(inner_type.oid, outer_type.oid) < 16384 AS builtin  -- FirstNormalObjectId
FROM base
JOIN pg_type outer_type ON outer_type.oid = base.oid AND outer_type.typtype <> 'd'
LEFT JOIN pg_type inner_type ON inner_type.oid = outer_type.typelem AND outer_type.typcategory = 'A'
ORDER BY attnum
"""
_KEY = """
SELECT attname FROM pg_index, unnest(indkey) WITH ORDINALITY AS part (attnum, place)
JOIN pg_attribute USING (attnum)
WHERE indrelid = %(oid)s AND indisprimary AND attrelid = indrelid ORDER BY place
"""
_RELATION = """
SELECT c.oid, relkind IN ('r', 'p') FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = %s AND relname = %s AND relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_NEIGHBOURS = """
SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = %s AND relkind IN ('r', 'p', 'v', 'm', 'f')
"""
# What identifies the server and the place in its history; a role may lack the right to ask for the former.
_IDENTITY = """
SELECT current_database(), current_setting('server_version'),
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text
"""


@dataclass(frozen=True, kw_only=True)
class SourceTable:
    """A table as its catalog describes it, reduced to the columns the spec carries."""

    relation: Relation
    oid: int
    columns: tuple[Column, ...]
    not_null: frozenset[str]
    key: tuple[str, ...]
    """The spec's primary key, else the catalog's; empty when there is none."""
    key_is_enforced: bool
    """The source itself keeps the key unique and without NULLs."""
    is_table: bool

    def column(self, name: str) -> Column:
        """The column called `name`. Raises Refused, with the closest names, when the table has none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise Refused(f"{self.relation} has no column {name!r}{_closest(name, [c.name for c in self.columns])}")


def describe(session: psycopg.Connection[Any], schema: str, table: Table) -> SourceTable:
    """Ask the catalogs for `table`. Raises Refused when it, or a column the spec names, does not exist."""
    relation = Relation(schema, table.name)
    found = session.execute(_RELATION, (schema, table.name)).fetchone()
    if not found:
        names = [row[0] for row in session.execute(_NEIGHBOURS, (schema,))]
        raise Refused(
            f"the source has no table {relation}{_closest(table.name, names)}"
            if names
            else f"the source has no table {relation}: schema {schema!r} is empty, missing or not visible to this role"
        )
    rows = session.execute(_COLUMNS, {"oid": found[0]}).fetchall()
    primary = tuple(row[0] for row in session.execute(_KEY, {"oid": found[0]}))
    every = SourceTable(
        relation=relation,
        oid=found[0],
        columns=tuple(_column(row) for row in rows),
        not_null=frozenset(row[1] for row in rows if row[2]),
        key=table.primary_key or primary,
        key_is_enforced=bool(primary) and set(table.primary_key or primary) == set(primary),
        is_table=found[1],
    )
    return _reduced(every, table)


def identity(session: psycopg.Connection[Any]) -> dict[str, str]:
    """The source's database, version, WAL position and, where the role may ask, its system identifier."""
    database, version, lsn = session.execute(_IDENTITY).fetchone() or ("", "", "")
    who = {"database": database, "server_version": version, "lsn": lsn or ""}
    if session.execute("SELECT has_function_privilege('pg_control_system()', 'EXECUTE')").fetchone() == (True,):
        row = session.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
        who["system_identifier"] = row[0] if row else ""
    return who


def _column(row: tuple[Any, ...]) -> Column:
    attnum, name, _, declared, source_type, element, is_array, builtin = row
    type_name, cast, exact = landing(source_type, element, is_array, builtin)
    return Column(name=name, attnum=attnum, source_type=declared, type=type_name, cast=cast, exact_in_binary=exact)


def _reduced(every: SourceTable, table: Table) -> SourceTable:
    for name in (*table.include, *table.exclude, *every.key):
        every.column(name)
    kept = [c for c in every.columns if (not table.include or c.name in table.include) and c.name not in table.exclude]
    left_out = [name for name in every.key if name not in {c.name for c in kept}]
    if left_out:
        raise Refused(f"{every.relation}: columns leaves out {left_out[0]!r}, which is part of the primary key")
    if not kept:
        raise Refused(f"{every.relation} has no columns to carry")
    if any(c.name == "_load_id" for c in kept):
        raise Refused(
            f"{every.relation} has a column _load_id, a name Loadsheet needs; exclude it with columns.exclude"
        )
    return replace(every, columns=tuple(kept))


def _closest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, 1)
    return f" (did you mean {close[0]!r}?)" if close else f"; it has {', '.join(sorted(names)[:10])}"
