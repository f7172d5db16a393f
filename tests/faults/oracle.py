"""Says whether staging equals its source, row by row, and whether the ledger agrees with itself.

Both tables are compared as the text the servers show under the same settings: first by a hash over
the sorted hashes of all rows; where that differs, by EXCEPT ALL both ways, which counts what is
lost and what is too many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from loadsheet.sql.text import Relation, ident, literal
from tests.project import Project

SETTINGS = (
    "SET TimeZone = 'UTC'; SET extra_float_digits = 3; SET IntervalStyle = 'postgres'; SET work_mem"
    " = '64MB'"
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`lost` rows of the source are missing in staging, `doubled` rows are there that should not
    be.

    A row with a wrong value counts once in each.
    """

    rows: int
    lost: int = 0
    doubled: int = 0

    def __bool__(self) -> bool:
        """True when something is wrong."""
        return bool(self.lost or self.doubled)


def judge(
    project: Project,
    table: str,
    *,
    where: str = "TRUE",
    columns: Sequence[str] | None = None,
    staging: str = "staging",
) -> Verdict:
    """Compare `public.<table>` (rows `where`, `columns`: default all) with `<staging>.<table>`."""
    with project.session("source") as source, project.session("warehouse") as warehouse:
        source.execute(SETTINGS)
        warehouse.execute(SETTINGS)
        names = list(columns or _columns(source, Relation("public", table)))
        row = "ROW(" + ", ".join(f"{ident(name)}::text" for name in names) + ")::text"
        truth = f"SELECT {row} AS r FROM {Relation('public', table).sql} WHERE {where}"
        found = f"SELECT {row} AS r FROM {Relation(staging, table).sql}"
        rows, digest = _digest(source, truth)
        if (rows, digest) == _digest(warehouse, found):
            return Verdict(rows=rows)
        _carry(source, truth, warehouse)
        lost = _count(warehouse, f"SELECT r FROM truth EXCEPT ALL {found}")
        doubled = _count(warehouse, f"{found} EXCEPT ALL SELECT r FROM truth")
    assert lost or doubled, "the hashes differ and the rows do not: the oracle is broken"
    return Verdict(rows=rows, lost=lost, doubled=doubled)


def _columns(session: psycopg.Connection, table: Relation) -> list[str]:
    found = session.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT"
        " attisdropped ORDER BY attnum",
        (table.sql,),
    )
    return [row[0] for row in found]


def _digest(session: psycopg.Connection, rows: str) -> tuple[int, str | None]:
    row = session.execute(
        "SELECT count(*), md5(string_agg(h, '' ORDER BY h)) FROM (SELECT md5(r) COLLATE \"C\" AS h"
        f" FROM ({rows}) a) b"
    ).fetchone()
    assert row
    return row[0], row[1]


def _carry(source: psycopg.Connection, rows: str, warehouse: psycopg.Connection) -> None:
    warehouse.execute("CREATE TEMPORARY TABLE truth (r text)")
    with (
        source.cursor().copy(f"COPY ({rows}) TO STDOUT") as out,
        warehouse.cursor().copy("COPY truth FROM STDIN") as into,
    ):
        for block in out:
            into.write(block)


def _count(session: psycopg.Connection, query: str) -> int:
    row = session.execute(f"SELECT count(*) FROM ({query}) difference").fetchone()
    assert row
    return int(row[0])


