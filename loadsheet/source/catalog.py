"""A source table as the catalogs describe it: its columns in order, their types in the target, its
primary key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from typing import Any

import psycopg
from psycopg.rows import dict_row

from loadsheet.answers import known
from loadsheet.errors import Overtaken, Refused
from loadsheet.names import did_you_mean
from loadsheet.pinned import PinnedSession
from loadsheet.source.access import refuse_hidden_rows
from loadsheet.source.beneath import Beneath, rewritten, walk
from loadsheet.source.fitness import refuse_unfit
from loadsheet.source.table import Nature, SourceTable
from loadsheet.spec.models import Table
from loadsheet.sql.extensions import Ask, Offered, is_known
from loadsheet.sql.text import Relation
from loadsheet.sql.type_names import UnknownType
from loadsheet.sql.types import Column, landing

# Domains are followed to their base type, inside arrays too. `element` is the type inside an array,
# else the column's own type. A column marked NOT NULL may still hold NULLs: PostgreSQL 18 has NOT
# NULL constraints that are not validated, and tables that inherit from this one may lack it.
_COLUMNS = r"""
WITH RECURSIVE base (relation, attnum, name, not_null, declared, coll, oid, typmod) AS (
    SELECT attrelid, attnum, attname,
           attnotnull AND NOT (relkind = 'r' AND relhassubclass) AND NOT EXISTS (
               SELECT FROM pg_constraint
               WHERE conrelid = attrelid AND contype = 'n' AND attnum = ANY (conkey)
                   AND NOT convalidated),
           format_type(atttypid, atttypmod), attcollation, atttypid, atttypmod
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE attrelid = ANY (%(oids)s::oid[]) AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT relation, attnum, name, not_null, declared, coll, typbasetype, typtypmod
    FROM base JOIN pg_type ON pg_type.oid = base.oid AND typtype = 'd'
), element (relation, attnum, oid, typmod) AS (
    SELECT relation, attnum, typelem, typmod
    FROM base JOIN pg_type ON pg_type.oid = base.oid AND typtype <> 'd' AND typcategory = 'A'
    UNION ALL
    SELECT relation, attnum, typbasetype, typtypmod
    FROM element JOIN pg_type ON pg_type.oid = element.oid AND typtype = 'd'
)
SELECT base.relation, base.attnum, name, not_null, declared,
       CASE WHEN element.oid <> outer_type.typelem
           THEN format_type(inner_type.typarray, element.typmod)
            ELSE format_type(base.oid, base.typmod) END AS base_type,
       coalesce(inner_type.typname, outer_type.typname) AS element,
       outer_type.typcategory = 'A' AS is_array,
       coalesce(inner_type.oid, outer_type.oid) < 16384 AS builtin,  -- FirstNormalObjectId
       coalesce(element.oid <> outer_type.typelem, false) AS unwrapped,
       coalesce(inner_type.typtype, outer_type.typtype) = 'e' AS is_enum,
       EXISTS (SELECT FROM pg_cast WHERE castsource = coalesce(inner_type.oid, outer_type.oid)
               AND castsource >= 16384 AND casttarget = 'text'::regtype
                   AND castmethod = 'f') AS own_text,
       (SELECT extname FROM pg_depend JOIN pg_extension ON pg_extension.oid = refobjid
        WHERE classid = 'pg_type'::regclass AND objid = coalesce(inner_type.oid, outer_type.oid)
            AND refclassid = 'pg_extension'::regclass AND deptype = 'e') AS extension,
       format_type(coalesce(inner_type.oid, outer_type.oid), NULL) AS qualified,
       format_type(coalesce(inner_type.oid, outer_type.oid),
           CASE WHEN inner_type.oid IS NULL THEN base.typmod ELSE element.typmod END) AS modified,
       coalesce(NOT collisdeterministic, false) AS loose,
       ARRAY(SELECT enumlabel::text FROM pg_enum
           WHERE enumtypid = coalesce(inner_type.oid, outer_type.oid)
             ORDER BY enumsortorder) AS labels,
       CASE WHEN coalesce(inner_type.oid, outer_type.oid) >= 16384
           OR coalesce(inner_type.typname, outer_type.typname) ~ '^reg|^aclitem$' THEN ARRAY(
           WITH RECURSIVE within (oid) AS (
               SELECT coalesce(inner_type.oid, outer_type.oid)
               UNION
               SELECT part.oid FROM within JOIN pg_type t ON t.oid = within.oid, LATERAL (
                   SELECT typbasetype WHERE typtype = 'd'
                   UNION ALL SELECT typelem WHERE typtype <> 'd' AND typcategory = 'A'
                   -- Before PostgreSQL 14, pg_range has no rngmultitypid.
                   UNION ALL SELECT rngsubtype FROM pg_range
                       WHERE t.oid IN (rngtypid, (to_jsonb(pg_range) ->> 'rngmultitypid')::oid)
                   UNION ALL SELECT atttypid FROM pg_attribute
                       WHERE typtype = 'c' AND attrelid = typrelid AND attnum > 0
                           AND NOT attisdropped) AS part (oid)
           )
           SELECT enumtypid || ' label ' || enumlabel
           FROM within JOIN pg_enum ON enumtypid = within.oid
           WHERE within.oid <> coalesce(inner_type.oid, outer_type.oid)
           UNION ALL
           SELECT t.oid || ' columns ' || (SELECT coalesce(string_agg(attnum::text, ' '
                   ORDER BY attnum), '') FROM pg_attribute
               WHERE attrelid = typrelid AND attnum > 0 AND NOT attisdropped)
           FROM within JOIN pg_type t USING (oid) WHERE typtype = 'c'
           UNION ALL
           SELECT t.oid || ' names' FROM within JOIN pg_type t USING (oid)
           WHERE t.oid < 16384 AND typtype = 'b' AND typname ~ '^reg|^aclitem$'
           ORDER BY 1) ELSE '{}' END || ARRAY(
           -- The expression without the places that its parts had in the statement. Before
           -- PostgreSQL 12, pg_attribute has no attgenerated.
           SELECT '0 expression ' || hashtext(
               regexp_replace(adbin::text, ':location -?\d+', '', 'g') COLLATE "C")
           FROM pg_attrdef JOIN pg_attribute a ON a.attrelid = adrelid AND a.attnum = adnum
           WHERE adrelid = base.relation AND adnum = base.attnum
               AND to_jsonb(a) ->> 'attgenerated' = 'v') AS inside
