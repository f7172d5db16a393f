"""What the warehouse's catalogs know about a target, and the schemas that hold targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loadsheet.answers import at, unreadable
from loadsheet.errors import Overtaken
from loadsheet.postgres import Session, ask_together
from loadsheet.redact import on_one_line
from loadsheet.sql.text import Relation, ident
from loadsheet.wording import shortened

_KIND = """
SELECT relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = %s AND relname = %s
"""
_COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
# Domains would have to be followed.
_PLAIN_COLUMNS = """
SELECT place - 1, array_agg(attname::text ORDER BY attnum),
    array_agg(format_type(atttypid, atttypmod) ORDER BY attnum)
FROM unnest(%s::text[]) WITH ORDINALITY AS target (name, place)
JOIN pg_attribute ON attrelid = to_regclass(target.name) AND attnum > 0 AND NOT attisdropped
JOIN pg_type ON pg_type.oid = atttypid
GROUP BY place HAVING NOT bool_or(typtype = 'd')
"""
_DOMAINS = """
WITH RECURSIVE base (name, oid, typmod) AS (
    SELECT attname, atttypid, atttypmod FROM pg_attribute
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT name, typbasetype, typtypmod FROM base JOIN pg_type ON pg_type.oid = base.oid
    WHERE typtype = 'd'
)
SELECT name, format_type(base.oid, typmod) AS type FROM base JOIN pg_type ON pg_type.oid = base.oid
WHERE typtype <> 'd' AND EXISTS (
    SELECT FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
    WHERE attrelid = to_regclass(%s) AND attname = base.name AND t.typtype = 'd')
"""
# Of a table on which nothing hangs that acts on a written row, or keeps it from being written
# (triggers, foreign keys, rules, policies, further unique indexes), a statement's own counts are
# all that happened. `track_counts` makes the server count them, and 2 is PostgreSQL's heap: the
# rows of a table that an extension stores need not be counted.
_IS_PLAIN = """
current_setting('track_counts')::bool AND relkind = 'r' AND relam = 2 AND relreplident = 'd'
AND NOT (relhastriggers OR relhasrules OR relhassubclass OR relispartition OR relrowsecurity)
"""
# MERGE is new in 15 and was corrected in 15.2. Versions before November 2025 take a MERGE, and no
# UPDATE, of a published table whose replica identity does not fit: its rows would be changed here
# and not in its copies.
_TAKES_MERGE = f"""
current_setting('server_version_num')::int >= 150002 AND {_IS_PLAIN} AND NOT EXISTS (
    SELECT FROM pg_index WHERE indrelid = pg_class.oid AND NOT indisprimary
        AND (indisunique OR indisexclusion))
AND NOT EXISTS (
    SELECT FROM pg_publication_rel published WHERE prrelid = pg_class.oid
        AND jsonb_strip_nulls(to_jsonb(published)) ?| ARRAY['prqual', 'prattrs'])
"""
_BEFORE_MERGE = f"""
SELECT {_TAKES_MERGE} AS takes_merge, pg_stat_get_xact_tuples_inserted(oid)
FROM pg_class WHERE oid = to_regclass(%s)
"""
# The rest is not asked again, which would take 0.2 ms: a unique index makes an error of what it
# does not take.
_AFTER_MERGE = f"""
SELECT pg_stat_get_xact_tuples_inserted(oid), {_IS_PLAIN} AS takes_merge
FROM pg_class WHERE oid = to_regclass(%s)
"""
# By the last ANALYZE: nearly each row has a value of its own in the first column of the primary
# key, and the rows lie in its order. A table of which half the rows were written again has a
# correlation of 0.5: then it is two walks.
_LIES_IN_ORDER = """
SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
JOIN pg_index ON indrelid = c.oid AND indisprimary
JOIN pg_attribute a ON attrelid = c.oid AND attnum = indkey[0]
JOIN pg_stats s ON schemaname = nspname AND tablename = relname AND s.attname = a.attname
WHERE c.oid = to_regclass(%s) AND NOT inherited AND n_distinct < 0 AND abs(correlation) >= 0.4
"""
_SIZE = "SELECT reltuples::bigint, pg_table_size(oid) FROM pg_class WHERE oid = to_regclass(%s)"
_LONG_COLUMNS = """
SELECT attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
  AND attstorage IN ('x', 'e') AND pg_relation_size(reltoastrelid) > 0
