"""How others compare a table with its copy, each in a few lines of our own: `python -m
bench.comparing WAY JOB`.

    md5 segments   the algorithm of data-diff: 32 ranges of the key, a sum of MD5s for each, and
                   again within those that differ, down to 16,384 rows, which the client reads
    hashtext sum   one sum per table of a 32-bit hash of each row's text, the query of `pgcopydb
                   compare data` (which the pgcopydb 0.10 of Debian 12 does not have yet); it finds
                   that something differs, and not what
    all keys       how Sling finds deleted rows (`delete_missing`): the client carries all keys of
                   the source into the warehouse, which compares them; it sees no changed values

Each prints how many rows differ as JSON; null where it cannot know. The key is one integer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

_SEGMENTS = 32
_FEW_ROWS = 16_384
_COLUMNS = (
    "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
    " AND NOT attisdropped ORDER BY attnum"
)


class Pair(NamedTuple):
    """The table and its copy."""

    source: psycopg.Connection
    warehouse: psycopg.Connection
    table: str
    target: str
    key: str
    columns: list[str]

    def both(self, select: str) -> tuple[list[Any], list[Any]]:
        """The rows of a SELECT from `{table}`, of both sides, which work at the same time."""
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(_rows, self.warehouse, select.format(table=self.target))
            one = _rows(self.source, select.format(table=self.table))
            return one, other.result()


def main(way: str, job: dict[str, Any]) -> None:
    """Compare the only table of `job`."""
    (table,) = job["tables"]
    (key,) = table["key"]
    name = f"{job['source_schema']}.{table['name']}"
    with (
        psycopg.connect(job["source"], options="-c TimeZone=UTC") as source,
        psycopg.connect(job["warehouse"], options="-c TimeZone=UTC") as warehouse,
    ):
        columns = [column for (column,) in source.execute(_COLUMNS, (name,))]
        target = f"{job['target_schema']}.{table['name']}"
        pair = Pair(source, warehouse, name, target, key, columns)
        print(json.dumps({"differences": WAYS[way](pair)}))


def md5_segments(pair: Pair) -> int:
    """Rows that differ, found by ever smaller ranges of the key."""
    bounds = pair.both(f"SELECT min({pair.key}), max({pair.key}), count(*) FROM {{table}}")
    (low, high, rows), (other_low, other_high, other_rows) = bounds[0][0], bounds[1][0]
    low, high = min(low, other_low), max(high, other_high)
    return _in_segments(pair, low, high + 1, max(rows, other_rows))


def _in_segments(pair: Pair, low: int, high: int, rows: int) -> int:
    if rows < _FEW_ROWS or high - low < _SEGMENTS:
        return _in_rows(pair, low, high)
    text = " || '|' || ".join(f"coalesce({column}::text, '')" for column in pair.columns)
    checksum = f"sum(('x' || substring(md5({text}), 18))::bit(60)::bigint)"
    found = 0
    ends = [low + (high - low) * place // _SEGMENTS for place in range(_SEGMENTS + 1)]
    for start, end in pairwise(ends):
        within = f"{pair.key} >= {start} AND {pair.key} < {end}"
        one, other = pair.both(f"SELECT count(*), {checksum} FROM {{table}} WHERE {within}")
        if one != other:
            found += _in_segments(pair, start, end, max(one[0][0], other[0][0]))
    return found


def _in_rows(pair: Pair, low: int, high: int) -> int:
    names = ", ".join(pair.columns)
    within = f"{pair.key} >= {low} AND {pair.key} < {high}"
    one, other = pair.both(f"SELECT {pair.key}, {names} FROM {{table}} WHERE {within}")
    return len({row[0] for row in set(one) ^ set(other)})


def hashtext_sum(pair: Pair) -> int | None:
    """0, or None where something differs."""
    row = f"ROW({', '.join(pair.columns)})::text"
    one, other = pair.both(f"SELECT count(*), sum(hashtext({row})::bigint) FROM {{table}}")
    return 0 if one == other else None


def all_keys(pair: Pair) -> int:
    """Rows that are on one side only."""
    key = pair.key
    pair.warehouse.execute(
        f"CREATE TEMPORARY TABLE there AS SELECT {key} FROM {pair.target} LIMIT 0"
    )
    with (
        pair.source.cursor().copy(f"COPY (SELECT {key} FROM {pair.table}) TO STDOUT") as reading,
        pair.warehouse.cursor().copy("COPY there FROM STDIN") as writing,
    ):
        for block in reading:
            writing.write(block)
    pair.warehouse.execute("ANALYZE there")
    found = pair.warehouse.execute(
        f"SELECT count(*) FROM {pair.target} here FULL JOIN there USING ({key})"
        f" WHERE here.{key} IS NULL OR there.{key} IS NULL"
    ).fetchone()
    return found[0] if found else 0


def _rows(session: psycopg.Connection, select: str) -> list[Any]:
    return session.execute(select.encode()).fetchall()


WAYS: dict[str, Callable[[Pair], int | None]] = {
    "md5 segments": md5_segments,
    "hashtext sum": hashtext_sum,
    "all keys": all_keys,
}

if __name__ == "__main__":
    main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
