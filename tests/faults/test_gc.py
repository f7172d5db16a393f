"""`loadsheet gc` beside everything: what a retry or a rebuild needs is never removed, and the rest
is."""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from demo.servers import PostgresServer
from loadsheet.cli.main import app
from loadsheet.engine import garbage
from loadsheet.engine.execute import execute
from loadsheet.engine.garbage import TableGarbage
from loadsheet.errors import LoadsheetError, WorkError
from loadsheet.lake import parts
from loadsheet.lake.manifest import FILE_NAME, read_manifest
from loadsheet.lake.store import Lake
from loadsheet.outcome import Outcome, RunRequest
from loadsheet.plan.steps import Step
from loadsheet.postgres import connect_warehouse
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger
from loadsheet.warehouse.committing import load_manifest
from loadsheet.warehouse.fence import SealedAttempt
from tests.faults.oracle import Verdict, judge
from tests.faults.scale import scaled
from tests.faults.shop import TABLES, change, open_shop, verdicts
from tests.faults.tally import Tally
from tests.project import Project

ROWS = {"merged": 300, "appended": 50, "swapped": 200, "viewed": 100}
FAULT = "gc"
FOREIGN = (
    "shop/merged/notes.txt",
    "shop/merged/0123456789abcdef0123/README",
    "shop/other/part-00000.bin.zst",
)


@pytest.fixture
def shop(project: Project) -> Project:
    """A shop that was loaded once."""
    open_shop(project, ROWS)
    return project


@pytest.fixture
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """`merged` has enough rows, and a part few enough, for several parts; the compressor gives 128
    KiB at a time."""
    monkeypatch.setitem(ROWS, "merged", 5000)
    monkeypatch.setattr(parts, "PART_BYTES", 1)
    monkeypatch.setattr(parts, "BLOCK_BYTES", 1000)


def command(project: Project, *arguments: str) -> Result:
    """`loadsheet` in this process: starting one takes longer than what it does."""
    return CliRunner().invoke(
        app, ["--project", str(project.folder), *arguments], env=project.environment()
    )


def pipeline_of(project: Project) -> Pipeline:
    return load_pipeline(project.folder / "pipelines" / project.name / "pipeline.yml")


def lake_of(project: Project) -> Lake:
    return Lake(project.connections("lake"), project.bucket)


def found_in(
    project: Project, older_than: timedelta = timedelta(0), keep: int = 1
) -> list[TableGarbage]:
    """What gc finds; by default with no age to protect anything."""
    with connect_warehouse(project.connections("warehouse")) as session:
        return garbage.find(pipeline_of(project), lake_of(project), session, older_than, keep)


def gc(project: Project, lake: Lake | None = None) -> int:
    """Find and remove with the smallest age and count; how many attempts went."""
    found = found_in(project)
    garbage.remove(found, lake or lake_of(project))
    return sum(verdict.remove for table in found for verdict in table.verdicts)


def gc_by_age_alone(project: Project) -> None:
    """The naive way: what was stored before now goes."""
    lake = lake_of(project)
    for name in list(lake.names("")):
        lake.remove(name)


def runs(project: Project, times: int) -> None:
    """Let `times` days pass."""
    for _ in range(times):
        change(project, ROWS)
        project.succeed()


def rebuilt(project: Project, postgres: PostgresServer) -> dict[str, Verdict]:
    """What the oracle says of every staging table built again, in an empty warehouse, from the lake
    alone.

    From the newest load that made the table anew, each committed load is applied again in the order
    of their numbers.
    """
    other = replace(project, warehouse=postgres.create_database(f"rebuilt_{secrets.token_hex(6)}"))
    lake, pipeline = lake_of(project), pipeline_of(project)
    loads = project.in_warehouse(
        "SELECT table_name, fence, manifest FROM loadsheet.load l WHERE pipeline = %s AND load_no"
        " >= (SELECT max(load_no) FROM loadsheet.load w WHERE (w.pipeline, w.table_name) ="
        " (l.pipeline, l.table_name) AND (replaced OR action = 'replace')) ORDER BY load_no",
        project.name,
    )
    with connect_warehouse(other.connections("warehouse")) as session:
        ledger.ensure(session)
        for table, fence, name in loads:
            if (stored := lake.get(name, 1 << 30)) is None:
                continue
            session.execute(
                "INSERT INTO loadsheet.scope (pipeline, table_name, target, fence) VALUES"
                " (%(pipeline)s, %(table)s, %(target)s, %(fence)s)"
                " ON CONFLICT (pipeline, table_name, target) DO UPDATE SET fence = %(fence)s",
                {
                    "pipeline": project.name,
                    "table": table,
                    "target": f"{pipeline.warehouse.schema}.{table}",
                    "fence": fence,
                },
            )
            sealed = SealedAttempt(manifest=name, sha256=sha256(stored).hexdigest())
            manifest = read_manifest(stored, name, sealed.sha256)
            target = Relation(pipeline.warehouse.schema, table)
            load_manifest(
                session,
                lake,
                manifest,
                sealed,
                target,
                pipeline.table(table),
                lambda rows, size: None,
            )
        for table in TABLES:  # one of which nothing is left is empty, not missing
            session.execute(f"CREATE SCHEMA IF NOT EXISTS {pipeline.warehouse.schema}")
            columns = session.execute(
                "SELECT to_regclass(%s)", (f"{pipeline.warehouse.schema}.{table}",)
            ).fetchone()
            if columns == (None,):
                session.execute(
                    f"CREATE TABLE {pipeline.warehouse.schema}.{table} (id int, what text, at"
                    " timestamptz)"
                )
    return {table: judge(other, table, staging=pipeline.warehouse.schema) for table in TABLES}


