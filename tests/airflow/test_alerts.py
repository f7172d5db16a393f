"""Alerts on several routes: each kind gets each message in the shape that it accepts, one route
that does not work keeps no other from its message, and nothing of it harms the task."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from loadsheet.airflow import spec_alerts
from loadsheet.airflow.alerts import sending
from loadsheet.airflow.alerts.callbacks import notify_failure, notify_success
from loadsheet.airflow.alerts.incidents import Failure
from loadsheet.airflow.alerts.message import Delivery, Message
from loadsheet.airflow.alerts.sending import send, tell
from loadsheet.airflow.alerts.task_messages import (
    drift_message,
    failure_message,
    recovery_message,
)
from loadsheet.airflow.dag_ids import routes_in
from loadsheet.airflow.spec_alerts import Messages, file_message
from loadsheet.airflow.stubs import message_file_of
from loadsheet.spec.routes import Route, route_of
from tests.airflow import published_shapes as shapes
from tests.airflow.receivers import Answer, Mailbox, Receiver, Request
from tests.airflow.test_slack import LOG_URL, context, raised, variables

__all__ = ["variables"]

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
MESSAGES: dict[str, Message] = {
    "failure": failure_message(context(raised(ValueError("the lake is dry")))),
    "recovery": recovery_message(context(), Failure(since="now", run_id="manual__1")),
    "drift": drift_message(context(), {"orders": ["added note text", "widened n to bigint"]}),
    "broken file": file_message("pipelines/shop/pipeline.yml", "1:1 version: missing\n2:1 x"),
    "repaired file": file_message("pipelines/shop/pipeline.yml"),
}


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


def deliveries(message: Message) -> list[Delivery]:
    return [Delivery(route=route, message=message) for route in ALL]


@pytest.mark.parametrize("name", MESSAGES)
def test_each_kind_gets_each_message_in_the_shape_that_it_accepts(world: World, name: str) -> None:
    message = MESSAGES[name]
    assert [result.error for result in send(deliveries(message))] == [None] * len(ALL)
    (webhook,) = world.posted_to(f"/T0/B0/{SECRET}")
    jsonschema.validate(webhook.document, shapes.SLACK)
    (by_bot,) = world.by_bot
    jsonschema.validate(by_bot, shapes.SLACK)
    assert by_bot["channel"] == "#data" and by_bot["blocks"] == webhook.document["blocks"]
    (teams,) = world.posted_to("/workflows/1?sig=")
    jsonschema.validate(teams.document, shapes.TEAMS)
    is_note = message.state == "note"
    (pager,) = world.posted_to("/v2/change/enqueue" if is_note else "/v2/enqueue")
    jsonschema.validate(
        pager.document, shapes.PAGERDUTY_CHANGE if is_note else shapes.PAGERDUTY_EVENT
    )
    (document,) = world.posted_to("/hook")
    jsonschema.validate(document.document, shapes.WEBHOOK)
    (mail,) = world.mailbox.mails
    assert world.mailbox.recipients == [["team@example.com", "ops@example.com"]]
    assert (mail["From"], mail["Subject"]) == ("loadsheet@example.com", message.title)
    text, html = (mail.get_body((kind,)) for kind in ("plain", "html"))
    assert text and html
    shown = [
        json.dumps(request.document, ensure_ascii=False)
        for request in (webhook, teams, pager, document)
    ]
    for told in [*shown, text.get_content(), html.get_content()]:
        for fact in [message.title, message.source, *message.facts.values()]:
            assert fact in told
        for section in message.sections:
            for line in section.text.split("\n"):
                assert json.dumps(line)[1:-1] in told or line in told or _escaped(line) in told
        assert (LOG_URL in told) == (message.link == LOG_URL)


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def test_a_recovery_resolves_the_incident_that_its_failure_has_opened(world: World) -> None:
    for name in ("failure", "recovery", "broken file", "repaired file"):
        send(deliveries(MESSAGES[name]))
    events = [request.document for request in world.posted_to("/v2/enqueue")]
    told = [(event["event_action"], event["dedup_key"]) for event in events]
    assert [action for action, _ in told] == ["trigger", "resolve"] * 2
    assert told[0][1] == told[1][1] != told[2][1] == told[3][1]
    conversations = [mail["References"] for mail in world.mailbox.mails]
    assert conversations[0] == conversations[1] != conversations[2] == conversations[3]


def fail(routes: list[dict[str, Any]], error: Any = "the lake is dry", **more: Any) -> None:
    notify_failure(context(error, **more), routes=routes)


def work(routes: list[dict[str, Any]], **more: Any) -> None:
    notify_success(context(**more), routes=routes)


def test_a_bot_answers_in_the_thread_of_the_failure(
    world: World, variables: dict[str, str]
) -> None:
    """Later failures too: the channel has one message for each trouble."""
    routes = [KINDS["bot"], KINDS["webhook"]]
    fail(routes, run_id="1")
    fail(routes, run_id="2")
    work(routes, run_id="3")
    first, second, third = world.by_bot
    assert "thread_ts" not in first
    thread = json.loads(as_slack(world.posted_to("/api/")[0]).body)["ts"]
    assert (second["thread_ts"], second["channel"]) == (thread, "C1")
    assert third["thread_ts"] == thread and "works again" in third["text"]
    assert variables == {}
    fail(routes, run_id="4")
    assert "thread_ts" not in world.by_bot[3]  # a new trouble


def test_a_thread_whose_message_was_deleted_is_left(
    world: World, variables: dict[str, str]
) -> None:
    """Else no recovery could be posted any more."""
    routes = [KINDS["bot"]]
    fail(routes)

    def answer(request: Request) -> Answer:
        if "thread_ts" in request.document:
            body = b'{"ok": false, "error": "thread_not_found"}'
            return Answer(body=body, headers={"Content-Type": "application/json"})
        return as_slack(request)

    world.http.answer = answer
    work(routes)
    last = world.by_bot[-1]
    assert "thread_ts" not in last and "works again" in last["text"] and variables == {}


@pytest.mark.parametrize("refusing", ["pagerduty", "teams"])
def test_a_route_that_refused_a_recovery_is_told_later_and_no_other_again(
    world: World, variables: dict[str, str], refusing: str
) -> None:
    paths = {"pagerduty": "/v2/enqueue", "teams": "/workflows"}
    routes = [KINDS["pagerduty"], KINDS["teams"], KINDS["webhook"]]
    fail(routes, run_id="1")

    def answer(request: Request) -> Answer:
        return Answer(500 if request.path.startswith(paths[refusing]) else 200)

    world.http.answer = answer
    work(routes, run_id="2")
    work(routes, run_id="3")
    assert len(variables) == 1
    world.http.answer = as_slack
    work(routes, run_id="4")
    work(routes, run_id="5")
    assert variables == {}
    (other,) = paths.keys() - {refusing}
    assert len(world.posted_to(paths[other])) == len(world.posted_to("/hook")) == 2
    assert len(world.posted_to(paths[refusing])) == 1 + 3


def test_a_new_failure_after_a_recovery_that_some_know_of_is_told_to_all(
    world: World, variables: dict[str, str]
) -> None:
    routes = [KINDS["pagerduty"], KINDS["webhook"]]
    fail(routes, run_id="1")
    world.http.answer = lambda request: Answer(500 if request.path == "/v2/enqueue" else 200)
    work(routes, run_id="2")
    world.http.answer = as_slack
    fail(routes, run_id="3")
    work(routes, run_id="4")
    states = [request.document["state"] for request in world.posted_to("/hook")]
    assert states == ["open", "resolved", "open", "resolved"] and variables == {}
    assert world.posted_to("/hook")[3].document["facts"]["First in run"] == "3"


def differing() -> BaseException:
    """As a step `verify` fails in Airflow."""
    from loadsheet.airflow.operators import as_airflow_errors
    from loadsheet.errors import Differs

    try:
        with as_airflow_errors():
            raise Differs("1 of 1 table compared differs")
    except Exception as error:
        return error


@pytest.mark.parametrize(
    ("events", "errors", "told"),
    [
        (["failure", "recovery"], ["x", "differs"], ["failure", "differs", "recovery"]),
        (["differs", "recovery"], ["x", "differs"], ["differs", "recovery"]),
        (["differs", "recovery"], ["differs", "x"], ["differs", "recovery"]),
        (["differs", "recovery"], ["x"], []),
        (["recovery"], ["x"], ["recovery"]),
        (["failure"], ["x", "differs"], ["failure", "differs"]),
        (["drift", "broken_spec"], ["x", "differs"], []),
    ],
)
def test_a_route_hears_what_it_names_and_the_recovery_of_that(
    world: World,
    variables: dict[str, str],
    events: list[str],
    errors: list[str],
    told: list[str],
) -> None:
    routes = [{**KINDS["webhook"], "events": events}]
    for error in errors:
        fail(routes, differing() if error == "differs" else error, step="verify")
    work(routes, step="verify")
    assert [request.document["event"] for request in world.posted_to("/hook")] == told
    assert variables == {}


def test_changed_columns_are_told_to_those_who_want_to_know(
    world: World, variables: dict[str, str]
) -> None:
    routes = [KINDS["slack"], {**KINDS["webhook"], "events": ["drift"]}]
    found = context(step="load.load_orders")
    found["task"].drift = {"orders": ("added note text", "widened n to bigint")}
    notify_success(found, routes=routes)
    (told,) = (request.document for request in world.http.requests)
    assert (told["event"], told["state"], told["incident"]) == ("drift", "note", None)
    assert told["sections"]["Changes"] == "orders: added note text\norders: widened n to bigint"


def test_changed_columns_are_told_where_variables_are_out_of_reach(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk import Variable

    def away(prefix: str) -> list[str]:
        raise ConnectionError("the API server is away")

    monkeypatch.setattr(Variable, "keys", away)
    found = context()
    found["task"].drift = {"orders": ("added note text",)}
    notify_success(found, routes=[{**KINDS["webhook"], "events": ["drift", "recovery"]}])
    assert len(world.posted_to("/hook")) == 1


def tcp(handle: Callable[[socket.socket], None]) -> Callable[[ExitStack], int]:
    """Starts a server that does no more than `handle` with each connection; returns its port."""

    def start(stack: ExitStack) -> int:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(peer,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        stack.callback(server.shutdown, socket.SHUT_RDWR)
        return int(server.getsockname()[1])

    return start


def silent(peer: socket.socket) -> None:
    with peer:
        time.sleep(20)


def dripping(peer: socket.socket) -> None:
    with peer:
        for _ in range(100):
            try:
                peer.send(b"2")
            except OSError:
                return
            time.sleep(0.2)


def closing(peer: socket.socket) -> None:
    peer.close()


def nothing_there(stack: ExitStack) -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def answering(answer: Answer) -> Callable[[ExitStack], int]:
    return lambda stack: stack.enter_context(Receiver(lambda request: answer)).port


LOUD = Answer(400, b"go away " * 100_000)
ELSEWHERE = Answer(302, b"", {"Location": "http://127.0.0.1:9/T0/B0/hush"})
TROUBLES = {
    "silent": (tcp(silent), "may not have got"),
    "dripping": (tcp(dripping), "may not have got"),
    "closing": (tcp(closing), "did not get"),
    "not there": (nothing_there, "did not get"),
    "an error": (answering(Answer(500, b"\x1b[31mno\nway")), "did not get"),
    "loud": (answering(LOUD), "did not get"),
    "elsewhere": (answering(ELSEWHERE), "did not get"),
    "too often": (answering(Answer(429, b"", {"Retry-After": "9" * 30})), "did not get"),
    "a web page": (answering(Answer(404, b"<html>hello")), "did not get"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_routes_that_do_not_work_cost_little_and_keep_no_other_from_its_message(
    trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All but one meet the same trouble. Their tokens are in no line of the log."""
    limit = 2.0
    monkeypatch.setattr(sending, "GIVE_UP_SECONDS", limit)
    start, verdict = TROUBLES[trouble]
    with ExitStack() as stack, caplog.at_level(logging.DEBUG):
        good = stack.enter_context(Receiver())
        port = start(stack)
        mail_port = port
        if verdict == "did not get" and trouble not in ("closing", "not there"):
            # A mail server has refusals of its own.
            mail_port = stack.enter_context(Mailbox(b"554 no")).port
        define_all(monkeypatch, port, mail_port)
        define(monkeypatch, "at_good", conn_type="http", host=good.url)
        routes = [*ALL, Route(webhook_conn_id="at_good")]
        started = time.monotonic()
        results = tell(routes, MESSAGES["failure"])
        took = time.monotonic() - started
    assert [request.document["event"] for request in good.requests] == ["failure"]
    assert [result.error is None for result in results] == [False] * len(ALL) + [True]
    warnings = [r.getMessage() for r in caplog.records if r.name == sending.__name__]
    assert len(warnings) == len(ALL)
    for warning, route in zip(warnings, ALL, strict=True):
        assert f"{verdict} the message about flights (connection {route.conn_id})" in warning
        assert len(warning) < 1_000 and "\x1b" not in warning and "\n" not in warning
    # The imports of the clients and a busy machine are not ours.
    assert took < limit + 10
    for record in caplog.records:
        if not record.name.startswith(("urllib3", "slack_sdk")):  # at DEBUG, which is never on
            assert SECRET not in record.getMessage() and KEY not in record.getMessage()


