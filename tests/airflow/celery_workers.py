"""Airflow's workers with the CeleryExecutor: a Redis, and two workers that share no file and no
user, as on two machines.

Each worker lives in a mount namespace of its own, where its own folders stand in the place of
Airflow's home and of the project. Making one takes root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from demo.airflow import Airflow
from demo.servers.process import LOOPBACK, Supervised, free_port, listens
from loadsheet.sqltest.embedded import reachable

USERS = ("nobody", "daemon")
REDIS = shutil.which("redis-server")
# Arguments: the user, then the command.
_CONFINED = """
set -e
umask 077
if [ -n "$HIDDEN" ]; then  # the interpreter is in a home that only root may enter
    mount --bind "$BASE" /mnt
    mount -t tmpfs -o mode=755 none "$HIDDEN"
    (umask 022 && mkdir -p "$BASE")
    mount --move /mnt "$BASE"
fi
mount --bind "$OWN_HOME" "$AIRFLOW_HOME"
mount --bind "$OWN_PROJECT" "$PROJECT"
cd /
user=$1; shift
exec setpriv --reuid "$user" --regid nogroup --clear-groups "$@"
"""


def missing() -> str:
    """Why the workers cannot run here; empty if they can."""
    if find_spec("airflow.providers.celery") is None:
        return "needs the Celery provider: make test-celery"
    if not REDIS or not shutil.which("setpriv"):
        return "needs redis-server and setpriv"
    if os.geteuid():
        return "needs root, to give each worker its own files"
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], check=False, capture_output=True
    )
    return "" if tried.returncode == 0 else "needs the right to mount"


@dataclass
class Worker:
    """One worker: `name` is also its user, `home` its own AIRFLOW_HOME as we see it."""

    name: str
    home: Path
    process: Supervised

    def has_begun(self, run_id: str, task_id: str) -> bool:
        """Whether it has a log of the task."""
        return any(self._logs(run_id, task_id))

    def tasks(self) -> set[str]:
        """The ids of all tasks that it has a log of."""
        return {folder.name.partition("=")[2] for folder in self._logs("*", "*")}

    def _logs(self, run_id: str, task_id: str) -> Iterator[Path]:
        return self.home.glob(f"logs/dag_id=*/run_id={run_id}/task_id={task_id}")

    def kill(self) -> None:
        """SIGKILL to all its processes, as when its machine is lost."""
        self.process.kill()


@contextmanager
def redis() -> Iterator[str]:
    """A Redis that keeps nothing; its address as Celery's broker."""
    port = free_port()
    command = [REDIS or "", "--bind", LOOPBACK, "--port", str(port), "--save", ""]
    folder = Path(tempfile.mkdtemp(prefix="loadsheet-redis-"))
    process = Supervised(command, folder / "log", cwd=folder, remove=folder)
    try:
        process.wait_until(lambda: listens(port), "Redis")
        yield f"redis://{LOOPBACK}:{port}/0"
    finally:
        process.stop()
        shutil.rmtree(folder, ignore_errors=True)


def settings(broker: str, database: str, project: Path) -> dict[str, str]:
    """What Airflow's processes need to know on top of the rest. A lost worker is noticed in
    seconds, not in minutes."""
    provider = find_spec("airflow.providers.celery")
    assert provider and provider.origin
    packages = Path(provider.origin).parents[3]
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CELERY__BROKER_URL": broker,
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database}",
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": "2",
        "AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER": "1",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        "PYTHONPATH": f"{project}:{packages}",
    }


@contextmanager
def workers(airflow: Airflow, project: Path, folder: Path) -> Iterator[list[Worker]]:
    """Two workers of a running `airflow`, with copies of the `project` in `folder`."""
    started: list[Worker] = []
    try:
        for user in USERS:
            started.append(_start(user, airflow, project, folder / user))
        for worker in started:
            worker.process.wait_until(partial(_is_ready, worker), f"{worker.name}'s worker", 120)
        yield started
    finally:
        for worker in started:
            worker.process.stop()


def _start(user: str, airflow: Airflow, project: Path, own: Path) -> Worker:
    home = own / "home"
    shutil.copytree(project, own / "project")
    home.mkdir()
    for path in (own, *own.rglob("*")):
        shutil.chown(path, user, "nogroup")
    base = Path(sys.base_prefix)
    places = {
        "OWN_HOME": str(home),
        "OWN_PROJECT": str(own / "project"),
        "PROJECT": str(project),
        "BASE": str(base),
        "HIDDEN": _hidden(base),
        "HOME": airflow.env["AIRFLOW_HOME"],
        "USER": user,
    }
    command = ["unshare", "-m", "sh", "-c", _CONFINED, "sh", user]
    command += [sys.executable, "-m", "airflow", "celery", "worker", "--skip-serve-logs"]
    command += ["--celery-hostname", f"{user}@%h", "--without-gossip", "--without-mingle"]
    environment = {**airflow.env, **places}
    process = Supervised(command, own / "log", env=environment, cwd=own, signals=())
    return Worker(user, home, process)


def _hidden(base: Path) -> str:
    """The folder above the interpreter that others may not enter; empty if they may."""
    if reachable(base):
        return ""
    for folder in reversed(base.parents):
        if not folder.stat().st_mode & 1:
            return str(folder)
    return ""


def _is_ready(worker: Worker) -> bool:
    return " ready." in worker.process.tail(200)