FROM base
JOIN pg_type outer_type ON outer_type.oid = base.oid AND outer_type.typtype <> 'd'
LEFT JOIN (element JOIN pg_type inner_type ON inner_type.oid = element.oid
    AND inner_type.typtype <> 'd')
     ON element.relation = base.relation AND element.attnum = base.attnum
LEFT JOIN pg_collation ON pg_collation.oid = coll
ORDER BY base.relation, base.attnum
"""
# As above, for columns of types that come with PostgreSQL and are no domains: 1.1 instead of 4.3
# ms, most of which the server takes to parse and plan the statement. `is_plain` tells whether that
# holds.
_PLAIN_COLUMNS = """
SELECT attrelid AS relation, attnum, attname AS name,
       attnotnull AND NOT (relkind = 'r' AND relhassubclass) AND NOT EXISTS (
           SELECT FROM pg_constraint
           WHERE conrelid = attrelid AND contype = 'n' AND attnum = ANY (conkey)
               AND NOT convalidated) AS not_null,
       format_type(atttypid, atttypmod) AS declared, format_type(atttypid, atttypmod) AS base_type,
       coalesce(e.typname, t.typname) AS element, t.typcategory = 'A' AS is_array,
       true AS builtin, false AS unwrapped, false AS is_enum, false AS own_text,
       NULL AS extension, format_type(coalesce(e.oid, t.oid), NULL) AS qualified,
       format_type(coalesce(e.oid, t.oid), atttypmod) AS modified,
       coalesce(NOT collisdeterministic, false) AS loose,
       '{}'::text[] AS labels, '{}'::text[] AS inside,
       t.oid < 16384 AND t.typtype <> 'd' AND coalesce(e.typtype <> 'd', true)
           AND coalesce(e.typname, t.typname) !~ '^reg|^aclitem$'
           -- Before PostgreSQL 12, pg_attribute has no attgenerated.
           AND CASE WHEN atthasdef THEN coalesce(to_jsonb(a) ->> 'attgenerated', '') <> 'v'
               ELSE true END AS is_plain
