"""A copied project, its servers and a real Airflow: the setting of the end-to-end test."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from minio import Minio
from psycopg.conninfo import conninfo_to_dict

from demo.airflow import Airflow, ApiError
from demo.flights import generate
from demo.servers import PostgresServer, S3Server, SlackReceiver
from loadsheet.connections.lookup import Connection
from loadsheet.engine.execute import execute
from loadsheet.errors import LoadsheetError
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import build_plan
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline
from tests.airflow import secrets_kept
from tests.granted import printed, run_each
from tests.project import ROOT

BUNDLE = ("dags", "operators", "loadsheet", "schemas", "pipelines")
DAG_ID = "flights"
DAILY = """\
version: 1
schedule: "@daily"
source: {conn_id: flights_source, schema: sensors}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse, schema: sensors, mart_schema: sensors_mart}
tables:
  readings: {incremental: {cursor: at, by: data_interval}}
  journal: {incremental: at}
"""
EVERYTHING = """\
version: 1
source: {conn_id: flights_source, schema: loose}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse, schema: loose, mart_schema: loose_mart}
notify: {slack_conn_id: slack}
tasks: {retries: 0}
tables:
  exact:
  "*": {exclude: [tmp_*]}
transforms:
  counted:
"""
PLAIN = """\
version: 1
source: {conn_id: flights_source, schema: plain}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse, schema: plain_staging}
notify: {slack_conn_id: slack}
tasks: {retries: 1, retry_delay: 1h}
tables:
  "*":
"""
GROUPED = """\
version: 1
source: {conn_id: flights_source, schema: grouped}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse, schema: grouped, mart_schema: grouped_mart}
notify: [{slack_conn_id: slack, events: [failure, recovery, drift]}]
tasks: {granularity: batch, retry_delay: 1s}
tables:
  alone: {granularity: table}
  one:
  two:
  unfit:
  "log_*":
transforms:
  of_alone:
  of_two:
  of_unfit:
"""
GROUPED_SQL = {
    "of_alone": "SELECT count(*) AS n FROM alone",
    "of_two": "SELECT count(*) AS n FROM two",
    "of_unfit": "SELECT count(*) AS n FROM unfit",
}
Rows = Counter[str]
WAITING = (
    "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    " AND application_name = 'loadsheet:extract'"
)
"""The extractions that wait for a lock."""


@dataclass
class Run:
    """One finished run: its state and that of each task."""

    run_id: str
    state: str
    tasks: dict[str, str | None]
    seen: dict[str, Any] = field(default_factory=dict)
    """What a test wants to remember of the world right after the run."""

    def of(self, kind: str) -> dict[str, str | None]:
        """Table or transform -> state, for one kind of step."""
        start = f"{kind}.{kind}_"
        return {
            task.removeprefix(start): state
            for task, state in self.tasks.items()
            if task.startswith(start)
        }


@dataclass
class World:
    """Everything the pipeline touches."""

    project: Path
    postgres: PostgresServer
    s3: S3Server
    slack: SlackReceiver
    airflow: Airflow
    more_dags: Path
    """A second bundle, for DAG files that are no pipelines."""

    @property
    def spec(self) -> Path:
        """The pipeline file that Airflow reads."""
        return self.project / "pipelines" / DAG_ID / "pipeline.yml"

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline as it is now."""
        return load_pipeline(self.spec)

    @property
    def source(self) -> str:
        """The source database."""
        return self.postgres.dsn("flights_source")

    @property
    def warehouse(self) -> str:
        """The warehouse database."""
        return self.postgres.dsn("warehouse")

    def grant(self) -> None:
        """Give the roles of the connections what `loadsheet grants` prints for the tables that
        there are, as the DBA."""
        with (
            psycopg.connect(self.source, autocommit=True) as source,
            psycopg.connect(self.warehouse, autocommit=True) as warehouse,
        ):
            for file in sorted((self.project / "pipelines").glob("*/pipeline.yml")):
                with suppress(LoadsheetError):
                    pipeline = load_pipeline(file)
                    loader = secrets_kept.LOADER
                    run_each(warehouse, printed("warehouse", self.warehouse, [pipeline], loader))
                    role = secrets_kept.EXTRACTORS.get(pipeline.source.conn_id)
                    if role:
                        run_each(source, printed("source", self.source, [pipeline], role))

    def run(self, conf: dict[str, Any] | None = None) -> Run:
        """Trigger the DAG without a logical date and wait for its end."""
        self.grant()
        run_id = self.airflow.api.trigger(DAG_ID, conf)
        state = self.airflow.api.wait(DAG_ID, run_id, timeout=240)
        tasks = self.airflow.api.tasks(DAG_ID, run_id)
        return Run(run_id, state, {task.task_id: task.state for task in tasks})

    def loads(self, run_id: str) -> dict[str, dict[str, int]]:
        """Table -> counts of the loads that the run has committed, from the ledger."""
        query = (
            "SELECT table_name, extracted, inserted, updated, deleted FROM loadsheet.load WHERE"
            " run_id = %s"
        )
        found = ask(self.warehouse, query, run_id)
        return {
            table: dict(zip(("extracted", "inserted", "updated", "deleted"), counts, strict=True))
            for table, *counts in found
        }

    def differing_tables(self) -> dict[str, tuple[Rows, Rows]]:
        """Staging tables that are not their source table, every column: rows that are missing, rows
        that are extra."""
        found = {}
        for table in self.pipeline.tables:
            columns = columns_of(self.source, self.pipeline.source.schema, table.name)
            assert columns_of(self.warehouse, "staging", table.name) == [*columns, "_load_id"]
            expected = rows(self.source, self.pipeline.source.schema, table.name, columns)
            actual = rows(self.warehouse, "staging", table.name, columns)
            if expected != actual:
                found[table.name] = (expected - actual, actual - expected)
        return found

    def differing_marts(self) -> dict[str, tuple[Rows, Rows]]:
        """Marts that are not what a build from scratch makes of the same staging tables."""
        found = {}
        with self._rebuilt() as rebuilt:
            for transform in self.pipeline.transforms:
                columns = columns_of(rebuilt, "mart", transform.name)
                assert columns_of(self.warehouse, "mart", transform.name) == columns
                expected = rows(rebuilt, "mart", transform.name, columns)
                actual = rows(self.warehouse, "mart", transform.name, columns)
                if expected != actual:
                    found[transform.name] = (expected - actual, actual - expected)
        return found

    @contextmanager
    def _rebuilt(self) -> Iterator[str]:
        """A copy of the warehouse whose marts were dropped and built again."""
        with psycopg.connect(self.postgres.dsn("postgres"), autocommit=True) as admin:
            admin.execute("CREATE DATABASE rebuilt TEMPLATE warehouse")
        try:
            with psycopg.connect(self.postgres.dsn("rebuilt")) as session:
                session.execute("DROP SCHEMA mart CASCADE")
            request = RunRequest(run_id="rebuild", full_refresh="all")
            connections = {"warehouse": connection("warehouse", self.postgres.dsn("rebuilt"))}
            for step in build_plan(self.pipeline):
                if step.kind == "transform":
                    assert not execute(
                        step, self.pipeline, request, connections.__getitem__
                    ).skipped
            yield self.postgres.dsn("rebuilt")
        finally:
            self.postgres.drop_database("rebuilt")

    def written(self) -> dict[str, Any]:
        """A fingerprint of all that was ever written: the ledger, the lake, every row version of
        staging and marts."""
        names = ask(
            self.warehouse,
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('staging', 'mart')"
            " ORDER BY 1, 2",
        )
        return {
            "loads": ask(self.warehouse, "SELECT load_id FROM loadsheet.load ORDER BY load_no"),
            "transforms": ask(
                self.warehouse, "SELECT run_no FROM loadsheet.transform_run ORDER BY run_no"
            ),
            "objects": self.objects(),
            "rows": {
                f"{schema}.{name}": ask(
                    self.warehouse,
                    "SELECT count(*), max(xmin::text::bigint),"
                    f" pg_relation_filenode('{schema}.{name}') FROM {schema}.{name}",
                )
                for schema, name in names
            },
        }

    def objects(self) -> list[str]:
        """The names of all objects in the lake."""
        client = Minio(
            self.s3.address,
            access_key=self.s3.access_key,
            secret_key=self.s3.secret_key,
            secure=False,
        )
        return sorted(found.object_name for found in client.list_objects("lake", recursive=True))

    def set_variable(self, value: str) -> None:
        """Create or change the Airflow Variable `loadsheet`."""
        body = {"key": "loadsheet", "value": value}
        known = {entry["key"] for entry in self.airflow.api.call("GET", "variables")["variables"]}
        method, path = (
            ("PATCH", "variables/loadsheet") if "loadsheet" in known else ("POST", "variables")
        )
        self.airflow.api.call(method, path, json=body)


