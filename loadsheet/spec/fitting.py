"""A new table's entry beside its file's `defaults`: what they say already goes, what does not fit is taken back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from loadsheet.spec.inherit import inherit


def fitted(
    entry: Mapping[str, Any], key: Collection[str], columns: Collection[str], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """`entry` such that, with `defaults` filled in, the table is carried as `entry` alone says.

    `key` is what identifies the table's rows, `columns` are all it has. A cursor, or columns to carry, that the
    defaults name and the table has too are the file's own convention and win over the entry's.
    """
    inherited, own = inherit({}, defaults), dict(entry)
    if "primary_key" in inherited:
        if inherited["primary_key"] == list(key):
            own.pop("primary_key", None)
        else:
            own.setdefault("primary_key", None)
    if "incremental" in inherited:
        if inherited["incremental"]["cursor"] in columns and key:
            own.pop("incremental", None)
            own.pop("mode", None)
        else:
            own.setdefault("incremental", None)
    _fit_columns(own, inherited.get("columns", {}), columns)
    _fit_mode(own, inherited, key)
    if own.get("mode") == "append" and defaults.get("lookback") is not None:
        own["lookback"] = None  # what is appended may not be read twice
    return own


def _fit_columns(own: dict[str, Any], inherited: Mapping[str, list[str]], columns: Collection[str]) -> None:
    named = inherited.get("include") or inherited.get("exclude") or []
    if "include" in inherited and set(named) <= set(columns):
        own.pop("columns", None)
        return
    left_out = own.get("columns", {}).get("exclude", [])
    if "exclude" in inherited:
        left_out = [*(name for name in named if name in columns), *(name for name in left_out if name not in named)]
    if "exclude" in inherited and left_out == named:
        own.pop("columns", None)
    elif left_out or inherited:
        own["columns"] = {"exclude": left_out} if left_out else None


def _fit_mode(own: dict[str, Any], inherited: Mapping[str, Any], key: Collection[str]) -> None:
    full = {**inherited, **own}
    mode, incremental = inherited.get("mode"), full.get("incremental")
    impossible = {"append": not incremental, "replace": bool(incremental), "merge": not key}
    if "mode" not in own and mode and impossible[mode]:
        own["mode"] = None
