"""A line to a PostgreSQL server that answers with lies: texts of the columns that it is told to
change arrive with something behind them, and where it is asked to, so do numbers and all other
values. Rows of COPY pass as they are."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

Lie = Callable[[str, bytes], bytes]
"""What becomes of a text in the column of this name."""
_TEXTS = {18, 19, 25, 1043}  # "char", name, text, varchar
_ASKS_FOR_ENCRYPTION = {80877103, 80877104}


class Liar:
    """A line to `target`; clients connect to `port`. A context manager. `seen` are the columns of
    texts in all answers so far; those of any type, with `every_type`."""

    def __init__(self, target: tuple[str, int], every_type: bool = False):
        self.target = target
        self.every_type = every_type
        self.seen: set[str] = set()
        self.lie: Lie = lambda name, text: text
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        answers = _Answers(self)
        with client, socket.create_connection(self.target) as server:
            asking = threading.Thread(
                target=_carry, args=(client, server, answers.from_client), daemon=True
            )
            asking.start()
            _carry(server, client, answers.from_server)
            asking.join()


def _carry(one: socket.socket, other: socket.socket, change: Callable[[bytes], bytes]) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(change(data))
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)
        one.shutdown(socket.SHUT_RD)


@dataclass
class _Answers:
    """What the server says on one line, message by message."""

    liar: Liar
    columns: list[tuple[str, bool]] = field(default_factory=list)
    """The name of each column of the answer, and whether it holds texts."""
    rest: bytes = b""
    refusals: int = 0
    """How many single bytes refuse encryption."""

    def from_client(self, data: bytes) -> bytes:
        if len(data) == 8 and struct.unpack("!I", data[4:])[0] in _ASKS_FOR_ENCRYPTION:
            self.refusals += 1
        return data

    def from_server(self, data: bytes) -> bytes:
        said = b""
        self.rest += data
        while self.refusals and self.rest:
            self.refusals -= 1
            said, self.rest = said + self.rest[:1], self.rest[1:]
        while len(self.rest) >= 5:
            length = 1 + struct.unpack("!I", self.rest[1:5])[0]
            if len(self.rest) < length:
                break
            message, self.rest = self.rest[:length], self.rest[length:]
            said += self._changed(message)
        return said

    def _changed(self, message: bytes) -> bytes:
        body = message[5:]
        if message[:1] == b"T":
            self._describe(body)
        elif message[:1] == b"D":
            body = self._row(body)
            return b"D" + struct.pack("!I", len(body) + 4) + body
        return message

    def _describe(self, body: bytes) -> None:
        self.columns = []
        place = 2
        for _ in range(struct.unpack("!H", body[:2])[0]):
            end = body.index(b"\0", place)
            name = body[place:end].decode()
            kind, is_binary = struct.unpack("!6xI6xH", body[end + 1 : end + 19])
            is_text = (kind in _TEXTS or self.liar.every_type) and not is_binary
            self.columns.append((name, is_text))
            if is_text:
                self.liar.seen.add(name)
            place = end + 19

    def _row(self, body: bytes) -> bytes:
        said = body[:2]
        place = 2
        for name, is_text in self.columns:
            (length,) = struct.unpack("!i", body[place : place + 4])
            place += 4
            value = body[place : place + max(length, 0)]
            place += len(value)
            if length >= 0 and is_text:
                value = self.liar.lie(name, value)
                length = len(value)
            said += struct.pack("!i", length) + value
        return said
