"""Random targets, and random rows that are merged into them: in one statement and in steps the rows
after the merge, the counts and the errors are the same."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest

from loadsheet.errors import LoadsheetError
from loadsheet.sql import merging
from loadsheet.sql.text import Relation, ident
from loadsheet.warehouse import lookups, tables, write

ARRIVED, TARGET = Relation("pg_temp", "arrived"), Relation("public", "target")
LOAD_NO = 7
SEEDS = range(2000 if os.environ.get("LOADSHEET_LONG") else 40)
# By number `i`: equal numbers give equal keys, different ones different keys.
KEYS = {
    "integer": "{i}",
    "bigint": "{i} * 3000000000",
    "text": "'k' || {i}",
    "numeric": "{i}::numeric / 4",
    "character(6)": "'k' || {i}",
    "date": "'2020-01-01'::date + {i}",
    "bytea": "({i})::text::bytea",
    "double precision": "{i}::float8 / 8",
    "interval": "make_interval(days => {i})",
}
# Some are equal, and look different.
VALUES = {
    "integer": ["1", "7"],
    "numeric": ["1", "1.0", "NaN"],
    "text": ["", "a", "A", "a ", "x" * 9000],
    "character(5)": ["a", "abc"],
    "jsonb": ["1.0", "1.00"],
    "json": ["1.0", "[1]", "[ 1]"],
    "interval": ["1 mon", "30 days"],
    "double precision": ["0", "-0", "NaN"],
    "numeric[]": ["{1.0}", "{1.00}"],
    "point": ["(1,2)", "(1,2.0000001)"],
}
# The type that arrives where the target has another one.
NARROWER = {"bigint": "integer", "numeric": "integer", "double precision": "real"}
OWN = [
    "note text DEFAULT 'd'",
    "twice bigint GENERATED ALWAYS AS (_load_id * 2) STORED",
    "plain integer",
]
HUNG = [
    "ALTER TABLE target SET (fillfactor = 40)",
    "ALTER TABLE target ADD lately text DEFAULT 'fast'",
    "ALTER TABLE target REPLICA IDENTITY FULL",
    "ALTER TABLE target SET UNLOGGED",
    "CREATE INDEX ON target (_load_id)",
    "CREATE PUBLICATION p FOR ALL TABLES",
    "CREATE UNIQUE INDEX ON target (_load_id, k0)",
    "CREATE TABLE child () INHERITS (target)",
    "ALTER TABLE target ADD CHECK (_load_id <> 7) NOT VALID",
]
# What the transaction has done before.
DONE = [
    "DELETE FROM target WHERE ctid IN (SELECT ctid FROM target LIMIT 3)",
    "SAVEPOINT a; UPDATE target SET _load_id = 2; RELEASE a",
    "SAVEPOINT a; DELETE FROM target; ROLLBACK TO a; SAVEPOINT b",
    "SAVEPOINT a; TRUNCATE target; ROLLBACK TO a",
]
GUARDS = ["t._load_id < 2", "EXISTS (SELECT FROM pg_class WHERE oid = t._load_id)"]
CLEAR = "DROP TABLE IF EXISTS target CASCADE; DROP PUBLICATION IF EXISTS p"
BEFORE = """
CREATE TEMP TABLE before ON COMMIT DROP AS SELECT ctid AS place, xmin::text AS maker FROM target
"""
WRITTEN = """
SELECT count(*) FROM target WHERE NOT EXISTS (
    SELECT FROM before WHERE place = target.ctid AND maker = target.xmin::text)
