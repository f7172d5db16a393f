"""The lineage that `loadsheet lineage --json` prints, as lines that can be read and compared.

    fct.total <- bookings.amount, bookings.rate; conditional bookings.kind
    rows of fct <- filter bookings.kind

Without a word before it, a column's values arrive. Source columns are named without their schema.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

Ends = dict[str, set[str]]
"""Where a column comes from, by how: `direct`, or how it decides."""


def ends_of(document: Mapping[str, Any]) -> dict[str, Ends]:
    """What each mart column, and the rows of each mart, end at: columns of the source and of
    others."""
    into: dict[tuple[str, str], list[tuple[tuple[str, str], list[str]]]] = defaultdict(list)
    for edge in document["edges"]:
        hows = ["direct"] if edge["direct"] else [how for how in edge["how"] if how != "reads"]
        into[_key(edge["to"])].append((_key(edge["from"]), hows))
    found = {}
    for table in document["tables"]:
        if table["kind"] == "mart":
            for name in [*(column["name"] for column in table["columns"]), None]:
                ends: Ends = defaultdict(set)
                for key, hows in into[_key({**table, "table": table["name"], "column": name})]:
                    for how in hows:
                        ends[how] |= _sources(key, into)
                short = table["name"].partition(".")[2]
                found[f"{short}.{name}" if name else f"rows of {short}"] = dict(ends)
    return found


def _sources(key: tuple[str, str], into: Mapping[Any, Any]) -> set[str]:
    """The columns without a direct edge into them that `key` is made of."""
    direct = [source for source, hows in into.get(key, ()) if hows == ["direct"]]
    if not direct:
        _, _, name = key[1].partition(".")
        return {name}
    return set().union(*(_sources(source, into) for source in direct))


def _key(reference: Mapping[str, Any]) -> tuple[str, str]:
    return reference["kind"], f"{reference['table']}.{reference['column'] or '*'}"


def written(ends: Mapping[str, Ends]) -> list[str]:
    """The lines."""
    return [f"{name} <- {_written(ends[name])}".rstrip() for name in ends]


def _written(ends: Ends) -> str:
    parts = []
    for how in sorted(ends, key=lambda how: (how != "direct", how)):
        names = ", ".join(sorted(ends[how]))
        parts.append(names if how == "direct" else f"{how} {names}")
    return "; ".join(parts)


def read(lines: Iterable[str]) -> dict[str, Ends]:
    """The inverse of `written`."""
    found: dict[str, Ends] = {}
    for line in lines:
        name, _, text = line.partition(" <-")
        ends: Ends = {}
        for part in filter(None, text.strip().split("; ")):
            how, _, names = part.partition(" ")
            if "." in how:
                how, names = "direct", part
            ends[how] = set(names.split(", "))
        found[name] = ends
    return found
