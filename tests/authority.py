"""A certificate authority of a test's own, and what it signs, by the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


class Authority:
    """An authority whose files are in `folder`; `file` is its own certificate."""

    def __init__(self, folder: Path):
        openssl = shutil.which("openssl")
        if not openssl:
            pytest.skip("the openssl command is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        self._openssl = openssl
        self.folder = folder
        self.file = folder / "ca.pem"
        self._run(
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=Company"
        )

    def issue(self, name: str, subject: str = "") -> tuple[Path, Path]:
        """A certificate for `subject` (`IP:127.0.0.1`, `DNS:db.example.com`; empty: a client's),
        and its key. The files are called `name`, which is the common name as well."""
        (self.folder / "names").write_text(f"subjectAltName={subject}\n" if subject else "")
        self._run(
            f"req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        )
        self._run(
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem"
            " -days 2 -extfile names"
        )
        key = self.folder / f"{name}.key"
        key.chmod(0o600)  # libpq and PostgreSQL refuse a key that others may read
        return self.folder / f"{name}.pem", key

    def _run(self, command: str) -> None:
        subprocess.run(
            [self._openssl, *command.split()], cwd=self.folder, check=True, capture_output=True
        )
