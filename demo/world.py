"""Everything the demo runs on: servers, a source full of flights, and an Airflow that knows them
all."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from demo.airflow import Airflow
from demo.connections import import_connections
from demo.flights import generate
from demo.screen import Screen
from demo.servers import PostgresServer, S3Server, SlackReceiver
from loadsheet.sqltest.process import Managed

SLACK_TOKEN = "T00000000/B00000000/demo"
_SETTINGS = {
    # the demo triggers the runs; the schedule stays visible in the UI
    "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
}


class World(Managed):
    """Starts step by step, showing each step on the screen; stops in the opposite order."""

    def __init__(
        self,
        project: Path,
        state: Path,
        screen: Screen,
        scale: str,
        port: int | None,
        on_slack: Callable[[dict[str, Any]], None],
    ):
        self._project, self._state, self._screen, self._scale, self._port = (
            project,
            state,
            screen,
            scale,
            port,
        )
        self._running = ExitStack()
        self.postgres = PostgresServer(state / "postgres")
        self.s3 = S3Server(state / "lake")
        self.slack = SlackReceiver(on_slack)

    def start(self) -> Self:
        """Start everything. Raises ServerFailed with the end of the log of the failed part."""
        try:
            self._start_servers()
            self._make_source()
            self._start_airflow()
        except BaseException:
            self.stop()
            raise
        return self

    def _start_servers(self) -> None:
        self._running.callback(self._remove_data)
        with self._screen.step("PostgreSQL: source, warehouse and Airflow's own database") as step:
            self._running.enter_context(self.postgres)
            self.source, self.warehouse, self._metadata = map(
                self.postgres.create_database, ("source", "warehouse", "airflow")
            )
            step.detail = f"127.0.0.1:{self.postgres.port}"
        with self._screen.step("S3: the lake") as step:
            self._running.enter_context(self.s3)
            step.detail = self.s3.endpoint
        with self._screen.step("A local receiver for Slack messages") as step:
            self._running.enter_context(self.slack)
            step.detail = self.slack.url

    def _make_source(self) -> None:
        with self._screen.step(f"Flights source, scale {self._scale}") as step:
            rows = generate(self.source, self._scale)
            step.detail = (
                f"{rows['bookings']:,} bookings, {sum(rows.values()):,} rows in {len(rows)} tables"
            )

    def _start_airflow(self) -> None:
        home = self._state / "airflow"
        self.airflow = Airflow(
            home, self._project, self._metadata, port=self._port, extra=_SETTINGS
        )
        with self._screen.step("Airflow: metadata database"):
            self.airflow.prepare()
        with self._screen.step(
            "Airflow: scheduler, dag-processor, api-server; connections and variables"
        ) as step:
            # The import commands spend their time importing Airflow: so does what starts meanwhile.
            with ThreadPoolExecutor() as pool:
                imports: list[Future[Any]] = [
                    pool.submit(
                        import_connections,
                        self.airflow,
                        self._project,
                        self._state,
                        self.variables(),
                    ),
                    pool.submit(
                        self.airflow.run,
                        "variables",
                        "import",
                        f"{self._project}/variables/variables.json",
                    ),
                ]
                self._running.enter_context(self.airflow)
            for done in imports:
                done.result()
            step.detail = self.airflow.url
        with self._screen.step("Airflow: reading the pipelines"):
            self.airflow.wait_for_dag("flights")

    def variables(self) -> dict[str, str]:
        """What connections.yml asks for."""
        server = {
            "HOST": self.postgres.host,
            "PORT": str(self.postgres.port),
            "USER": self.postgres.user,
            "PASSWORD": self.postgres.password,
        }
        return {
            **{f"FLIGHTS_SOURCE_{name}": value for name, value in server.items()},
            **{f"WAREHOUSE_{name}": value for name, value in server.items()},
            "FLIGHTS_SOURCE_DB": "source",
            "WAREHOUSE_DB": "warehouse",
            "LAKE_ENDPOINT_URL": self.s3.endpoint,
            "LAKE_ACCESS_KEY": self.s3.access_key,
            "LAKE_SECRET_KEY": self.s3.secret_key,
            "SLACK_WEBHOOK_HOST": self.slack.url,
            "SLACK_WEBHOOK_TOKEN": SLACK_TOKEN,
        }

    def wait_forever(self) -> None:
        """Block while Airflow runs. Raises ServerFailed when a part of it ends unexpectedly."""
        while self.airflow.alive():
            threading.Event().wait(1)

    def stop(self) -> None:
        """Stop everything; logs stay. A second call does nothing."""
        with self._screen.console.status("stopping everything"):
            self._running.close()

    def _remove_data(self) -> None:
        """Databases and objects are of no use without the servers' passwords; some editions are
        gigabytes."""
        for folder in ("postgres/data", "lake"):
            shutil.rmtree(self._state / folder, ignore_errors=True)
