"""`loadsheet verify` in many trials: a single damaged row is found and named in each, and nothing
is found where all rows that the target must have are there, whatever goes on meanwhile."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from loadsheet.verify.models import TableVerdict
from tests.core.test_targets import collect_garbage
from tests.faults.at_once import Work, at_once
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.project import Project

Tallies = Callable[[str], Tally]
ROWS = scaled(8_000, 1_000_000)
CREATE = """
CREATE TABLE item (
    id bigint PRIMARY KEY, name text, amount numeric(12, 2), weight float8, note text,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""
FILL = """
INSERT INTO item (id, name, amount, weight, note)
SELECT i, 'name ' || i, i / 7.0, sqrt(i), CASE WHEN i %% 3 = 0 THEN md5(i::text) END
FROM generate_series(1, %s) i
"""
# What a checklist compares.
AGGREGATES = (
    "SELECT count(*), sum(id), sum(amount), max(amount), max(at), count(note), max(name) FROM {}"
)


@dataclass
class Damage:
    """What is done to the rows with the ids `a` and `b`, and what must be found: the kind, and for
    each row its key and the columns that differ."""

    statement: str
    kind: str
    columns: tuple[str, ...] = ()
    pair: bool = False


DAMAGES = {
    "changed": Damage(
        "UPDATE staging.item SET name = name || '!', amount = amount + 0.01, note = coalesce(note,"
        " '') || '.' WHERE id = {a}",
        "different",
        ("name", "amount", "note"),
    ),
    "lost": Damage("DELETE FROM staging.item WHERE id = {a}", "missing"),
    "extra": Damage(
        "INSERT INTO staging.item SELECT -id, name, amount, weight, note, at, _load_id"
        " FROM staging.item WHERE id = {a}",
        "extra",
    ),
    "changed column": Damage(
        "UPDATE staging.item SET name = name || ' ' WHERE id = {a}", "different", ("name",)
    ),
    "swapped pair": Damage(
        "UPDATE staging.item t SET amount = o.amount FROM staging.item o"
        " WHERE t.id IN ({a}, {b}) AND o.id IN ({a}, {b}) AND o.id <> t.id",
        "different",
        ("amount",),
        pair=True,
    ),
}


def test_a_damaged_row_among_many_is_found_and_named_in_every_trial(
    project: Project, chance: random.Random, tally: Tallies
) -> None:
    """The control compares what a checklist compares: count, sum and maximum."""
    project.in_source(CREATE)
    project.in_source(FILL, ROWS)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    trials = scaled(3, 200)
    line = tally("a damaged row among many")
    truth = project.in_source(AGGREGATES.format("item"))
    seen_by_control = 0
    for name, damage in DAMAGES.items():
        for _ in range(trials):
            a, b = chance.sample(range(1, ROWS + 1), 2)
            with _undone(project, a, b, damage.statement.format(a=a, b=b)):
                found = project.verify()["item"]
                seen_by_control += (
                    project.in_warehouse(AGGREGATES.format("staging.item")) != truth
                    and damage.kind == "different"
                )
            _assert_named(found, damage, -a if name == "extra" else a, b)
            line.add()
    changed = trials * sum(damage.kind == "different" for damage in DAMAGES.values())
    line.control(f"count, sum and max saw {seen_by_control} of {changed} changes")
    assert seen_by_control < changed / 2
    assert project.verify()["item"].state == "equal"


@contextmanager
def _undone(project: Project, a: int, b: int, damage: str) -> Iterator[None]:
    """The damage, until the end of the block."""
    rows = f"id IN ({a}, {b}, {-a})"
    project.in_warehouse(f"CREATE TABLE kept AS SELECT * FROM staging.item WHERE {rows}")
    project.in_warehouse(damage)
    yield
    project.in_warehouse(
        f"BEGIN; DELETE FROM staging.item WHERE {rows};"
        " INSERT INTO staging.item SELECT * FROM kept; DROP TABLE kept; COMMIT"
    )


def _assert_named(found: TableVerdict, damage: Damage, a: int, b: int) -> None:
    ids = {str(a), str(b)} if damage.pair else {str(a)}
    assert found.state == "differs"
    assert {kind: n for kind, n in found.counts.items() if n} == {damage.kind: len(ids)}
    rows = found.named[damage.kind]  # type: ignore[index]
    assert {row.key["id"] for row in rows} == ids
    for row in rows:
        assert tuple(change.column for change in row.changes) == damage.columns


BESIDE: dict[str, Any] = {
    "item": {"incremental": "at"},
    "event": {"incremental": "n", "mode": "append"},
    "code": None,
}
MARTS: dict[str, Any] = {
    "dim": (
        "SELECT id, name, amount FROM item WHERE _load_id > :since_load",
        {"materialized": "merge", "unique_key": "id"},
    ),
    "sums": "SELECT count(*) AS items, sum(amount) AS amount FROM item",
}
WRITERS = 8


def test_no_false_alarm_beside_writers_loads_full_refreshes_and_gc(
    project: Project, chance: random.Random, tally: Tallies
) -> None:
    """Eight writers insert and update, and some commit late. The control compares both sides as
    they are, and cries wolf."""
    project.in_source(CREATE)
    project.in_source(FILL, 2000)
    project.in_source(
        "CREATE TABLE event (n bigserial PRIMARY KEY, what text);"
        "CREATE TABLE code (id bigserial PRIMARY KEY, name text);"
        "INSERT INTO event (what) SELECT 'e' FROM generate_series(1, 100);"
        "INSERT INTO code (name) SELECT 'c' FROM generate_series(1, 100)"
    )
    project.spec(BESIDE, MARTS, tasks={"retries": 0})
    project.succeed()
    line = tally("a look beside writers, loads, full refreshes and gc")
    wolves = newer = 0
    looks = scaled(6, 500)
    with at_once(*_others(project, chance)):
        for _ in range(looks):
            for verdict in project.verify().values():
                # Rows of the replaced table that were deleted since its load prove nothing, and
                # neither does a mart that is due.
                assert verdict.state in ("equal", "not proven"), verdict
                assert not verdict.differences, verdict
                newer += verdict.newer
            wolves += project.differences("item") > 0
            line.add()
    line.control(f"both sides as they are: {wolves} of {looks} cried wolf")
    assert newer and wolves
    project.succeed()
    assert {verdict.state for verdict in project.verify().values()} == {"equal"}


def _others(project: Project, chance: random.Random) -> Iterator[Work]:
    for number in range(WRITERS):
        yield _writer(project.source, number, random.Random(chance.random()))
    yield lambda over: _load(project, random.Random(chance.random()), over)
    yield lambda over: _collect(project, over)


def _writer(source: str, number: int, chance: random.Random) -> Work:
    def write(over: threading.Event) -> None:
        with psycopg.connect(source) as session:
            new = 100_000 * (number + 1)
            while not over.is_set():
                new += 1
                session.execute("INSERT INTO item (id, name) VALUES (%s, 'new')", (new,))
                # Each writer has rows of its own, so that none waits for another.
                session.execute(
                    "UPDATE item SET name = name || 'x', amount = -amount, at = clock_timestamp()"
                    " WHERE id = %s",
                    (chance.randrange(2000 // WRITERS) * WRITERS + number + 1,),
                )
                session.execute("INSERT INTO event (what) VALUES ('late')")
                session.execute("UPDATE code SET name = name || 'x' WHERE id = %s", (number + 1,))
                session.execute(
                    "DELETE FROM code WHERE id = %s", (10 * (number + 1) + chance.randrange(10),)
                )
                time.sleep(chance.random() * 0.3)
                session.commit()

    return write


def _load(project: Project, chance: random.Random, over: threading.Event) -> None:
    while not over.is_set():
        full = [name for name in (*BESIDE, *MARTS) if chance.random() < 0.15]
        project.succeed(full_refresh=frozenset(full))


def _collect(project: Project, over: threading.Event) -> None:
    while not over.wait(0.5):
        collect_garbage(project)


@pytest.mark.parametrize("gentle", [False, True])
def test_a_difference_is_found_beside_writers_too(
    project: Project, chance: random.Random, tally: Tallies, gentle: bool
) -> None:
    """What keeps newer rows from being differences must not hide one."""
    project.in_source(CREATE)
    project.in_source(FILL, 2000)
    project.in_source("CREATE TABLE event (n bigserial PRIMARY KEY, what text)")
    project.in_source("CREATE TABLE code (id bigserial PRIMARY KEY, name text)")
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    line = tally("a damaged row, found beside writers")
    writers = [_writer(project.source, n, random.Random(chance.random())) for n in range(WRITERS)]
    # No writer updates these, and no load brings them back.
    project.in_source("INSERT INTO item (id, name) VALUES (90001, 'a'), (90002, 'b')")
    project.succeed()
    with at_once(*writers):
        for _ in range(scaled(2, 100)):
            project.in_warehouse("DELETE FROM staging.item WHERE id = 90001")
            project.in_warehouse("UPDATE staging.item SET note = 'x' WHERE id = 90002")
            found = project.verify(gentle=gentle)["item"]
            assert [row.key for row in found.named["missing"]] == [{"id": "90001"}]
            assert [row.key for row in found.named["different"]] == [{"id": "90002"}]
            line.add()
