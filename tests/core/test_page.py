"""The documents of the page on real servers: what they say of a pipeline, and what it costs."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any
from urllib.request import HTTPCookieProcessor, Request, build_opener

import psycopg
import pytest

from loadsheet.connections.lookup import Connection
from loadsheet.engine.runner import StepResult
from loadsheet.errors import ConnectionMissing, InputError
from loadsheet.page import commits, documents
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline
from tests.project import Project, load_tables

SOURCE = """
CREATE TABLE orders (
    id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), sum int);
CREATE INDEX ON orders (at);
CREATE TABLE country (code text PRIMARY KEY);
INSERT INTO orders (id, sum) SELECT i, i FROM generate_series(1, 100) i;
INSERT INTO country VALUES ('no'), ('pe');
"""
TABLES = {"orders": {"incremental": "at"}, "country": None}
MARTS = {"totals": "SELECT sum(sum) AS total FROM staging.orders"}
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    project.spec(TABLES, MARTS, tasks={"retries": 0})
    return project


def file_of(project: Project) -> Path:
    return project.folder / "pipelines" / project.name / "pipeline.yml"


def pipeline_of(project: Project) -> Pipeline:
    return load_pipeline(file_of(project))


def overview(project: Project, **options: Any) -> dict[str, Any]:
    """The targets by name."""
    document = documents.overview([file_of(project)], project.connections, **options)
    json.dumps(document, allow_nan=False)
    [pipeline] = document["pipelines"]
    assert pipeline["unknown"] is None
    return {one["name"]: one for one in pipeline["targets"]}


def target(project: Project, kind: str, name: str) -> dict[str, Any]:
    document = documents.target(pipeline_of(project), project.connections, kind, name)
    json.dumps(document, allow_nan=False)
    assert document["unknown"] is None
    return document


def grow(project: Project, first: int, last: int) -> None:
    project.in_source(
        "INSERT INTO orders (id, sum) SELECT i, i FROM generate_series(%s::int, %s::int) i",
        first,
        last,
    )


def failed(results: dict[str, StepResult]) -> list[str]:
    return [name for name, result in results.items() if result.state == "failed"]


def test_before_the_first_run_everything_is_yet_to_be_loaded(shop: Project) -> None:
    found = overview(shop)
    assert {one["state"] for one in found.values()} == {"never"}
    assert {one["age_seconds"] for one in found.values()} == {None}
    assert target(shop, "table", "orders")["loads"] == []
    run = documents.run(pipeline_of(shop), shop.connections, "none")
    assert (run["unknown"], run["loads"], run["builds"]) == (None, [], [])
    assert shop.in_warehouse("SELECT to_regnamespace('loadsheet')") == [(None,)]


def test_the_overview_has_the_state_and_the_history_of_each_target(shop: Project) -> None:
    shop.succeed()
    grow(shop, 101, 107)
    shop.succeed()
    grow(shop, 108, 110)
    found = overview(shop)
    assert found["orders"]["state"] == "behind"
    assert found["orders"]["lag"]["ahead"] is True
    assert found["orders"]["history"] == [100, 7]
    assert found["orders"]["rows"] == 107
    assert found["orders"]["watermark_age_seconds"] >= 0
    assert found["country"]["state"] == "loaded"
    assert found["country"]["history"] == [2]
    assert found["totals"]["state"] == "current"
    assert len(found["totals"]["history"]) == 2
    without_source = overview(shop, ask_source=False)
    assert without_source["orders"]["lag"] is None
    assert without_source["orders"]["state"] == "loaded"


def test_a_history_has_the_last_twenty_loads(shop: Project) -> None:
    shop.succeed()
    shop.in_warehouse(
        "INSERT INTO loadsheet.load SELECT (jsonb_populate_record(l, jsonb_build_object("
        "'load_id', 'copy' || i, 'load_no', 1000 + i, 'inserted', i))).*"
        " FROM loadsheet.load l, generate_series(1, 25) i WHERE table_name = 'orders'"
    )
    assert overview(shop)["orders"]["history"] == list(range(6, 26))
    loads = target(shop, "table", "orders")["loads"]
    assert [load["number"] for load in loads[:2]] == [1025, 1024]
    assert len(loads) == 26


def test_a_verdict_is_shown_until_the_next_load_outdates_it(shop: Project) -> None:
    shop.succeed()
    shop.in_warehouse("UPDATE staging.orders SET sum = -1 WHERE id = 5")
    shop.verify("orders")
    found = overview(shop)["orders"]["verified"]
    assert (found["verdict"], found["different"], found["loaded_since"]) == ("differs", 1, False)
    grow(shop, 101, 101)
    shop.succeed()
    assert overview(shop)["orders"]["verified"]["loaded_since"] is True


def test_a_failure_is_shown_with_its_run_and_is_part_of_that_run(shop: Project) -> None:
    shop.succeed()
    shop.in_source("ALTER TABLE country RENAME TO countries")
    shop.run(run_id="the-bad-one")
    found = overview(shop)["country"]
    assert found["state"] == "failed"
    assert found["error"]["run_id"] == "the-bad-one"
    assert "country" in found["error"]["message"]
    run = documents.run(pipeline_of(shop), shop.connections, "the-bad-one")
    assert [failure["name"] for failure in run["failures"]] == ["country"]
    assert run["loads"] == []


def test_who_holds_a_table_back_is_named(shop: Project) -> None:
    shop.succeed()
    with psycopg.connect(shop._database("source").unmarked(shop)) as writer:
        writer.execute("INSERT INTO orders (id, sum) VALUES (900, 1)")
        grow(shop, 901, 901)
        found = overview(shop)["orders"]
        assert found["state"] == "held_back"
        assert f"pid {writer.info.backend_pid}" in found["blocker"]["who"]
        assert found["blocker"]["now"] is True
    assert overview(shop)["orders"]["blocker"] is None


def test_a_target_has_its_loads_sql_columns_and_objects(shop: Project) -> None:
    shop.succeed(run_id="first")
    shop.as_loader(f"COMMENT ON TABLE staging.orders IS '{HOSTILE}'")
    shop.as_loader(f"COMMENT ON COLUMN staging.orders.sum IS '{HOSTILE}'")
    found = target(shop, "table", "orders")
    [load] = found["loads"]
    assert (load["run_id"], load["inserted"], load["extracted"]) == ("first", 100, 100)
    assert load["extract_seconds"] > 0
    assert load["load_seconds"] > 0
    assert found["comment"] == HOSTILE
    columns = {column["name"]: column for column in found["columns"]}
    assert columns["sum"] == {
        "name": "sum",
        "type": "integer",
        "nullable": True,
        "comment": HOSTILE,
    }
    assert "<watermark>" in found["sql"]
    assert (found["source"]["name"], found["source"]["primary_key"]) == ("public.orders", ["id"])
    assert (found["mode"], found["primary_key"]) == ("merge", ["id"])
    assert [check["text"] for check in found["checks"]] == ["equals its source"]
    manifests = {
        place["name"].partition(f"s3://{shop.bucket}/")[2]
        for place in found["lake"]
        if place["kind"] == "manifest"
    }
    assert len(manifests) == 1
    assert manifests <= shop.objects()


def test_a_targets_lineage_goes_up_to_the_source_and_down_to_the_marts(shop: Project) -> None:
    shop.succeed()
    table = target(shop, "table", "orders")
    assert {one["name"] for one in table["upstream"]["tables"]} == {
        "public.orders",
        "staging.orders",
    }
    assert "mart.totals" in {one["name"] for one in table["downstream"]["tables"]}
    mart = target(shop, "transform", "totals")
    ends = [
        (edge["from"]["table"], edge["from"]["column"])
        for edge in mart["upstream"]["edges"]
        if edge["to"] == {"kind": "mart", "table": "mart.totals", "column": "total"}
    ]
    assert ("staging.orders", "sum") in ends


def test_a_run_has_its_loads_and_builds_and_no_others(shop: Project) -> None:
    shop.succeed(run_id="first")
    grow(shop, 101, 103)
    shop.succeed(run_id="second")
    run = documents.run(pipeline_of(shop), shop.connections, "second")
    assert [(load["name"], load["inserted"]) for load in run["loads"]] == [("orders", 3)]
    assert [build["name"] for build in run["builds"]] == ["totals"]


def test_the_runs_of_a_pipeline_are_listed_as_far_back_as_all_their_commits_are_known(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `orders` the last three loads are read, so of the first run only that of `country`."""
    monkeypatch.setattr(commits, "HISTORY", 3)
    for number in range(4):
        grow(shop, 200 + number, 200 + number)
        shop.succeed(run_id=f"run {number}")
    found = documents.runs(pipeline_of(shop), shop.connections)
    json.dumps(found, allow_nan=False)
    assert found["unknown"] is None
    assert [run["run_id"] for run in found["runs"]] == ["run 3", "run 2", "run 1"]
    assert {(run["tables"], run["marts"]) for run in found["runs"]} == {(1, 1)}
    shop.in_source("ALTER TABLE orders RENAME TO orders_old")
    shop.run(run_id="broken")
    first = documents.runs(pipeline_of(shop), shop.connections)["runs"][0]
    assert (first["run_id"], first["tables"], first["failures"]) == ("broken", 0, 1)


