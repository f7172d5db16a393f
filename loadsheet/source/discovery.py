"""What a source contains: the tables and views of a schema, and what catalogs and statistics show
about how they are written. `loadsheet add` and `new` choose keys and cursors by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

from loadsheet.errors import Refused
from loadsheet.names import did_you_mean

# A table that inherits from another is part of it: a query of the parent returns its rows too.
_RELATIONS = """
SELECT c.oid, c.relname::text AS name, relkind::text AS kind,
    greatest(reltuples, 0)::bigint AS rows,
       (SELECT p.relname::text FROM pg_inherits JOIN pg_class p ON p.oid = inhparent
        WHERE inhrelid = c.oid ORDER BY inhseqno LIMIT 1) AS part_of,
       (SELECT extname::text FROM pg_depend JOIN pg_extension e ON e.oid = refobjid
        WHERE classid = 'pg_class'::regclass AND objid = c.oid
            AND deptype = 'e' LIMIT 1) AS extension,
       CASE WHEN NOT has_table_privilege(c.oid, 'SELECT')
            THEN format('GRANT SELECT ON %%s TO %%I;', c.oid::regclass, current_user) END AS grant
FROM pg_class c WHERE relnamespace = %(schema)s::regnamespace
    AND relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY c.relname
"""
_SCHEMAS = """
SELECT nspname::text, has_schema_privilege(n.oid, 'USAGE'), quote_ident(nspname),
    quote_ident(current_user),
       EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid
           AND relkind IN ('r', 'p', 'v', 'm', 'f'))
FROM pg_namespace n WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1
"""
# A unique index counts only if it holds for all rows and at once (not deferred), and all of its
# columns are plain ones. PostgreSQL counts the changes of a partitioned table in its partitions. A
# sequence from which sessions draw blocks gives no order to read by (holdback.py).
_FACTS = """
SELECT c.oid,
       ARRAY(SELECT to_json(ARRAY(
                 SELECT attname FROM unnest(indkey) WITH ORDINALITY part (attnum, place)
                 JOIN pg_attribute USING (attnum)
                 WHERE attrelid = indrelid AND place <= indnkeyatts ORDER BY place))
             FROM pg_index WHERE indrelid = c.oid AND indisunique AND indisvalid AND indimmediate
                 AND NOT indisprimary
             AND indpred IS NULL AND indexprs IS NULL ORDER BY indnkeyatts, indexrelid) AS uniques,
       ARRAY(SELECT DISTINCT attname::text FROM pg_index JOIN pg_class x ON x.oid = indexrelid
             JOIN pg_am ON pg_am.oid = x.relam AND amname = 'btree'
             JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
             WHERE indrelid = c.oid AND indisvalid AND indpred IS NULL) AS indexed,
       ARRAY(SELECT attname::text FROM pg_attribute
             JOIN (SELECT refobjsubid AS attnum, objid AS seqrelid FROM pg_depend
                   WHERE classid = 'pg_class'::regclass AND deptype IN ('a', 'i')
                   AND refclassid = 'pg_class'::regclass AND refobjid = c.oid
                   UNION
                   SELECT adnum, refobjid FROM pg_attrdef d
                   JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = d.oid
                   WHERE refclassid = 'pg_class'::regclass AND adrelid = c.oid) source
                       USING (attnum)
             JOIN pg_sequence USING (seqrelid)
             WHERE attrelid = c.oid AND seqincrement > 0 AND seqcache = 1
                 AND NOT seqcycle) AS drawn,
       coalesce((SELECT json_object_agg(attname,
           json_build_array(null_frac, coalesce(correlation, 0))) FROM pg_stats
                 WHERE schemaname = (SELECT nspname FROM pg_namespace n WHERE n.oid = relnamespace)
                 AND tablename = relname AND inherited = (relkind = 'p')), '{}') AS stats,
       (SELECT coalesce(sum(pg_stat_get_tuples_updated(part) + pg_stat_get_tuples_deleted(part)),
           0)::bigint
        FROM (SELECT c.oid UNION SELECT relid
            FROM pg_partition_tree(c.oid::regclass)) parts (part)) AS changes
FROM pg_class c WHERE c.oid = ANY (%(oids)s)
"""


@dataclass(frozen=True, kw_only=True)
class SourceRelation:
    """A table or view of the schema: `kind` is the catalog's relkind, `rows` its estimate."""

    oid: int
    name: str
    kind: str
    rows: int
    part_of: str | None
    """The table whose queries return its rows too: the parent of a partition, or of a table that
    inherits."""
    extension: str | None
    """The extension it belongs to."""
    grant: str | None
    """The statement that lets this role read it; None where it may already."""

    @property
    def is_own_table(self) -> bool:
        """Whether it is a table, no part of another table and of no extension."""
        return self.kind in ("r", "p") and not self.part_of and not self.extension


@dataclass(frozen=True, kw_only=True)
class Facts:
    """How a table is written and indexed, as far as catalogs and statistics show."""

    oid: int
    uniques: list[list[str]]
    """Columns of each unique index that holds for all rows, the shortest first."""
    indexed: list[str]
    """Columns that are the first of a b-tree index."""
    drawn: list[str]
    """Columns filled by a sequence that only rises."""
    stats: Mapping[str, tuple[float, float]]
    """Per analysed column, the share of NULLs and the correlation with the physical order."""
    changes: int
    """Rows updated or deleted since the statistics began."""


def relations(session: psycopg.Connection[Any], schema: str) -> list[SourceRelation]:
    """The tables and views of `schema`, by name. Raises Refused when the schema is missing or this
    role may not use it."""
    schemas = {row[0]: row[1:] for row in session.execute(_SCHEMAS)}
    if schema not in schemas:
        raise Refused(f"the source has no schema {schema!r}{did_you_mean(schema, schemas)}")
    is_usable, quoted, role, _ = schemas[schema]
    if not is_usable:
        raise Refused(
            f"role {role} may not use schema {schema!r}: GRANT USAGE ON SCHEMA {quoted} TO {role};"
        )
    with session.cursor(row_factory=class_row(SourceRelation)) as cursor:
        return cursor.execute(_RELATIONS, {"schema": quoted}).fetchall()


def has_relation(session: psycopg.Connection[Any], schema: str, name: str) -> bool:
    """Whether `schema` has a table or view of this name."""
    rows = session.execute(
        "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %s AND"
        " relname = %s AND relkind IN ('r', 'p', 'v', 'm', 'f')",
        (schema, name),
    )
    return rows.fetchone() is not None


def filled_schemas(session: psycopg.Connection[Any]) -> list[str]:
    """The schemas that have tables or views and may be used by this role."""
    rows = session.execute(_SCHEMAS).fetchall()
    return [name for name, is_usable, _, _, is_filled in rows if is_usable and is_filled]


def grants_for_schemas(session: psycopg.Connection[Any]) -> list[str]:
    """The statements that let this role read the schemas that have tables and that it may not
    use."""
    grants: list[str] = []
    for _, is_usable, quoted, role, is_filled in session.execute(_SCHEMAS):
        if is_filled and not is_usable:
            grants.append(f"GRANT USAGE ON SCHEMA {quoted} TO {role};")
            grants.append(f"GRANT SELECT ON ALL TABLES IN SCHEMA {quoted} TO {role};")
    return grants


def facts(session: psycopg.Connection[Any], oids: Iterable[int]) -> dict[int, Facts]:
    """The facts about each of the tables, by oid."""
    with session.cursor(row_factory=class_row(Facts)) as cursor:
        rows = cursor.execute(_FACTS, {"oids": list(oids)})
        return {row.oid: row for row in rows}
