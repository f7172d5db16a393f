"""What the tasks tell Airflow's metrics, received by real receivers: over UDP from the StatsD
client, over HTTP from OpenTelemetry's exporter."""

from __future__ import annotations

import gzip
import os
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow.sdk._shared.observability.metrics.base_stats_logger import NoStatsLogger
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics import stats_utils

from loadsheet.airflow import metrics, operators
from loadsheet.airflow.operators import NotExtracted
from loadsheet.errors import Differs
from loadsheet.names import slug
from loadsheet.outcome import Outcome
from loadsheet.plan.steps import Step
from tests.airflow.conftest import REPO
from tests.airflow.test_table_operators import MANY, MARTS, RETRIES, SOURCE, Task
from tests.project import Project

Use = Callable[..., None]
PAGE = (REPO / "docs" / "metrics.md").read_text()
NAMES = re.findall(r"^\| `(loadsheet\.\w+)` ", PAGE, re.M)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """Switches Airflow's metrics on as the settings say, and initializes them as a task does."""
    clients = ExitStack()

    def configured(**settings: Any) -> None:
        for key, value in settings.items():
            monkeypatch.setenv(f"AIRFLOW__METRICS__{key.upper()}", str(value))
        backend = stats_utils.get_stats_factory()()
        if hasattr(backend, "statsd"):
            clients.callback(backend.statsd.close)
        stats.initialize(factory=lambda: backend, export_legacy_names=True)

    with clients:
        yield configured
        stats.initialize(factory=NoStatsLogger, export_legacy_names=True)


class StatsD:
    """A StatsD server: what has arrived, as `name|type` or `name,tags|type`. Values are summed."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]

    def received(self) -> Counter[str]:
        """What has come since the last call. What was sent on this machine has arrived."""
        self._socket.setblocking(False)
        sums: Counter[str] = Counter()
        while True:
            try:
                line = self._socket.recv(65536).decode()
            except BlockingIOError:
                return sums
            name, value, kind = re.fullmatch(r"airflow\.(.*):([\d.e-]+)\|(\w+)", line).groups()  # type: ignore[union-attr]
            if name.startswith("loadsheet."):
                sums[f"{name.removeprefix('loadsheet.')}|{kind}"] += float(value)  # type: ignore[assignment]

    def counters(self) -> dict[str, float]:
        """What has come of counters."""
        found = self.received()
        return {name[:-2]: value for name, value in found.items() if name.endswith("|c")}


@pytest.fixture
def statsd(use: Use) -> Iterator[StatsD]:
    """A StatsD server that Airflow sends its metrics to."""
    pytest.importorskip("statsd", reason="Airflow's extra `statsd` is not installed")
    server = StatsD()
    use(statsd_on=True, statsd_host="127.0.0.1", statsd_port=server.port)
    yield server
    server._socket.close()


@pytest.fixture
def shop(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Two tables and a mart, each step a task."""
    monkeypatch.setattr(operators, "airflow_connection", project.connections)
    project.in_source(SOURCE)
    tables = {"item": {"incremental": "at"}, "kind": None}
    project.spec(tables, {"kinds": "SELECT count(*) AS n FROM kind"}, tasks={"retries": RETRIES})
    Task(project, "look").execute()  # makes the bucket
    return project


def run(project: Project, table: str, run_id: str = "run") -> None:
    """Extract the table and load it."""
    load_id = Task(project, f"extract.extract_{table}", run_id).execute()
    load = Task(project, f"load.load_{table}", run_id)
    load.operator.load_id = lambda context: load_id  # type: ignore[method-assign]
    load.execute()


