"""A table's own keys over the `defaults` block, in the long form that rules and models read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def inherit(own: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The table's keys with `defaults` filled in: its own key wins whole, null un-inherits, keys without value go.

    `incremental` comes out as a mapping that carries its lookback; keys and column lists come out as lists.
    """
    table = {key: value for key, value in {**defaults, **own}.items() if value is not None}
    lookback = table.pop("lookback", None)
    if "primary_key" in table:
        table["primary_key"] = as_list(table["primary_key"])
    if "incremental" in table:
        short = table["incremental"]
        incremental = {"cursor": short} if isinstance(short, str) else dict(short)
        # Nearest wins: a table's lookback beats the one inside an inherited incremental, not one beside it.
        inherited = own.get("incremental") is None
        if "lookback" not in incremental or (inherited and "lookback" in own):
            incremental["lookback"] = lookback
        table["incremental"] = incremental
    return table


def as_list(value: str | list[str]) -> list[str]:
    """One name or a list of names, as a list."""
    return [value] if isinstance(value, str) else value
