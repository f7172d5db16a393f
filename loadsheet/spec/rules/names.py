"""Rules about the names of tables and transforms, and about patterns used as table names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from loadsheet.names import is_pattern, plain
from loadsheet.problem import Finding, KeyPath
from loadsheet.spec.suggest import shown
from loadsheet.spec.view import Entry, View, as_list

MAX_BYTES = 63
"""PostgreSQL's NAMEDATALEN - 1: it cuts longer names off without a word, and two of them may then
be one."""

Place = tuple[KeyPath, Literal["key", "value"], str]


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
            message = (
                f"{table.name!r} is taken as"
                f" {'a pattern' if is_pattern(table.name) else 'the name of one table'}"
            )
            hint = "name the schema once, in source.schema"
            yield Finding(
                "odd-name",
                path=table.path,
                message=message,
                hint=hint,
                at="key",
                severity="warning",
            )


def _places(view: View) -> Iterator[Place]:
    for path in (("source", "schema"), ("warehouse", "schema"), ("warehouse", "mart_schema")):
        yield path, "value", view.get(*path, default="")
    if view.sound("defaults"):
        yield from _columns(("defaults",), view.data.get("defaults") or {})
    for entry in (*view.tables, *view.transforms):
        yield entry.path, "key", plain(entry.name) if entry.path[0] == "tables" else entry.name
        yield from _columns(entry.path, entry.own)


def _columns(path: KeyPath, own: Any) -> Iterator[Place]:
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


_ONE_TABLE = ("primary_key", "columns")


def patterns_name_no_columns(table: Entry, _: View) -> Iterator[Finding]:
    """What is said of one table's columns is not true of all that match."""
    for key in _ONE_TABLE:
        if is_pattern(table.name) and table.own.get(key) is not None:
            hint = "give the table that needs it an entry of its own: it wins over the pattern"
            yield table.finding(
                "one-table-only",
                key,
                f"{key} cannot be said of all tables that match {table.name!r}",
                hint,
            )


def exclude_needs_a_pattern(table: Entry, _: View) -> Iterator[Finding]:
    """A table's name matches nothing that could be taken out again."""
    if not is_pattern(table.name) and table.own.get("exclude") is not None:
        hint = "columns are left out with `columns: {exclude: [...]}`"
        yield table.finding("no-effect", "exclude", 'exclude goes with a pattern such as "*"', hint)


def defaults_exclude_no_tables(view: View) -> Iterator[Finding]:
    """Each pattern says for itself what it leaves out."""
    if view.get("defaults", "exclude") is not None:
        hint = "write it under the pattern"
        yield Finding(
            "no-effect",
            path=("defaults", "exclude"),
            message="exclude cannot be a default",
            hint=hint,
        )


def no_name_is_also_a_pattern(view: View) -> Iterator[Finding]:
    """`odd[*]name` and the pattern `odd*name` would be one task."""
    names = {table.name for table in view.tables}
    for table in view.tables:
        if (
            not is_pattern(table.name)
            and (pattern := plain(table.name)) != table.name
            and pattern in names
        ):
            message, hint = (
                f"its task has the name of that of the pattern {pattern!r}",
                "write the pattern otherwise",
            )
            yield Finding("bad-name", path=table.path, message=message, hint=hint, at="key")


PATTERN_RULES = (patterns_name_no_columns, exclude_needs_a_pattern)