"""
_IS_MOSTLY_LONG = """
SELECT pg_relation_size(reltoastrelid) > pg_relation_size(oid) AS is_mostly_long FROM pg_class
WHERE oid = to_regclass(%s)
"""
_PRIMARY_KEY = """
SELECT conname, array_agg(attname::text ORDER BY place) AS columns
FROM pg_constraint, unnest(conkey) WITH ORDINALITY AS part (attnum, place)
JOIN pg_attribute USING (attnum)
WHERE conrelid = to_regclass(%s) AND contype = 'p' AND attrelid = conrelid GROUP BY conname
"""

# Columns that are NULL in a new row if no value is given: no default, no trigger that may set it.
_COLUMNS_TO_FILL = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
  AND NOT atthasdef AND attidentity = ''
  AND NOT EXISTS (SELECT FROM pg_trigger
                  WHERE tgrelid = attrelid AND NOT tgisinternal AND tgtype & 7 = 7)
ORDER BY attnum
"""
# Columns that take a value in an INSERT.
_COLUMNS_TO_WRITE = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY attnum
"""
# Objects that keep PostgreSQL from altering a column's type.
_COLUMN_DEPENDENTS = """
SELECT DISTINCT regexp_replace(pg_describe_object(classid, objid, 0), '^rule _RETURN on ', '')
FROM pg_depend JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
WHERE refclassid = 'pg_class'::regclass AND refobjid = to_regclass(%s) AND attname = %s
  AND classid IN ('pg_rewrite'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass,
                  'pg_proc'::regclass, 'pg_publication_rel'::regclass)
ORDER BY 1
"""


def kind(session: Session, target: Relation) -> str | None:
    """The target's pg_class.relkind, such as `r` for a table and `v` for a view; None if it does
    not exist."""
    row = session.execute(_KIND, (target.schema, target.name)).fetchone()
    return row[0] if row else None


class _Columns(dict[str, str]):
    """Columns and their types, as a server has told them."""

    def __init__(self, session: Session, columns: Iterable[tuple[str, str]]):
        super().__init__(columns)
        self._session = session

    def __missing__(self, name: str) -> str:
        raise unreadable(self._session, f"no column {shortened(on_one_line(name))} of a table")


def columns_of(session: Session, target: Relation) -> dict[str, str]:
    """The target's columns and their formatted types, in order; empty if there is no such table.
    To ask for one that it must have, and has not, raises Unreadable."""
    return _Columns(session, session.execute(_COLUMNS, (target.sql,)).fetchall())


def plain_columns(session: Session, targets: Sequence[Relation]) -> dict[Relation, dict[str, str]]:
    """What `columns_of` gives for each of the targets; without those that have a domain."""
    rows = session.execute(_PLAIN_COLUMNS, ([target.sql for target in targets],))
    found = {}
    for place, names, types in rows:
        if len(names) != len(types):
            raise unreadable(session, "another number of types than of columns")
        found[at(session, targets, place)] = dict(zip(names, types, strict=True))
    return found


def domains_of(session: Session, target: Relation) -> dict[str, str]:
    """The target's columns whose types are domains, and the types below those."""
    return dict(session.execute(_DOMAINS, (target.sql, target.sql)).fetchall())


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The columns of a target and its primary key."""

    columns: dict[str, str]
    """As `columns_of` gives them."""
    domains: dict[str, str]
    """As `domains_of` gives them."""
    key: tuple[str, ...]
    """The columns of its primary key; empty if it has none."""


def shape_questions(target: Relation) -> list[tuple[str, Sequence[str]]]:
    """What to ask for a target's shape (`postgres.ask_together`)."""
    return [
        (_COLUMNS, (target.sql,)),
        (_DOMAINS, (target.sql, target.sql)),
        (_PRIMARY_KEY, (target.sql,)),
    ]


def as_shape(
    columns: Sequence[tuple[Any, ...]],
    domains: Sequence[tuple[Any, ...]],
    key: Sequence[tuple[Any, ...]],
) -> Shape:
    """The shape that the answers tell."""
    return Shape(columns=dict(columns), domains=dict(domains), key=_columns_of_key(key))


def _columns_of_key(answer: Sequence[tuple[Any, ...]]) -> tuple[str, ...]:
    """By what `_PRIMARY_KEY` has answered; empty where there is no primary key."""
    return tuple(answer[0][1]) if answer else ()


def lies_in_key_order(session: Session, target: Relation) -> bool:
    """Whether the target's rows lie in the order of its primary key, by its last ANALYZE."""
    return session.execute(_LIES_IN_ORDER, (target.sql,)).fetchone() is not None


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a table is."""

    rows: int
    """Its rows at the last ANALYZE; -1 where there was none."""
    bytes: int
    """What it takes on disk without its indexes."""


def size_of(session: Session, table: Relation) -> Size:
    """The table's size; without rows if there is no such table."""
    return _as_size(session.execute(_SIZE, (table.sql,)).fetchall())


def _as_size(answer: Sequence[tuple[Any, ...]]) -> Size:
    """By what `_SIZE` has answered."""
    rows, size = answer[0] if answer else (-1, 0)
    return Size(rows=rows, bytes=size)


