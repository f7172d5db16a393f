"""Assets in a real Airflow: a pipeline that waits for tables of another one runs when they have
changed, and only then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow.sdk import Asset, BaseOperator
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from demo.airflow import Airflow
from demo.airflow.api import FINAL_RUN
from demo.servers import PostgresServer, S3Server
from loadsheet.airflow.assets import publish
from loadsheet.outcome import Outcome, RunRequest, skipped
from loadsheet.plan.steps import Step
from loadsheet.spec.pipeline_file import load_pipeline
from tests.airflow.world import World, ask, connection, wait_for
from tests.granted import Granted
from tests.project import Project

PLACES = """\
version: 1
source: {conn_id: shop_source}
lake: {conn_id: shop_lake, bucket: shop}
warehouse: {conn_id: shop_warehouse, %s}
tasks: {retries: 0}
"""
PIPELINES = {
    "shop": (PLACES % "schema: staging")
    # Each run reads the rows of the last hour again, and loads them without changing one.
    + 'tables: {item: {incremental: at, lookback: 1h}, "log_*": }\ntransforms: {totals: }\n',
    "report": (PLACES % "schema: report, mart_schema: report_mart")
    + "schedule: {assets: [mart.totals]}\nexternal: [mart.totals]\n"
    + "tables: {note: }\ntransforms: {summed: }\n",
    "logs": (PLACES % "schema: logs, mart_schema: logs_mart")
    + 'schedule: {assets: [staging.log_2024], times: "@yearly"}\ntables: {note: }\n',
}
SOURCE = """
CREATE TABLE item (id bigserial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp());
INSERT INTO item SELECT FROM generate_series(1, 10);
CREATE TABLE note AS SELECT 1 AS id;
CREATE TABLE log_2024 AS SELECT 1 AS id;
CREATE TABLE log_2025 AS SELECT 1 AS id;
"""
TOTALS = "x-loadsheet://shop_warehouse/mart/totals"
STAGING = "x-loadsheet://shop_warehouse/staging"
ITEM = f"{STAGING}/item"


@dataclass
class Shop:
    """An Airflow with three pipelines."""

    project: Path
    airflow: Airflow
    source: str
    warehouse: str

    def run(self) -> dict[str, str | None]:
        """Run `shop`; its tasks by state."""
        api = self.airflow.api
        run_id = api.trigger("shop")
        wait_for(lambda: api.run_state("shop", run_id) in FINAL_RUN, "the run of shop", 240)
        assert api.run_state("shop", run_id) == "success"
        return {task.task_id: task.state for task in api.tasks("shop", run_id)}

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """The URI and the extra of each asset event of the tasks of `shop`. An event is stored in
        the transaction in which its task becomes a success."""
        found = self.airflow.api.call(
            "GET", "assets/events", params={"source_dag_id": "shop", "limit": 100}
        )
        return [(event["uri"], event["extra"]) for event in found["asset_events"]]

    def runs(self, dag_id: str) -> list[str]:
        """The types of the DAG's runs that have ended well."""
        runs = self.airflow.api.call("GET", f"dags/{dag_id}/dagRuns")["dag_runs"]
        return [run["run_type"] for run in runs if run["state"] == "success"]