def test_a_server_that_asks_for_a_moment_gets_it(world: World) -> None:
    asked: list[str] = []

    def answer(request: Request) -> Answer:
        asked.append(request.path)
        if asked.count(request.path) == 1:
            return Answer(429, b"", {"Retry-After": "1"})
        return as_slack(request)

    world.http.answer = answer
    results = send(deliveries(MESSAGES["failure"]))
    assert [result.error for result in results] == [None] * len(ALL)


def test_no_redirection_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would carry the message, and a login, to another server."""
    with Receiver() as other, Receiver() as first:
        moved = Answer(307, b"", {"Location": other.url})
        first.answer = lambda request: moved
        define(monkeypatch, "moved", conn_type="http", host=first.url, login="a", password="secret")
        (result,) = tell([Route(webhook_conn_id="moved")], MESSAGES["failure"])
    assert result.refused and "a redirection, which is not followed" in str(result.error)
    assert len(first.requests) == 1 and other.requests == []


@pytest.mark.parametrize(
    ("fields", "header"),
    [
        ({"password": "a-token"}, "Bearer a-token"),
        ({"login": "me", "password": "pass:word"}, "Basic bWU6cGFzczp3b3Jk"),
        ({}, None),
    ],
)
def test_a_webhook_logs_in_as_its_connection_says(
    fields: dict[str, str],
    header: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """And never with what a ~/.netrc holds for that server."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with Receiver() as receiver:
        extra = {"headers": {"X-Team": "data"}}
        define(monkeypatch, "own", conn_type="http", host=receiver.url, extra=extra, **fields)
        (result,) = tell([Route(webhook_conn_id="own")], MESSAGES["failure"])
    assert result.error is None
    (request,) = receiver.requests
    assert request.headers.get("authorization") == header
    assert request.headers["x-team"] == "data"


