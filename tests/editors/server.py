"""The YAML language server, spoken to as an editor does: JSON-RPC over its standard input and
output."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.npm import NODE

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODULES = HERE / "node_modules"
SETTINGS = {
    "yaml": {
        "validate": True,
        "hover": True,
        "completion": True,
        "schemaStore": {"enable": False},
        "kubernetesCRDStore": {"enable": False},
        "schemas": {},
    }
}


class LanguageServer:
    """One server process for a workspace. It has no network: an attempt ends it."""

    def __init__(self, settings: dict[str, Any] = SETTINGS):
        self._settings, self._sent = settings, 0
        self._published: dict[str, list[dict[str, Any]]] = {}
        binary = MODULES / "yaml-language-server" / "bin" / "yaml-language-server"
        self._process = subprocess.Popen(
            [NODE, "--require", HERE / "no_network.cjs", binary, "--stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        capabilities = {
            "workspace": {"configuration": True, "workspaceFolders": True},
            "textDocument": {
                "hover": {"contentFormat": ["markdown"]},
                "completion": {
                    "completionItem": {"snippetSupport": True, "documentationFormat": ["markdown"]}
                },
            },
        }
        folders = [{"uri": ROOT.as_uri(), "name": "project"}]
        root = ROOT.as_uri()
        self.ask(
            "initialize",
            processId=None,
            rootUri=root,
            capabilities=capabilities,
            workspaceFolders=folders,
        )
        self._tell("initialized")
        self._tell("workspace/didChangeConfiguration", settings=self._settings)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with suppress(BrokenPipeError):  # of what was not sent before it had gone
            self._process.communicate()

    def open(self, uri: str, text: str) -> None:
        """Show the server `text` as the file `uri`, which stays open."""
        self._published.pop(uri, None)
        self._tell(
            "textDocument/didOpen",
            textDocument={"uri": uri, "languageId": "yaml", "version": 1, "text": text},
        )

    def diagnostics(self, uri: str) -> list[dict[str, Any]]:
        """What the server says of an open file; it takes its time (0.2 s), for all that were opened
        together."""
        while uri not in self._published:
            self._receive()
        return self._published[uri]

    def hover(self, uri: str, line: int, character: int) -> str:
        """The text over a place in an open file; lines and characters from 0."""
        place = {"line": line, "character": character}
        found = self.ask("textDocument/hover", textDocument={"uri": uri}, position=place)
        return found["contents"]["value"] if found else ""

    def completions(self, uri: str, line: int, character: int) -> dict[str, dict[str, Any]]:
        """What may be written at a place in an open file, by label."""
        place = {"line": line, "character": character}
        found = self.ask("textDocument/completion", textDocument={"uri": uri}, position=place)
        return {
            item["label"]: item for item in (found["items"] if isinstance(found, dict) else found)
        }

    def ask(self, method: str, **params: Any) -> Any:
        """The result of a request; what comes in between is served."""
        self._sent += 1
        self._send({"id": self._sent, "method": method, "params": params})
        while True:
            message = self._receive()
            if message.get("id") == self._sent and "method" not in message:
                assert "error" not in message, message
                return message["result"]

    def _tell(self, method: str, **params: Any) -> None:
        self._send({"method": method, "params": params})

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout
        length = 0
        while (header := self._process.stdout.readline().strip()) or not length:
            if not header:
                raise self._gone()
            name, _, value = header.partition(b": ")
            length = int(value) if name == b"Content-Length" else length
        message: dict[str, Any] = json.loads(self._process.stdout.read(length))
        if message.get("method") == "textDocument/publishDiagnostics":
            self._published[message["params"]["uri"]] = message["params"]["diagnostics"]
        elif "method" in message and "id" in message:
            self._answer(message)
        return message

    def _answer(self, message: dict[str, Any]) -> None:
        result: Any = None
        if message["method"] == "workspace/configuration":
            result = [self._settings.get(item["section"]) for item in message["params"]["items"]]
        self._send({"id": message["id"], "result": result})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        try:
            self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def _gone(self) -> AssertionError:
        assert self._process.stderr
        return AssertionError(
            f"the language server has gone: {self._process.stderr.read().decode()}"
        )
