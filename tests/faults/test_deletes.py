"""`deletes`: no row leaves the warehouse that was not deleted from the source.

What is deleted is written down on both sides by triggers, so a wrong delete shows even where the
next run brings the row back. The control deletes what was not in its own read.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import psycopg
import pytest

from demo.servers import PostgresServer
from loadsheet.comparison import compare
from loadsheet.comparison.compare import Sides, Totals
from loadsheet.engine.again import load_step
from loadsheet.errors import LoadsheetError, Unavailable
from loadsheet.sqltest.embedded import memory_folder
from tests.faults.at_once import at_once
from tests.faults.oracle import judge, violations
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.faults.workers import Worker, settled
from tests.granted import PASSWORD
from tests.project import Project, fetch
from tests.sessions import close_kept

Tallies = Callable[[str], Tally]
WRITERS = 8
ROWS = 2000
SOURCE = f"""
CREATE SEQUENCE ids;
CREATE TABLE item (
    id bigint DEFAULT nextval('ids'), kind int NOT NULL DEFAULT 0, n int NOT NULL DEFAULT 0,
    at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, kind)
) PARTITION BY LIST (kind);
CREATE TABLE item_0 PARTITION OF item FOR VALUES IN (0);
CREATE TABLE item_1 PARTITION OF item FOR VALUES IN (1);
CREATE TABLE gone (id bigint, kind int);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO gone VALUES (OLD.id, OLD.kind); RETURN NULL; END $$;
CREATE TRIGGER deleted AFTER DELETE OR UPDATE OF id, kind ON item
    FOR EACH ROW EXECUTE FUNCTION note();
INSERT INTO item (kind) SELECT i % 2 FROM generate_series(1, {ROWS}) i;
"""
WAREHOUSE = """
CREATE TABLE public.gone (id bigint, kind int);
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN INSERT INTO public.gone VALUES (OLD.id, OLD.kind); RETURN NULL; END $$;
CREATE TRIGGER deleted AFTER DELETE ON staging.item
    FOR EACH ROW EXECUTE FUNCTION public.note();
