"""`loadsheet status` on real servers: what it says of tables and transforms, and that it only
reads."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.errors import LoadsheetError
from loadsheet.source import nothing_new
from loadsheet.status import source as lag
from tests.gauges import Labels, parse
from tests.project import Project

SOURCE = """
CREATE TABLE orders (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON orders (at);
CREATE TABLE events (id bigint PRIMARY KEY, what text);
CREATE TABLE country (code text PRIMARY KEY);
INSERT INTO orders (id) SELECT generate_series(1, 100);
INSERT INTO events SELECT i, 'x' FROM generate_series(1, 50) i;
INSERT INTO country VALUES ('no'), ('pe');
"""
TABLES = {
    "orders": {"incremental": "at"},
    "events": {"incremental": {"cursor": "id", "hold_back": "0s"}},
    "country": None,
}
MART = {"totals": "SELECT count(*) AS n FROM staging.orders"}


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    project.spec(TABLES, MART, tasks={"retries": 0})
    return project


def cli(project: Project, *arguments: str) -> Any:
    """`loadsheet status` in this process, which is ten times faster than in one of its own."""
    return CliRunner().invoke(
        app, ["--project", str(project.folder), "status", *arguments], env=project.environment()
    )


def status(project: Project, *arguments: str) -> dict[str, Any]:
    """The one pipeline of `loadsheet status --json`, its tables and transforms by name."""
    done = cli(project, project.name, "--json", *arguments)
    assert done.exit_code == 0, done.stdout + done.stderr
    (pipeline,) = json.loads(done.stdout)["pipelines"]
    pipeline["tables"] = {table["table"]: table for table in pipeline["tables"]}
    pipeline["transforms"] = {
        transform["transform"]: transform for transform in pipeline["transforms"]
    }
    return pipeline  # type: ignore[no-any-return]


def states(project: Project) -> dict[str, str]:
    found = status(project)
    return {
        name: entry["state"]
        for part in ("tables", "transforms")
        for name, entry in found[part].items()
    }


def test_on_an_empty_warehouse_everything_is_yet_to_be_loaded_and_stays_so(shop: Project) -> None:
    assert set(states(shop).values()) == {"never"}
    assert shop.in_warehouse("SELECT to_regnamespace('loadsheet')") == [(None,)]
    assert cli(shop, "shop").stdout.count("never") == 4


def test_after_a_run_each_table_has_its_load_its_rows_its_watermark_and_its_lag(
    shop: Project,
) -> None:
    shop.succeed(run_id="the run")
    found = status(shop)
    orders, events, country = (found["tables"][name] for name in ("orders", "events", "country"))
    assert (orders["state"], orders["rows"], orders["rows_exact"]) == ("current", 100, True)
    assert (
        orders["last_load"].items()
        >= {
            "run_id": "the run",
            "how": "replace",
            "extracted": 100,
        }.items()
    )
    assert orders["lag"]["seconds"] == 0 and orders["lag"]["newest"] == orders["watermark"]
    assert 0 <= orders["watermark_age_seconds"] < 600 > orders["last_load"]["age_seconds"] >= 0
    assert (events["watermark"], events["lag"]["distance"], events["watermark_age_seconds"]) == (
        "50",
        0,
        None,
    )
    assert (country["state"], country["lag_unknown"]) == (
        "loaded",
        "it is copied whole, without a cursor",
    )
    totals = found["transforms"]["totals"]
    assert (totals["state"], totals["rows"], totals["last_build"]["run_id"]) == (
        "current",
        1,
        "the run",
    )


def test_it_says_how_far_the_source_is_ahead(shop: Project) -> None:
    shop.in_source("UPDATE orders SET at = '2026-01-01 00:00:00+00'")
    shop.succeed()
    shop.in_source("INSERT INTO orders VALUES (101, '2026-01-01 01:30:00+00'), (102, 'infinity')")
    shop.in_source("INSERT INTO events VALUES (57, 'x')")
    found = status(shop)["tables"]
    assert (found["orders"]["state"], found["orders"]["lag"]["seconds"]) == ("behind", 5400.0)
    assert (found["events"]["state"], found["events"]["lag"]["distance"]) == ("behind", 7.0)
    text = cli(shop, "shop").stdout
    assert re.search(r"^orders .* 1h 30m ahead$", text, re.MULTILINE)
    assert re.search(r"^events .* 7 ahead$", text, re.MULTILINE)


def test_a_transform_is_due_when_something_it_reads_was_loaded_since(shop: Project) -> None:
    shop.succeed()
    shop.in_source("INSERT INTO orders VALUES (101)")
    shop.spec(TABLES)
    shop.succeed()
    shop.spec(TABLES, MART)
    assert (
        status(shop)["transforms"]["totals"].items() >= {"state": "due", "due": "new rows"}.items()
    )


def test_the_session_that_holds_a_table_back_is_named(shop: Project) -> None:
    shop.succeed()
    with psycopg.connect(shop.source, application_name="till") as till:
        pid = till.info.backend_pid
        till.execute("INSERT INTO events VALUES (60, 'later')")
        shop.in_source("INSERT INTO events VALUES (61, 'now')")
        shop.succeed()
        events = status(shop)["tables"]["events"]
        assert events["state"] == "held_back"
        assert events["held_back_by"].items() >= {"pid": pid, "application": "till"}.items()
        assert events["held_back_by"]["age_seconds"] >= 0
        assert f"events: held back by pid {pid} (" in cli(shop, "shop").stdout
    shop.succeed()
    assert states(shop)["events"] == "current"


def test_a_failure_is_shown_until_the_table_works_again(shop: Project) -> None:
    shop.succeed()
    shop.in_source("ALTER TABLE country RENAME TO countries")
    shop.run(run_id="the first")
    shop.run(run_id="the second")
    country = status(shop)["tables"]["country"]
    assert (country["state"], country["rows"]) == ("failed", 2)
    error = country["last_error"]
    assert (error["step"], error["run_id"]) == ("extract", "the second") and error["since"] < error[
        "at"
    ]
    assert "it is called public.countries now" in error["message"]
    assert not error["message"].startswith("shop.country")
    assert "extract of country failed" in cli(shop, "shop").stdout
    shop.in_source("ALTER TABLE countries RENAME TO country")
    states_of_run = shop.succeed()  # nothing new: nothing but the note is written
    assert states_of_run["load.load_country"] == "skipped" and states(shop)["country"] == "loaded"


def test_a_transforms_failure_is_shown_until_it_works_again(shop: Project) -> None:
    shop.spec(TABLES, {"totals": "SELECT 1 / 0 AS n FROM staging.orders"})
    shop.run()
    failed = status(shop)["transforms"]["totals"]
    assert (failed["state"], failed["last_error"]["code"]) == ("failed", "SQLSTATE 22012")
    shop.spec(TABLES, MART)
    shop.succeed()
    assert states(shop)["totals"] == "current"


def test_a_first_run_that_cannot_reach_its_source_has_left_its_error(shop: Project) -> None:
    source, shop.source = shop.source, "postgresql://nobody:secret@127.0.0.1:1/none"
    shop.run()
    orders = status(shop)["tables"]["orders"]
    assert (orders["state"], orders["last_error"]["code"]) == ("failed", "SQLSTATE 08001")
    assert "secret" not in orders["last_error"]["message"]
    shop.source = source
    shop.succeed()
    assert states(shop)["orders"] == "current"


def test_a_failure_that_cannot_be_noted_is_the_same_failure(shop: Project) -> None:
    shop.succeed()
    shop.in_source("ALTER TABLE country RENAME TO countries")
    expected = shop.run(run_id="r")["extract.extract_country"].result
    shop.in_warehouse("ALTER TABLE loadsheet.failure RENAME TO gone")
    unnoted = shop.run(run_id="r")["extract.extract_country"].result
    assert isinstance(unnoted, LoadsheetError) and str(unnoted) == str(expected)


def test_a_misspelt_table_is_forgotten_once_it_is_corrected(shop: Project) -> None:
    """Before, `never` and `not in the spec` stayed for good. One that was loaded stays."""
    shop.spec({**TABLES, "countri": None}, tasks={"retries": 0})
    shop.run()
    assert status(shop)["tables"]["countri"]["state"] == "failed"
    shop.spec({name: TABLES[name] for name in ("orders", "events")})
    found = status(shop)["tables"]
    assert list(found) == ["orders", "events", "country"]
    assert found["country"]["last_load"]


def test_without_the_source_it_shows_what_the_warehouse_knows_and_says_why(shop: Project) -> None:
    shop.succeed()
    shop.source = "postgresql://nobody:secret@127.0.0.1:1/none"
    found = status(shop)
    assert not found["source"]["asked"] and "connection failed" in found["source"]["why_not"]
    orders = found["tables"]["orders"]
    assert (orders["state"], orders["rows"], orders["lag"]) == ("loaded", 100, None)
    assert orders["lag_unknown"] == "the source could not be asked"
    shown = cli(shop, "shop").stdout
    assert "The source could not be asked: " in shown and "secret" not in shown


def test_a_lag_that_would_cost_a_scan_is_unknown_and_says_why(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is dear for a table of 100 rows, by itself and with others.
    monkeypatch.setattr(lag, "_MOST_COST", 1.0)
    monkeypatch.setattr(nothing_new, "_MOST_SCANNED", 0)
    shop.succeed()
    assert states(shop)["orders"] == "current"  # the control: by its index
    shop.in_source("DROP INDEX orders_at_idx")
    orders = status(shop)["tables"]["orders"]
    assert (
        orders["lag"] is None
        and orders["lag_unknown"] == "at has no index, so finding its highest value could take long"
    )
    assert "orders: at has no index" in cli(shop, "shop").stdout


def test_a_large_table_is_estimated_and_says_so(shop: Project) -> None:
    shop.spec({"big": None})
    shop.in_source(
        "CREATE TABLE big AS SELECT i AS id, repeat('x', 900) AS x FROM generate_series(1, 9500) i"
    )
    shop.succeed()
    shop.in_warehouse("ANALYZE staging.big")
    big = status(shop)["tables"]["big"]
    assert (big["rows"], big["rows_exact"]) == (9500, False)
    assert "~9,500" in cli(shop, "shop").stdout


def test_it_writes_nothing(shop: Project) -> None:
    # Whatever writes takes an id. Statistics would do less: writers report them later.
    next_id = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
    shop.succeed()
    shop.in_warehouse("VACUUM ANALYZE")
    before = shop.in_warehouse(next_id)
    status(shop)
    assert shop.in_warehouse(next_id) == before
    shop.in_warehouse("UPDATE loadsheet.scope SET last_load_no = last_load_no")
    assert shop.in_warehouse(next_id) != before


def test_a_ledger_of_an_older_version_is_read_and_left_as_it_is(shop: Project) -> None:
    shop.succeed()
    shop.in_warehouse("DROP TABLE loadsheet.failure")
    shop.in_warehouse("COMMENT ON SCHEMA loadsheet IS 'ledger version 3'")
    assert states(shop)["orders"] == "current"
    assert shop.in_warehouse("SELECT to_regclass('loadsheet.failure')") == [(None,)]


def test_one_pipeline_in_trouble_does_not_hide_the_others(shop: Project) -> None:
    shop.succeed()
    away = (
        (shop.folder / "pipelines" / "shop" / "pipeline.yml")
        .read_text()
        .partition("transforms:")[0]
    )
    specs = {
        "broken": "version: 2\n",
        "away": away.replace("conn_id: warehouse", "conn_id: nowhere"),
    }
    for name, text in specs.items():
        home = shop.folder / "pipelines" / name
        home.mkdir()
        (home / "pipeline.yml").write_text(text)
    done = cli(shop)
    assert done.exit_code == 2
    assert "shop: 3 tables" in done.stdout
    assert (
        "broken/pipeline.yml:1:10" in done.stderr
        and "connection 'nowhere' is not defined" in done.stderr
    )
    errors = {
        p["pipeline"]: p["error"] for p in json.loads(cli(shop, "--json").stdout)["pipelines"]
    }
    assert errors["shop"] is None and "nowhere" in errors["away"]
    (shop.folder / "pipelines" / "away" / "pipeline.yml").write_text(
        f"{away}pipeline: shop\n"  # the name of the first
    )
    done = cli(shop, "--prometheus")
    assert done.exit_code == 2 and "shop: several files have this name" in done.stderr
    up = {dict(labels)["pipeline"]: value for labels, value in gauges(done)["up"].items()}
    broken = str(shop.folder / "pipelines" / "broken" / "pipeline.yml")
    assert up == {broken: 0, "shop": 0}
    assert "leave out --json" in cli(shop, "--prometheus", "--json").stderr


def gauges(done: Any) -> dict[str, dict[Labels, float]]:
    """What `--prometheus` has printed, without the prefix."""
    return {name.removeprefix("loadsheet_"): each for name, each in parse(done.stdout).items()}


def test_the_gauges_tell_what_the_document_tells(shop: Project) -> None:
    shop.succeed()
    shop.verify("orders", "totals")
    shop.in_source("INSERT INTO orders VALUES (101); INSERT INTO events VALUES (57, 'x')")
    shop.succeed(only=frozenset({"events"}))
    document = status(shop)
    done = cli(shop, "--prometheus")
    assert done.exit_code == 0 and not done.stderr
    found = gauges(done)

    def told(gauge: str, kind: str, name: str, **more: str) -> float | None:
        labels = {"pipeline": "shop", "kind": kind, "name": name, **more}
        return found[gauge].get(frozenset(labels.items()))

    entries = [("table", name, entry) for name, entry in document["tables"].items()]
    entries += [("transform", name, entry) for name, entry in document["transforms"].items()]
    for kind, name, entry in entries:
        last = entry.get("last_load") or entry["last_build"]
        at = datetime.fromisoformat(last["at"]).timestamp()
        assert told("state", kind, name, state=entry["state"]) == 1
        assert told("failed", kind, name) == 0
        assert told("rows", kind, name) == entry["rows"]
        assert told("last_load_timestamp_seconds", kind, name) == at
        assert told("last_load_duration_seconds", kind, name) == last["seconds"]
        assert told("last_load_bytes", kind, name) == last.get("bytes")
        for change in ("extracted", "inserted", "updated", "deleted"):
            rows = told("last_load_rows", kind, name, change=change)
            assert rows == last.get(change), (name, change)
        lag = entry.get("lag") or {"seconds": None, "distance": None}
        assert told("lag_seconds", kind, name) == lag["seconds"]
        assert told("lag_distance", kind, name) == lag["distance"]
        is_equal = 1 if entry["verified"] else None
        assert told("verdict", kind, name, verdict="equal") == is_equal
    orders = document["tables"]["orders"]
    assert orders["state"] == "behind" and orders["verified"]
    watermark = datetime.fromisoformat(orders["watermark"]).timestamp()
    assert told("watermark_timestamp_seconds", "table", "orders") == pytest.approx(watermark)
    chosen = gauges(cli(shop, "shop", "--tables", "orders", "--prometheus"))
    assert {dict(labels)["name"] for labels in chosen["rows"]} == {"orders"}


@pytest.mark.parametrize("as_json", [False, True])
def test_watching_repeats_in_a_pipe_and_ends_well_at_ctrl_c(shop: Project, as_json: bool) -> None:
    shop.succeed()
    command = shop.command("status", "shop", "--watch", "0.2", *(["--json"] if as_json else []))
    with subprocess.Popen(
        command, env=shop.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as p:
        assert p.stdout and p.stderr
        if as_json:
            pages = [json.loads(p.stdout.readline()) for _ in range(2)]
            assert [page["pipelines"][0]["pipeline"] for page in pages] == ["shop", "shop"]
        else:
            for _ in range(2):
                while p.stdout.readline() != "shop: 3 tables, 1 transform\n":
                    pass
        p.send_signal(signal.SIGINT)
        _, complaints = p.communicate(timeout=30)
    assert (p.returncode, complaints) == (0, "")


def watched(project: Project, columns: int, lines: int) -> bytes:
    """What a terminal of that size gets from `--watch` until Ctrl-C, which ends it well."""
    main, side = os.openpty()
    environment = {
        **project.environment(),
        "COLUMNS": str(columns),
        "LINES": str(lines),
        "TERM": "xterm",
    }
    command = project.command("status", "shop", "--watch")
    with subprocess.Popen(
        command, env=environment, stdout=side, stderr=side, stdin=subprocess.DEVNULL
    ) as p:
        os.close(side)
        screen = b""
        while b"Ctrl-C ends" not in screen:
            screen += os.read(main, 65536)
        p.send_signal(signal.SIGINT)
        assert p.wait(30) == 0
    os.close(main)
    return screen


def test_on_a_terminal_of_80_columns_nothing_is_wrapped_and_the_watch_ends_at_ctrl_c(
    shop: Project,
) -> None:
    shop.succeed()
    screen = watched(shop, columns=80, lines=40)
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in screen.decode().splitlines()]
    assert max(map(len, lines)) <= 80, lines
    orders = next(line for line in lines if "orders" in line)
    assert re.search(
        r"orders +\d+s ago +100 +20\d\d-\d\d-\d\d \d\d:\d\d:\d\d +\d+s +up to date", orders
    )


def test_the_documented_shape_is_the_one_that_is_printed(shop: Project) -> None:
    shop.spec(TABLES, MART, defaults={"fresh_within": "2h"})
    shop.succeed()
    shop.verify("orders")
    page = (Path(__file__).resolve().parents[2] / "docs" / "status.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    found = json.loads(cli(shop, "--json").stdout)
    printed = set(_keys(found)) | {
        "pid",
        "user",
        "application",
        "state",
        "since",
        "who",
        "step",
        "code",
        "message",
        "start",
        "end",
        "airflow",
        "command_line",
        "removed",
    }
    assert printed == documented


def _keys(value: Any) -> list[str]:
    if isinstance(value, list):
        return [key for item in value for key in _keys(item)]
    return (
        [key for name, item in value.items() for key in [name, *_keys(item)]]
        if isinstance(value, dict)
        else []
    )


def test_the_last_search_for_deleted_rows_is_shown(shop: Project) -> None:
    deletes = {"action": "hard", "max_delete": 0.5}
    shop.spec({**TABLES, "orders": {"incremental": "at", "deletes": deletes}})
    plan = CliRunner().invoke(app, ["--project", str(shop.folder), "plan", "shop", "--json"])
    steps = {step["id"]: step for step in json.loads(plan.stdout)["steps"]}
    assert steps["extract.extract_orders"]["deletes"] == "hard"
    assert steps["extract.extract_events"]["deletes"] is None
    shop.succeed()
    assert status(shop)["tables"]["orders"]["deletes_search"] is None
    assert "deletes" not in cli(shop, "shop").stdout
    shop.in_source("DELETE FROM orders WHERE id <= 7")
    for gone in (7, 0):
        shop.succeed()
        search = status(shop)["tables"]["orders"]["deletes_search"]
        assert search["gone"] == gone and 0 <= search["age_seconds"] < 600
        page = cli(shop, "shop").stdout
        assert re.search(rf"^orders .* {gone} gone \d+s ago$", page, re.MULTILINE)
    # They stay, so each search counts them again: of a run that loads something, and of one that
    # does not.
    shop.spec({**TABLES, "orders": {"incremental": "at", "deletes": "report"}})
    shop.in_source("DELETE FROM orders WHERE id IN (8, 9); INSERT INTO orders (id) VALUES (101)")
    for state in ("done", "skipped"):
        assert shop.succeed()["load.load_orders"] == state
        assert status(shop)["tables"]["orders"]["deletes_search"]["gone"] == 2
        assert re.search(r"^orders .* 2 gone \d+s ago$", cli(shop, "shop").stdout, re.MULTILINE)


def verdicts(project: Project, name: str, part: str = "tables") -> Any:
    return status(project)[part][name]["verified"]


def test_the_last_verdict_is_shown_with_what_it_was_verified_through(shop: Project) -> None:
    shop.succeed()
    assert "verified" not in cli(shop, "shop").stdout
    shop.verify("orders")
    found = status(shop)["tables"]
    verified, last = found["orders"]["verified"], found["orders"]["last_load"]
    assert found["country"]["verified"] is None
    assert (
        verified.items()
        >= {
            "verdict": "equal",
            "target_rows": 100,
            "through": last["number"],
            "watermark": found["orders"]["watermark"],
            "loaded_since": False,
        }.items()
    )
    assert 0 <= verified["age_seconds"] <= last["age_seconds"]
    assert re.search(r"^orders .* equal \d+s ago$", cli(shop, "shop").stdout, re.MULTILINE)

    shop.in_source("INSERT INTO orders (id) VALUES (101)")
    shop.succeed()
    assert verdicts(shop, "orders")["loaded_since"]
    page = cli(shop, "shop").stdout
    assert re.search(r"^orders .* equal \d+s ago, loaded since$", page, re.MULTILINE)


def test_a_difference_is_shown_until_the_table_is_compared_again(shop: Project) -> None:
    shop.succeed()
    shop.in_warehouse("DELETE FROM staging.orders WHERE id IN (7, 8)")
    shop.verify()
    page = cli(shop, "shop").stdout
    assert re.search(r"^orders .* differs \d+s ago$", page, re.MULTILINE)
    assert re.search(
        r"^orders: 2 missing, found \d+s ago: `loadsheet verify shop orders`$", page, re.MULTILINE
    )
    shop.succeed(full_refresh=["orders"])
    assert "before its last load" in cli(shop, "shop").stdout
    shop.verify("orders")
    assert verdicts(shop, "orders")["verdict"] == "equal"


def test_a_ledger_of_the_version_before_has_no_verdicts(shop: Project) -> None:
    shop.succeed()
    shop.in_warehouse(
        "DROP TABLE loadsheet.verified; COMMENT ON SCHEMA loadsheet IS 'ledger version 6'"
    )
    assert "the ledger has version 6" in shop.verify("orders")["orders"].not_recorded
    assert verdicts(shop, "orders") is None
    shop.succeed()
    assert shop.verify("orders")["orders"].not_recorded == ""
