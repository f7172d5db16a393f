"""What the warehouse's catalogs say of a target."""

from __future__ import annotations

from loadsheet.postgres import Session
from loadsheet.sql.text import Relation, ident, literal


def kind(session: Session, target: Relation) -> str | None:
    """`r` for a table, `v` for a view and so on (pg_class.relkind); None when there is no such
    relation."""
    row = session.execute(
        "SELECT relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE nspname = %s AND relname = %s",
        (target.schema, target.name),
    ).fetchone()
    return row[0] if row else None


def columns_of(session: Session, target: Relation) -> dict[str, str]:
    """The target's columns and their formatted types, in order; empty when there is no such table."""
    return dict(
        session.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (target.sql,),
        ).fetchall()
    )


def is_fraction(session: Session, part: Relation, whole: Relation) -> bool:
    """Whether `part` has at most an eighth of the rows of `whole`, by the last ANALYZE of each."""
    row = session.execute(
        "SELECT p.reltuples >= 0 AND p.reltuples * 8 <= w.reltuples FROM pg_class p, pg_class w "
        "WHERE p.oid = to_regclass(%s) AND w.oid = to_regclass(%s)",
        (part.sql, whole.sql),
    ).fetchone()
    return row == (True,)


def long_columns(session: Session, target: Relation) -> set[str]:
    """The columns of which the target may hold values outside its rows (TOAST); none when it holds
    no such value."""
    rows = session.execute(
        "SELECT attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE attrelid = to_regclass(%s) "
        "AND attnum > 0 AND NOT attisdropped AND attstorage IN ('x', 'e') AND pg_relation_size(reltoastrelid) > 0",
        (target.sql,),
    )
    return {row[0] for row in rows}


def is_mostly_long(session: Session, target: Relation) -> bool:
    """Whether more of the target lies outside its rows (TOAST) than in them."""
    row = session.execute(
        "SELECT pg_relation_size(reltoastrelid) > pg_relation_size(oid) FROM pg_class WHERE oid = to_regclass(%s)",
        (target.sql,),
    ).fetchone()
    return row == (True,)


def key_of(session: Session, target: Relation) -> tuple[str, tuple[str, ...]] | None:
    """The name and columns of the target's primary key, if it has one."""
    row = session.execute(
        "SELECT conname, array_agg(attname::text ORDER BY place) FROM pg_constraint, "
        "unnest(conkey) WITH ORDINALITY AS part (attnum, place) JOIN pg_attribute USING (attnum) "
        "WHERE conrelid = to_regclass(%s) AND contype = 'p' AND attrelid = conrelid GROUP BY conname",
        (target.sql,),
    ).fetchone()
    return (row[0], tuple(row[1])) if row else None


def count(session: Session, table_sql: str) -> int:
    """How many rows the table has."""
    row = session.execute(f"SELECT count(*) FROM {table_sql}").fetchone()
    return int(row[0]) if row else 0


def ensure_schema(session: Session, schema: str) -> None:
    """Create the schema where it does not exist; needs no right to create schemas where it does."""
    if _has_schema(session, schema):
        return
    with session.transaction():
        lock_creation(session)
        if not _has_schema(session, schema):
            session.execute(f"CREATE SCHEMA {ident(schema)}")


def lock_creation(session: Session) -> None:
    """Wait for whoever is creating a schema, until the transaction ends; then look again before
    creating.

    Look by a query on the catalog: IF NOT EXISTS and to_regclass believe a cache that may not know
    what another session has just made.
    """
    session.execute("SELECT pg_advisory_xact_lock(hashtextextended('loadsheet', 0))")


def _has_schema(session: Session, schema: str) -> bool:
    return (
        session.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
        is not None
    )


# What hangs on a table's identity, so that a swap would break it: views, foreign keys, functions
# (normal dependencies on the table or its row type), and its own triggers, policies, publications,
# statistics, constraints and inheritance.
_DEPENDENTS = """
SELECT regexp_replace(pg_describe_object(classid, objid, 0), '^rule _RETURN on ', '') FROM pg_depend
WHERE (refclassid, refobjid) IN (('pg_class'::regclass, {oid}), ('pg_type'::regclass, {row_type}))
  AND (deptype = 'n' OR classid IN ('pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_publication_rel'::regclass,
                                    'pg_statistic_ext'::regclass))
UNION
SELECT format('constraint %I', conname) FROM pg_constraint WHERE conrelid = {oid} AND contype IN ('f', 'u', 'c', 'x')
UNION
SELECT format('inheritance %s', inhrelid::regclass) FROM pg_inherits WHERE {oid} IN (inhparent, inhrelid)
"""


def users_of(session: Session, target: Relation, column: str) -> list[str]:
    """What PostgreSQL would not let the column's type be altered for, described by the server."""
    rows = session.execute(
        "SELECT DISTINCT regexp_replace(pg_describe_object(classid, objid, 0), '^rule _RETURN on ', '') "
        "FROM pg_depend JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid "
        "WHERE refclassid = 'pg_class'::regclass AND refobjid = to_regclass(%s) AND attname = %s AND classid IN "
        "('pg_rewrite'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_proc'::regclass, "
        "'pg_publication_rel'::regclass) ORDER BY 1",
        (target.sql, column),
    )
    return [row[0] for row in rows]


def dependents(session: Session, target: Relation) -> list[str]:
    """What depends on the target being this very table, described by the server; empty means it can
    be swapped."""
    oid = f"{literal(target.sql)}::regclass::oid"
    row_type = f"(SELECT reltype FROM pg_class WHERE oid = {oid})"
    return [
        row[0]
        for row in session.execute(
            _DEPENDENTS.replace("{oid}", oid).replace("{row_type}", row_type)
        )
    ]
