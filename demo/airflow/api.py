"""The part of Airflow's REST API that a person uses: trigger a DAG, watch its tasks, read a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

_ATTEMPTS = 3
FINAL_RUN = frozenset({"success", "failed"})


class ApiError(RuntimeError):
    """Airflow refused or did not answer; the message has its words."""


@dataclass(frozen=True)
class Task:
    """One task instance of a run."""

    task_id: str
    state: str | None
    try_number: int
    seconds: float | None
    """How long its last try took; None before it ended."""


class Api:
    """A client of one api-server. Logs in on the first call, and again when the token expires."""

    def __init__(self, url: str, user: str, password: str):
        self._login = {"username": user, "password": password}
        # trust_env=False: no proxy between us and 127.0.0.1.
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=30)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The JSON answer to `method /api/v2/path`. Raises ApiError."""
        # A machine that starts many tasks lets a request wait for half a minute, and a question may
        # be asked again.
        attempts = _ATTEMPTS if method == "GET" else 1
        for attempt in range(1, attempts + 1):
            try:
                answer = self._authorised(method, f"/api/v2/{path}", **options)
                break
            except httpx.HTTPError as error:
                if attempt == attempts or not isinstance(error, httpx.TimeoutException):
                    raise ApiError(f"{method} {path}: {error}") from error
        if answer.is_error:
            raise ApiError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    def _authorised(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self._http.request(method, path, **options)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            self._authorise()
            answer = self._http.request(method, path, **options)
        return answer

    def _authorise(self) -> None:
        answer = self._http.post("/auth/token", json=self._login)
        if answer.is_error:
            raise ApiError(f"login: {answer.status_code} {answer.text[:500]}")
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def healthy(self) -> bool:
        """Whether api-server, database, scheduler and DAG processor all report to be well."""
        try:
            parts = self.call("GET", "monitor/health")
        except ApiError:
            return False
        return all(
            parts[part]["status"] == "healthy"
            for part in ("metadatabase", "scheduler", "dag_processor")
        )

    def has_dag(self, dag_id: str) -> bool:
        """Whether the DAG has been read."""
        try:
            return bool(self.call("GET", f"dags/{dag_id}"))
        except ApiError:
            return False

    def import_errors(self) -> list[str]:
        """What the DAG processor could not read, as `file: traceback`."""
        errors = self.call("GET", "importErrors")["import_errors"]
        return [f"{error['filename']}: {error['stack_trace']}" for error in errors]

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run the DAG."""
        self.call("PATCH", f"dags/{dag_id}", json={"is_paused": False})

    def pause(self, dag_id: str) -> None:
        """Let the scheduler start no more runs of the DAG."""
        self.call("PATCH", f"dags/{dag_id}", json={"is_paused": True})

    def trigger(
        self, dag_id: str, conf: Mapping[str, Any] | None = None, run_id: str | None = None
    ) -> str:
        """Start a run without a logical date, as the UI's trigger form does; returns its run id."""
        body = {"logical_date": None, "conf": dict(conf or {})} | (
            {"dag_run_id": run_id} if run_id else {}
        )
        return str(self.call("POST", f"dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """queued, running, success or failed."""
        return str(self.call("GET", f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def tasks(self, dag_id: str, run_id: str) -> list[Task]:
        """Every task of a run, in the order of their ids."""
        found = [_task(entry) for entry in self.task_entries(dag_id, run_id)]
        return sorted(found, key=lambda task: task.task_id)

    def task_entries(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Every task of a run, as Airflow answers."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        found: list[dict[str, Any]] = []
        total = 1
        while len(found) < total:
            page = self.call(
                "GET", path, params={"limit": 100, "offset": len(found), "order_by": "id"}
            )
            found, total = found + page["task_instances"], page["total_entries"]
        return found

    def wait(
        self,
        dag_id: str,
        run_id: str,
        timeout: float = 300,
        watch: Callable[[list[Task]], None] | None = None,
        poll: float = 0.5,
    ) -> str:
        """Wait for the end of a run and return its state; `watch` sees its tasks at every poll.
        Raises ApiError."""
        deadline = time.monotonic() + timeout
        while True:
            state = self.run_state(dag_id, run_id)
            if watch:
                watch(self.tasks(dag_id, run_id))
            if state in FINAL_RUN:
                return state
            if time.monotonic() > deadline:
                raise ApiError(f"run {run_id} of {dag_id} is still {state} after {timeout:.0f} s")
            time.sleep(poll)

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """The log of one try as text."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        content = self.call(
            "GET", path, params={"full_content": True}, headers={"Accept": "application/json"}
        )["content"]
        return "\n".join(_line(entry) for entry in content)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """What a task has handed on."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.call("GET", path, params={"deserialize": False})["value"]


def _task(entry: dict[str, Any]) -> Task:
    return Task(entry["task_id"], entry["state"], entry["try_number"], entry["duration"])


def _line(entry: Any) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    details = [
        f"{k}={v}" for k, v in entry.items() if k not in ("timestamp", "event", "level", "logger")
    ]
    return " ".join(
        [str(entry.get("timestamp") or ""), str(entry.get("event", "")), *details]
    ).strip()
