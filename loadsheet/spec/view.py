"""What cross-field rules see of a document: its valid parts, with `defaults` applied to each table.

A rule about a table whose `mode` is misspelled would only repeat the error, so rules do not see
such a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from loadsheet.problem import Finding, KeyPath


def inherit(own: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A table's keys with `defaults` filled in. Its own key replaces the default whole, and an own
    null removes it; keys without a value are left out.

    `incremental` comes out as a mapping that includes the lookback, `deletes` as a mapping,
    `primary_key` as a list.
    """
    table = {key: value for key, value in {**defaults, **own}.items() if value is not None}
    lookback = table.pop("lookback", None)
    if "primary_key" in table:
        table["primary_key"] = as_list(table["primary_key"])
    if "incremental" in table:
        incremental = table["incremental"]
        if isinstance(incremental, str):
            incremental = {"cursor": incremental}
        # The nearest wins: a table's lookback beats the one inside an inherited `incremental`, but
        # not the one inside its own.
        is_inherited = own.get("incremental") is None
        if "lookback" not in incremental or (is_inherited and "lookback" in own):
            incremental = {**incremental, "lookback": lookback}
        table["incremental"] = incremental
    if isinstance(table.get("deletes"), str):
        table["deletes"] = {"action": table["deletes"]}
    return table


def as_list(value: str | list[str]) -> list[str]:
    """One name or a list of names, as a list."""
    if isinstance(value, str):
        return [value]
    return value


def limits_of(fresh_within: str | Mapping[str, str | None] | None) -> dict[str, str]:
    """`fresh_within` as a mapping of the limits that it sets; a duration alone is `fail`."""
    if isinstance(fresh_within, str):
        return {"fail": fresh_within}
    return {name: limit for name, limit in (fresh_within or {}).items() if limit is not None}


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

    def error(self, code: str, key: str | KeyPath, message: str, hint: str = "") -> Finding:
        """An error at `key`, or at a path below this entry. For an inherited key it is shown at the
        entry itself."""
        return self._finding(code, key, message, hint, "error")

    def warning(self, code: str, key: str | KeyPath, message: str, hint: str = "") -> Finding:
        """The same as a warning."""
        return self._finding(code, key, message, hint, "warning")

    def _finding(
        self,
        code: str,
        key: str | KeyPath,
        message: str,
        hint: str,
        severity: Literal["error", "warning"],
    ) -> Finding:
        below = (key,) if isinstance(key, str) else key
        path = (*self.path, *below)
        return Finding(code, path=path, message=message, hint=hint, severity=severity)


@dataclass(frozen=True, kw_only=True)
class View:
    """The sound parts of a document."""

    data: Mapping[str, Any]
    broken: Iterable[KeyPath]
    """Paths that already have an error."""
    folder: str
    """The name of the file's folder."""

    def is_sound(self, *path: str | int) -> bool:
        """Whether there is no error at or below `path`."""
        return path not in self._unsound

    def get(self, *path: str, default: Any = None) -> Any:
        """The value at `path`; `default` where there is none, it is null, or it has an error."""
        if not self.is_sound(*path):
            return default
        value: Any = self.data
        for key in path:
            if not isinstance(value, dict):
                return default
            value = value.get(key)
        return default if value is None else value

    @cached_property
    def tables(self) -> tuple[Entry, ...]:
        """Tables without errors; none while `defaults` has errors, which tables could inherit."""
        if not self.is_sound("defaults"):
            return ()
        defaults = self.data.get("defaults") or {}
        return tuple(
            Entry(path=path, own=own, full=inherit(own, defaults))
            for path, own in self._entries("tables")
        )

    @cached_property
    def transforms(self) -> tuple[Entry, ...]:
        """Transforms without errors."""
        return tuple(
            Entry(path=path, own=own, full={"materialized": "table", **own})
            for path, own in self._entries("transforms")
        )

    # Cached, because the rules ask for it once for each table and key.
    @cached_property
    def _unsound(self) -> frozenset[KeyPath]:
        """The paths with an error, and all paths above them."""
        return frozenset(path[: length + 1] for path in self.broken for length in range(len(path)))

    def _entries(self, section: str) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
        entries = self.data.get(section)
        if not isinstance(entries, dict):
            return
        for name, own in entries.items():
            if self.is_sound(section, name):
                yield (section, name), own or {}


def cron_of(view: View) -> str | None:
    """The schedule's cron expression or preset; None where it has none, or has an error."""
    key = ("schedule", "times") if waits_for_assets(view) else ("schedule",)
    cron: str | None = view.get(*key)
    return cron


def waits_for_assets(view: View) -> bool:
    """Whether the schedule is a mapping, which names assets."""
    return isinstance(view.data.get("schedule"), dict)
