"""Many loaders at once, and others who hold the warehouse's locks: whoever waits in vain fails, the
rest goes on."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
import pytest

from loadsheet.connections.lookup import Connection
from loadsheet.engine.runner import StepResult, run_pipeline
from loadsheet.errors import LoadsheetError, Superseded
from loadsheet.outcome import RunRequest
from loadsheet.postgres import connect_warehouse
from loadsheet.spec.pipeline_file import load_pipeline
from tests.faults.at_once import Work, at_once
from tests.faults.oracle import judge, violations
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.project import Project

Tallies = Callable[[str], Tally]
LOCK_SECONDS = 1.5
PIPELINES = ("shop", "north", "south", "east")
LOADERS = ("shop", "shop", "shop", "shop", "north", "south", "east", "east")
KINDS = {
    "merged": {"incremental": "at"},
    "swapped": None,
    "appended": {"incremental": {"cursor": "at", "hold_back": "2s"}},
}
SHARED = "common"  # a table that every pipeline merges into the same target


class Impatient(Project):
    """A project whose warehouse connection chooses how long to wait for a lock."""

    def connections(self, conn_id: str) -> Connection:
        """As the project's, with an option of libpq's for the warehouse."""
        found = super().connections(conn_id)
        options = {"options": f"-c lock_timeout={int(LOCK_SECONDS * 1000)}"}
        return replace(found, extra=options) if conn_id == "warehouse" else found


def tables_of(name: str) -> dict[str, Any]:
    """The tables of one pipeline."""
    return {f"{name}_{kind}": spec for kind, spec in KINDS.items()} | {
        SHARED: {"incremental": "at"}
    }


def counted(name: str) -> str:
    """The rows of three tables, each of which somebody may be swapping, as SQL."""
    names = (f"{name}_swapped", f"{name}_merged", SHARED)
    return ", ".join(f"(SELECT count(*) FROM staging.{table}) AS {table}" for table in names)


def transforms_of(name: str) -> dict[str, Any]:
    """A mart that is built anew, and one that is merged."""
    latest = f"SELECT id, n FROM staging.{name}_merged WHERE _load_id > :since_load"
    return {
        f"{name}_total": f"SELECT {counted(name)}",
        f"{name}_latest": (latest, {"materialized": "merge", "unique_key": "id"}),
    }


@pytest.fixture
def shop(project: Project) -> Impatient:
    """One pipeline, loaded once."""
    return opened(project, "shop")


@pytest.fixture
def crowd(project: Project) -> dict[str, Impatient]:
    """The pipelines, each loaded once."""
    return {name: opened(project, name) for name in PIPELINES}


def opened(project: Project, name: str) -> Impatient:
    """A pipeline of that name beside the others, loaded once."""
    made = Impatient(
        project.folder, project.source, project.warehouse, project.s3, project.bucket, name
    )
    for table in tables_of(name):
        key = "n int" if table.endswith("appended") else "id bigserial PRIMARY KEY, n int"
        made.in_source(
            f"CREATE TABLE IF NOT EXISTS {table} ({key}, at timestamptz NOT NULL DEFAULT now())"
        )
        made.in_source(f"INSERT INTO {table} (n) SELECT generate_series(1, 50)")
    made.spec(tables_of(name), transforms_of(name))
    made.succeed()
    return made


@dataclass
class Witness:
    """What the loaders met."""

    runs: int = 0
    loads: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    unmended: list[str] = field(default_factory=list)

    def see(self, results: dict[str, StepResult]) -> None:
        """Remember how the steps of one run ended."""
        self.runs += 1
        for step, result in results.items():
            self.loads += step.startswith("load.") and result.state == "done"
            if not isinstance(error := result.result, Exception):
                continue
            kind = type(error).__name__
            self.codes[f"{kind} {getattr(error, 'code', '')}".strip()] += 1
            # A superseded load is mended by its extract step, which the next run of this loader
            # starts anew.
            if not (
                isinstance(error, LoadsheetError)
                and (error.retryable or isinstance(error, Superseded))
            ):
                self.unmended.append(f"{step}: {kind}: {error}")


def load_for_ever(
    project: Project, stop: threading.Event, chance: random.Random, witness: Witness
) -> None:
    """Run the pipeline again and again, its tables in another order each time."""
    pipeline = load_pipeline(project.folder / "pipelines" / project.name / "pipeline.yml")
    while not stop.is_set():
        tables = list(pipeline.tables)
        chance.shuffle(tables)
        request = RunRequest(run_id=f"{project.name}__{chance.randrange(10**12)}")
        witness.see(
            run_pipeline(replace(pipeline, tables=tuple(tables)), request, project.connections)
        )


def disturb(dsn: str, stop: threading.Event, chance: random.Random, done: Counter[str]) -> None:
    """Hold locks that the loaders want, in all the ways people do."""
    names = sorted({f"staging.{table}" for name in PIPELINES for table in tables_of(name)})
    while not stop.is_set():
        one, other = chance.sample(names, 2)
        attack = chance.choice(("lock", "lock", "locks", "reader", "vacuum", "index"))
        try:
            with psycopg.connect(dsn, autocommit=True) as session:
                session.execute("SET lock_timeout = '3s'; SET search_path = staging")
                if attack == "vacuum":
                    session.execute(f"VACUUM FULL {one}")
                elif attack == "index":
                    session.execute(
                        f"CREATE INDEX IF NOT EXISTS extra_{one.partition('.')[2]} ON {one} (n)"
                    )
                else:
                    hold(session, attack, one, other, stop, chance)
                done[attack] += 1
        except (
            psycopg.errors.OperationalError,
            psycopg.errors.ProgrammingError,
            psycopg.errors.InternalError,
        ) as error:
            done[f"{attack} {error.sqlstate}"] += 1


def hold(
    session: psycopg.Connection,
    attack: str,
    one: str,
    other: str,
    stop: threading.Event,
    chance: random.Random,
) -> None:
    with session.transaction():
        if attack == "reader":
            session.execute(f"SELECT count(*) FROM {one}")
        else:
            session.execute(f"LOCK TABLE {one} IN ACCESS EXCLUSIVE MODE")
        stop.wait(chance.uniform(0, 0.3))
        if attack == "locks":
            session.execute(f"LOCK TABLE {other} IN ACCESS EXCLUSIVE MODE")
        stop.wait(chance.choice((0.1, 0.3, LOCK_SECONDS + 1)))


def write(dsn: str, stop: threading.Event, chance: random.Random) -> None:
    """Give every table something new, now and then."""
    tables = sorted({table for name in PIPELINES for table in tables_of(name)})
    with psycopg.connect(dsn, autocommit=True) as session:
        while not stop.wait(0.02):
            table = chance.choice(tables)
            session.execute(f"INSERT INTO {table} (n) VALUES (0)")
            if not table.endswith("appended"):
                session.execute(
                    f"UPDATE {table} SET n = n + 1, at = now() WHERE id % 10 ="
                    f" {chance.randrange(10)}"
                )


@pytest.mark.timeout(scaled(600, 7200))
def test_loaders_in_any_order_recover_from_every_lock(
    crowd: dict[str, Impatient], chance: random.Random, tally: Tallies
) -> None:
    shop, witness, done = crowd["shop"], Witness(), Counter[str]()

    def dice() -> random.Random:
        return random.Random(chance.randrange(10**9))

    def loader(name: str) -> Work:
        own = dice()
        return lambda stop: load_for_ever(crowd[name], stop, own, witness)

    def disturber() -> Work:
        own = dice()
        return lambda stop: disturb(shop.warehouse, stop, own, done)

    writing = dice()
    work = [loader(name) for name in LOADERS] + [disturber() for _ in range(3)]
    with at_once(*work, lambda stop: write(shop.source, stop, writing)):
        time.sleep(scaled(6, 600))
    for name in PIPELINES:
        crowd[name].succeed()
    # a mart may have read the shared table before the others were done with it
    for name in PIPELINES:
        crowd[name].succeed()
    verdicts = {table: judge(crowd[name], table) for name in PIPELINES for table in tables_of(name)}
    deadlocks = witness.codes["Unavailable SQLSTATE 40P01"]
    line = tally("contention (runs of 8 loaders)")
    line.add(*verdicts.values(), tried=witness.runs, hit=sum(witness.codes.values()))
    print(
        f"{witness.runs} runs, {witness.loads} loads, {deadlocks} deadlocks of ours; met"
        f" {dict(witness.codes)}"
    )
    print(f"disturbed by {dict(done)}")
    assert not witness.unmended, witness.unmended
    assert not any(verdicts.values()), verdicts
    assert violations(shop) == []
    assert witness.loads and all(marts_are_right(shop, name) for name in PIPELINES)


def marts_are_right(project: Project, name: str) -> bool:
    """Whether both marts say what staging says."""
    total = (
        f"SELECT (SELECT t FROM mart.{name}_total t)::text = (SELECT c FROM (SELECT"
        f" {counted(name)}) c)::text"
    )
    wrong = f"SELECT id, n FROM staging.{name}_merged EXCEPT SELECT id, n FROM mart.{name}_latest"
    return project.in_warehouse(f"{total}, NOT EXISTS ({wrong})") == [(True, True)]


def test_a_blocked_table_fails_in_its_lock_timeout_and_all_others_go_on(shop: Impatient) -> None:
    for table in tables_of("shop"):
        shop.in_source(f"INSERT INTO {table} (n) VALUES (-1)")
    with psycopg.connect(shop.warehouse) as holder:
        holder.execute("LOCK TABLE staging.shop_swapped IN ACCESS EXCLUSIVE MODE")
        results = shop.run()
        blocked = results["extract.extract_shop_swapped"]  # it looks whether the target is empty
        assert isinstance(error := blocked.result, LoadsheetError) and error.retryable
        assert error.code == "SQLSTATE 55P03" and f"session {holder.info.backend_pid}" in str(error)
        assert LOCK_SECONDS <= blocked.seconds < LOCK_SECONDS + 20
        others = {
            step: result.state
            for step, result in results.items()
            if step.startswith("load.") and step != "load.load_shop_swapped"
        }
        assert set(others.values()) == {"done"}
        assert results["transform.transform_shop_latest"].state == "done"
    shop.succeed()
    assert not judge(shop, "shop_swapped") and violations(shop) == []


def test_a_target_that_another_load_holds_is_not_waited_for_without_end(shop: Impatient) -> None:
    """The locks of loads among themselves are not table locks, and end in the same time."""
    shop.in_source("INSERT INTO shop_merged (n) VALUES (-1)")
    with psycopg.connect(shop.warehouse) as holder:
        holder.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('loadsheet:staging.shop_merged', 0))"
        )
        error = shop.run()["load.load_shop_merged"].result
        assert (
            isinstance(error, LoadsheetError) and error.retryable and error.code == "SQLSTATE 55P03"
        )
    shop.succeed()
    assert not judge(shop, "shop_merged")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ("", ("1min", "2s", "UTC")),
        ("-c lock_timeout=5min", ("5min", "2s", "UTC")),
        ("-clock_timeout=7s --client-connection-check-interval=0", ("7s", "0", "UTC")),
        ("-c TimeZone=Asia/Tokyo", ("1min", "2s", "UTC")),
    ],
)
def test_the_connection_chooses_its_timeouts_but_not_how_values_are_written(
    project: Project, options: str, shown: tuple[str, ...]
) -> None:
    with connect_warehouse(
        replace(project.connections("warehouse"), extra={"options": options})
    ) as session:
        asked = (
            "SELECT current_setting('lock_timeout'),"
            " current_setting('client_connection_check_interval'), "
        )
        assert session.execute(asked + "current_setting('TimeZone')").fetchone() == shown


def test_loading_tables_in_any_order_in_one_transaction_deadlocks(
    project: Project, chance: random.Random, tally: Tallies
) -> None:
    """The control: the naive way, all tables of a run in one transaction, in the order in which
    they come."""
    tables = [f"naive_{number}" for number in range(4)]
    for table in tables:
        project.in_warehouse(f"CREATE TABLE {table} (id int PRIMARY KEY, n int)")
        project.in_warehouse(f"INSERT INTO {table} SELECT i, 0 FROM generate_series(1, 200) i")

    def run(order: list[str]) -> bool:
        try:
            with psycopg.connect(project.warehouse) as session:
                for table in order:
                    session.execute(f"UPDATE {table} SET n = n + 1")
        except psycopg.errors.DeadlockDetected:
            return True
        return False

    runs = deadlocks = 0
    with ThreadPoolExecutor(4) as pool:
        while not deadlocks or runs < scaled(8, 80):
            runs += 4
            deadlocks += sum(pool.map(run, [chance.sample(tables, len(tables)) for _ in range(4)]))
    tally("contention (runs of 8 loaders)").control(f"{deadlocks} of {runs} runs deadlocked")
