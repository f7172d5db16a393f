"""The PostgreSQL 15 of Debian's packages, where it is installed: the embedded servers have only one
extension with types, pgvector."""

from __future__ import annotations

from pathlib import Path

from demo.servers import PostgresServer

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
EXTENSIONS = Path("/usr/share/postgresql/15/extension")


class DebianServer(PostgresServer):
    """A server of Debian's packages; a context manager."""

    def __init__(self, within: Path | None = None) -> None:
        super().__init__(version=15, within=within)

    def _find_programs(self, scratch: Path) -> Path:
        return PROGRAMS


def has_extension(name: str) -> bool:
    """Whether Debian's server is installed, with the extension."""
    return PROGRAMS.is_dir() and (EXTENSIONS / f"{name}.control").exists()