def test_a_step_counts_its_rows_bytes_and_end(shop: Project, statsd: StatsD) -> None:
    run(shop, "item")
    stored = shop.in_warehouse("SELECT sum(bytes) FROM loadsheet.load")[0][0]
    found = statsd.received()
    times = {name: found.pop(name) for name in list(found) if name.endswith("|ms")}
    assert found == {
        "steps.shop.extract.item.done|c": 1,
        "rows.shop.extract.item.extracted|c": 50,
        "bytes.shop.extract.item|c": stored,
        "steps.shop.load.item.done|c": 1,
        "rows.shop.load.item.inserted|c": 50,
    }
    assert set(times) == {
        "duration.shop.extract.item|ms",
        "duration.shop.load.item|ms",
        "lag.shop.extract.item|ms",
    }
    assert all(time > 0 for time in times.values())
    with pytest.raises(AirflowSkipException):
        run(shop, "item", "next")
    assert statsd.counters() == {"steps.shop.extract.item.skipped": 1}


def test_a_step_that_fails_is_counted_and_one_that_only_follows_it_is_not(
    shop: Project, statsd: StatsD, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.in_source("DROP TABLE kind")
    with pytest.raises(AirflowFailException):
        run(shop, "kind")
    assert statsd.counters() == {"steps.shop.extract.kind.failed": 1}

    def not_extracted(context: Any) -> str:
        raise NotExtracted("its extract has failed")

    load = Task(shop, "load.load_kind")
    monkeypatch.setattr(load.operator, "load_id", not_extracted)
    with pytest.raises(NotExtracted):
        load.execute()
    assert statsd.counters() == {}


def test_a_load_that_is_held_back_is_counted_with_the_lag_that_follows(
    shop: Project, statsd: StatsD
) -> None:
    with psycopg.connect(shop.source) as writer:
        writer.execute("SELECT pg_current_xact_id(), pg_sleep(0.2)")
        shop.in_source("INSERT INTO item VALUES (1001, clock_timestamp())")
        run(shop, "item")
    found = statsd.received()
    assert found["held_back.shop.extract.item|c"] == 1
    assert found["lag.shop.extract.item|ms"] > 200


def test_each_table_of_a_batch_is_counted_also_where_others_fail(
    project: Project, statsd: StatsD, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "airflow_connection", project.connections)
    project.in_source(MANY)
    tables = {"item": {"incremental": "at"}, "kind": None, "unfit": None}
    project.spec(tables, MARTS, tasks={"granularity": "batch", "retries": RETRIES})
    Task(project, "look").execute()
    statsd.received()
    batch = Task(project, "batch.batch_001")
    with pytest.raises(AirflowException, match="unfit"):
        batch.execute()
    found = statsd.counters()
    stored = {name: found.pop(name) for name in list(found) if name.startswith("bytes.")}
    assert set(stored) == {"bytes.shop.table.item", "bytes.shop.table.kind"}
    assert found == {
        "steps.shop.table.item.done": 1,
        "rows.shop.table.item.extracted": 2000,
        "rows.shop.table.item.inserted": 2000,
        "steps.shop.table.kind.done": 1,
        "rows.shop.table.kind.extracted": 5,
        "rows.shop.table.kind.inserted": 5,
        "steps.shop.table.unfit.failed": 1,
        "steps.shop.batch.001.failed": 1,
    }


OUTCOME = Outcome(
    status="done",
    message="",
    counts={"extracted": 7, "inserted": 5, "updated": 1, "deleted": 1, "bytes": 9},
    held_back=True,
    lag_seconds=2.5,
    verdicts={"not proven": 2},
)
STEP = Step(kind="table", name='Order "Lines" é')
PIPELINE: Any = SimpleNamespace(name="shop")


def test_the_names_and_tags_are_those_of_the_page(statsd: StatsD, use: Use) -> None:
    metrics.report(PIPELINE, STEP, OUTCOME, 1.0)
    mapped = re.findall(r"^  - match: airflow\.loadsheet\.(.*)$", PAGE, re.M)
    patterns = [mapping.replace(".", r"\.").replace("*", "[^.]+") for mapping in mapped]
    for name in statsd.received():
        fits = [re.fullmatch(pattern, name.partition("|")[0]) for pattern in patterns]
        assert len([fit for fit in fits if fit]) == 1, name
    use(statsd_influxdb_enabled=True)
    metrics.report(PIPELINE, STEP, OUTCOME, 1.0)
    found = statsd.received()
    assert {f"loadsheet.{re.split('[,|]', name)[0]}" for name in found} == set(NAMES)
    tags = f"pipeline=shop,step=table,name={slug(STEP.name)}"
    assert found[f"rows,{tags},change=inserted|c"] == 5
    assert found[f"lag,{tags}|ms"] == 2500 and found[f"duration,{tags}|ms"] == 1000
    assert found[f"checks,{tags},verdict=not_proven|c"] == 2


def test_tables_that_differ_are_counted(statsd: StatsD) -> None:
    error = Differs("orders differs", {"equal": 3, "differs": 1})
    metrics.report(PIPELINE, Step(kind="verify", name="staging"), error, 1.0)
    assert statsd.counters() == {
        "steps.shop.verify.staging.failed": 1,
        "checks.shop.verify.staging.equal": 3,
        "checks.shop.verify.staging.differs": 1,
    }


TASK = """
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics import stats_utils
from loadsheet.airflow import metrics
from tests.airflow.test_metrics import OUTCOME, PIPELINE, STEP

stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
metrics.report(PIPELINE, STEP, OUTCOME, 1.0)
"""


def test_opentelemetry_gets_the_same_with_attributes_when_the_process_ends() -> None:
    arrived: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            is_packed = self.headers.get("Content-Encoding") == "gzip"
            arrived.append(gzip.decompress(body) if is_packed else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *given: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {"OTEL_ON": "True", "OTEL_HOST": "127.0.0.1", "OTEL_PORT": str(server.server_port)}
    environment = {f"AIRFLOW__METRICS__{key}": value for key, value in settings.items()}
    try:
        subprocess.run(
            [sys.executable, "-c", TASK], check=True, cwd=REPO, env={**os.environ, **environment}
        )
    finally:
        server.shutdown()
        server.server_close()
    found = _decoded(arrived[0])
    assert {name for name, _ in found} == {f"airflow.{name}" for name in NAMES}
    tags = {"pipeline": "shop", "step": "table", "name": slug(STEP.name)}
    assert found["airflow.loadsheet.rows", frozenset({**tags, "change": "updated"}.items())] == 1
    assert found["airflow.loadsheet.lag", frozenset(tags.items())] == 2500


def _decoded(body: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
    )

    found = {}
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points:
                    tags = {tag.key: tag.value.string_value for tag in point.attributes}
                    value = point.as_int if kind == "sum" else point.sum
                    found[metric.name, frozenset(tags.items())] = value
    return found


def test_metrics_that_are_off_cost_no_import_and_no_question() -> None:
    asked = object()  # neither a pipeline nor an outcome: nothing looks at them
    metrics.report(asked, asked, asked, 1.0)  # type: ignore[arg-type]
    is_imported = "print('airflow.sdk.observability.stats' in sys.modules)"
    code = f"import sys, loadsheet.airflow.operators; {is_imported}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert found.stdout.split()[-1] == "False"


def test_a_receiver_that_cannot_be_used_fails_no_task(
    shop: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*given: Any, **named: Any) -> None:
        raise OSError("no such receiver")

    monkeypatch.setenv("AIRFLOW__METRICS__OTEL_ON", "True")
    monkeypatch.setattr(stats, "incr", broken)
    run(shop, "item")
    assert shop.differences("item") == 0
    assert "metrics of load.load_item are not complete: OSError" in caplog.text
    # The control: without our guard, the task fails with it.
    with pytest.raises(OSError, match="no such receiver"):
        metrics._Metrics(PIPELINE, STEP).count(OUTCOME, 1.0)