def extract(
    project: Project, table: str, run_id: str, progress: Any = None, **request: Any
) -> str | None:
    """The extract step of one table; its load id."""
    step = Step(kind="extract", name=table)
    asked = RunRequest(run_id=run_id, **request)
    return execute(
        step, pipeline_of(project), asked, project.connections, progress=progress
    ).load_id


def load(project: Project, table: str, run_id: str, load_id: str | None) -> Outcome:
    """The load step of one table."""
    step = Step(kind="load", name=table)
    return execute(
        step, pipeline_of(project), RunRequest(run_id=run_id), project.connections, load_id=load_id
    )


def test_a_rebuild_finds_all_it_needs(
    shop: Project, postgres: PostgresServer, tally: Callable[[str], Tally]
) -> None:
    runs(shop, 1)
    shop.succeed(full_refresh="all")
    runs(shop, 2)
    before = len(shop.objects())
    assert gc(shop) > 10
    assert len(shop.objects()) < before
    assert gc(shop) == 0  # and a second one finds nothing more
    runs(shop, 1)
    tally(FAULT).add(*verdicts(shop), *rebuilt(shop, postgres).values())

    gc_by_age_alone(shop)
    lost = [verdict.lost for verdict in rebuilt(shop, postgres).values()]
    assert all(lost)
    tally(FAULT).control(f"by age alone a rebuild lost {sum(lost):,} rows")


def test_a_retry_of_a_load_finds_what_was_extracted(
    shop: Project, tally: Callable[[str], Tally]
) -> None:
    change(shop, ROWS)
    extracted = {
        table: extract(shop, table, "retried")
        for table in ("merged", "appended", "swapped", "viewed", "pruned")
    }
    gc(shop)
    for table, load_id in extracted.items():
        load(shop, table, "retried", load_id)
        gc(shop)
        assert "committed already" in load(shop, table, "retried", load_id).message
    tally(FAULT).add(*verdicts_of(shop))

    change(shop, ROWS)
    load_id = extract(shop, "merged", "naive")
    gc_by_age_alone(shop)
    with pytest.raises(LoadsheetError, match="gone from the lake"):
        load(shop, "merged", "naive", load_id)
    tally(FAULT).control("by age alone a retry failed")


def verdicts_of(project: Project) -> list[Verdict]:
    return [judge(project, table) for table in TABLES]


def test_an_extraction_under_way_keeps_its_parts(
    many_parts: None, shop: Project, tally: Callable[[str], Tally]
) -> None:
    change(shop, ROWS)
    seen: list[int] = []

    def beside(rows: int, size: int) -> None:
        seen.append(gc(shop))

    load_id = extract(shop, "merged", "beside", beside)
    load(shop, "merged", "beside", load_id)
    assert len(seen) > 3
    tally(FAULT).add(judge(shop, "merged"))

    change(shop, ROWS)
    load_id = extract(shop, "merged", "naive", lambda rows, size: gc_by_age_alone(shop))
    with pytest.raises(LoadsheetError, match="gone from the lake"):
        load(shop, "merged", "naive", load_id)


class Interrupted(Exception):
    """The worker went away."""


def abandon(project: Project, table: str, run_id: str) -> None:
    """An extraction that ends after its first part."""

    def die(rows: int, size: int) -> None:
        if size:
            raise Interrupted

    with pytest.raises(Interrupted):
        extract(project, table, run_id, die)


