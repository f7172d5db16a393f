"""Secrets that are looked for wherever somebody could read them, and the search."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, quote_plus

HARD = "c@n4ry/p:ss?w#rd%41&é"
"""A password of characters that must be encoded in a URI."""


def forms(secret: str) -> set[str]:
    """How a secret may be written: as it is, percent-encoded, in JSON, as Python shows it, in base64."""
    encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
    return {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1], encoded}


def found(places: Mapping[str, str], secrets: Iterable[str]) -> set[tuple[str, str]]:
    """Which secret is shown in which place; the places are texts by name."""
    return {
        (name, secret)
        for secret in secrets
        for form in forms(secret)
        for name, text in places.items()
        if form in text
    }  # fmt: skip


def files(*folders: Path) -> dict[str, str]:
    """Every file below `folders` as text."""
    every = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return {str(file): file.read_bytes().decode(errors="replace") for file in every}


@contextmanager
def process_arguments(every: float = 0.2) -> Iterator[dict[str, str]]:
    """The command lines of all processes that are seen while the block runs."""
    seen: dict[str, str] = {}
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(every):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    seen[f"{file.parent.name} {line[:40]}"] = line

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()
