"""The look finds what has nothing to do, as the steps themselves would, and nothing else."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from demo.servers.process import free_port
from loadsheet.connections.lookup import Connection, Connections
from loadsheet.engine import look, reading
from loadsheet.engine.execute import execute
from loadsheet.engine.resolve import resolved
from loadsheet.engine.runner import run_pipeline
from loadsheet.engine.sessions import Servers
from loadsheet.errors import LoadsheetError
from loadsheet.outcome import RunRequest
from loadsheet.plan.dag_tasks import dag_tasks
from loadsheet.spec.pipeline_file import load_pipeline
from tests.project import Project

TABLES: dict[str, Any] = {
    "item": {"incremental": "at"},
    "sale": {"incremental": "at"},
    "log": {"incremental": "id", "mode": "append"},
    "kind": None,
}
MARTS = {
    "sold": "SELECT count(*) AS n FROM sale",
    "total": "SELECT sum(n) AS n FROM mart.sold",
    "names": "SELECT count(*) AS n FROM item",
    "years": "SELECT 2026 AS year",
}
SOURCE = """
CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE sale (LIKE item INCLUDING ALL);
CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
CREATE TABLE kind (id int PRIMARY KEY, name text);
INSERT INTO item SELECT generate_series(1, 50);
INSERT INTO sale SELECT generate_series(1, 50);
INSERT INTO log (what) SELECT 'x' FROM generate_series(1, 50);
INSERT INTO kind SELECT i, 'kind ' || i FROM generate_series(1, 5) i;
"""
SCOPES = "SELECT table_name, fence, watermark FROM loadsheet.scope ORDER BY 1"


@pytest.fixture
def shop(project: Project) -> Project:
    """Four tables and four marts that were loaded and built."""
    project.in_source(SOURCE)
    project.spec(TABLES, MARTS)
    project.succeed()
    return project


def look_at(project: Project, connections: Connections | None = None, **request: Any) -> set[str]:
    """The ids of the steps that a look finds idle."""
    pipeline = load_pipeline(project.folder / "pipelines" / project.name / "pipeline.yml")
    (step,) = [step for step in dag_tasks(pipeline) if step.kind == "look"]
    project.grant()
    request.setdefault("run_id", "a look")
    found = connections or project.connections
    outcome = execute(step, pipeline, RunRequest(**request), found)
    assert outcome.status == "done" and f"bucket {project.bucket}" in outcome.message
    return set(outcome.names)


def names(*tables: str, transforms: tuple[str, ...] = ()) -> set[str]:
    """The ids of the extracts and loads of these tables, and of the transforms."""
    found = {f"{kind}.{kind}_{table}" for kind in ("extract", "load") for table in tables}
    return found | {f"transform.transform_{name}" for name in transforms}


def test_a_task_of_two_steps_is_idle_as_both_are(shop: Project) -> None:
    more, batches = ({"tasks": {"granularity": name}} for name in ("table", "batch"))
    shop.spec({**TABLES, "log": {**TABLES["log"], "granularity": "step"}}, MARTS, **more)
    shop.in_source("INSERT INTO sale VALUES (100)")
    marts = {f"transform.transform_{name}" for name in ("names", "years")}
    assert look_at(shop) == {"table.table_item", "table.table_kind"} | names("log") | marts
    # Of two batches, one has a table with news.
    shop.spec({**TABLES, "log": {**TABLES["log"], "pool": "slow"}}, MARTS, **batches)
    assert look_at(shop) == {"batch.batch_002"} | marts


def test_tasks_that_help_an_extract_are_idle_unless_it_reads_the_whole_table(
    shop: Project,
) -> None:
    helped = {name: {**(keys or {}), "extract_tasks": 2} for name, keys in TABLES.items()}
    shop.spec(helped, MARTS)
    readers = {f"read.read_{name}_2" for name in TABLES}
    assert look_at(shop) >= readers
    shop.in_source("INSERT INTO item VALUES (100); DELETE FROM kind WHERE id = 3")
    assert readers - look_at(shop) == {"read.read_kind_2"}
    assert look_at(shop, full_refresh="all").isdisjoint(readers)


def test_before_the_first_load_nothing_is_idle(project: Project) -> None:
    project.in_source(SOURCE)
    project.spec(TABLES, MARTS)
    assert look_at(project) == set()


def test_with_nothing_new_everything_is_idle_and_nothing_is_written(shop: Project) -> None:
    before = shop.in_warehouse(SCOPES), shop.objects()
    assert look_at(shop) == names(*TABLES, transforms=tuple(MARTS))
    assert (shop.in_warehouse(SCOPES), shop.objects()) == before
    # The steps themselves agree.
    states = shop.succeed()
    assert {step for step, state in states.items() if state == "skipped"} == look_at(shop)


def test_a_change_wakes_its_table_and_the_marts_that_read_it(shop: Project) -> None:
    for change, table, marts in (
        ("UPDATE sale SET at = DEFAULT WHERE id = 7", "sale", ("names", "years")),
        ("INSERT INTO log (what) VALUES ('new')", "log", tuple(MARTS)),
        ("UPDATE kind SET name = 'other' WHERE id = 3", "kind", tuple(MARTS)),
        ("DELETE FROM kind WHERE id = 3", "kind", tuple(MARTS)),
        ("ALTER TABLE kind ADD more int", "kind", tuple(MARTS)),
    ):
        shop.in_source(change)
        others = [name for name in TABLES if name != table]
        assert look_at(shop) == names(*others, transforms=marts), change
        shop.succeed()
        assert shop.differences(table) == 0, change


def test_rows_that_come_after_the_look_are_read_by_the_next_run(shop: Project) -> None:
    assert look_at(shop) >= names("item")
    shop.in_source("INSERT INTO item VALUES (100)")
    assert shop.differences("item") == 1
    assert look_at(shop).isdisjoint(names("item", transforms=("names",)))
    shop.succeed()
    assert shop.differences("item") == 0


def test_a_look_that_would_have_to_wait_lets_the_task_wait(
    shop: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="loadsheet")
    log = {"incremental": {"cursor": "id", "hold_back": "1s"}, "mode": "append"}
    shop.spec({**TABLES, "log": log}, MARTS)
    with psycopg.connect(shop.source) as other:
        other.execute("INSERT INTO log (what) VALUES ('late')")
        # Merged by a time, a table has no wait: it reads what there is.
        assert look_at(shop) == names("item", "sale", "kind", transforms=tuple(MARTS))
        assert "waiting up to" not in caplog.text
        # The negative control: without it, all tables wait for this one.
        monkeypatch.setattr(look.holdback, "never_waiting", contextlib.nullcontext)
        look_at(shop)
        assert "waiting up to" in caplog.text
    shop.succeed()
    assert shop.differences("log") == 0


def test_a_table_that_is_locked_does_not_hold_up_the_others(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "_TABLE_LIMIT", look.timedelta(seconds=2))
    with psycopg.connect(shop.source) as other:
        other.execute("LOCK TABLE sale IN ACCESS EXCLUSIVE MODE")
        assert look_at(shop) >= names("item", "kind")
        assert look_at(shop).isdisjoint(names("sale", transforms=("sold", "total")))


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each table is looked at by its own step's code, as those are that are no simple case."""
    monkeypatch.setattr(look, "find_nothing_new", lambda *given: {})