"""


@dataclass
class Case:
    """What makes the target, what arrives in it, and how it is merged."""

    made: list[str]
    arrives: list[str]
    key: tuple[str, ...]
    guard: str


def one_of(texts: list[str], seed: str) -> str:
    """SQL that takes one of the texts, or NULL, by a hash of `seed` (SQL)."""
    listed = ", ".join(f"'{text}'" for text in texts)
    return f"(ARRAY[{listed}, NULL])[1 + (hashtext({seed}) & 1023) % {len(texts) + 1}]"


def drawn_case(seed: int) -> Case:
    """A random target, and random rows for it."""
    draw = random.Random(seed)
    rows = draw.choice([0, 5, 40, 200])
    share = draw.choice([0, 30, 100])
    columns = {}
    arriving = {}
    old = []
    new = []
    for name in draw.choice([["k0"], ["k0"], ["k0", "k1"]]):
        kind = draw.choice(list(KEYS))
        columns[name] = arriving[name] = kind
        value = f"CAST({KEYS[kind].format(i='i')} AS {kind})"
        old.append(value)
        new.append(value)
    key = draw.sample(list(columns), len(columns))
    for number in range(draw.choice([1, 3, 6])):
        kind = draw.choice(list(VALUES))
        name = ident(draw.choice([f"v{number}", f'V% "{number}']))
        columns[name] = kind
        arriving[name] = draw.choice([kind, NARROWER.get(kind, kind)])
        texts = VALUES["integer"] if arriving[name] == "integer" else VALUES[kind]
        same = f"'{number} ' || i"
        other = (
            f"{same} || CASE WHEN (hashtext({same}) & 1023) % 100 < {share} THEN 'x' ELSE '' END"
        )
        old.append(f"CAST({one_of(texts, same)} AS {kind})")
        new.append(f"CAST({one_of(texts, other)} AS {arriving[name]})")
    definitions = ["gone integer", *map(" ".join, columns.items()), "_load_id bigint"]
    definitions += [*draw.sample(OWN, draw.choice([0, 1, 3])), f"PRIMARY KEY ({', '.join(key)})"]
    order = draw.choice(["i", "md5(i::text)"])
    first, last = rows - rows // draw.choice([2, 9]) + 1, rows + draw.choice([0, 1, 20])
    return Case(
        made=[
            f"CREATE TABLE target ({', '.join(definitions)})",
            f"INSERT INTO target (gone, {', '.join(columns)}, _load_id)"
            f" SELECT 0, {', '.join(old)}, 1 FROM generate_series(1, {rows}) i ORDER BY {order}",
            "ALTER TABLE target DROP gone",
            *draw.sample(HUNG, draw.choice([0, 0, 1, 2])),
            "ANALYZE target",
        ],
        arrives=[
            f"CREATE TEMP TABLE arrived ({', '.join(map(' '.join, arriving.items()))})"
            " ON COMMIT DROP",
            f"INSERT INTO arrived SELECT {', '.join(new)} FROM generate_series({first}, {last}) i"
            f" ORDER BY {order}",
            *draw.sample(DONE, draw.choice([0, 0, 1])),
        ],
        key=tuple(key),
        guard=draw.choice(["", "", *GUARDS]),
    )


def merged(session: psycopg.Connection[Any], case: Case) -> tuple[Any, ...]:
    """The rows after the merge, what it has counted, and the rows that it has written; or its
    error. Nothing stays."""
    try:
        for statement in case.arrives:
            session.execute(statement)
        session.execute(BEFORE)
        done = write.merge(session, ARRIVED, TARGET, case.key, LOAD_NO, case.guard)
        rows = session.execute("SELECT target::text FROM target ORDER BY 1").fetchall()
        [(written,)] = session.execute(WRITTEN).fetchall()
        return rows, done.inserted, done.updated, written
    except (psycopg.Error, LoadsheetError) as error:
        # Which row is named depends on the order in which they are written.
        return type(error), str(error).splitlines()[0]
    finally:
        session.rollback()


@pytest.mark.parametrize("is_right", [True, False])
def test_in_one_statement_and_in_steps_the_same_is_written_counted_and_told(
    database: str, monkeypatch: pytest.MonkeyPatch, is_right: bool
) -> None:
    """The control compares values as their types do, for which 1.0 and 1.00 are one."""
    look = tables.look_before_merge
    in_one = merging.Merge.in_one_statement
    by_index = lookups.Access(by_index=True, in_order=False)
    monkeypatch.setattr(lookups, "choose", lambda *_: by_index)
    ended: Counter[str] = Counter()

    def in_one_statement(merge: merging.Merge, in_order: bool) -> str:
        ended["in one statement"] += 1
        statement = in_one(merge, in_order)
        return statement if is_right else statement.replace("*<>", "<>")

    monkeypatch.setattr(merging.Merge, "in_one_statement", in_one_statement)
    with psycopg.connect(database) as session:
        for seed in SEEDS:
            case = drawn_case(seed)
            session.execute(CLEAR)
            for statement in case.made:
                session.execute(statement)
            session.commit()
            found = []
            for takes_merge in (True, False):
                monkeypatch.setattr(
                    tables,
                    "look_before_merge",
                    lambda *names, may=takes_merge: replace(
                        known := look(*names), takes_merge=may and known.takes_merge
                    ),
                )
                found.append(merged(session, case))
            at_once, in_steps = found
            if is_right:
                assert at_once == in_steps, (seed, case)
                assert len(at_once) < 4 or at_once[1] + at_once[2] == at_once[3], (seed, case)
            ended["differs" if at_once != in_steps else "the same"] += 1
    assert ended["in one statement"] > len(SEEDS) / 3
    assert ended["the same"] and bool(ended["differs"]) != is_right