@dataclass(frozen=True, kw_only=True)
class Merging:
    """What the catalogs tell of a target and of the table whose rows are merged into it."""

    types: dict[str, str]
    """As `columns_of` gives them for the target."""
    arriving: dict[str, str]
    """As `columns_of` gives them for the other table."""
    long: set[str]
    """The target's columns whose values it may hold outside its rows (TOAST); empty if it holds no
    such value."""
    is_mostly_long: bool
    """Whether more of the target lies outside its rows than in them."""
    key: tuple[str, ...]
    """The columns of the target's primary key; empty if it has none."""
    size: Size
    """As `size_of` gives it for the target."""
    takes_merge: bool
    """Whether the server has MERGE, and nothing hangs on the target that would change its rows."""
    inserted_before: int
    """The rows that this transaction has inserted into the target so far."""


def look_before_merge(session: Session, incoming: Relation, target: Relation) -> Merging:
    """What a merge of the rows of `incoming` into the target needs to know, in one statement."""
    types, arriving, long, mostly_long, key, size, facts = ask_together(
        session,
        (_COLUMNS, (target.sql,)),
        (_COLUMNS, (incoming.sql,)),
        (_LONG_COLUMNS, (target.sql,)),
        (_IS_MOSTLY_LONG, (target.sql,)),
        (_PRIMARY_KEY, (target.sql,)),
        (_SIZE, (target.sql,)),
        (_BEFORE_MERGE, (target.sql,)),
    )
    takes_merge, inserted_before = facts[0] if facts else (False, 0)
    return Merging(
        types=dict(types),
        arriving=dict(arriving),
        long={name for (name,) in long},
        is_mostly_long=(True,) in mostly_long,
        key=_columns_of_key(key),
        size=_as_size(size),
        takes_merge=takes_merge,
        inserted_before=inserted_before,
    )


def inserted_by_merge(session: Session, target: Relation, known: Merging, written: int) -> int:
    """How many of the `written` rows the MERGE has inserted that came after `known`, as the server
    has counted them for this transaction. Raises Unreadable where that cannot be.

    Raises Overtaken where the target does not take a MERGE any more: before the MERGE has locked
    it, somebody may have hung something on it.
    """
    row = session.execute(_AFTER_MERGE, (target.sql,)).fetchone()
    counted, takes_merge = row or (None, True)
    if not takes_merge:
        raise Overtaken(
            f"{target}: the table was changed while rows were merged into it; nothing was"
            " written. Retry"
        )
    inserted = -1 if counted is None else int(counted) - known.inserted_before
    if not 0 <= inserted <= written:
        raise unreadable(session, "another number of inserted rows than of written ones")
    return inserted


def primary_key_of(session: Session, target: Relation) -> tuple[str, tuple[str, ...]] | None:
    """The name and the columns of the target's primary key; None if it has none."""
    row = session.execute(_PRIMARY_KEY, (target.sql,)).fetchone()
    return (row[0], tuple(row[1])) if row else None


def has_key(session: Session, target: Relation, key: tuple[str, ...]) -> bool:
    """Whether the target's primary key is on these columns."""
    primary_key = primary_key_of(session, target)
    return primary_key is not None and set(primary_key[1]) == set(key)


def count_rows(session: Session, table_sql: str) -> int:
    """The exact number of the table's rows, by reading it."""
    row = session.execute(f"SELECT count(*) FROM {table_sql}").fetchone()
    return int(row[0]) if row else 0


def columns_to_fill(session: Session, target: Relation) -> list[str]:
    """The target's columns that neither a default nor a trigger fills in a new row."""
    return [row[0] for row in session.execute(_COLUMNS_TO_FILL, (target.sql,))]


def columns_to_write(session: Session, target: Relation) -> list[str]:
    """The target's columns without those that the server generates."""
    return [row[0] for row in session.execute(_COLUMNS_TO_WRITE, (target.sql,))]


def column_dependents(session: Session, target: Relation, column: str) -> list[str]:
    """What keeps PostgreSQL from altering the column's type, described by the server."""
    return [row[0] for row in session.execute(_COLUMN_DEPENDENTS, (target.sql, column))]


def ensure_schema(session: Session, schema: str) -> None:
    """Create the schema if it does not exist. If it does, no right to create schemas is needed."""
    if has_schema(session, schema):
        return
    with session.transaction():
        lock_creation(session)
        if not has_schema(session, schema):
            session.execute(f"CREATE SCHEMA {ident(schema)}")


def has_schema(session: Session, schema: str) -> bool:
    """Whether the schema exists."""
    row = session.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
    return row is not None


def lock_creation(session: Session) -> None:
    """Wait for any session that is creating a schema, and keep others waiting until the transaction
    ends. Check again afterwards, before you create.

    Check with a query on the catalog: IF NOT EXISTS and to_regclass trust a cache that may not
    know what another session has just created.
    """
    session.execute("SELECT pg_advisory_xact_lock(hashtextextended('loadsheet', 0))")