@pytest.mark.usefixtures("one_by_one")
def test_no_table_is_looked_at_when_the_time_is_up(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "_ALL_TABLES_SECONDS", 0.0)
    assert look_at(shop) == names(transforms=("years",))


@pytest.mark.parametrize("away", ["shop_source", "warehouse"])
def test_a_server_that_is_away_skips_nothing(
    shop: Project, away: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its tables' tasks say so, as they did."""

    def connections(conn_id: str) -> Connection:
        found = shop.connections(conn_id)
        return replace(found, port=free_port()) if conn_id == away else found

    with caplog.at_level("INFO", logger="loadsheet"):
        assert look_at(shop, connections) <= names(transforms=("years",))
    assert any("no look at the tables, all of their tasks run" in text for text in caplog.messages)


def test_a_lake_that_is_away_stops_the_look(shop: Project) -> None:
    """As it stops the step `create_bucket`, which the look takes the place of."""

    def connections(conn_id: str) -> Connection:
        found = shop.connections(conn_id)
        return replace(found, password="wrong") if conn_id == "lake" else found

    with pytest.raises(LoadsheetError, match="shop: look failed in run"):
        look_at(shop, connections)


@pytest.mark.usefixtures("one_by_one")
def test_what_cannot_be_known_without_reading_is_left_to_the_task(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PART_BYTES", 1000)
    assert look_at(shop).isdisjoint(names("kind")) and look_at(shop) >= names("item")


def test_deletes_that_are_due_are_left_to_the_task(shop: Project) -> None:
    tables = {**TABLES, "item": {"incremental": "at", "deletes": "hard"}}
    shop.spec(tables, MARTS)
    assert look_at(shop) == names("sale", "log", "kind", transforms=("sold", "total", "years"))
    tables["item"]["deletes"] = {"action": "hard", "every": "1d"}
    shop.spec(tables, MARTS)
    shop.succeed()
    assert look_at(shop) == names(*TABLES, transforms=tuple(MARTS))


def test_a_target_that_was_emptied_is_not_idle(shop: Project) -> None:
    shop.as_loader("TRUNCATE staging.item")
    assert look_at(shop).isdisjoint(names("item", transforms=("names",)))


def test_what_a_run_was_asked_to_do_is_not_idle(shop: Project) -> None:
    asked = {"full_refresh": frozenset({"sale", "names"})}
    assert look_at(shop, **asked) == names("item", "log", "kind", transforms=("years",))
    assert look_at(shop, full_refresh="all") == set()


def test_tables_that_were_not_chosen_are_idle_although_they_have_news(shop: Project) -> None:
    shop.in_source("INSERT INTO sale VALUES (100); INSERT INTO item VALUES (100)")
    found = look_at(shop, only=frozenset({"item"}))
    assert found == names("sale", "log", "kind", transforms=("sold", "total", "years"))


def test_a_mart_whose_sql_changed_is_not_idle_nor_what_reads_it(shop: Project) -> None:
    shop.spec(TABLES, {**MARTS, "sold": "SELECT count(*) + 1 AS n FROM sale"})
    assert look_at(shop) == names(*TABLES, transforms=("names", "years"))


def test_an_interval_without_rows_is_recorded_as_read(project: Project) -> None:
    """As by the extract step; else its day would show as missing."""
    project.in_source("CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL)")
    project.in_source("INSERT INTO item VALUES (1, '2026-01-01 12:34:56.7Z')")
    by_day = {"incremental": {"cursor": "at", "by": "data_interval"}}
    project.spec({"item": by_day}, schedule="@daily")

    def day(number: int) -> dict[str, str]:
        start, end = f"2026-01-0{number}T00:00:00+00:00", f"2026-01-0{number + 1}T00:00:00+00:00"
        return {"interval_start": start, "interval_end": end}

    project.succeed(**day(1))
    read = "SELECT intervals::text FROM loadsheet.scope"
    assert "2026-01-03" not in project.in_warehouse(read)[0][0]
    assert look_at(project, **day(2)) == names("item")
    assert "2026-01-03" in project.in_warehouse(read)[0][0]


def test_a_pattern_and_the_marts_that_read_its_tables_are_left_to_their_tasks(
    project: Project,
) -> None:
    project.in_source(SOURCE)
    marts = {"sold": "SELECT count(*) AS n FROM staging.sale"}
    project.spec({"item": {"incremental": "at"}, "*": None}, marts)
    project.grant()
    pipeline = load_pipeline(project.folder / "pipelines" / project.name / "pipeline.yml")
    known = resolved(pipeline, Servers(pipeline, project.connections))
    results = run_pipeline(known, RunRequest(run_id="first"), project.connections)
    assert {result.state for result in results.values()} == {"done"}
    assert look_at(project) == names("item")
