"""What the source's catalogs say of a table: its columns in order, their landing types, its primary
key."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import psycopg
from psycopg.rows import dict_row

from loadsheet.errors import Refused
from loadsheet.names import did_you_mean
from loadsheet.source.fitness import refuse_unfit
from loadsheet.source.table import Nature, SourceTable
from loadsheet.spec.models import Table
from loadsheet.sql.text import Relation
from loadsheet.sql.types import Column, landing

# Domains are followed to their base type, inside arrays too; `element` is the type inside an array,
# a non-array's own. Not every column that is said to be NOT NULL is: PostgreSQL 18 knows such
# constraints that are not validated, and the tables that inherit from one may lack it.
_COLUMNS = """
WITH RECURSIVE base (attnum, name, not_null, declared, coll, oid, typmod) AS (
    SELECT attnum, attname, attnotnull AND NOT (relkind = 'r' AND relhassubclass) AND NOT EXISTS (
               SELECT FROM pg_constraint
               WHERE conrelid = attrelid AND contype = 'n' AND attnum = ANY (conkey)
                   AND NOT convalidated),
           format_type(atttypid, atttypmod), attcollation, atttypid, atttypmod
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT attnum, name, not_null, declared, coll, typbasetype, typtypmod
    FROM base JOIN pg_type ON pg_type.oid = base.oid AND typtype = 'd'
), element (attnum, oid, typmod) AS (
    SELECT attnum, typelem, typmod
    FROM base JOIN pg_type ON pg_type.oid = base.oid AND typtype <> 'd' AND typcategory = 'A'
    UNION ALL
    SELECT attnum, typbasetype, typtypmod FROM element JOIN pg_type ON pg_type.oid = element.oid
        AND typtype = 'd'
)
SELECT base.attnum, name, not_null, declared,
       CASE WHEN element.oid <> outer_type.typelem
           THEN format_type(inner_type.typarray, element.typmod)
            ELSE format_type(base.oid, base.typmod) END AS source_type,
       coalesce(inner_type.typname, outer_type.typname) AS element,
       outer_type.typcategory = 'A' AS is_array,
       coalesce(inner_type.oid, outer_type.oid) < 16384 AS builtin,  -- FirstNormalObjectId
       coalesce(element.oid <> outer_type.typelem, false) AS unwrapped,
       coalesce(inner_type.typtype, outer_type.typtype) = 'e' AS is_enum,
       EXISTS (SELECT FROM pg_cast WHERE castsource = coalesce(inner_type.oid, outer_type.oid)
               AND castsource >= 16384 AND casttarget = 'text'::regtype
                   AND castmethod = 'f') AS own_text,
       CASE WHEN collprovider <> 'd' THEN collname
            ELSE (SELECT CASE to_jsonb(d) ->> 'datlocprovider' WHEN 'b' THEN 'C' WHEN 'i'
                THEN 'ICU' ELSE datcollate END
                  FROM pg_database d WHERE datname = current_database()) END AS "collation",
       coalesce(collprovider <> 'd', false) AS own_collation,
       coalesce(NOT collisdeterministic, false) AS loose,
       ARRAY(SELECT enumlabel::text FROM pg_enum
           WHERE enumtypid = coalesce(inner_type.oid, outer_type.oid)
             ORDER BY enumsortorder) AS labels
FROM base
JOIN pg_type outer_type ON outer_type.oid = base.oid AND outer_type.typtype <> 'd'
LEFT JOIN (element JOIN pg_type inner_type ON inner_type.oid = element.oid
    AND inner_type.typtype <> 'd')
     ON element.attnum = base.attnum
LEFT JOIN pg_collation ON pg_collation.oid = coll
ORDER BY attnum
"""
# The key of a table that others inherit from is not one of all rows read from it.
_KEY = """
SELECT attname FROM pg_index, unnest(indkey) WITH ORDINALITY AS part (attnum, place)
JOIN pg_attribute USING (attnum)
WHERE indrelid = %(oid)s AND indisprimary AND attrelid = indrelid AND NOT EXISTS (
    SELECT FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent WHERE inhparent = indrelid
        AND relkind = 'r')
ORDER BY place
"""
_RELATION = """
SELECT c.oid, relkind IN ('r', 'p'), row_security_active(c.oid), quote_ident(current_user)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = %s AND relname = %s AND relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_NEIGHBOURS = """
SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = %s AND relkind IN ('r', 'p', 'v', 'm', 'f')
"""


def describe(session: psycopg.Connection[Any], schema: str, table: Table) -> SourceTable:
    """Ask the catalogs for `table`. Raises Refused when it, or a column the spec names, does not
    exist."""
    relation = Relation(schema, table.name)
    found = session.execute(_RELATION, (schema, table.name)).fetchone()
    if not found:
        names = [row[0] for row in session.execute(_NEIGHBOURS, (schema,))]
        raise Refused(
            f"the source has no table {relation}{did_you_mean(table.name, names)}"
            if names
            else (
                f"the source has no table {relation}: schema {schema!r} is empty, missing or not"
                " visible to this role"
            )
        )
    if found[2]:
        raise Refused(
            f"{relation} has row security, and role {found[3]} would be shown only some of its"
            f" rows: run ALTER ROLE {found[3]} BYPASSRLS; or read as the table's owner"
        )
    with session.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_COLUMNS, {"oid": found[0]}).fetchall()
    primary = tuple(row[0] for row in session.execute(_KEY, {"oid": found[0]}))
    every = SourceTable(
        relation=relation,
        oid=found[0],
        columns=tuple(_column(row) for row in rows),
        natures={
            row["name"]: Nature(**{f.name: row[f.name] for f in fields(Nature)}) for row in rows
        },
        not_null=frozenset(row["name"] for row in rows if row["not_null"]),
        key=table.primary_key or primary,
        key_is_enforced=bool(primary) and set(table.primary_key or primary) == set(primary),
        is_table=found[1],
    )
    return _reduced(every, table)


def _column(row: dict[str, Any]) -> Column:
    type_name, cast, exact = landing(
        row["source_type"], row["element"], row["is_array"], row["builtin"]
    )
    return Column(
        name=row["name"],
        attnum=row["attnum"],
        source_type=row["declared"],
        type=type_name,
        # The binary form of an array of a domain names the domain.
        cast=cast or row["unwrapped"],
        exact_in_binary=exact,
        labels=tuple(row["labels"]),
    )


def _reduced(every: SourceTable, table: Table) -> SourceTable:
    for name in (*table.include, *table.exclude, *every.key):
        every.column(name)
    kept = [
        c
        for c in every.columns
        if (not table.include or c.name in table.include) and c.name not in table.exclude
    ]
    left_out = [name for name in every.key if name not in {c.name for c in kept}]
    if left_out:
        raise Refused(
            f"{every.relation}: columns leaves out {left_out[0]!r}, which is part of the"
            " primary key"
        )
    if not kept:
        raise Refused(f"{every.relation} has no columns to carry")
    if any(c.name == "_load_id" for c in kept):
        raise Refused(
            f"{every.relation} has a column _load_id, a name Loadsheet needs; exclude it with"
            " columns.exclude"
        )
    reduced = replace(every, columns=tuple(kept))
    refuse_unfit(reduced, table)
    return reduced