def test_abandoned_attempts_go_and_what_is_not_ours_stays(
    many_parts: None, shop: Project, tally: Callable[[str], Tally]
) -> None:
    for name in FOREIGN:
        lake_of(shop).put(name, b"not ours")
    change(shop, ROWS)
    abandon(shop, "merged", "first")  # no manifest, then overtaken
    extract(shop, "merged", "second")  # a manifest, then overtaken
    abandon(shop, "merged", "third")  # no manifest, and the table stands on it
    merged = {v.why: v for t in found_in(shop) if t.table == "merged" for v in t.verdicts}
    assert {why for why, verdict in merged.items() if verdict.remove} == {
        "it has no manifest",
        "superseded before it was loaded",
    }
    assert not merged["a retry needs it"].remove and not merged["a rebuild needs it"].remove
    assert gc(shop) == 2
    shop.succeed()
    assert gc(shop) >= 1  # what the third had left
    assert set(FOREIGN) <= shop.objects()
    tally(FAULT).add(*verdicts(shop))


class Breaking(Lake):
    """A lake whose `remove` fails after `left` calls."""

    left = 0

    def remove(self, name: str) -> None:
        if self.left == 0:
            raise ConnectionError("the process died here")
        self.left -= 1
        super().remove(name)


def test_a_gc_that_dies_half_way_leaves_nothing_that_looks_whole(
    many_parts: None,
    shop: Project,
    postgres: PostgresServer,
    tally: Callable[[str], Tally],
    chance: random.Random,
) -> None:
    runs(shop, 1)
    shop.succeed(full_refresh="all")
    deaths = 0
    while True:
        try:
            lake = Breaking(shop.connections("lake"), shop.bucket)
            lake.left = chance.randint(1, 3)
            gc(shop, lake)
            break
        except ConnectionError:
            deaths += 1
        objects = shop.objects()
        for name in (name for name in objects if name.endswith(FILE_NAME)):
            stored = lake.get(name, 1 << 30)
            assert {part["name"] for part in json.loads(stored or b"")["parts"]} <= objects
    assert deaths > 5 and gc(shop) == 0
    tally(FAULT).add(*rebuilt(shop, postgres).values(), tried=deaths)


def test_a_pipeline_with_the_same_prefix_and_tables_is_not_harmed(
    many_parts: None, project: Project, postgres: PostgresServer, tally: Callable[[str], Tally]
) -> None:
    together = {"prefix": "together"}
    open_shop(project, ROWS, lake=together)
    other_source = postgres.create_database(f"store_{secrets.token_hex(6)}")
    shop, store = project, replace(project, name="store", source=other_source)
    store.in_source(
        "CREATE TABLE merged (id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT now())"
    )
    store.in_source("INSERT INTO merged SELECT i, md5(i::text) FROM generate_series(1, 5000) i")
    warehouse = {"conn_id": "warehouse", "schema": "store"}
    store.spec({"merged": {"incremental": "at"}}, warehouse=warehouse, lake=together)
    store.succeed()
    runs(shop, 1)
    store.in_source("UPDATE merged SET what = what || '.', at = clock_timestamp()")
    load_id = extract(store, "merged", "waiting")
    for project in (shop, store):
        gc(project)
    load(store, "merged", "waiting", load_id)
    tally(FAULT).add(
        *verdicts_of(shop),
        judge(store, "merged", staging="store"),
        *rebuilt(shop, postgres).values(),
    )
    assert all(name.startswith("together/") for name in shop.objects())
    store.in_source("UPDATE merged SET what = what || '.', at = clock_timestamp()")
    abandon(store, "merged", "under way")
    # what the command insists on: it is all that speaks for another's unfinished attempt
    hour = timedelta(hours=1)
    assert [v for t in found_in(shop, hour) for v in t.verdicts if v.remove and not v.is_load] == []


def test_another_warehouse_with_the_same_pipeline_and_prefix_stops_it(
    shop: Project, postgres: PostgresServer
) -> None:
    other = replace(shop, warehouse=postgres.create_database(f"other_{secrets.token_hex(6)}"))
    runs(shop, 2)
    other.succeed()
    before = shop.objects()
    for table in found_in(other):
        assert not any(verdict.remove for verdict in table.verdicts)
        if table.table in ("merged", "swapped", "viewed"):
            assert all(
                "another warehouse uses the same prefix" in verdict.why
                for verdict in table.verdicts
            )
    assert shop.objects() == before


def test_a_table_that_left_the_spec_goes_when_it_has_left_the_warehouse_too(shop: Project) -> None:
    runs(shop, 1)
    shop.succeed(full_refresh="all")
    shop.spec({name: options for name, options in TABLES.items() if name != "swapped"})
    found = next(t for t in found_in(shop) if t.table == "swapped")
    assert not found.in_spec
    assert [v.why for v in found.verdicts if not v.remove] == ["a rebuild needs it"]
    shop.in_warehouse("DROP TABLE staging.swapped")
    gc(shop)
    assert not [name for name in shop.objects() if name.startswith("shop/swapped/")]
    assert [name for name in shop.objects() if name.startswith("shop/merged/")]