"""


@pytest.fixture
def shop(project: Project) -> Project:
    """A table with deletes, loaded once."""
    project.in_source(SOURCE)
    project.spec({"item": {"incremental": "at", "deletes": "hard"}})
    project.succeed()
    project.in_warehouse(WAREHOUSE)
    return project


def wrong_deletes(project: Project) -> int:
    """How many rows left the warehouse that were never deleted from the source."""
    deleted = set(project.in_warehouse("SELECT id, kind FROM public.gone"))
    return len(deleted - set(project.in_source("SELECT id, kind FROM gone")))


def state(project: Project) -> list[Any]:
    return project.in_warehouse("SELECT id, kind, n FROM staging.item ORDER BY 1, 2")


class Naive:
    """The control: it reads the keys, and later deletes what was not among them."""

    def __init__(self, project: Project, **login: str):
        self.project = project
        query = "SELECT id, kind FROM item"
        with psycopg.connect(project.source, **login) as session:
            self.keys = set(session.execute(query).fetchall())

    def delete(self) -> None:
        staged = set(self.project.in_warehouse("SELECT id, kind FROM staging.item"))
        with psycopg.connect(self.project.warehouse) as session:
            session.cursor().executemany(
                "DELETE FROM staging.item WHERE (id, kind) = (%s, %s)", list(staged - self.keys)
            )


def write(dsn: str, seed: int, stop: threading.Event) -> None:
    """Transactions that insert, update, delete and move rows, and stay open for a while."""
    chance = random.Random(seed)
    with psycopg.connect(dsn) as session:
        while not stop.is_set():
            # Each writer has rows of its own, so that none waits for another.
            mine = f"id %% {WRITERS} = {seed % WRITERS} AND id = (SELECT id FROM item WHERE"
            mine += f" id %% {WRITERS} = {seed % WRITERS} AND id > %s ORDER BY id LIMIT 1)"
            for _ in range(chance.randint(1, 4)):
                statement = chance.choice(
                    (
                        "INSERT INTO item (kind) VALUES (0)",
                        "INSERT INTO item (kind) VALUES (1)",
                        f"DELETE FROM item WHERE {mine}",
                        f"UPDATE item SET n = n + 1, at = now() WHERE {mine}",
                        f"UPDATE item SET kind = 1 - kind WHERE {mine}",
                        f"UPDATE item SET id = nextval('ids') WHERE {mine}",
                    )
                )
                place = (chance.randint(0, ROWS),) if "%s" in statement else None
                session.execute(statement, place)
                time.sleep(chance.uniform(0, 0.15))
            session.rollback() if chance.random() < 0.1 else session.commit()


def writers(project: Project, chance: random.Random) -> AbstractContextManager[None]:
    """Eight of them, until the block ends."""
    seed = chance.randrange(10**5) * WRITERS
    return at_once(*(partial(write, project.source, seed + place) for place in range(WRITERS)))


def test_beside_writers_only_deleted_rows_leave(
    shop: Project, chance: random.Random, tally: Tallies
) -> None:
    runs = 0
    deadline = time.monotonic() + scaled(4, 90)
    with writers(shop, chance):
        while time.monotonic() < deadline or runs < 3:
            shop.succeed()
            runs += 1
    shop.succeed()
    verdict = judge(shop, "item")
    line = tally("deletes beside 8 writers")
    line.add(verdict)
    assert wrong_deletes(shop) == 0 and not verdict and violations(shop) == []
    assert shop.in_warehouse("SELECT count(*) > 0 FROM public.gone") == [(True,)]

    with writers(shop, chance):
        naive = Naive(shop)
        time.sleep(0.5)
        shop.succeed()
        naive.delete()
    wrong = wrong_deletes(shop)
    assert wrong > 0
    line.control(f"{wrong} wrong deletes in one run")


def test_a_load_that_commits_between_the_snapshot_and_the_look_costs_no_row(
    shop: Project, monkeypatch: pytest.MonkeyPatch, tally: Tallies
) -> None:
    """The other run brings rows that the snapshot has not: they look gone, and the fence tells."""
    look = compare.totals
    looked = 0

    def overtaken(sides: Sides) -> Totals:
        nonlocal looked
        looked += 1
        if looked == 1:
            shop.in_source("INSERT INTO item (kind) SELECT 0 FROM generate_series(1, 50)")
            shop.succeed()
        return look(sides)

    monkeypatch.setattr(compare, "totals", overtaken)
    shop.in_source("DELETE FROM item WHERE id < 20")
    shop.run(run_id="first")
    assert looked >= 3, "the run that was overtaken did not look again"
    shop.succeed()
    verdict = judge(shop, "item")
    tally("deletes overtaken by another load").add(verdict)
    assert wrong_deletes(shop) == 0 and not verdict
    assert len(shop.in_warehouse("SELECT FROM public.gone")) == 19


FEWER = {
    "row level security": (
        "ALTER TABLE item ENABLE ROW LEVEL SECURITY;CREATE POLICY few ON item USING (id % 20 > 0)"
    ),
    "a revoked grant": "REVOKE SELECT ON item FROM {role}",
    "all rows deleted": "DELETE FROM item",
    "a truncated table": "TRUNCATE item",
    "a detached partition": "ALTER TABLE item DETACH PARTITION item_1",
    "a truncated partition": "TRUNCATE item_0",
}


@pytest.mark.parametrize("how", FEWER)
def test_a_source_that_suddenly_shows_fewer_rows_empties_nothing(
    shop: Project, how: str, tally: Tallies
) -> None:
    shop.succeed()
    before = state(shop)
    shop.in_source(FEWER[how].format(role=shop.extractor))
    shop.in_source("INSERT INTO item (kind) VALUES (0)")
    for _ in range(2):
        with pytest.raises(LoadsheetError):
            shop.succeed()
    line = tally("a source that shows fewer rows")
    assert state(shop) == before
    line.add(tried=2)

    if how != "a revoked grant":
        # What the role is shown, without the settings that make hidden rows an error.
        role = {"user": shop.extractor, "password": PASSWORD}
        Naive(shop, **role).delete()
        lost = len(before) - len(state(shop))
        assert lost > 0
        line.control(f"lost {lost} of {len(before)} rows")


def test_a_restored_source_takes_no_row_with_it(shop: Project, tally: Tallies) -> None:
    """The copy was made before the last rows were written."""
    name = shop.source.rpartition("/")[2]
    copy = f"{name}_restored"
    close_kept()  # a database that is copied has no sessions
    with psycopg.connect(shop.source.replace(name, "postgres"), autocommit=True) as session:
        session.execute(f'CREATE DATABASE "{copy}" TEMPLATE "{name}"')
    shop.in_source("INSERT INTO item (kind) SELECT 0 FROM generate_series(1, 100)")
    shop.succeed()
    before = state(shop)
    shop.source = shop.source.replace(name, copy)
    with pytest.raises(LoadsheetError, match="the source changed"):
        shop.succeed()
    assert state(shop) == before
    line = tally("a restored source, with deletes")
    line.add()
    Naive(shop).delete()
    line.control(f"lost {len(before) - len(state(shop))} of {len(before)} rows")
    assert len(state(shop)) == len(before) - 100


KILLED_AT = (
    *("extract.deletes_found", "extract.fenced", "extract.part_stored", "extract.manifest_stored"),
    *("extract.sealed", "load.gone_removed", "merge.written", "load.recorded", "load.committed"),
)


def test_a_run_that_is_killed_at_any_moment_deletes_no_row_wrongly(
    shop: Project, chance: random.Random, tally: Tallies
) -> None:
    line = tally("kill -9 of a run with deletes")
    for _ in range(scaled(2, 100)):
        shop.in_source(
            "DELETE FROM item WHERE id IN (SELECT id FROM item ORDER BY random() LIMIT 10);"
            "INSERT INTO item (kind) SELECT 1 FROM generate_series(1, 10);"
            "UPDATE item SET id = nextval('ids') WHERE id = (SELECT min(id) FROM item)"
        )
        worker = Worker(shop, failpoint=f"{chance.choice(KILLED_AT)}:kill")
        assert worker.wait(60) == -signal.SIGKILL, worker.text
        settled(shop.source, shop.warehouse)
        shop.succeed()
        verdict = judge(shop, "item")
        line.add(verdict)
        assert not verdict and wrong_deletes(shop) == 0
    assert shop.in_warehouse("SELECT count(*) > 0 FROM public.gone") == [(True,)]


def test_keys_that_were_found_before_a_row_came_back_are_not_removed(
    shop: Project, tally: Tallies
) -> None:
    """The run that found them is stopped before its load, which an orchestrator repeats after a
    run that has found nothing."""
    # Rows at the watermark itself would be read again.
    shop.in_source("INSERT INTO item (kind) VALUES (0)")
    shop.succeed()
    shop.in_source(
        "CREATE TABLE kept AS SELECT * FROM item WHERE id <= 20; DELETE FROM item WHERE id <= 20"
    )
    worker = Worker(shop, failpoint="extract.sealed:kill")
    assert worker.wait(60) == -signal.SIGKILL, worker.text
    settled(shop.source, shop.warehouse)
    ((load_id,),) = shop.in_warehouse("SELECT sealed_load_id FROM loadsheet.scope")
    shop.in_source("INSERT INTO item SELECT * FROM kept")
    assert shop.succeed()["extract.extract_item"] == "skipped"
    load_step(shop.table_step("item"), load_id)
    verdict = judge(shop, "item")
    tally("a late load with keys of rows that came back").add(verdict)
    assert not verdict and shop.in_warehouse("SELECT FROM public.gone") == []


@pytest.fixture
def replicating() -> Iterator[PostgresServer]:
    """A server that can be both ends of a logical replication."""
    with PostgresServer(settings={"wal_level": "logical"}, within=memory_folder(1 << 30)) as server:
        yield server


def test_a_subscriber_that_still_copies_its_rows_has_lost_none(
    project: Project,
    replicating: PostgresServer,
    tally: Tallies,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`max_delete` would let all of them go."""
    origin = replicating.create_database(f"{project.bucket}-origin")
    project.source = replicating.create_database(project.bucket)
    create = (
        "CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());"
        "INSERT INTO item SELECT generate_series(1, 50)"
    )
    for database in (origin, project.source):
        fetch(database, create)
    fetch(origin, "CREATE PUBLICATION everything FOR TABLE item")
    fetch(origin, "SELECT pg_create_logical_replication_slot('loadsheet_test', 'pgoutput')")
    cursor = {"cursor": "at", "lookback": "1h"}
    deletes = {"action": "hard", "max_delete": 1}
    project.spec({"item": {"incremental": cursor, "deletes": deletes}}, tasks={"retries": 0})
    project.succeed()
    project.in_source("TRUNCATE item")
    project.in_source(
        f"CREATE SUBSCRIPTION follows CONNECTION '{origin}' PUBLICATION everything"
        " WITH (create_slot = false, slot_name = 'loadsheet_test', enabled = false)"
    )
    try:
        with pytest.raises(Unavailable, match="has not copied its rows yet"):
            project.succeed()
        assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(50,)]
        with monkeypatch.context() as patch:
            patch.setattr("loadsheet.engine.deletes.refuse_copying", lambda *source: None)
            project.succeed()
        assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(0,)]
        tally("deletes next to a subscription's copy").control("unasked: all 50 rows deleted")
        project.in_source("ALTER SUBSCRIPTION follows ENABLE")
        while project.in_source("SELECT count(*) FROM item") != [(50,)]:
            time.sleep(0.02)
        project.succeed()
        assert not judge(project, "item")
    finally:
        project.in_source("DROP SUBSCRIPTION follows")