@pytest.fixture(scope="module")
def shop(
    world: World,
    tmp_path_factory: pytest.TempPathFactory,
    postgres: PostgresServer,
    s3: S3Server,
) -> Iterator[Shop]:
    """Nothing has run."""
    databases = ("shop_source", "shop_warehouse")
    source, warehouse = (postgres.create_database(name) for name in databases)
    with psycopg.connect(source) as session:
        session.execute(SOURCE)
    api = world.airflow.api
    written = tmp_path_factory.mktemp("shop")
    for name, text in PIPELINES.items():
        folder = written / "pipelines" / name
        (folder / "sql").mkdir(parents=True)
        (folder / "pipeline.yml").write_text(text)
    sql = written / "pipelines"
    (sql / "shop" / "sql" / "totals.sql").write_text("SELECT count(*) AS items FROM item")
    (sql / "report" / "sql" / "summed.sql").write_text("SELECT sum(items) AS n FROM mart.totals")
    granted = Granted(written)
    for conn_id, login in (
        ("shop_source", granted.login("source", source)),
        ("shop_warehouse", granted.login("warehouse", warehouse)),
    ):
        given = connection(conn_id, login)
        server = {name: getattr(given, name) for name in ("host", "port", "login", "password")}
        body = {"conn_type": "postgres", "schema": given.schema, **server}
        api.call("POST", "connections", json={"connection_id": conn_id, **body})
    lake = {"conn_type": "generic", "login": s3.access_key, "password": s3.secret_key}
    extra = json.dumps({"endpoint_url": s3.endpoint})
    api.call("POST", "connections", json={"connection_id": "shop_lake", **lake, "extra": extra})
    shutil.copytree(sql, world.project / "pipelines", dirs_exist_ok=True)
    for name in PIPELINES:
        world.airflow.wait_for_dag(name, 240)
        api.unpause(name)
    yield Shop(world.project, world.airflow, source, warehouse)
    for name in PIPELINES:
        api.pause(name)
        shutil.rmtree(world.project / "pipelines" / name)
    for name in databases:
        postgres.drop_database(name)


def test_a_pipeline_runs_once_after_what_it_waits_for_has_changed(shop: Shop) -> None:
    shop.run()
    told = dict(shop.events())
    assert set(told) == {TOTALS, ITEM, f"{STAGING}/log_2024", f"{STAGING}/log_2025"}
    ((number, watermark),) = ask(
        shop.warehouse,
        "SELECT last_load_no, watermark FROM loadsheet.scope WHERE table_name = 'item'",
    )
    assert told[ITEM]["load"] == number and told[ITEM]["watermark"] == watermark
    assert (told[ITEM]["inserted"], told[ITEM]["updated"], told[ITEM]["deleted"]) == (10, 0, 0)
    assert told[ITEM]["seconds"] > 0 and told[ITEM]["verified_through"] is None
    ((run_no,),) = ask(
        shop.warehouse, "SELECT run_no FROM loadsheet.transform_run WHERE transform = 'totals'"
    )
    assert told[TOTALS]["load"] == run_no and told[TOTALS]["watermark"] is None
    for name in ("report", "logs"):
        wait_for(
            lambda name=name: shop.runs(name) == ["asset_triggered"], f"the run of {name}", 240
        )
    assert ask(shop.warehouse, "SELECT n FROM report_mart.summed") == [(10,)]


def test_the_run_has_a_note_where_airflow_lets_a_task_write_one(shop: Shop) -> None:
    runs = shop.airflow.api.call("GET", "dags/report/dagRuns")["dag_runs"]
    notes = {run["note"] for run in runs if run["run_type"] == "asset_triggered"}
    text = "Loadsheet: 1 table loaded, 1 mart built. Rows: 2 inserted, 0 updated, 0 deleted"
    assert notes == {text if hasattr(RuntimeTaskInstance, "update_dagrun_note") else None}


def test_a_run_that_changes_nothing_tells_nothing(shop: Shop) -> None:
    before = shop.events(), shop.runs("report"), shop.runs("logs")
    states = shop.run()
    assert states["load.load_item"] == "success"  # the rows of the last hour
    assert (shop.events(), shop.runs("report"), shop.runs("logs")) == before


def test_the_outlets_alone_would_tell(shop: Shop) -> None:
    """The negative control: Airflow emits an event for each outlet of a task that has worked."""
    module = shop.project / "loadsheet" / "airflow" / "assets.py"
    text = module.read_text()
    before = len(shop.events())
    module.write_text(text.replace("not in own - changed", "not in ()"))
    assert module.read_text() != text
    # Tasks have the code that their scheduler had when it began.
    shop.airflow.restart_component("scheduler")
    shop.run()
    module.write_text(text)
    shop.airflow.restart_component("scheduler")
    assert [uri for uri, _ in shop.events()[before:]] == [ITEM]


