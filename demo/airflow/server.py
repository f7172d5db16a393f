"""Starts and stops Airflow's processes."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from demo.airflow.api import Api
from demo.airflow.settings import inherited, settings
from demo.servers.process import LOOPBACK, Supervised, free_port, listens, run_supervised
from loadsheet.sqltest.process import Managed, ServerFailed

COMPONENTS = {
    "api-server": ("api-server",),
    # its log server listens on all interfaces; nobody needs it here
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
}
_STOP = ((signal.SIGTERM, 3.0),)  # the scheduler would wait for running tasks to end


class Airflow(Managed):
    """Airflow with LocalExecutor on 127.0.0.1; a context manager.

    `home` takes its files and logs, `bundle` is the DAG bundle's root, `database` the URI of an
    empty PostgreSQL database (or one that `prepare` has filled before). `extra` adds or overrides
    AIRFLOW__* settings and whatever else its processes are to see. `python` is the interpreter of
    the environment that Airflow runs in. After `start`, `api` talks to it; `url`, `user` and
    `password` are for people.
    """

    user = "admin"

    def __init__(
        self,
        home: Path,
        bundle: Path,
        database: str,
        *,
        port: int | None = None,
        extra: Mapping[str, str] | None = None,
        python: Path = Path(sys.executable),
    ):
        self.home, self.port, self.password = (
            home.resolve(),
            port or free_port(),
            secrets.token_urlsafe(9),
        )
        self.url = f"http://{LOOPBACK}:{self.port}"
        passwords = self.home / "passwords.json"
        own = settings(self.home, bundle.resolve(), database, self.port, self.user, passwords)
        self.env = inherited() | own | dict(extra or {})
        self.api = Api(self.url, self.user, self.password)
        self._passwords = passwords
        self._command = [str(python), "-m", "airflow"]
        self._prepared = False
        self._processes: dict[str, Supervised] = {}

    def prepare(self) -> Self:
        """Create the home folder and the database's tables; done by `start` unless done before.

        Raises ServerFailed when the port is taken or the migration fails.
        """
        if listens(self.port):
            raise ServerFailed(f"port {self.port} is taken: choose another port")
        self.home.mkdir(parents=True, exist_ok=True)
        self._passwords.touch(mode=0o600)
        self._passwords.write_text(json.dumps({self.user: self.password}))
        self.run("db", "migrate")
        self._prepared = True
        return self

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the `airflow` command, which ends with this process. Raises ServerFailed with its
        output when it fails and `check` is set."""
        done = run_supervised([*self._command, *arguments], env=self.env, cwd=self.home)
        if check and done.returncode:
            last = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
            raise ServerFailed(
                f"airflow {' '.join(arguments)} ended with exit code {done.returncode}:\n{last}"
            )
        return done

    def start(self) -> Self:
        """Start all components and wait until they are well. Raises ServerFailed with the end of
        the failing log."""
        if not self._prepared:
            self.prepare()
        try:
            for name in COMPONENTS:
                self.start_component(name)
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def start_component(self, name: str) -> None:
        """Start one of COMPONENTS (again); its log is `<home>/<name>.log`."""
        command = [*self._command, *COMPONENTS[name]]
        self._processes[name] = Supervised(
            command, self.home / f"{name}.log", env=self.env, cwd=self.home, signals=_STOP
        )

    def restart_component(self, name: str, timeout: float = 60) -> None:
        """Terminate one of COMPONENTS and all that it has forked, and start it again when it has
        ended; after `timeout` seconds it is killed."""
        process = self._processes[name]
        process.terminate()
        deadline = time.monotonic() + timeout
        while process.exit_code is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.stop()
        self.start_component(name)

    def _wait(self, timeout: float = 120) -> None:
        api_server = self._processes["api-server"]
        api_server.wait_until(lambda: self.alive() and self.api.healthy(), "Airflow", timeout)

    def alive(self) -> bool:
        """True while every component runs. Raises ServerFailed with the log's end of one that has
        ended."""
        for name, process in self._processes.items():
            if process.exit_code is not None:
                raise ServerFailed(
                    f"{name} ended with exit code {process.exit_code}:\n{process.tail()}"
                )
        return True

    def wait_for_dag(self, dag_id: str, timeout: float = 60) -> None:
        """Wait until the DAG has been read. Raises ServerFailed with the import errors when it has
        not in time."""
        deadline = time.monotonic() + timeout
        while not self.api.has_dag(dag_id):
            self.alive()
            if time.monotonic() > deadline:
                errors = (
                    "\n".join(self.api.import_errors()) or self._processes["dag-processor"].tail()
                )
                problem = f"Airflow did not read the DAG {dag_id!r} within {timeout:.0f} s"
                raise ServerFailed(f"{problem}:\n{errors}")
            time.sleep(0.3)

    def stop(self) -> None:
        """Stop all components side by side. A second call does nothing."""
        for process in self._processes.values():
            process.ask_to_stop()
        for process in self._processes.values():
            process.stop()
        self._processes.clear()
        self.api.close()