FROM pg_attribute a JOIN pg_class ON pg_class.oid = attrelid JOIN pg_type t ON t.oid = atttypid
LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
LEFT JOIN pg_collation ON pg_collation.oid = attcollation
WHERE attrelid = ANY (%(oids)s::oid[]) AND attnum > 0 AND NOT attisdropped
ORDER BY attrelid, attnum
"""
# Columns after `indnkeyatts` are only stored in the index (INCLUDE). Where other tables inherit
# from a table, its key does not cover all the rows read from it. The key of a partitioned table
# that some partition lacks is not valid.
_IS_OF_KEY = """
FROM pg_index, unnest(indkey) WITH ORDINALITY AS part (attnum, place)
JOIN pg_attribute USING (attnum)
WHERE indisprimary AND indisvalid AND attrelid = indrelid AND place <= indnkeyatts AND NOT EXISTS (
    SELECT FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent WHERE inhparent = indrelid
        AND relkind = 'r')
"""
_KEYS = f"""
SELECT indrelid, attname {_IS_OF_KEY} AND indrelid = ANY (%(oids)s::oid[]) ORDER BY indrelid, place
"""
_RELATION = f"""
SELECT c.oid, relkind IN ('r', 'p'), relkind <> 'r' OR relhassubclass OR c.oid < 16384,
    relkind = 'v' OR relrowsecurity, relpersistence = 'u',
    ARRAY(SELECT attname::text {_IS_OF_KEY} AND indrelid = c.oid ORDER BY place)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = %s AND relname = %s AND relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_NEIGHBOURS = """
SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = %s AND relkind IN ('r', 'p', 'v', 'm', 'f')
"""


# Another server may have another table with this oid, so the columns are compared as well.
_RENAMED = """
SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE c.oid = %(oid)s AND relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT EXISTS (
    SELECT FROM unnest(%(attnums)s::int[], %(names)s::text[]) AS last (attnum, name)
    WHERE NOT EXISTS (
        SELECT FROM pg_attribute a
        WHERE attrelid = c.oid AND a.attnum = last.attnum AND attname = last.name
    )
)
"""


class Changed(Overtaken):
    """The table is not as it was described before the snapshot."""


@dataclass(frozen=True, kw_only=True)
class LastRead:
    """The table that was read last under a name: its oid, and its columns by their attnums."""

    oid: int
    columns: dict[int, str]


def last_read(oid: int | None, columns: Sequence[Mapping[str, Any]] | None) -> LastRead | None:
    """What the ledger has recorded of the table; None where it was never read."""
    if oid is None or not columns:
        return None
    return LastRead(oid=oid, columns={column["attnum"]: column["name"] for column in columns})


def describe(
    session: psycopg.Connection[Any],
    schema: str,
    table: Table,
    ask: Ask | None = None,
    last: LastRead | None = None,
) -> SourceTable:
    """`table` as the source's catalogs describe it, with the columns that the spec selects.

    `ask` tells which types of extensions the warehouse has; without it, it is taken to have them.
    `last` is for the message about a table that was renamed.

    Raises Refused when the table or a column the spec names does not exist, when this role cannot
    see all of its rows, or when a column's type cannot be loaded as the spec asks.
    """
    relation = Relation(schema, table.name)
    row = session.execute(_RELATION, (schema, table.name)).fetchone()
    if not row:
        raise _missing(session, relation, last)
    oid, is_table, has_parts, may_hide_rows, is_unlogged, key = row
    if may_hide_rows:
        refuse_hidden_rows(session, relation, oid)
    entry = _Entry(oid=oid, columns=_columns_of(session, [oid])[oid], key=tuple(key))
    beneath = Beneath(leaves=(oid,), unlogged=str(relation) if is_unlogged else "")
    if has_parts:
        columns = set(table.primary_key or entry.key)
        if table.incremental:
            columns.add(table.incremental.cursor)
        beneath = walk(session, oid, columns)
    return _described(table, relation, entry, is_table, beneath, ask)


