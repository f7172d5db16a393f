"""How rows get into a target: time, CPU, WAL and growth of upsert, MERGE, UPDATE + INSERT and
pre-filters.

    python -m bench.merging [--quick] [--rows N] [--shape S] [--cases …] [--ways …]
                            [--shuffled] [--set work_mem=64MB] [--json FILE]

Each measurement has a fresh copy of one database, a checkpoint before it, and ends with COMMIT.
Ways take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.merging_ways import LOAD_NO, LOOSE, WAYS, Rows
from demo.servers import PostgresServer

HASH = "('x' || left(md5({0}::text), 8))::bit(32)::bigint"
# columns; the SELECT of row i; what an update of a row changes
SHAPES: dict[str, tuple[Rows, str, str]] = {
    "flights": (
        Rows(
            ("ticket_no", "flight_id"),
            ("ticket_no", "flight_id", "fare", "amount", "created_at", "updated_at"),
            ("amount",),
        ),
        (
            "lpad((i / 3)::text, 13, '0') AS ticket_no, i % 33553 * 3 + i % 3 AS flight_id,"
            " 'Economy' AS fare, (i % 9000 + 1000)::numeric(10, 2) AS amount, timestamptz"
            " '2026-01-01' + i * interval '1 s' AS created_at, timestamptz '2026-01-01' + i *"
            " interval '1 s' AS updated_at"
        ),
        "amount = amount + 1, updated_at = timestamptz '2026-06-01'",
    ),
    "wide": (
        Rows(
            ("id",),
            ("id", *(f"c{n}" for n in range(58)), "updated_at"),
            tuple(f"c{n}" for n in range(2, 58, 4)),
        ),
        "i::bigint AS id, "
        + ", ".join(
            (
                f"(i * {n + 1})::int8",
                f"'word ' || i % {n + 9}",
                "(i % 97)::numeric(9, 2)",
                "timestamptz '2026-01-01' + i * interval '1 s'",
            )[n % 4]
            + f" AS c{n}"
            for n in range(58)
        )
        + ", timestamptz '2026-01-01' AS updated_at",
        "c1 = c1 || '!', updated_at = timestamptz '2026-06-01'",
    ),
    "docs": (  # 1 to 10 kB that do not compress much: most of them are TOASTed
        Rows(("id",), ("id", "doc", "updated_at"), ("doc",)),
        (
            "i::bigint AS id, (SELECT jsonb_agg(md5((i * 400 + n)::text)) FROM generate_series(1,"
            " 28 + i % 256) n) AS doc, timestamptz '2026-01-01' AS updated_at"
        ),
        "updated_at = timestamptz '2026-06-01'",
    ),
}
# shares of the target's rows: sent, of them changed; new ones
CASES: dict[str, tuple[float, float, float]] = {
    "nothing differs": (1, 0, 0),
    "0.1 %, most update": (0.0009, 1, 0.0001),
    "1 %, most update": (0.009, 1, 0.001),
    "1 %, half": (0.005, 1, 0.005),
    "1 %, most insert": (0.001, 1, 0.009),
    "10 %, most update": (0.09, 1, 0.01),
    "10 %, half": (0.05, 1, 0.05),
    "10 %, most insert": (0.01, 1, 0.09),
    "33 %, most update": (0.3, 1, 0.03),
    "all sent, 1 % differs": (1, 0.01, 0),
    "all sent, all differs": (1, 1, 0),
    "all new": (0, 0, 1),
}


@dataclass
class Once:
    """One measurement; the times in seconds, the sizes in MB."""

    wall: float
    cpu: float
    wal: float
    growth: float


def main() -> None:
    """Measure, print the medians, write every value."""
    options = _options()
    results: list[dict[str, Any]] = []
    with PostgresServer(
        durable=True, within=options.within, settings={"autovacuum": "off"}
    ) as server:
        _make_target(server, options.shape, options.rows)
        for case in options.cases:
            expected = _make_case(server, options, case)
            taken: dict[str, list[Once]] = {way: [] for way in options.ways}
            for _ in range(options.turns):
                for way in options.ways:
                    taken[way].append(_measure(server, options, way, expected))
            _print(f"{options.shape} {options.rows:,}: {case} {' '.join(options.set)}", taken)
            results += _results(options, case, taken)
    if options.json:
        before = json.loads(options.json.read_text()) if options.json.exists() else []
        options.json.write_text(json.dumps(before + results, indent=1))


def _make_target(server: PostgresServer, shape: str, rows: int) -> None:
    server.create_database("base")
    with _session(server, "base") as session:
        kind, select, _ = SHAPES[shape]
        session.execute(
            f"CREATE TABLE target AS SELECT {select}, 1::bigint AS _load_id FROM generate_series(1,"
            f" {rows}) i"
        )
        session.execute(f"ALTER TABLE target ADD PRIMARY KEY ({', '.join(kind.key)})")
        session.execute("VACUUM (FREEZE, ANALYZE) target")


def _make_case(server: PostgresServer, options: argparse.Namespace, case: str) -> tuple[int, int]:
    """A database with the target and the batch; the rows that are to be inserted and updated."""
    rows = options.rows
    sent, changed, new = CASES[case]
    kind, select, update = SHAPES[options.shape]
    with _session(server, "postgres") as admin:
        admin.execute("DROP DATABASE IF EXISTS template")
        admin.execute("CREATE DATABASE template TEMPLATE base STRATEGY file_copy")
    with _session(server, "template") as session:
        names, key = ", ".join(kind.columns), ", ".join(kind.key)
        place = f"({HASH.format(f'({key})')} & 1048575) / 1048576.0"
        session.execute(f"CREATE TABLE batch AS SELECT {names} FROM target WHERE {place} < {sent}")
        again = f"({HASH.format(f'(0, {key})')} & 1048575) / 1048576.0"
        updated = session.execute(f"UPDATE batch SET {update} WHERE {again} < {changed}").rowcount
        inserted = session.execute(
            f"INSERT INTO batch SELECT {select} FROM generate_series({rows + 1},"
            f" {rows + round(rows * new)}) i"
        ).rowcount
        session.execute("VACUUM (FULL, FREEZE) batch")
        if options.shuffled:
            session.execute(f"CREATE TABLE shuffled AS SELECT * FROM batch ORDER BY {again}")
            session.execute("DROP TABLE batch")
            session.execute("ALTER TABLE shuffled RENAME TO batch")
    return inserted, updated


def _measure(
    server: PostgresServer, options: argparse.Namespace, way: str, expected: tuple[int, int]
) -> Once:
    with _session(server, "postgres") as admin:
        admin.execute("DROP DATABASE IF EXISTS work")
        admin.execute("CREATE DATABASE work TEMPLATE template STRATEGY file_copy")
    rows = SHAPES[options.shape][0]
    with _session(server, "work") as session, _session(server, "work") as other:
        for setting in options.set:
            session.execute("SELECT set_config(%s, %s, false)", setting.split("=", 1))
        session.execute("BEGIN")
        session.execute("CREATE TEMP TABLE incoming ON COMMIT DROP AS SELECT * FROM batch")
        other.execute("CHECKPOINT")
        clock = _Clock(session, other)
        if options.analyze != "none" and way != "loadsheet":  # which does it itself
            columns = f" ({', '.join(rows.key)})" if options.analyze == "key" else ""
            session.execute(f"ANALYZE incoming{columns}")
        counts = WAYS[way](session, rows)
        session.execute("COMMIT")
        once = clock.stop()
        if way not in LOOSE:
            assert counts in (None, expected), (way, counts, expected)
            _check(session, rows, options.rows, expected)
    return once


class _Clock:
    """Measures a session from the moment it is made, with the help of another session."""

    def __init__(self, session: psycopg.Connection[Any], other: psycopg.Connection[Any]):
        self.other, self.pid = other, session.info.backend_pid
        self.before = self._look()
        self.started = time.perf_counter()

    def stop(self) -> Once:
        """What it took since the start."""
        wall = time.perf_counter() - self.started
        cpu, wal, size = (
            after - before for after, before in zip(self._look(), self.before, strict=True)
        )
        return Once(wall, cpu / 1e9, wal / 1e6, size / 1e6)

    def _look(self) -> tuple[int, int, int]:
        cpu = int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0])
        row = self.other.execute(
            "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint, pg_total_relation_size('target')"
        ).fetchone()
        assert row
        return cpu, row[0], row[1]


def _check(
    session: psycopg.Connection[Any], rows: Rows, before: int, expected: tuple[int, int]
) -> None:
    """Every sent row is there, only the expected rows were written, and nothing else changed."""
    session.execute("SET work_mem = '1GB'")
    names = ", ".join(rows.columns)
    written = f"SELECT {names} FROM target WHERE _load_id = {LOAD_NO}"
    found = session.execute(
        f"SELECT (SELECT count(*) FROM target), (SELECT count(*) FROM ({written}) x), (SELECT"
        f" count(*) FROM (SELECT {names} FROM batch EXCEPT ALL SELECT {names} FROM target) x),"
        f" (SELECT count(*) FROM ({written} EXCEPT ALL SELECT {names} FROM batch) x)"
    ).fetchone()
    assert found == (before + expected[0], sum(expected), 0, 0), found


@contextmanager
def _session(server: PostgresServer, database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server.dsn(database), autocommit=True) as session:
        session.prepare_threshold = None
        yield session


def _print(title: str, taken: dict[str, list[Once]]) -> None:
    print(f"\n{title}\n{'':24}{'wall s':>9}{'spread':>16}{'cpu s':>9}", end="")
    print(f"{'x best':>8}{'WAL MB':>10}{'x best':>8}{'grown MB':>10}")
    medians = {way: _median(values) for way, values in taken.items()}
    fastest, smallest = (
        min(m.wall for m in medians.values()),
        max(min(m.wal for m in medians.values()), 0.001),
    )
    for way, m in sorted(medians.items(), key=lambda item: item[1].wall):
        walls = [once.wall for once in taken[way]]
        spread = f"{min(walls):.3f}-{max(walls):.3f}"
        print(
            f"{way:24}{m.wall:9.3f}{spread:>16}{m.cpu:9.3f}{m.wall / fastest:8.2f}"
            f"{m.wal:10.2f}{m.wal / smallest:8.2f}{m.growth:10.1f}",
            flush=True,
        )


def _median(values: list[Once]) -> Once:
    return Once(
        *(statistics.median(column) for column in zip(*(astuple(v) for v in values), strict=True))
    )


def _results(
    options: argparse.Namespace, case: str, taken: dict[str, list[Once]]
) -> list[dict[str, Any]]:
    order = "shuffled" if options.shuffled else ""
    note = " ".join([f"analyze={options.analyze}", *options.set, order]).strip()
    return [
        {
            "bench": "merging",
            "case": f"{options.shape} {options.rows}: {case}",
            "contender": way,
            "unit": f"{what} {unit}",
            "values": [getattr(once, what) for once in values],
            "note": note,
        }
        for way, values in taken.items()
        for what, unit in (("wall", "s"), ("cpu", "s"), ("wal", "MB"), ("growth", "MB"))
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="flights")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--shuffled", action="store_true", help="rows arrive in any order, not in the target's"
    )
    parser.add_argument("--analyze", choices=("full", "key", "none"), default="key")
    parser.add_argument(
        "--set", nargs="*", default=[], help="settings of the session, as work_mem=64MB"
    )
    parser.add_argument(
        "--within", type=Path, default=Path("/dev/shm"), help="where the server's files are"
    )
    parser.add_argument("--json", type=Path, help="add every value to this file")
    parser.add_argument("--quick", action="store_true", help="10,000 rows, once")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.turns = 10_000, 1
    return options


if __name__ == "__main__":
    main()