# Each query returns a line per violation; an empty answer is what every suite wants at its end.
_INVARIANTS = {
    "the scope's last load is not its highest": (
        """
        SELECT pipeline, table_name, last_load_no FROM loadsheet.scope s
        WHERE last_load_no IS DISTINCT FROM (
            SELECT max(load_no) FROM loadsheet.load l
            WHERE (l.pipeline, l.table_name, l.target)
                = (s.pipeline, s.table_name, s.target))"""
    ),
    "a fence committed twice": (
        """
        SELECT pipeline, table_name, fence FROM loadsheet.load
        GROUP BY 1, 2, 3 HAVING count(*) > 1"""
    ),
    "a load with a fence that was never given out": (
        """
        SELECT l.load_id FROM loadsheet.load l
        LEFT JOIN loadsheet.scope s USING (pipeline, table_name, target)
        WHERE l.fence > coalesce(s.fence, 0)"""
    ),
    "fences and load numbers disagree on the order of loads": (
        """
        SELECT load_id FROM (
            SELECT load_id, fence,
                   lag(fence) OVER (PARTITION BY pipeline, table_name ORDER BY load_no) AS before
            FROM loadsheet.load) l
        WHERE fence <= before"""
    ),
    "something unfinished was left behind": (
        """
        SELECT oid::regclass::text FROM pg_class
        WHERE relname LIKE '\\_loadsheet\\_%%' AND relkind = 'r' AND relpersistence = 'p'"""
    ),
}
_ROWS_AS_COUNTED = """
SELECT coalesce(sum(
    CASE WHEN load_no = whole AND counted IS NOT NULL THEN counted ELSE inserted - deleted END), 0)
FROM loadsheet.load, (
    SELECT coalesce(max(load_no), 0) AS whole FROM loadsheet.load
    WHERE target = %(target)s AND (replaced OR counted IS NOT NULL)) last
WHERE target = %(target)s AND load_no >= whole
"""


def violations(project: Project) -> list[str]:
    """Where the ledger contradicts itself or the tables; empty when all is well."""
    with project.session("warehouse") as session:
        found = [
            f"{what}: {row}"
            for what, query in _INVARIANTS.items()
            for row in session.execute(query).fetchall()
        ]
        targets = [
            row[0]
            for row in session.execute("SELECT DISTINCT target FROM loadsheet.load").fetchall()
        ]
        return found + [
            problem for target in targets for problem in _target_violations(session, target)
        ]


def _target_violations(session: psycopg.Connection, target: str) -> list[str]:
    table = Relation(*target.split(".", 1)).sql
    unknown = _count(
        session,
        f"SELECT _load_id FROM {table} EXCEPT SELECT load_no FROM loadsheet.load WHERE target ="
        f" {literal(target)}",
    )
    counted = session.execute(_ROWS_AS_COUNTED, {"target": target}).fetchone()
    rows = _count(session, f"SELECT 1 FROM {table}")
    problems = [f"{target} holds rows of {unknown} loads that never happened"] if unknown else []
    if counted and counted[0] != rows:
        problems.append(f"{target} holds {rows} rows, its loads say {counted[0]}")
    return problems


def watermark_violations(project: Project, table: str, cursor: str) -> list[str]:
    """Where the watermark of `table` went back between two increments, or stands past the source's
    data."""
    kind = project.in_source(
        "SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = %s::regclass AND"
        " attname = %s",
        ident(table),
        cursor,
    )[0][0]
    # A load of an interval has its end there, as the run was given it: with a T. It moves no
    # watermark, and may come after increments that have read further.
    back = project.in_warehouse(
        "SELECT load_no, upper_cursor FROM (SELECT load_no, action, upper_cursor,"
        " lag(upper_cursor) OVER (ORDER BY load_no) AS before FROM loadsheet.load WHERE table_name"
        " = %s AND upper_cursor NOT LIKE '%%T%%') l WHERE action <> 'replace' AND"
        f" CAST(upper_cursor AS {kind}) < CAST(before AS {kind})",
        table,
    )
    stands = project.in_warehouse(
        "SELECT watermark FROM loadsheet.scope WHERE table_name = %s", table
    )
    past = project.in_source(
        f"SELECT max({ident(cursor)})::text FROM {ident(table)} HAVING max({ident(cursor)}) <"
        f" CAST(%s AS {kind})",
        stands[0][0],
    )
    return [f"the watermark went back at load {row}" for row in back] + [
        f"the watermark {stands[0][0]} is past the data ({row[0]})" for row in past
    ]