def test_a_name_that_no_server_can_have_is_no_bug(shop: Project) -> None:
    shop.succeed()
    with pytest.raises(InputError, match="no run"):
        documents.run(pipeline_of(shop), shop.connections, "a\0b")
    for name in ("a\0b", "x" * 10_000, "../../etc/passwd"):
        with pytest.raises(InputError):
            documents.target(pipeline_of(shop), shop.connections, "table", name)


def test_a_table_that_has_left_the_file_is_shown_as_such(shop: Project) -> None:
    shop.succeed()
    shop.spec({"orders": {"incremental": "at"}})
    assert overview(shop)["country"]["in_spec"] is False
    found = target(shop, "table", "country")
    assert len(found["loads"]) == 1
    assert "not in the pipeline file" in found["lineage_unknown"]


def test_it_takes_as_many_statements_for_many_tables_as_for_few(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    def statements(count: int) -> int:
        load_tables(project, count)
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "loadsheet.postgres"):
            assert len(overview(project)) == count
        return len(caplog.records)

    few = statements(2)
    assert few > 5  # they are logged at all
    assert statements(12) <= few


def test_many_pipelines_share_sessions_and_each_takes_few_statements(
    shop: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """A session for each would be 24 of them, and connecting takes longer than asking."""
    shop.succeed()
    text = file_of(shop).read_text()
    files = []
    for number in range(24):
        folder = shop.folder / "pipelines" / f"copy{number}"
        shutil.copytree(file_of(shop).parent, folder)
        (folder / "pipeline.yml").write_text(text)
        files.append(folder / "pipeline.yml")
    with caplog.at_level(logging.DEBUG, "loadsheet.postgres"):
        found = documents.overview(files, shop.connections, ask_source=False)
    assert [one["unknown"] for one in found["pipelines"]] == [None] * 24
    said = [record.getMessage() for record in caplog.records]
    connected = [text for text in said if text.startswith("connected")]
    assert 1 <= len(connected) <= 4
    assert 24 * 5 < len(said) - len(connected) <= 24 * 18


def test_an_overview_that_is_not_finished_has_the_pipelines_that_have_been_asked(
    shop: Project,
) -> None:
    def away(conn_id: str) -> Connection:
        raise ConnectionMissing(f"{conn_id} has not answered")

    shop.succeed()
    unfinished = documents.Overview([file_of(shop)], ask_source=False)
    [before] = unfinished(away)["pipelines"]
    assert "has not answered" in before["unknown"] and before["targets"] == []
    [asked] = unfinished(shop.connections)["pipelines"]
    assert asked["unknown"] is None and len(asked["targets"]) == 3
    assert unfinished(away)["pipelines"] == [asked]


def test_the_command_serves_the_page_to_who_has_its_address_and_ends_quietly(
    shop: Project,
) -> None:
    shop.succeed()
    ui = subprocess.Popen(
        shop.command("ui", "shop"),
        env=shop.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert ui.stdout
        address = ui.stdout.readline().strip()
        browser = build_opener(HTTPCookieProcessor())
        assert b"<title>Loadsheet" in browser.open(address).read()
        base = address.partition("?")[0]
        with browser.open(Request(f"{base}api/pipelines")) as answered:
            [pipeline] = json.load(answered)["pipelines"]
        assert {one["name"] for one in pipeline["targets"]} == {"orders", "country", "totals"}
    finally:
        ui.send_signal(signal.SIGINT)
        _, errors = ui.communicate(timeout=30)
    assert ui.returncode == 0
    assert "Traceback" not in errors
    assert "interrupted" not in errors


def test_tables_of_a_pattern_and_marts_of_every_kind_have_a_page(shop: Project) -> None:
    marts = {
        "seen": ("SELECT sum FROM staging.orders", {"materialized": "view"}),
        "made": (
            "DROP TABLE IF EXISTS mart.made; CREATE TABLE mart.made AS TABLE staging.orders",
            {"materialized": "script"},
        ),
    }
    shop.spec({"ord*": {"incremental": "at"}}, marts)
    assert shop.cli("run", shop.name).returncode == 0
    found = overview(shop)
    assert {name: one["state"] for name, one in found.items()} == {
        "orders": "current",
        "seen": "current",
        "made": "current",
    }
    assert 'FROM "public"."orders"' in target(shop, "table", "orders")["sql"]
    view = target(shop, "transform", "seen")
    assert view["rows"] is None
    assert [column["name"] for column in view["columns"]] == ["sum"]
    script = target(shop, "transform", "made")
    [made] = [one for one in script["upstream"]["tables"] if one["name"] == "mart.made"]
    assert "script" in made["not_traced"]