@contextmanager
def flights_world(
    folder: Path,
    home: Path,
    postgres: PostgresServer,
    s3: S3Server,
    bookings: int,
    settings: Mapping[str, str] | None = None,
) -> Iterator[World]:
    """Databases, Slack and an Airflow with more `settings` that has read the pipelines of a copied
    project. The source has this many bookings, the warehouse is empty."""
    names = ("flights_source", "warehouse", "airflow")
    for name in names:
        postgres.create_database(name)
    generate(postgres.dsn("flights_source"), bookings)
    project = copy_project(folder)
    more_dags = home / "more_dags"
    more_dags.mkdir()
    more = {
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": bundles(project, more_dags),
        **secrets_kept.environment(home, postgres, s3),
        **(settings or {}),
    }
    more["LOADSHEET_CACHE"] = str(home / "cache")
    airflow = Airflow(home, project, postgres.dsn("airflow"), extra=more)
    with SlackReceiver() as slack, airflow:
        secrets_kept.add_connections(airflow, postgres, s3, slack)
        world = World(project, postgres, s3, slack, airflow, more_dags)
        world.grant()
        airflow.wait_for_dag(DAG_ID)
        yield world
    for name in names:
        postgres.drop_database(name)


def bundles(project: Path, more_dags: Path) -> str:
    """The bundles of the pipelines and of other DAG files, as Airflow's setting."""
    places = {
        "project": ("loadsheet.airflow.bundle.LocalPipelineBundle", project),
        "more_dags": ("airflow.dag_processing.bundles.local.LocalDagBundle", more_dags),
    }
    configured = []
    for name, (classpath, folder) in places.items():
        kwargs = {"path": str(folder), "refresh_interval": 1}
        configured.append({"name": name, "classpath": classpath, "kwargs": kwargs})
    return json.dumps(configured)


def copy_project(folder: Path) -> Path:
    """The bundle as in this repository, but flights runs only when told to; and more pipelines
    beside it."""
    for name in BUNDLE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".airflowignore", folder)
    spec = folder / "pipelines" / DAG_ID / "pipeline.yml"
    spec.write_text(spec.read_text().replace('schedule: "@daily"', "schedule: null"))
    for name, text in (
        ("broken", secrets_kept.BROKEN),
        ("daily", DAILY),
        ("everything", EVERYTHING),
        ("grouped", GROUPED),
        ("plain", PLAIN),
    ):
        (folder / "pipelines" / name).mkdir()
        (folder / "pipelines" / name / "pipeline.yml").write_text(text)
    for name, queries in (
        ("everything", {"counted": "SELECT count(*) FROM loose.one"}),
        ("grouped", GROUPED_SQL),
    ):
        sql = folder / "pipelines" / name / "sql"
        sql.mkdir()
        for mart, text in queries.items():
            (sql / f"{mart}.sql").write_text(text)
    secrets_kept.write(folder)
    return folder


def connection(conn_id: str, dsn: str) -> Connection:
    """The core's connection for a PostgreSQL URI."""
    parts: dict[str, Any] = conninfo_to_dict(dsn)
    return Connection(
        conn_id=conn_id,
        conn_type="postgres",
        host=parts["host"],
        port=int(parts["port"]),
        login=parts["user"],
        password=parts["password"],
        schema=parts["dbname"],
    )


def ask(dsn: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    with psycopg.connect(dsn, options="-c timezone=UTC") as session:
        return session.execute(query, values or None).fetchall()


def columns_of(dsn: str, schema: str, table: str) -> list[str]:
    """Column names in their order."""
    query = """
        SELECT column_name FROM information_schema.columns
        WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position"""
    return [name for (name,) in ask(dsn, query, schema, table)]


def rows(dsn: str, schema: str, table: str, columns: list[str]) -> Rows:
    """Every row as text, with how often it is there: equal counters are equal by EXCEPT ALL both
    ways."""
    listed = ", ".join(f'"{name}"' for name in columns)
    return Counter(
        text for (text,) in ask(dsn, f'SELECT ROW({listed})::text FROM "{schema}"."{table}"')
    )


def wait_for(done: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Poll until it is true; AssertionError naming `what` when it never is. An Airflow that is too
    busy to answer is asked again."""
    end = time.monotonic() + seconds
    while True:
        with suppress(ApiError):
            if done():
                return
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.3)


def with_facts(run: Run, **facts: Any) -> Run:
    """The run, remembering `facts`."""
    return dataclasses.replace(run, seen=facts)