def test_a_change_of_one_table_tells_of_that_one_and_the_marts_above_it(shop: Shop) -> None:
    before = len(shop.events())
    with psycopg.connect(shop.source) as session:
        session.execute("INSERT INTO item SELECT FROM generate_series(1, 2)")
    shop.run()
    told = dict(shop.events()[before:])
    assert set(told) == {ITEM, TOTALS} and told[ITEM]["inserted"] == 2
    wait_for(lambda: len(shop.runs("report")) == 2, "the second run of report", 240)
    assert len(shop.runs("logs")) == 1
    assert ask(shop.warehouse, "SELECT n FROM report_mart.summed") == [(12,)]


def test_a_finished_task_shows_a_line_about_its_work(shop: Shop) -> None:
    api = shop.airflow.api
    run_id = api.call("GET", "dags/shop/dagRuns")["dag_runs"][0]["dag_run_id"]

    def fields(task_id: str) -> dict[str, str]:
        path = f"dags/shop/dagRuns/{run_id}/taskInstances/{task_id}"
        found: dict[str, str] = api.call("GET", path)["rendered_fields"]
        return found

    assert fields("load.load_item")["summary"] == "10 rows, rebuilt"
    assert fields("load.load_item")["lake_prefix"].startswith("shop/shop/item/")
    assert fields("transform.transform_totals")["sql"] == "SELECT count(*) AS items FROM item"
    assert fields("transform.transform_totals")["summary"] == "1 row, rebuilt (first run)"


def test_a_table_of_another_pipeline_that_a_transform_reads_is_linked_to_it(shop: Shop) -> None:
    (found,) = shop.airflow.api.call("GET", "assets", params={"uri_pattern": TOTALS})["assets"]
    assert [task["dag_id"] for task in found["producing_tasks"]] == ["shop"]
    assert [dag["dag_id"] for dag in found["scheduled_dags"]] == ["report"]
    (consuming,) = found["consuming_tasks"]
    assert (consuming["dag_id"], consuming["task_id"]) == ("report", "transform.transform_summed")


@pytest.mark.parametrize(
    ("try_number", "run_id", "is_told"),
    [
        (2, "r1", True),
        (1, "r1", False),  # Airflow has heard of it
        (2, "r2", False),  # another run's
    ],
)
def test_a_try_that_finds_the_build_of_the_one_before_it_tells_of_it(
    project: Project, try_number: int, run_id: str, is_told: bool
) -> None:
    """That one was killed between its commit and its report."""
    project.in_source("CREATE TABLE item AS SELECT 1 AS id")
    project.spec({"item": None}, {"totals": "SELECT id FROM item"})
    project.succeed(run_id="r1")
    pipeline = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")
    outlet, of_user = Asset("x-loadsheet://warehouse/mart/totals"), Asset("s3://mine")
    task = BaseOperator(task_id="t", outlets=[outlet, of_user])
    events = {outlet: SimpleNamespace(extra={})}
    found: Any = {
        "run_id": run_id,
        "ti": SimpleNamespace(try_number=try_number),
        "outlet_events": events,
    }
    step = Step(kind="transform", name="totals")
    nothing = skipped("nothing it reads has changed")
    request = RunRequest(run_id=run_id)
    outcome = publish(task, {step: nothing}, pipeline, found, project.connections, request)[step]
    assert (outcome.skipped, task.outlets) == (
        (False, [outlet, of_user]) if is_told else (True, [of_user])
    )
    assert events[outlet].extra.get("inserted") == (1 if is_told else None)


def test_a_ledger_that_cannot_be_asked_does_not_fail_a_load_that_is_committed(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.spec({"item": None})
    pipeline = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")
    outlet = Asset("x-loadsheet://warehouse/staging/item")
    task = BaseOperator(task_id="t", outlets=[outlet])
    events = {outlet: SimpleNamespace(extra={})}
    found: Any = {"run_id": "r", "outlet_events": events}
    done = Outcome(status="done", message="", counts={"inserted": 3}, changed=True)
    # There is no ledger yet.
    step = Step(kind="load", name="item")
    request = RunRequest(run_id="r")
    told = publish(task, {step: done}, pipeline, found, project.connections, request)
    assert told == {step: done}
    assert events[outlet].extra == {"inserted": 3, "updated": 0, "deleted": 0}
    assert "tell only their rows" in caplog.text