def describe_plain(
    session: psycopg.Connection[Any], schema: str, tables: Mapping[int, Table]
) -> dict[str, SourceTable]:
    """Plain tables, given by their oids, as `describe` describes each of them: in two questions for
    all. Leaves out those that it would refuse, and those with a type that the warehouse would have
    to be asked about."""
    described = {}
    for entry in _entries(session, list(tables)):
        table = tables[entry.oid]
        relation = Relation(schema, table.name)
        beneath = Beneath(leaves=(entry.oid,))
        with suppress(Refused):
            found = _described(table, relation, entry, True, beneath, _refuse_to_ask)
            described[table.name] = found
    return described


def _refuse_to_ask() -> Offered:
    raise Refused("the warehouse is not asked about types here")


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A relation's columns and primary key in the catalogs."""

    oid: int
    columns: list[dict[str, Any]]
    key: tuple[str, ...]


def _entries(session: psycopg.Connection[Any], oids: Sequence[int]) -> list[_Entry]:
    columns = _columns_of(session, oids)
    keys: dict[int, list[str]] = {oid: [] for oid in oids}
    for oid, name in session.execute(_KEYS, {"oids": list(oids)}):
        known(session, keys, oid).append(name)
    return [_Entry(oid=oid, columns=columns[oid], key=tuple(keys[oid])) for oid in oids]


def _columns_of(
    session: psycopg.Connection[Any], oids: Sequence[int]
) -> dict[int, list[dict[str, Any]]]:
    columns: dict[int, list[dict[str, Any]]] = {oid: [] for oid in oids}
    values = {"oids": list(oids)}
    with session.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_PLAIN_COLUMNS, values).fetchall()
        if not all(row["is_plain"] for row in rows):
            rows = cursor.execute(_COLUMNS, values).fetchall()
    for row in rows:
        known(session, columns, row["relation"]).append(row)
    return columns


def _described(
    table: Table,
    relation: Relation,
    entry: _Entry,
    is_table: bool,
    beneath: Beneath,
    ask: Ask | None,
) -> SourceTable:
    """`table` with the columns that the spec selects. Raises Refused as `describe` does."""
    key = table.primary_key or entry.key
    whole = SourceTable(
        relation=relation,
        oid=entry.oid,
        columns=tuple(_columns(relation, entry.columns, key, ask)),
        natures={row["name"]: _nature(row) for row in entry.columns},
        not_null=frozenset(row["name"] for row in entry.columns if row["not_null"]),
        key=key,
        key_is_enforced=bool(entry.key) and set(key) == set(entry.key),
        is_table=is_table,
        beneath=beneath,
    )
    selected = replace(whole, columns=_selected_columns(whole, table))
    refuse_unfit(selected, table)
    return selected


def lock(session: psycopg.Connection[Any], source: SourceTable) -> None:
    """Keep the relation, and all that is below it, from being truncated, rewritten or redefined
    until the transaction ends. To call before the transaction's snapshot is taken.

    Does nothing for what cannot be locked: materialized views, foreign tables, and views that this
    role may only read in part.
    """
    statement = f"LOCK TABLE {source.relation.sql} IN ACCESS SHARE MODE"
    if source.is_table:
        session.execute(statement)
    elif source.beneath.definition is not None:
        # In a savepoint, which takes no snapshot.
        with suppress(psycopg.errors.InsufficientPrivilege), session.transaction():
            session.execute(statement)


@contextmanager
def locked_snapshot(
    session: PinnedSession, table: Table, expected: SourceTable, ask: Ask | None
) -> Iterator[SourceTable]:
    """A snapshot in which the relation, and all that is below it, can be read whole; yields
    `table` as the catalogs describe it there.

    Raises Changed where that is not `expected`, Overtaken where its rows were rewritten meanwhile,
    and as `describe` does.
    """
    with session.snapshot():
        # Before the snapshot: a table rewritten or truncated after it would look empty to it.
        lock(session, expected)
        session.fix_snapshot()
        described = describe(session, expected.relation.schema, table, ask)
        # What to read was decided by the catalog as it was before the snapshot.
        if described != expected:
            raise Changed(
                f"{described.relation}: its columns or key changed while it was being read; retry"
            )
        _lock_below(session, described)
        yield described


