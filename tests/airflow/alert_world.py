"""Where alerts go in tests: a connection of each kind to receivers on 127.0.0.1, and what Airflow
gives the callbacks of a task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Variable

from loadsheet.airflow.alerts.callbacks import notify_failure, notify_success
from loadsheet.airflow.alerts.task_messages import failure_message
from loadsheet.spec.routes import route_of
from tests.airflow.receivers import Answer, Mailbox, Receiver, Request

LOG_URL = "http://127.0.0.1:8080/dags/flights/runs/manual__1/tasks/load.load_bookings?try_number=3"


KEY = "0123456789abcdef0123456789abcdef"
SECRET = "hush-hush-token"
KINDS = {
    "slack": {"slack_conn_id": "at_slack"},
    "bot": {"slack_conn_id": "at_bot", "channel": "#data"},
    "email": {"email_conn_id": "at_mail", "to": ["team@example.com", "ops@example.com"]},
    "teams": {"teams_conn_id": "at_teams"},
    "pagerduty": {"pagerduty_conn_id": "at_pager"},
    "webhook": {"webhook_conn_id": "at_webhook"},
}
ROUTES = {kind: route_of(keys) for kind, keys in KINDS.items()}
ALL = list(ROUTES.values())


def context(
    error: BaseException | str | None = None,
    *,
    step: str = "load.load_bookings",
    run_id: str = "manual__2026-01-01T00:00:00+00:00",
    tables: tuple[str, ...] = (),
) -> Any:
    """As on a manual run without a logical date: no `logical_date`, `ds`, `ts` or
    `data_interval_*`."""
    ti = SimpleNamespace(dag_id="flights", task_id=step, try_number=3, max_tries=2, log_url=LOG_URL)
    task = SimpleNamespace(kind=step.partition(".")[0], name=step.rpartition("_")[2])
    found = {"ti": ti, "task": task, "run_id": run_id, "params": {"tables": list(tables)}}
    return found if error is None else {**found, "exception": error}


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Airflow's Variables, as a task sees them; `test_end_to_end.py` has the real ones."""
    found: dict[str, str] = {}
    monkeypatch.setattr(
        Variable, "keys", lambda prefix: [key for key in found if key.startswith(prefix)]
    )
    monkeypatch.setattr(Variable, "get", lambda key, default=None: found.get(key, default))
    monkeypatch.setattr(
        Variable, "set", lambda key, value, description: found.__setitem__(key, value)
    )
    monkeypatch.setattr(Variable, "delete", found.__delitem__)
    return found


FAILURE = failure_message(context(raised(ValueError("the lake is dry"))))


def define(monkeypatch: pytest.MonkeyPatch, conn_id: str, **fields: Any) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))


def define_all(monkeypatch: pytest.MonkeyPatch, port: int, mail_port: int) -> None:
    """All connections, to an HTTP server and a mail server on this machine."""
    url = f"http://127.0.0.1:{port}"
    for proxy in ("http_proxy", "HTTP_PROXY"):  # Slack's client knows no NO_PROXY
        monkeypatch.delenv(proxy, raising=False)
    extra: dict[str, Any] = {"base_url": f"{url}/api/"}
    define(monkeypatch, "at_slack", conn_type="slackwebhook", host=url, password=f"T0/B0/{SECRET}")
    define(monkeypatch, "at_bot", conn_type="slack", password=f"xoxb-{SECRET}", extra=extra)
    extra = {"disable_ssl": True, "disable_tls": True, "from_email": "loadsheet@example.com"}
    define(monkeypatch, "at_mail", conn_type="smtp", host="127.0.0.1", port=mail_port, extra=extra)
    define(monkeypatch, "at_teams", conn_type="http", password=f"{url}/workflows/1?sig={SECRET}")
    define(monkeypatch, "at_pager", conn_type="pagerduty_events", host=url, password=KEY)
    define(monkeypatch, "at_webhook", conn_type="http", host=f"{url}/hook", password=SECRET)


def as_slack(request: Request) -> Answer:
    """Slack's API and everything else."""
    if not request.path.startswith("/api/"):
        return Answer()
    posted = {"ok": True, "channel": "C1", "ts": f"17{len(request.body):08}.000100"}
    return Answer(body=json.dumps(posted).encode(), headers={"Content-Type": "application/json"})


@dataclass
class World:
    http: Receiver
    mailbox: Mailbox

    def posted_to(self, start: str) -> list[Request]:
        return [request for request in self.http.requests if request.path.startswith(start)]

    @property
    def by_bot(self) -> list[dict[str, Any]]:
        return [request.document for request in self.posted_to("/api/chat.postMessage")]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with Receiver(as_slack) as http, Mailbox() as mailbox:
        define_all(monkeypatch, http.port, mailbox.port)
        yield World(http, mailbox)


def fail(routes: list[dict[str, Any]], error: Any = "the lake is dry", **more: Any) -> None:
    notify_failure(context(error, **more), routes=routes)


def work(routes: list[dict[str, Any]], **more: Any) -> None:
    notify_success(context(**more), routes=routes)
