"""Routes that do not work, and connections that do not fit: nothing of it harms the task, keeps
another route from its message, or is told with a secret."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from loadsheet.airflow.alerts import email, sending
from loadsheet.airflow.alerts.sending import deliveries, send, tell
from loadsheet.spec.routes import Route, route_of
from tests.airflow.alert_world import (
    ALL,
    FAILURE,
    KEY,
    ROUTES,
    SECRET,
    World,
    as_slack,
    define,
    define_all,
    world,
)
from tests.airflow.receivers import Answer, Mailbox, Receiver, Request

__all__ = ["world"]


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


def breaking_off(peer: socket.socket) -> None:
    """Takes the whole request, and gives the beginning of a good answer."""
    with peer:
        request = b""
        while b"\r\n\r\n" not in request:
            request += peer.recv(65536)
        head, _, body = request.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        while len(body) < length:
            body += peer.recv(65536)
        kind = b"Content-Type: application/json\r\n"
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n" + kind + b'\r\n{"ok": tr')


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
        results = tell(routes, FAILURE)
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
    results = send(deliveries(ALL, FAILURE))
    assert [result.error for result in results] == [None] * len(ALL)


@pytest.mark.parametrize("kind", [kind for kind in ROUTES if kind != "email"])
def test_an_answer_that_breaks_off_is_no_refusal(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its status has come: who takes it for a refusal sends the message again."""
    with ExitStack() as stack:
        define_all(monkeypatch, tcp(breaking_off)(stack), mail_port=9)
        (result,) = tell([ROUTES[kind]], FAILURE)
    assert not result.refused


def test_a_mail_that_one_of_its_readers_cannot_get_is_not_sent_again_to_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    strangers = ["ops@example.com"]
    with Mailbox(strangers=strangers) as mailbox:
        define_all(monkeypatch, 9, mailbox.port)
        (result,) = tell([ROUTES["email"]], FAILURE)
    assert mailbox.recipients == [["team@example.com"]] and not result.refused
    assert "the server refuses ops@example.com (550 no such user)" in caplog.text
    with Mailbox(strangers=ROUTES["email"].to) as mailbox:
        define_all(monkeypatch, 9, mailbox.port)
        (result,) = tell([ROUTES["email"]], FAILURE)
    assert result.refused


def test_a_mail_that_a_server_takes_long_to_accept_is_no_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it looks for viruses first: smtplib calls it a server that has gone."""
    monkeypatch.setattr(email._Hook, "timeout", 0.5)
    with Mailbox(seconds=2) as mailbox:
        define_all(monkeypatch, 9, mailbox.port)
        (result,) = tell([ROUTES["email"]], FAILURE)
    assert len(mailbox.mails) == 1 and not result.refused


def test_a_server_that_asks_for_no_moment_is_not_asked_without_a_break(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was asked 1,780 times in the 6 seconds."""
    monkeypatch.setattr(sending, "GIVE_UP_SECONDS", 3.0)
    with Receiver(lambda request: Answer(429, b"", {"Retry-After": "0"})) as receiver:
        define_all(monkeypatch, receiver.port, mail_port=9)
        (result,) = tell([ROUTES["webhook"]], FAILURE)
    assert result.error and len(receiver.requests) <= 3


def test_no_redirection_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would carry the message, and a login, to another server."""
    with Receiver() as other, Receiver() as first:
        moved = Answer(307, b"", {"Location": other.url})
        first.answer = lambda request: moved
        define(monkeypatch, "moved", conn_type="http", host=first.url, login="a", password="secret")
        (result,) = tell([Route(webhook_conn_id="moved")], FAILURE)
    assert result.refused and "a redirection, which is not followed" in str(result.error)
    assert len(first.requests) == 1 and other.requests == []


@pytest.mark.parametrize(
    ("login", "fields", "header"),
    [
        ("", {"password": "a-token"}, "Bearer a-token"),
        ("", {"login": "me", "password": "pass:word"}, "Basic bWU6cGFzczp3b3Jk"),
        ("", {"login": "me", "password": "ключ"}, "Basic bWU60LrQu9GO0Yc="),
        ("me:pass%3Aword@", {}, "Basic bWU6cGFzczp3b3Jk"),
        ("me:pass@", {"password": "a-token"}, "Bearer a-token"),
        ("", {}, None),
    ],
)
def test_a_webhook_logs_in_as_its_connection_says(
    login: str,
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
        host = receiver.url.replace("//", f"//{login}")
        define(monkeypatch, "own", conn_type="http", host=host, extra=extra, **fields)
        (result,) = tell([Route(webhook_conn_id="own")], FAILURE)
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
    results = tell([route_of(keys), ROUTES["webhook"]], FAILURE)
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
        (result,) = tell([ROUTES["teams"]], FAILURE)
    assert result.refused and "answers 403" in caplog.text and SECRET not in caplog.text


@pytest.mark.parametrize(
    "fields",
    [
        {"login": "me", "password": SECRET},
        {"password": SECRET},
        *[
            {"extra": {"headers": {name: f"Splunk {SECRET}"}}}
            for name in ("Authorization", "Proxy-Authorization", "X-Auth", "Cookie", "X-Api-Key")
        ],
    ],
)
def test_a_receiver_that_repeats_what_it_was_sent_tells_no_login(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Receiver() as receiver:
        last = ("authorization", "proxy-authorization", "x-auth", "cookie", "x-api-key")
        receiver.answer = lambda request: Answer(
            403, "".join(request.headers.get(name, "") for name in last).encode()
        )
        define(monkeypatch, "own", conn_type="http", host=receiver.url, **fields)
        (result,) = tell([Route(webhook_conn_id="own")], FAILURE)
    sent = [value for name, value in receiver.requests[0].headers.items() if name in last]
    assert result.refused and "answers 403: " in caplog.text
    assert SECRET not in caplog.text and sent[0].rpartition(" ")[2] not in caplog.text