def _lock_below(session: psycopg.Connection[Any], source: SourceTable) -> None:
    """Lock what `lock` could not, by reading it in the transaction's snapshot. Raises Overtaken if
    it was truncated or rewritten since: it would look empty."""
    if source.is_table:
        return
    session.execute(f"SELECT FROM {source.relation.sql} LIMIT 0")
    leaf = rewritten(session, source.beneath)
    if leaf:
        raise Overtaken(
            f"{source.relation}: {leaf} below it was truncated or rewritten while it"
            " was being read; retry"
        )


def _missing(
    session: psycopg.Connection[Any], relation: Relation, last: LastRead | None
) -> Refused:
    if last:
        values = {
            "oid": last.oid,
            "attnums": list(last.columns),
            "names": list(last.columns.values()),
        }
        renamed = session.execute(_RENAMED, values).fetchone()
        if renamed:
            return Refused(
                f"the source has no table {relation}: it is called {Relation(*renamed)} now. Write"
                " the new name in the pipeline file; its rows are loaded from the beginning"
            )
    rows = session.execute(_NEIGHBOURS, (relation.schema,))
    names = [row[0] for row in rows]
    if names:
        return Refused(f"the source has no table {relation}{did_you_mean(relation.name, names)}")
    return Refused(
        f"the source has no table {relation}: schema {relation.schema!r} is empty, missing or not"
        " visible to this role"
    )


def _columns(
    relation: Relation, rows: list[dict[str, Any]], key: tuple[str, ...], ask: Ask | None
) -> list[Column]:
    offered: Offered | None = None
    if ask and any(is_known(row["extension"], row["element"]) for row in rows):
        offered = ask()
    columns = []
    for row in rows:
        try:
            column = _column(row)
            # In a key, the operators of its own type would have to be found, and be those of the
            # source.
            if is_known(row["extension"], row["element"]) and row["name"] not in key:
                column = _as_itself(column, row, offered)
        except UnknownType as error:
            raise Refused(
                f"{relation}: the source gives column {row['name']!r} a type that PostgreSQL does"
                f" not have: {error}. Ask the source's administrator what its format_type() answers"
            ) from error
        columns.append(column)
    return columns


def _as_itself(column: Column, row: dict[str, Any], offered: Offered | None) -> Column:
    """The column with the type that the warehouse has for it; unchanged where it has none."""
    name = row["qualified"]
    if offered:
        if column.name in offered.texts:
            return column
        name = offered.names.get((row["extension"], row["element"]))
        if name is None:
            return column
    modifier = row["modified"].removeprefix(row["qualified"])
    array = "[]" if row["is_array"] else ""
    return replace(column, type=f"{name}{modifier}{array}", cast=False, exact_in_binary=False)


def _column(row: dict[str, Any]) -> Column:
    type_name, cast, exact = landing(
        row["base_type"], row["element"], row["is_array"], row["builtin"]
    )
    return Column(
        name=row["name"],
        attnum=row["attnum"],
        source_type=row["declared"],
        type=type_name,
        # The binary form of an array of a domain contains the domain's oid, which only the source
        # knows.
        cast=cast or row["unwrapped"],
        exact_in_binary=exact,
        labels=tuple(row["labels"]),
        inside=tuple(row["inside"]),
    )


def _nature(row: dict[str, Any]) -> Nature:
    return Nature(**{field.name: row[field.name] for field in fields(Nature)})


def _selected_columns(whole: SourceTable, table: Table) -> tuple[Column, ...]:
    """The columns that `columns.include` and `columns.exclude` leave. Raises Refused when they name
    an unknown column, drop a part of the key, or leave nothing or our own `_load_id`."""
    for name in (*table.include, *table.exclude, *whole.key):
        whole.column(name)  # raises Refused when there is none
    names = {column.name for column in whole.columns}
    if table.include:
        names &= set(table.include)
    names -= set(table.exclude)
    for name in whole.key:
        if name not in names:
            raise Refused(
                f"{whole.relation}: columns leaves out {name!r}, which is part of the primary key"
            )
    if not names:
        raise Refused(f"{whole.relation} has no columns to load")
    if "_load_id" in names:
        raise Refused(
            f"{whole.relation} has a column _load_id, a name that Loadsheet reserves; exclude it"
            " with columns.exclude"
        )
    return tuple(column for column in whole.columns if column.name in names)
