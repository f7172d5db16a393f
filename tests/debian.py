"""The PostgreSQL 15 of Debian's packages, where it is installed: the embedded servers have only one
extension with types, pgvector, which Debian 12 has no package of."""

from __future__ import annotations

import os
from pathlib import Path

from demo.servers import PostgresServer

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
EXTENSIONS = Path("/usr/share/postgresql/15/extension")
VERSION = os.environ.get("LOADSHEET_POSTGRES", "16")
"""Of source and warehouse in most tests: 16, 18, or `debian` for the 15 of Debian's packages."""


class DebianServer(PostgresServer):
    """A server of Debian's packages; a context manager."""

    def __init__(self, within: Path | None = None, settings: dict[str, str] | None = None) -> None:
        super().__init__(version=15, within=within, settings=settings)

    def _find_programs(self, scratch: Path) -> Path:
        return PROGRAMS


def has_extension(name: str) -> bool:
    """Whether Debian's server is installed, with the extension."""
    return PROGRAMS.is_dir() and (EXTENSIONS / f"{name}.control").exists()


def has_vectors() -> bool:
    """Whether the servers of most tests have pgvector."""
    return VERSION != "debian" or has_extension("vector")
