"""What cross-field rules look at: the valid parts of a document, with `defaults` applied to each
table.

A rule about a table whose `mode` is misspelled would only add noise, so such a table is not shown
to rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from loadsheet.problem import Finding, KeyPath


def inherit(own: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The table's keys with `defaults` filled in: its own key wins whole, null un-inherits, keys
    without value go.

    `incremental` comes out as a mapping that carries its lookback; keys and column lists come out as lists.
    """
    table = {key: value for key, value in {**defaults, **own}.items() if value is not None}
    lookback = table.pop("lookback", None)
    if "primary_key" in table:
        table["primary_key"] = as_list(table["primary_key"])
    if "incremental" in table:
        short = table["incremental"]
        incremental = {"cursor": short} if isinstance(short, str) else dict(short)
        # Nearest wins: a table's lookback beats the one inside an inherited incremental, not one
        # beside it.
        inherited = own.get("incremental") is None
        if "lookback" not in incremental or (inherited and "lookback" in own):
            incremental["lookback"] = lookback
        table["incremental"] = incremental
    return table


def as_list(value: str | list[str]) -> list[str]:
    """One name or a list of names, as a list."""
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One table or transform: as written, and (for tables) with the defaults merged in."""

    path: KeyPath
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
    """The sound parts of `data`; `broken` are the paths that already have an error, `folder` the
    file's folder."""

    data: Mapping[str, Any]
    broken: Iterable[KeyPath]
    folder: str

    def sound(self, *path: str | int) -> bool:
        """Whether nothing is wrong at or under `path`."""
        return path not in self._unsound

    def get(self, *path: str, default: Any = None) -> Any:
        """The value at `path`; `default` where there is none, it is null, or something is wrong
        with it."""
        value: Any = self.data
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return default if value is None or not self.sound(*path) else value

    @cached_property
    def tables(self) -> tuple[Entry, ...]:
        """Tables with nothing wrong in them; none while `defaults` has errors, which could be
        inherited."""
        if not self.sound("defaults"):
            return ()
        defaults = self.data.get("defaults") or {}
        return tuple(
            Entry(path=path, own=own, full=inherit(own, defaults))
            for path, own in self._entries("tables")
        )

    @cached_property
    def transforms(self) -> tuple[Entry, ...]:
        """Transforms with nothing wrong in them."""
        return tuple(
            Entry(path=path, own=own, full={"materialized": "table", **own})
            for path, own in self._entries("transforms")
        )

    @cached_property
    def _unsound(self) -> frozenset[KeyPath]:
        return frozenset(path[: length + 1] for path in self.broken for length in range(len(path)))

    def _entries(self, section: str) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
        entries = self.data.get(section)
        for name, own in entries.items() if isinstance(entries, dict) else ():
            if self.sound(section, name):
                yield (section, name), own or {}
