"""Rules about names: what PostgreSQL would cut off or nobody means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from loadsheet.names import is_pattern, plain
from loadsheet.spec.finding import Finding, Path
from loadsheet.spec.inherit import as_list
from loadsheet.spec.view import View
from loadsheet.spec.words import shown

MAX_BYTES = 63
"""PostgreSQL's NAMEDATALEN - 1: it cuts longer names off without a word, and two of them may then be one."""

Place = tuple[Path, Literal["key", "value"], str]


def names_fit(view: View) -> Iterator[Finding]:
    """No schema, table, column or transform name is longer than PostgreSQL can hold."""
    for path, at, name in _places(view):
        size = len(name.encode("utf-8"))
        if size > MAX_BYTES:
            message = f"the name {shown(name)} has {size} bytes; PostgreSQL holds {MAX_BYTES}"
            yield Finding(
                "bad-name",
                path=path,
                message=message,
                hint="write what PostgreSQL keeps of it: the first 63 bytes",
                at=at,
            )


def table_names_are_plain(view: View) -> Iterator[Finding]:
    """`bookings.flights` is possible, but rarely meant."""
    for table in view.tables:
        if "." in table.name:
            message = f"{table.name!r} is taken as {'a pattern' if is_pattern(table.name) else 'the name of one table'}"
            hint = "name the schema once, in source.schema"
            yield Finding("odd-name", path=table.path, message=message, hint=hint, at="key", severity="warning")


def _places(view: View) -> Iterator[Place]:
    for path in (("source", "schema"), ("warehouse", "schema"), ("warehouse", "mart_schema")):
        yield path, "value", view.get(*path, default="")
    if view.sound("defaults"):
        yield from _columns(("defaults",), view.data.get("defaults") or {})
    for entry in (*view.tables, *view.transforms):
        yield entry.path, "key", plain(entry.name) if entry.path[0] == "tables" else entry.name
        yield from _columns(entry.path, entry.own)


def _columns(path: Path, own: Any) -> Iterator[Place]:
    incremental, columns = own.get("incremental"), own.get("columns") or {}
    if isinstance(incremental, dict):
        yield (*path, "incremental", "cursor"), "value", incremental["cursor"]
    else:
        yield (*path, "incremental"), "value", incremental or ""
    for key in ("primary_key", "unique_key"):
        yield from (((*path, key), "value", name) for name in as_list(own.get(key) or []))
    for key in ("include", "exclude"):
        yield from (((*path, "columns", key), "value", name) for name in columns.get(key, ()))


NAME_RULES = (names_fit, table_names_are_plain)
