"""Chromium without a window, driven by its debugging protocol over a pipe: no port, no driver."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
"""None where there is none: then the tests that need it are skipped."""
# A machine with a load of 20 needs 20 s to start it.
_LONGEST = 120.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # as root, and in containers, it would not start
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)

READY = "document.querySelector('main h1') && !document.querySelector('main[aria-busy]')"
"""The page shows what its address asks for."""
AXE = """axe.run().then(found => found.violations.map(
    one => `${one.id}: ${one.nodes.map(node => node.html.slice(0, 120)).join(' | ')}`))"""
"""The rules of accessibility that are broken."""


class Chromium:
    """One browser with one page."""

    def __enter__(self) -> Self:
        assert PROGRAM
        self._folder = tempfile.mkdtemp(prefix="loadsheet-chromium-")
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        # Theirs become 3 and 4, so none of ours may have these numbers when they are copied.
        spare = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs_in, theirs_out)]
        actions: list[Any] = [
            (os.POSIX_SPAWN_DUP2, spare[0], 3),
            (os.POSIX_SPAWN_DUP2, spare[1], 4),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        command = [PROGRAM, *_FLAGS, f"--user-data-dir={self._folder}", "about:blank"]
        self._pid = os.posix_spawn(PROGRAM, command, os.environ, file_actions=actions)
        for end in (theirs_in, theirs_out, *spare):
            os.close(end)
        self._rest, self._number, self._session = b"", 0, ""
        self._events: list[dict[str, Any]] = []
        self._attach()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, EOFError):
            self.call("Browser.close")
        os.close(self._to)
        os.close(self._from)
        os.waitpid(self._pid, 0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _attach(self) -> None:
        targets = self.call("Target.getTargets")["targetInfos"]
        [page] = [one["targetId"] for one in targets if one["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the protocol. Raises AssertionError where it fails."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]  # type: ignore[no-any-return]
            self._events.append(answer)

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + _LONGEST
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(deadline - time.monotonic(), 0))
            assert ready, "Chromium does not answer"
            block = os.read(self._from, 1 << 20)
            if not block:
                raise EOFError("Chromium has ended")
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)  # type: ignore[no-any-return]

    def js(self, expression: str) -> Any:
        """The value of an expression in the page, awaited where it is a promise."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until the condition holds in the page."""
        deadline = time.monotonic() + _LONGEST
        while not self.js(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"waited for {condition}: {self.text()}"
            time.sleep(0.02)

    def text(self) -> str:
        """What the page shows."""
        return str(self.js("document.body?.innerText ?? ''"))

    def open(self, url: str) -> None:
        """Open an address as if it were typed, and wait until its document is there."""
        # A change of the part behind # alone loads nothing.
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.wait("location.href !== 'about:blank' && document.readyState === 'complete'")

    def look(self, width: int, dark: bool = False) -> None:
        """The size of the window, and the theme of the system."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])

    def press(self, key: str) -> None:
        """A key, such as `Tab` or `Enter`."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text
            )

    def problems(self) -> list[str]:
        """Since it was last asked: exceptions, and what the page or the browser has complained
        about, such as a breach of the page's policy."""
        self.js("0")  # what has happened until now has been received
        found = [
            json.dumps(event["params"])
            for event in self._events
            if event.get("method")
            in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        ]
        self._events.clear()
        return found


def broken_rules(
    page: Chromium, axe: str, views: Mapping[str, str]
) -> dict[tuple[str, int], list[str]]:
    """The rules of accessibility that the views break, by their names and the window's width: all
    of them wide and dark, and two of them narrow and light."""
    page.js(axe)
    looks = [(name, 1300, True) for name in views]
    looks += [("overview", 390, False), ("table", 390, False)]
    found = {}
    for name, width, dark in looks:
        page.look(width, dark)
        go(page, views[name])
        broken = page.js(AXE)
        if broken:
            found[name, width] = broken
    return found


def go(page: Chromium, view: str) -> None:
    """Follow an address within the page."""
    page.js(
        f"new Promise(done => {{ if (location.hash === {json.dumps(view)}) done();"
        " addEventListener('hashchange', () => done(), {once: true});"
        f" location.hash = {json.dumps(view)}; }})"
    )
    page.wait(READY)
