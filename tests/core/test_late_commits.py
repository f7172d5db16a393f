"""Rows that commit late: no extraction may move the watermark past a row that cannot be seen yet."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from loadsheet.errors import HeldBack, Refused
from loadsheet.outcome import Outcome
from tests.project import Project

LONG = bool(os.environ.get("LOADSHEET_LONG"))
SECONDS = 600 if LONG else 12
WRITERS = 8

SOURCE = """
CREATE TABLE by_time (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE by_number (id bigserial PRIMARY KEY, what text);
CREATE TABLE log (at timestamptz NOT NULL DEFAULT now(), n bigint GENERATED ALWAYS AS IDENTITY);
"""
TABLES = {
    "by_time": {"incremental": "at"},
    "by_number": {"incremental": {"cursor": "id", "hold_back": "5s"}},
    "log": {"incremental": {"cursor": "at", "hold_back": "5s"}},
}


def write(dsn: str, stop: threading.Event, seed: int) -> None:
    """Transactions that stay open for up to 1.2 s; some read first, some use savepoints, some roll back."""
    chance = random.Random(seed)
    with psycopg.connect(dsn) as session:
        while not stop.is_set():
            if chance.random() < 0.3:
                session.execute("SELECT count(*) FROM by_time")
                time.sleep(chance.uniform(0, 0.4))
            for _ in range(chance.randint(1, 3)):
                session.execute("SAVEPOINT here")
                session.execute("INSERT INTO by_time DEFAULT VALUES")
                session.execute("INSERT INTO by_number (what) VALUES ('x')")
                session.execute("INSERT INTO log DEFAULT VALUES")
                session.execute("ROLLBACK TO here" if chance.random() < 0.1 else "RELEASE here")
                time.sleep(chance.uniform(0, 0.4))
            session.rollback() if chance.random() < 0.1 else session.commit()
            if chance.random() < 0.2:
                time.sleep(chance.uniform(0, 0.3))


@contextmanager
def writers(project: Project, seed: int) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=write, args=(project.source, stop, seed + n)) for n in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class Naive:
    """The negative control: what a reader with `max(cursor)` as its watermark has seen."""

    def __init__(self, project: Project):
        self._project, self._watermark = project, "-infinity"
        self.seen: set[int] = set()

    def read(self) -> None:
        rows = self._project.in_source("SELECT id, at::text FROM by_time WHERE at > %s", self._watermark)
        self.seen |= {row[0] for row in rows}
        self._watermark = max([row[1] for row in rows], default=self._watermark)


@pytest.mark.timeout(SECONDS * 3 + 300)
def test_rows_that_commit_late_are_never_lost_while_max_of_cursor_loses_some(project: Project) -> None:
    seed = int(os.environ.get("LOADSHEET_SEED", random.randrange(10**6)))
    print(f"LOADSHEET_SEED={seed}")
    project.in_source(SOURCE)
    project.spec(TABLES)
    naive, runs, end = Naive(project), 0, time.monotonic() + SECONDS
    with writers(project, seed):
        while time.monotonic() < end:
            project.succeed()
            naive.read()
            runs += 1
    project.succeed()
    naive.read()
    wrong = {table: project.differences(table) for table in TABLES}
    total = project.in_source("SELECT count(*) FROM by_time")[0][0]
    lost = total - len(naive.seen)
    print(f"{runs} runs, {total} rows: {sum(wrong.values())} wrong, the naive reader lost {lost}")
    assert not any(wrong.values()), (seed, wrong)
    assert lost > 0


def test_an_open_transaction_holds_back_the_watermark_and_is_named(project: Project) -> None:
    project.in_source("CREATE TABLE log (at timestamptz NOT NULL DEFAULT now(), what text)")
    project.spec({"log": {"incremental": {"cursor": "at", "hold_back": "0s"}}})
    project.succeed()
    with psycopg.connect(project.source) as writer:
        writer.execute("INSERT INTO log (what) VALUES ('late')")
        project.in_source("INSERT INTO log (what) VALUES ('early')")
        result = project.run()["extract.extract_log"].result
        assert (
            isinstance(result, Outcome)
            and result.skipped
            and f"held back by pid {writer.info.backend_pid}" in result.message
        )
    project.succeed()
    assert project.differences("log") == 0


def test_a_prepared_transaction_holds_back_the_watermark(project: Project) -> None:
    project.in_source("CREATE TABLE item (id bigserial PRIMARY KEY, what text)")
    project.spec({"item": {"incremental": {"cursor": "id", "hold_back": "0s"}}})
    with psycopg.connect(project.source) as writer:
        writer.execute("INSERT INTO item (what) VALUES ('prepared')")
        writer.execute("PREPARE TRANSACTION 'held'")
    project.in_source("INSERT INTO item (what) VALUES ('seen')")
    project.succeed()
    project.in_source("COMMIT PREPARED 'held'")
    project.succeed()
    assert project.differences("item") == 0


def test_an_interval_that_can_still_be_written_into_is_not_read(project: Project) -> None:
    project.in_source("CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL)")
    cursor = {"cursor": "at", "by": "data_interval", "hold_back": "0s"}
    project.spec({"item": {"incremental": cursor}}, schedule="@daily")
    interval = {"interval_start": "2026-01-01T00:00:00Z", "interval_end": "2099-01-01T00:00:00Z"}
    with psycopg.connect(project.source) as writer:
        writer.execute("INSERT INTO item VALUES (1, now())")
        error = project.run(**interval)["extract.extract_item"].result
        assert isinstance(error, HeldBack) and error.retryable and "may still write before" in str(error)
    project.succeed(**interval)
    assert project.differences("item") == 0


def test_a_role_that_cannot_see_other_sessions_fails_closed_with_the_grant(project: Project) -> None:
    project.in_source(
        "CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL); INSERT INTO item VALUES (1, now());"
        "DO $$ BEGIN CREATE ROLE \"Reader\" LOGIN PASSWORD 'secret'; EXCEPTION WHEN duplicate_object THEN END $$;"
        'GRANT SELECT ON item TO "Reader"; REVOKE pg_read_all_stats FROM "Reader"'
    )
    project.spec({"item": {"incremental": "at"}})
    owner = project.source
    project.source = f"postgresql://Reader:secret@{owner.split('@')[1]}"
    error = project.run()["extract.extract_item"].result
    assert isinstance(error, Refused) and 'GRANT pg_read_all_stats TO "Reader";' in str(error)
    project.spec({"item": {"incremental": {"cursor": "at", "lookback": "1h"}}})
    project.succeed()
    project.source = owner
    project.in_source('GRANT pg_read_all_stats TO "Reader"')
    project.source = f"postgresql://Reader:secret@{owner.split('@')[1]}"
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    project.source = owner
    project.in_source('DROP OWNED BY "Reader"')
    assert project.differences("item") == 0


@pytest.mark.parametrize("type_name", ["date", "timestamp(0)", "timestamptz(0)"])
def test_rows_that_share_the_last_value_of_a_coarse_cursor_are_not_lost(project: Project, type_name: str) -> None:
    project.in_source(f"CREATE TABLE item (id int PRIMARY KEY, at {type_name} NOT NULL DEFAULT now())")
    project.spec({"item": {"incremental": "at"}})
    for number in range(20):
        project.in_source("INSERT INTO item VALUES (%s)", number)
        project.succeed()
    assert project.differences("item") == 0
