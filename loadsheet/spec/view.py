"""What cross-field rules look at: the parts of a document that are sound by themselves.

A rule about a table whose `mode` is misspelled would only add noise, so such a table is not shown to rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from loadsheet.spec.finding import Finding, Path
from loadsheet.spec.inherit import inherit


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One table or transform: as written, and (for tables) with the defaults merged in."""

    path: Path
    own: Mapping[str, Any]
    full: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The table's or transform's name."""
        return str(self.path[-1])

    def finding(self, code: str, key: str, message: str, hint: str = "") -> Finding:
        """An error at `key` of this entry; where the key is inherited, at the entry itself."""
        return Finding(code, path=(*self.path, key), message=message, hint=hint)


@dataclass(frozen=True, kw_only=True)
class View:
    """The sound parts of `data`; `broken` are the paths that already have an error, `folder` the file's folder."""

    data: Mapping[str, Any]
    broken: Iterable[Path]
    folder: str

    def sound(self, *path: str | int) -> bool:
        """Whether nothing is wrong at or under `path`."""
        return path not in self._unsound

    def get(self, *path: str, default: Any = None) -> Any:
        """The value at `path`; `default` where there is none, it is null, or something is wrong with it."""
        value: Any = self.data
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return default if value is None or not self.sound(*path) else value

    @cached_property
    def tables(self) -> tuple[Entry, ...]:
        """Tables with nothing wrong in them; none while `defaults` has errors, which could be inherited."""
        if not self.sound("defaults"):
            return ()
        defaults = self.data.get("defaults") or {}
        return tuple(Entry(path=path, own=own, full=inherit(own, defaults)) for path, own in self._entries("tables"))

    @cached_property
    def transforms(self) -> tuple[Entry, ...]:
        """Transforms with nothing wrong in them."""
        return tuple(
            Entry(path=path, own=own, full={"materialized": "table", **own})
            for path, own in self._entries("transforms")
        )

    @cached_property
    def _unsound(self) -> frozenset[Path]:
        return frozenset(path[: length + 1] for path in self.broken for length in range(len(path)))

    def _entries(self, section: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        entries = self.data.get(section)
        for name, own in entries.items() if isinstance(entries, dict) else ():
            if self.sound(section, name):
                yield (section, name), own or {}
