"""A line to a server that counts the bytes on it, both ways."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class Relay:
    """Passes connections to `dsn` on to the server; a context manager. `dsn` then is the address of
    the relay."""

    def __init__(self, dsn: str):
        url = urlsplit(dsn)
        self._server = (url.hostname or "", url.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.bytes = 0
        login, _, _ = url.netloc.rpartition("@")
        place = f"{login}@127.0.0.1:{self._listener.getsockname()[1]}"
        self.dsn = url._replace(netloc=place).geturl()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, read: socket.socket, write: socket.socket) -> None:
        with suppress(OSError):
            while block := read.recv(1 << 16):
                with self._lock:
                    self.bytes += len(block)
                write.sendall(block)
        with suppress(OSError):
            write.shutdown(socket.SHUT_WR)
