"""The server of `loadsheet ui`: who may read, what is served, and what no answer can do."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from loadsheet.errors import InputError
from loadsheet.page.files import static_files
from loadsheet.page.server import PageServer
from loadsheet.redact import register_secrets

HOSTILE = '<img src=x onerror="alert(1)">\x1b[2J\u202e\ud800'


def answer(path: Sequence[str], asks_source: bool) -> dict[str, Any]:
    if path == ["bug"]:
        raise ZeroDivisionError("a bug")
    if path == ["gone"]:
        raise InputError("there is no pipeline 'gone' (password=hunter22)")
    return {"path": list(path), "asks_source": asks_source, "hostile": HOSTILE}


@pytest.fixture
def bugs() -> list[BaseException]:
    return []


@pytest.fixture
def server(bugs: list[BaseException]) -> Iterator[PageServer]:
    with PageServer(0, answer, bugs.append) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class Answer:
    def __init__(self, response: http.client.HTTPResponse):
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode()


def ask(
    server: PageServer, path: str, method: str = "GET", token: str | None = None, **headers: str
) -> Answer:
    """A request as the page sends it; without the token where it is empty."""
    token = server.token if token is None else token
    sent = {"Cookie": f"{server.cookie}={token}"} if token else {}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, headers={**sent, **headers})
        return Answer(connection.getresponse())
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/", "/app.js", "/api/session", "/api/pipelines", "/nothing"])
@pytest.mark.parametrize("token", ["", "wrong"])
def test_nothing_is_told_without_the_token(server: PageServer, path: str, token: str) -> None:
    refused = ask(server, path, token=token)
    assert refused.status == 401
    assert "loadsheet ui" in refused.text
    assert ask(server, path).status != 401


def test_the_printed_address_becomes_a_cookie_and_leaves_the_history(server: PageServer) -> None:
    opened = ask(server, server.url.partition(f":{server.port}")[2], token="")
    assert opened.status == 303
    assert opened.headers["Location"] == "./"
    cookie = opened.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    assert ask(server, "/", token="", Cookie=cookie.partition(";")[0]).status == 200


def test_the_token_of_another_server_opens_nothing(server: PageServer) -> None:
    opened = ask(server, "/?token=another", token="")
    assert opened.status == 401
    assert "Set-Cookie" not in opened.headers


@pytest.mark.parametrize("path", ["/", "/api/pipelines"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "", "[::1]"])
def test_a_name_that_another_site_has_given_this_address_is_refused(
    server: PageServer, host: str, path: str
) -> None:
    assert ask(server, path, Host=host.format(port=server.port)).status == 421
    assert ask(server, path, Host=f"localhost:{server.port}").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
def test_it_only_reads(server: PageServer, method: str) -> None:
    refused = ask(server, "/api/pipelines", method)
    assert refused.status == 405
    assert refused.headers["Allow"] == "GET"


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/..%2fserver.py",
        "/%2e%2e/server.py",
        "//etc/passwd",
        "/static/app.js",
        "/app.js/",
        "/app.js%00",
        "/__init__.py",
        "/.env",
    ],
)
def test_no_other_file_is_served(server: PageServer, path: str) -> None:
    assert ask(server, path).status == 404
    assert ask(server, "/app.js").status == 200


@pytest.mark.parametrize("path", ["/", "/app.css", "/api/session", "/nothing", "/api/gone"])
def test_every_answer_forbids_scripts_that_are_not_the_pages_own(
    server: PageServer, path: str
) -> None:
    headers = ask(server, path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


def test_names_in_a_path_may_hold_any_character(server: PageServer) -> None:
    found = json.loads(ask(server, "/api/pipelines/a%2Fb/targets/table/%C3%A9%20x").text)
    assert found["path"] == ["pipelines", "a/b", "targets", "table", "é x"]


def test_the_sources_are_asked_unless_the_page_asks_not_to(server: PageServer) -> None:
    assert json.loads(ask(server, "/api/pipelines").text)["asks_source"]
    assert not json.loads(ask(server, "/api/pipelines?source=no").text)["asks_source"]


def test_hostile_text_stays_a_value(server: PageServer) -> None:
    found = ask(server, "/api/x")
    assert found.headers["Content-Type"].startswith("application/json")
    assert "\x1b" not in found.text
    assert json.loads(found.text)["hostile"] == HOSTILE.replace("\ud800", "?")


def test_what_is_not_there_is_said_without_secrets(server: PageServer) -> None:
    register_secrets("hunter22")
    found = ask(server, "/api/gone")
    assert found.status == 404
    assert "there is no pipeline 'gone'" in json.loads(found.text)["error"]
    assert "hunter22" not in found.text


def test_a_bug_is_reported_and_ends_nothing(server: PageServer, bugs: list[BaseException]) -> None:
    assert ask(server, "/api/bug").status == 500
    assert [type(bug) for bug in bugs] == [ZeroDivisionError]
    assert ask(server, "/api/session").status == 200


def test_it_listens_on_loopback_alone(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_a_port_in_use_is_an_error(server: PageServer) -> None:
    with pytest.raises(OSError, match="in use"):
        PageServer(server.port, answer, print)


# What would turn text into markup, run text, or load something from elsewhere.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    r"|DOMParser|srcdoc|javascript:|https?://(?!www\.w3\.org/)"
    r"|<script>|\son\w+=\"|style=\""
)


@pytest.mark.parametrize("name", sorted(static_files()))
def test_the_page_builds_no_markup_and_loads_nothing_from_elsewhere(name: str) -> None:
    text = static_files()[name].content.decode()
    assert not FORBIDDEN.findall(text)
    # Below any path: an address that begins with a slash would leave it.
    assert not re.findall(r"""(?:src|href|from|fetch\()[=\s]*["'`]/""", text)


@pytest.mark.parametrize(
    "bad", ["one.innerHTML = x", "<script>alert(1)</script>", 'fetch("https://cdn.example/x.js")']
)
def test_the_search_for_markup_finds_it(bad: str) -> None:
    assert FORBIDDEN.search(bad)


def test_every_module_that_the_page_imports_is_there() -> None:
    files = static_files()
    for name, file in files.items():
        for imported in re.findall(r'from "\./([^"]+)"', file.content.decode()):
            assert imported in files, f"{name} imports {imported}"
