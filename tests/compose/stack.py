"""A copy of the repository's compose project on a Docker engine, under a name and ports of its
own."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from dotenv import dotenv_values, set_key
from psycopg import sql

from demo.flights.tables import TABLES
from demo.servers.process import free_port
from loadsheet.sql.text import Relation
from tests.project import ROOT, differences

EXTRA = os.environ.get("LOADSHEET_COMPOSE_EXTRA", "")
"""A further compose file, for an engine that cannot run ours as it is."""

_OLDEST_ENGINE = 25
_IN_IMAGE = re.compile(r"^!(.*?)/?$", re.M)
_PORTS = (
    "AIRFLOW_PORT",
    "FLIGHTS_SOURCE_PORT",
    "WAREHOUSE_PORT",
    "LAKE_PORT",
    "LAKE_CONSOLE_PORT",
)


def missing_engine() -> str:
    """Why no stack can start here; "" if one can."""
    try:
        for command in (["docker", "compose", "version"], ["docker", "info"]):
            subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        text = getattr(error, "stderr", None) or str(error).encode()
        return f"`{' '.join(command)}` fails: {text.decode(errors='replace').strip()}"
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    version = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    if int(version.split(".")[0]) < _OLDEST_ENGINE and not EXTRA:
        return f"Docker Engine is {version}; docker-compose.yml needs {_OLDEST_ENGINE}"
    return ""


@dataclass
class Stack:
    """The containers of one project folder."""

    folder: Path
    name: str

    def compose(self, *arguments: str, timeout: int = 1200) -> str:
        """Run `docker compose` and return what it prints. Raises CalledProcessError."""
        files = ["--file", "docker-compose.yml"]
        if EXTRA:
            files += ["--file", EXTRA]
        command = ["docker", "compose", "--project-name", self.name, *files, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, text=True, capture_output=True, timeout=timeout
        )
        if done.returncode:
            sys.stderr.write(done.stdout + done.stderr)
            done.check_returncode()
        return done.stdout

    def build(self, label: str) -> None:
        """Build the image. Another label makes another image, as an upgrade does."""
        image = self.compose("config", "--images", "airflow-scheduler").split()
        wanted = next(name for name in image if name.startswith(self.name))
        command = ["docker", "build", "--quiet", "--tag", wanted]
        command += ["--label", f"loadsheet.test={label}", "."]
        subprocess.run(command, cwd=self.folder, check=True, timeout=1800)

    def up(self) -> None:
        """Start everything, and wait until it is healthy."""
        self.compose("up", "--no-build", "--wait", "--wait-timeout", "900")

    def set(self, **values: str) -> None:
        """Change values in .env."""
        for name, value in values.items():
            set_key(self.folder / ".env", name, value, quote_mode="never")

    def airflow(self, *arguments: str) -> None:
        """Run Airflow's command line in the scheduler's container."""
        self.compose("exec", "-T", "airflow-scheduler", "airflow", *arguments)

    def psql(self, server: str, database: str, statement: str) -> list[str]:
        """Rows of a server's database, in psql's form."""
        asked = ["psql", "--username=postgres", f"--dbname={database}", "--csv", "--tuples-only"]
        return self.compose("exec", "-T", server, *asked, "--command", statement).split()

    def metadata(self, statement: str) -> list[str]:
        """Rows of Airflow's database, in psql's form."""
        return self.psql("postgres", "airflow", statement)

    def inspect(self) -> list[dict[str, Any]]:
        """What the engine says about each container, those that have ended included."""
        names = self.compose("ps", "--all", "--quiet").split()
        done = subprocess.run(["docker", "inspect", *names], check=True, capture_output=True)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def wait_for(self, holds: Callable[[], bool], what: str, seconds: int = 600) -> None:
        """Ask until it holds. Raises AssertionError when it takes too long."""
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, f"{what}: {self.metadata(_STATES)}"
            time.sleep(1)

    def finish(self, runs: int) -> None:
        """Wait until this many runs have ended, and expect that all worked."""
        ended = "SELECT count(*) FROM dag_run WHERE state IN ('success', 'failed')"
        self.wait_for(lambda: self.metadata(ended) == [str(runs)], f"{runs} runs")
        assert self.metadata("SELECT DISTINCT state FROM dag_run") == ["success"]

    def in_the_middle(self) -> None:
        """Wait until a task runs."""
        running = "SELECT count(*) > 0 FROM task_instance WHERE state = 'running'"
        self.wait_for(lambda: self.metadata(running) == ["t"], "a running task")

    def running_on(self, task: str) -> str:
        """The host name, which is the container's id, of the worker that runs the task."""
        asked = f"SELECT hostname FROM task_instance WHERE state = 'running' AND {_of(task)}"
        self.wait_for(lambda: bool(self.metadata(asked)), f"a running {task}")
        return self.metadata(asked)[0]

    def stop(self, container: str) -> None:
        """Tell a container to stop, and wait until it has: the time it may take is Compose's."""
        subprocess.run(["docker", "stop", container], check=True, capture_output=True, timeout=180)

    def seconds_to_retry(self, task: str) -> float:
        """From the end of the task's first try to the start of its second, in the newest run."""
        asked = (
            "SELECT extract(epoch FROM again.start_date - first.end_date) FROM task_instance again"
            " JOIN task_instance_history first USING (dag_id, run_id, task_id, map_index)"
            f" WHERE again.try_number = 2 AND first.try_number = 1 AND {_of(task)}"
            " ORDER BY again.start_date DESC LIMIT 1"
        )
        return float(self.metadata(asked)[0])

    @contextmanager
    def held_up(self, table: str) -> Iterator[Callable[[], frozenset[int]]]:
        """Nobody can use the warehouse's table for as long as this lasts. Yields a function that
        tells which sessions wait for it."""
        waits = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        with psycopg.connect(self.dsn("WAREHOUSE")) as holder:
            holder.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(*table.split("."))))
            with psycopg.connect(self.dsn("WAREHOUSE"), autocommit=True) as witness:
                yield lambda: frozenset(pid for (pid,) in witness.execute(waits))

    def dsn(self, part: str) -> str:
        """Where a role of .env logs in from here: FLIGHTS_OWNER, FLIGHTS_SOURCE or WAREHOUSE."""
        env = dotenv_values(self.folder / ".env")
        server = part.replace("OWNER", "SOURCE")
        place = f"127.0.0.1:{env[f'{server}_PORT']}/{env[f'{server}_DB']}"
        return f"postgresql://{env[f'{part}_USER']}:{env[f'{part}_PASSWORD']}@{place}"

    def differing(self) -> dict[str, int]:
        """Rows by which staging and the source differ; equal tables left out."""
        found = {}
        for table in TABLES:
            one, other = Relation("bookings", table), Relation("staging", table)
            count = differences(self.dsn("FLIGHTS_SOURCE"), one, self.dsn("WAREHOUSE"), other)
            if count:
                found[table] = count
        return found


def _of(task: str) -> str:
    """A condition on task_instance. A task's id has its group's name in front."""
    return f"task_id LIKE '%{task}'"


_STATES = "SELECT run_id, state, count(*) FROM task_instance GROUP BY 1, 2"


def new_stack(folder: Path) -> Stack:
    """What the image and Compose read, with a new .env, in `folder`."""
    name = f"loadsheet-test-{secrets.token_hex(3)}"
    listed = _IN_IMAGE.findall((ROOT / ".dockerignore").read_text())
    more = [".dockerignore", ".env.example", "Dockerfile", "docker-compose.yml"]
    for path in [*listed, *more]:
        source, target = ROOT / path, folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    file = folder / "docker-compose.yml"
    file.write_text(file.read_text().replace("image: loadsheet-airflow:", f"image: {name}:"))
    page = (ROOT / "docs/compose.md").read_text()
    script = re.search(r"<<'EOF_PYTHON'\n(.*?)\nEOF_PYTHON", page, re.S)
    assert script
    subprocess.run([sys.executable, "-c", script[1]], cwd=folder, check=True)
    stack = Stack(folder, name)
    stack.set(**{port: str(free_port()) for port in _PORTS})
    return stack