UNFIT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a bot without a channel": (
        {"slack_conn_id": "unfit"},
        {"conn_type": "slack", "password": "xoxb-1"},
        "'unfit' is a bot (type slack): add its `channel` to the route",
    ),
    "a webhook with a channel": (
        {"slack_conn_id": "unfit", "channel": "#a"},
        {"conn_type": "slackwebhook", "password": "T0/B0/token-of-others"},
        "a webhook has its own channel. Remove `channel`",
    ),
    "no address": (
        {"teams_conn_id": "unfit"},
        {"conn_type": "http", "host": "example.com"},
        "'unfit' has no address: put all of it, https://..., into its password",
    ),
    "half an address": (
        {"webhook_conn_id": "unfit"},
        {"conn_type": "http", "host": "https://["},
        "'unfit' has no address",
    ),
    "no key": (
        {"pagerduty_conn_id": "unfit"},
        {"conn_type": "pagerduty_events"},
        "'unfit' has no integration key",
    ),
    "a host that is no address": (
        {"pagerduty_conn_id": "unfit"},
        {"conn_type": "pagerduty_events", "host": "events.eu.pagerduty.com", "password": KEY},
        "its host must be empty, or an address such as https://events.eu.pagerduty.com",
    ),
    "no sender": (
        {"email_conn_id": "unfit", "to": ["a@example.com"]},
        {"conn_type": "smtp", "host": "127.0.0.1", "login": "apikey"},
        "'unfit' has no sender: put its address into the extra `from_email`",
    ),
    "an unknown extra": (
        {"webhook_conn_id": "unfit"},
        {"conn_type": "http", "host": "https://example.com", "extra": {"X-Team": "data"}},
        "its extra may hold only `headers`",
    ),
    "a header that is no text": (
        {"webhook_conn_id": "unfit"},
        {"conn_type": "http", "host": "https://example.com", "extra": {"headers": {"X": 1}}},
        "its extra may hold only `headers`",
    ),
    "no such connection": ({"teams_conn_id": "nowhere"}, {"conn_type": "http"}, "nowhere"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_connection_that_does_not_fit_is_logged_with_what_to_do(
    world: World,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    keys, fields, said = UNFIT[case]
    define(monkeypatch, "unfit", **fields)
    results = tell([route_of(keys), ROUTES["webhook"]], MESSAGES["failure"])
    assert [result.refused for result in results] == [True, False]
    assert said in caplog.text and len(world.posted_to("/hook")) == 1


def test_the_password_of_a_connection_is_in_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A receiver may repeat what it was sent."""
    with Receiver() as receiver:
        receiver.answer = lambda request: Answer(403, f"no {request.path}".encode())
        address = f"{receiver.url}/workflows/{SECRET}"
        define(monkeypatch, "at_teams", conn_type="http", password=address)
        receiver.answer = lambda request: Answer(403, f"not for {address}".encode())
        (result,) = tell([ROUTES["teams"]], MESSAGES["failure"])
    assert result.refused and "answers 403" in caplog.text and SECRET not in caplog.text


# Pipeline files with problems.


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A DAG file of a bundle, with the folders around it."""
    for folder in ("dags", "alerts", "messages"):
        (tmp_path / folder).mkdir()
    return tmp_path / "dags" / "shop.py"


def dag_of(*kinds: str, events: tuple[str, ...] = ("failure", "recovery")) -> Any:
    routes = tuple(route_of({**KINDS[kind], "events": events}) for kind in kinds)
    return SimpleNamespace(loadsheet_notify=routes)


def refresh(stub: Path) -> None:
    """As the DAG processor does; the pause after a refusal is over."""
    Messages(SimpleNamespace(messages=stub.parents[1] / "messages")).send()  # type: ignore[arg-type]


def test_each_route_of_a_file_is_told_once_of_its_problems_and_its_repair(
    world: World, stub: Path
) -> None:
    """One that refuses is asked again, and no other is told twice."""
    spec = stub.parent / "none.yml"
    world.http.answer = lambda request: Answer(500 if request.path == "/v2/enqueue" else 200)
    spec_alerts.report_repair(stub, "shop.yml", dag_of("pagerduty", "webhook"))
    for _ in range(2):
        spec_alerts.report_problems(stub, spec, "shop.yml", "1:1 it is broken")
        refresh(stub)
    assert len(world.posted_to("/hook")) == 1 and len(world.posted_to("/v2/enqueue")) == 2
    world.http.answer = as_slack
    refresh(stub)
    refresh(stub)
    assert len(world.posted_to("/hook")) == 1 and len(world.posted_to("/v2/enqueue")) == 3
    spec_alerts.report_repair(stub, "shop.yml", dag_of("pagerduty", "webhook"))
    refresh(stub)
    refresh(stub)
    states = [request.document["state"] for request in world.posted_to("/hook")]
    actions = [request.document["event_action"] for request in world.posted_to("/v2/enqueue")]
    assert states == ["open", "resolved"]
    assert actions == ["trigger"] * 3 + ["resolve"]


def test_a_route_that_was_not_told_of_the_problems_is_not_told_of_the_repair(
    world: World, stub: Path
) -> None:
    world.http.answer = lambda request: Answer(500 if request.path == "/v2/enqueue" else 200)
    spec_alerts.report_repair(stub, "shop.yml", dag_of("pagerduty", "webhook"))
    spec_alerts.report_problems(stub, stub, "shop.yml", "1:1 it is broken")
    refresh(stub)
    world.http.answer = as_slack
    spec_alerts.report_repair(stub, "shop.yml", dag_of("pagerduty", "webhook"))
    refresh(stub)
    assert [request.document["state"] for request in world.posted_to("/hook")] == [
        "open",
        "resolved",
    ]
    assert len(world.posted_to("/v2/enqueue")) == 1
    assert not message_file_of(stub).exists()


def test_a_message_that_cannot_be_read_keeps_no_other_from_being_sent(
    world: World, stub: Path
) -> None:
    """One of an earlier version, or one that a full disk has cut."""
    for name, text in (("a.py", '{"slack_conn_id": "slack"}'), ("b.py", "{"), ("c.py", "[]")):
        message_file_of(stub.parent / name).write_text(text)
    spec_alerts.report_repair(stub, "shop.yml", dag_of("webhook"))
    spec_alerts.report_problems(stub, stub, "shop.yml", "1:1 it is broken")
    refresh(stub)
    assert len(world.posted_to("/hook")) == 1
    assert list(message_file_of(stub).parent.iterdir()) == []


@pytest.mark.parametrize(
    ("events", "told"),
    [
        (("failure", "recovery"), ["open", "resolved"]),
        (("broken_spec", "recovery"), ["open", "resolved"]),
        (("broken_spec",), ["open"]),
        (("differs", "recovery", "drift"), []),
    ],
)
def test_a_route_hears_of_files_as_it_names_them(
    world: World, stub: Path, events: tuple[str, ...], told: list[str]
) -> None:
    dag = dag_of("webhook", events=events)
    spec_alerts.report_repair(stub, "shop.yml", dag)
    spec_alerts.report_problems(stub, stub, "shop.yml", "1:1 it is broken")
    refresh(stub)
    spec_alerts.report_repair(stub, "shop.yml", dag)
    refresh(stub)
    assert [request.document["state"] for request in world.posted_to("/hook")] == told


SLACK = Route(slack_conn_id="slack")
BROKEN_FILES = {
    "notify: {slack_conn_id: slack}\nversion: 7\n": [SLACK],
    "version: 7\nnotify:\n  slack_conn_id: slack\n  events: [drift]\n": [
        Route(slack_conn_id="slack", events=("drift",))
    ],
    "notify:\n- slack_conn_id: slack\n- {email_conn_id: m, to: [a@b.c, d@e.f]}\n": [
        SLACK,
        Route(email_conn_id="m", to=("a@b.c", "d@e.f")),
    ],
    # Up to where it cannot be read.
    "notify:\n- {slack_conn_id: slack}\n- {teams_conn_id: ": [SLACK],
    "notify:\n- {slack_conn_id: slack, to: {a: b}}\n- {x: y}\n- 7\n- - {slack_conn_id: no}\n": [
        SLACK
    ],
    "notify: &a {slack_conn_id: slack}\ntables: {notify: {slack_conn_id: no}}\n": [SLACK],
    "notify: {slack_conn_id: slack, events: [failre], chanel: x}\n": [SLACK],
    "notify: {slack_conn_id: slack, events: failure}\n": [SLACK],
    "notify: slack\n": [],
    "notify: {slack_conn_id: !!str slack}\n": [],
    "notify: {? {a: b} : c, slack_conn_id: slack}\n": [SLACK],
    "- notify: {slack_conn_id: no}\n": [],
    "[" * 200: [],
    "": [],
}


@pytest.mark.parametrize("text", BROKEN_FILES)
def test_the_routes_of_a_broken_file_are_those_that_its_text_names(
    text: str, tmp_path: Path
) -> None:
    spec = tmp_path / "pipelines" / "p" / "pipeline.yml"
    spec.parent.mkdir(parents=True)
    spec.write_text(text)
    assert routes_in(spec) == BROKEN_FILES[text]


def test_every_link_is_one_address() -> None:
    odd = context("x")
    odd["ti"].log_url = "http://127.0.0.1/a b|c>'\"<d\n"
    assert re.fullmatch(r"http://[^\s<>|\"'`]+", failure_message(odd).link)
