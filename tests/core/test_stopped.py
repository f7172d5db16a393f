"""A run that was stopped by Ctrl-C, kill -9 or a failure: nothing is half-written, and --resume
goes on with it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from loadsheet import failpoints
from loadsheet.cli.main import app
from tests.core.shop import MART, SOURCE, TABLES
from tests.project import Project

HALF_WRITTEN = "SELECT relname FROM pg_class WHERE relname LIKE '\\_loadsheet\\_%'"


@pytest.fixture
def shop(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project.in_source(SOURCE)
    project.spec(TABLES, MART, tasks={"retries": 0})
    monkeypatch.setenv("LOADSHEET_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(failpoints, "_reached", Counter())
    return project


def cli(project: Project, *arguments: str, point: str = "") -> Result:
    """`loadsheet` in this process, which starts no other; `point` is where it is to fail."""
    environment = {**project.environment(), failpoints.VARIABLE: point}
    return CliRunner().invoke(app, ["--project", str(project.folder), *arguments], env=environment)


def resumed(project: Project) -> dict[str, Any]:
    """The steps of `loadsheet run --resume` by their id; it ends well."""
    run = cli(project, "run", "shop", "--resume", "--json")
    assert run.exit_code == 0, run.output
    return {step["id"]: step for step in json.loads(run.stdout)["steps"]}


def extracted_only(project: Project) -> None:
    """A run of one table that fails when it has been extracted and is to be loaded; then a row is
    added."""
    project.spec({"country": None}, tasks={"retries": 0})
    assert cli(project, "run", "shop", point="load.manifest_read:raise").exit_code == 1
    project.in_source("INSERT INTO country VALUES ('is', 'Iceland')")


def loads(project: Project, table: str) -> int:
    return project.in_warehouse("SELECT count(*) FROM loadsheet.load WHERE table_name = %s", table)[
        0
    ][0]


@pytest.mark.parametrize("point", ["extract.copied", "load.filled", "transform.built"])
def test_ctrl_c_leaves_nothing_half_written_and_the_run_goes_on(shop: Project, point: str) -> None:
    environment = {**shop.environment(), failpoints.VARIABLE: f"{point}:hang"}
    with subprocess.Popen(
        shop.command("run", "shop"),
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as run:
        assert run.stderr and run.stderr.readline() == f"failpoint {point}: hang\n"
        run.send_signal(signal.SIGINT)
        out, told = run.communicate(timeout=20)
    assert run.returncode == 130
    assert (
        told.startswith("interrupted: loaded tables stay")
        and "--resume" in told
        and "Traceback" not in told
    )
    assert "\x1b" not in out + told  # a pipe gets no control codes
    resumed(shop)
    assert shop.differences("customer") == shop.differences("country") == 0
    assert shop.in_warehouse("SELECT count(*) FROM mart.names") == [(100,)]
    assert shop.in_warehouse(HALF_WRITTEN) == []


def test_after_kill_9_what_was_extracted_is_loaded_and_not_read_again(shop: Project) -> None:
    shop.spec({"country": None}, tasks={"retries": 0})
    environment = {**shop.environment(), failpoints.VARIABLE: "load.manifest_read:kill"}
    killed = subprocess.run(
        shop.command("run", "shop"), env=environment, capture_output=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    shop.in_source("INSERT INTO country VALUES ('is', 'Iceland')")
    assert (
        resumed(shop)["extract.extract_country"]["message"]
        == "extracted before the run was stopped"
    )
    assert shop.differences("country") == 1  # the row of which the stopped run could not know
    assert cli(shop, "run", "shop").exit_code == 0
    assert shop.differences("country") == 0


def test_without_resume_everything_is_looked_at_again(shop: Project) -> None:
    """The negative control: it is --resume that does not read."""
    extracted_only(shop)
    assert cli(shop, "run", "shop").exit_code == 0
    assert shop.differences("country") == 0


def test_a_full_refresh_goes_on_where_it_failed(shop: Project) -> None:
    shop.succeed()
    failed = cli(shop, "run", "shop", "--full-refresh", point="transform.built:raise")
    assert failed.exit_code == 1
    assert failed.stdout.splitlines()[-1] == "resume it: loadsheet run shop --resume"
    before = loads(shop, "customer"), loads(shop, "country")
    shop.in_source("UPDATE customer SET name = 'later', at = clock_timestamp() WHERE id = 1")
    steps = resumed(shop)
    assert steps["extract.extract_customer"]["message"] == "loaded before the run was stopped"
    assert steps["transform.transform_names"]["message"] == "100 rows, rebuilt (full refresh)"
    assert (loads(shop, "customer"), loads(shop, "country")) == before
    shop.succeed()  # what came later is not lost: the watermark is below it
    assert shop.differences("customer") == 0


def test_a_transform_that_a_full_refresh_has_built_is_not_built_again(shop: Project) -> None:
    shop.spec(TABLES, {**MART, "wrong": "SELECT 1 / 0 AS x FROM mart.names"}, tasks={"retries": 0})
    assert cli(shop, "run", "shop", "--full-refresh").exit_code == 1
    shop.spec(TABLES, {**MART, "wrong": "SELECT 1 AS x FROM mart.names"}, tasks={"retries": 0})
    steps = resumed(shop)
    assert steps["transform.transform_names"]["message"] == "nothing it reads has changed"
    assert steps["transform.transform_wrong"]["status"] == "done"


def test_a_table_in_which_nothing_was_new_is_not_read_again(shop: Project) -> None:
    shop.succeed()
    shop.in_source("UPDATE customer SET name = 'new', at = clock_timestamp() WHERE id = 1")
    assert cli(shop, "run", "shop", point="transform.built:raise").exit_code == 1
    steps = resumed(shop)
    message = steps["extract.extract_country"]["message"]
    assert message == "had nothing new before the run was stopped"
    assert steps["transform.transform_names"]["status"] == "done"


def test_a_table_that_had_nothing_new_is_read_again_once_its_spec_has_changed(
    shop: Project,
) -> None:
    """Also where the run was resumed before the change: the first --resume must not make the table
    one that the run never had. It did."""
    shop.succeed()
    wrong = {**MART, "wrong": "SELECT 1 / 0 AS x FROM mart.names"}
    shop.spec(TABLES, wrong, tasks={"retries": 0})
    assert cli(shop, "run", "shop").exit_code == 1
    assert cli(shop, "run", "shop", "--resume").exit_code == 1
    shop.spec({**TABLES, "country": {"max_shrink": 0.7}}, MART, tasks={"retries": 0})
    steps = resumed(shop)
    assert steps["extract.extract_country"]["message"] == "nothing new"


def test_a_newer_run_beats_the_stopped_one(shop: Project) -> None:
    extracted_only(shop)
    shop.succeed()
    shop.in_source("INSERT INTO country VALUES ('se', 'Sweden')")
    resumed(shop)
    assert shop.differences("country") == 0


def test_a_table_whose_spec_was_changed_is_read_anew_however_often_the_run_is_stopped(
    shop: Project,
) -> None:
    shop.spec({"country": None}, {"one": "SELECT 1 / 0 AS x FROM country"}, tasks={"retries": 0})
    assert cli(shop, "run", "shop").exit_code == 1  # the table is loaded
    shop.spec({"country": {"columns": {"exclude": ["name"]}}}, tasks={"retries": 0})
    assert cli(shop, "run", "shop", "--resume", point="extract.fenced:raise").exit_code == 1
    resumed(shop)
    assert shop.in_warehouse("SELECT count(name), count(*) FROM staging.country") == [(0, 2)]


def test_a_run_into_another_schema_is_not_gone_on_with(shop: Project) -> None:
    extracted_only(shop)
    shop.spec({"country": None}, warehouse={"conn_id": "warehouse", "schema": "elsewhere"})
    refused = cli(shop, "run", "shop", "--resume")
    assert refused.exit_code == 2 and "names another source, lake or warehouse" in refused.stderr


def test_there_must_be_a_stopped_run_to_go_on_with(shop: Project) -> None:
    extracted_only(shop)
    assert cli(shop, "run", "shop").exit_code == 0
    done = cli(shop, "run", "shop", "--resume")
    assert done.exit_code == 2
    assert (
        done.stderr
        == "error: --resume: no run of shop was stopped on this machine; run it without --resume\n"
    )
    both = cli(shop, "run", "shop", "--resume", "--full-refresh")
    assert both.exit_code == 2 and "leave out the other options" in both.stderr


def test_a_backfill_reads_its_interval_again_and_leaves_the_watermark(shop: Project) -> None:
    shop.succeed()
    watermark = "SELECT watermark FROM loadsheet.scope WHERE table_name = 'customer'"
    before = shop.in_warehouse(watermark)
    shop.in_source(
        "INSERT INTO customer SELECT i, 'late', '2026-01-15Z' FROM generate_series(201, 203) i"
    )
    assert cli(shop, "run", "shop").exit_code == 0
    assert shop.differences("customer") == 3  # the control: a plain run does not see them
    backfill = cli(
        shop, "run", "shop", "--from", "2026-01-01", "--to", "2026-02-01", point="load.filled:raise"
    )
    assert backfill.exit_code == 1
    assert resumed(shop)["load.load_customer"]["counts"]["extracted"] == 3  # of the same interval
    assert shop.differences("customer") == 0 and shop.in_warehouse(watermark) == before


def test_bounds_that_are_none_of_the_cursors_values_are_told_as_such(shop: Project) -> None:
    shop.in_source(
        "CREATE TABLE counted (id int PRIMARY KEY, nr bigint NOT NULL); INSERT INTO counted VALUES"
        " (1, 15)"
    )
    shop.spec({**TABLES, "counted": {"incremental": "nr"}}, tasks={"retries": 0})
    shop.succeed()
    numbers = cli(shop, "run", "shop", "--from", "10", "--to", "20")
    assert numbers.exit_code == 1
    said = (
        "public.customer: the interval's bound 10 is no value of the cursor at, which is timestamp"
        " with time zone"
    )
    assert said in numbers.stdout and "loaded    counted  " in numbers.stdout
    times = cli(shop, "run", "shop", "--from", "2026-01-01", "--to", "2026-02-01")
    assert "is no value of the cursor nr, which is bigint; choose the tables" in times.stdout
    assert (
        cli(shop, "run", "shop", "--tables", "counted", "--from", "10", "--to", "20").exit_code == 0
    )