def test_without_a_ledger_nothing_is_removed(shop: Project, tally: Callable[[str], Tally]) -> None:
    before = shop.objects()
    shop.in_warehouse("DROP SCHEMA loadsheet CASCADE")
    with pytest.raises(WorkError, match="has no ledger"):
        gc(shop)
    answer = command(shop, "gc", "shop")
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert "shop: nothing was removed: " in answer.stderr and "schema loadsheet" in answer.stderr
    away = command(
        replace(shop, warehouse="postgresql://nobody:x@127.0.0.1:9/nowhere"),
        "gc",
        "--older-than",
        "1h",
    )
    assert away.exit_code == 1 and "shop: nothing was removed: " in away.stderr
    assert shop.objects() == before
    tally(FAULT).add(*verdicts_of(shop), tried=2)


def grow_old(project: Project) -> None:
    """A month passes for everything that was stored and loaded."""
    month_ago = time.time() - 30 * 86400
    for file in Path(project.s3.data_dir, project.bucket).rglob("*"):
        if file.is_file():
            os.utime(file, (month_ago, month_ago))
    project.in_warehouse(
        "UPDATE loadsheet.load SET committed_at = committed_at - interval '30 days'"
    )


def test_the_command_says_what_it_would_remove_and_removes_just_that(
    shop: Project, tally: Callable[[str], Tally]
) -> None:
    runs(shop, 1)
    shop.succeed(full_refresh="all")
    young = json.loads(command(shop, "gc", "shop", "--json", "--keep", "1").stdout)
    assert {table["removed"]["objects"] for table in young["pipelines"][0]["tables"]} == {0}
    grow_old(shop)
    before = shop.objects()
    dry = command(shop, "gc", "shop", "--keep", "1", "--dry-run")
    assert dry.exit_code == 0 and dry.stdout.startswith(
        "shop: would remove 0 abandoned attempts and "
    )
    assert shop.objects() == before
    done = json.loads(shop.cli("gc", "shop", "--keep", "1", "--json").stdout)
    (pipeline,) = done["pipelines"]
    gone = [
        attempt["prefix"]
        for table in pipeline["tables"]
        for attempt in table["attempts"]
        if attempt["removed"]
    ]
    assert f" {len(gone)} old loads " in dry.stdout
    # Nine columns, one of them a sentence, were unreadable on a terminal of 80.
    table = dry.stdout.splitlines()[1:]
    assert re.split(" {2,}", table[0]) == [
        "table",
        "removed",
        "kept",
        "bytes removed",
        "bytes kept",
    ]
    assert "\nkept (a rebuild needs it): " in dry.stdout
    assert max(map(len, table[: 1 + len(pipeline["tables"])])) <= 80
    assert shop.objects() == {name for name in before if name.rpartition("/")[0] not in gone}
    tally(FAULT).add(*verdicts_of(shop))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--older-than", "5m"], "use 1h or more"),
        (["--older-than", "soon"], "not a duration"),
        (["--older-than", "999999d"], "goes back to before the year 1"),
        (["--older-than", "9" * 400 + "d"], "goes back to before the year 1"),
    ],
)
def test_an_age_that_protects_nobody_is_refused(
    project: Project, arguments: list[str], said: str
) -> None:
    project.spec({"merged": None})
    answer = command(project, "gc", "shop", *arguments)
    assert answer.exit_code == 2 and said in answer.stderr


def test_a_pipeline_that_never_ran_has_nothing_to_remove(project: Project) -> None:
    project.spec({"merged": None})
    answer = command(project, "gc")
    assert answer.exit_code == 0, answer.stderr
    assert answer.stdout.startswith(
        "shop: removed 0 abandoned attempts and 0 old loads (0 objects, 0 bytes)"
    )


@pytest.mark.timeout(scaled(600, 7200))
def test_gc_beside_runs_takes_nothing_from_them(
    shop: Project, postgres: PostgresServer, tally: Callable[[str], Tally], chance: random.Random
) -> None:
    """Runs and loads side by side with a gc that protects nothing by age, again and again."""
    stop = threading.Event()
    went: list[int] = []
    failed: list[Exception] = []

    def keep_clean() -> None:
        while not stop.is_set():
            try:
                went.append(gc(shop))
            except psycopg.Error as error:
                failed.append(error)
                return

    cleaner = threading.Thread(target=keep_clean)
    cleaner.start()
    try:
        for _ in range(scaled(3, 200)):
            if chance.random() < 0.3:
                shop.succeed(full_refresh="all")
            runs(shop, 1)
            tally(FAULT).add(*verdicts(shop))
    finally:
        stop.set()
        cleaner.join()
    assert failed == [] and sum(went) > 0
    tally(FAULT).add(*rebuilt(shop, postgres).values())
