"""Rules about the names of tables and transforms, and about patterns used as table names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from loadsheet.names import is_pattern, unescape_wildcards
from loadsheet.problem import Finding, KeyPath
from loadsheet.spec.suggest import quote_value
from loadsheet.spec.view import Entry, View, as_list

MAX_BYTES = 63
"""PostgreSQL's NAMEDATALEN - 1. It silently truncates longer names, and two of them may then be
equal."""

Place = tuple[KeyPath, Literal["key", "value"], str]
"""Where a name is written, and the name."""


def names_fit(view: View) -> Iterator[Finding]:
    """No schema, table, column or transform name is longer than PostgreSQL allows."""
    for path, at, name in _names(view):
        size = len(name.encode("utf-8"))
        if size > MAX_BYTES:
            limit = f"{size} bytes; PostgreSQL allows {MAX_BYTES}"
            message = f"the name {quote_value(name)} has {limit}"
            hint = "write the name as PostgreSQL stores it: its first 63 bytes"
            yield Finding("bad-name", path=path, message=message, hint=hint, at=at)


def _names(view: View) -> Iterator[Place]:
    for path in (("source", "schema"), ("warehouse", "schema"), ("warehouse", "mart_schema")):
        yield path, "value", view.get(*path, default="")
    if view.is_sound("defaults"):
        yield from _column_names(("defaults",), view.data.get("defaults") or {})
    for table in view.tables:
        yield table.path, "key", unescape_wildcards(table.name)
        yield from _column_names(table.path, table.own)
    for transform in view.transforms:
        yield transform.path, "key", transform.name
        yield from _column_names(transform.path, transform.own)


def _column_names(path: KeyPath, own: Any) -> Iterator[Place]:
    incremental = own.get("incremental")
    if isinstance(incremental, dict):
        yield (*path, "incremental", "cursor"), "value", incremental["cursor"]
    else:
        # The short form, `incremental: updated_at`.
        yield (*path, "incremental"), "value", incremental or ""
    for key in ("primary_key", "unique_key"):
        for name in as_list(own.get(key) or []):
            yield (*path, key), "value", name
    columns = own.get("columns") or {}
    for key in ("include", "exclude"):
        for name in columns.get(key, ()):
            yield (*path, "columns", key), "value", name


def table_names_are_plain(view: View) -> Iterator[Finding]:
    """`bookings.flights` is a possible name, but usually a schema and a table are meant."""
    for table in view.tables:
        if "." in table.name:
            kind = "a pattern" if is_pattern(table.name) else "the name of one table"
            yield Finding(
                "odd-name",
                path=table.path,
                message=f"{table.name!r} is read as {kind}",
                hint="set the schema once, in source.schema",
                at="key",
                severity="warning",
            )


def patterns_name_no_columns(table: Entry, _: View) -> Iterator[Finding]:
    """A primary key and columns belong to one table, not to all that match."""
    if not is_pattern(table.name):
        return
    for key in ("primary_key", "columns"):
        if table.own.get(key) is not None:
            message = f"{key} cannot be set for all tables that match {table.name!r}"
            hint = "add an entry for the table that needs it: it takes precedence over the pattern"
            yield table.error("one-table-only", key, message, hint)


def exclude_needs_a_pattern(table: Entry, _: View) -> Iterator[Finding]:
    """A plain name matches one table, so there is nothing to exclude."""
    if not is_pattern(table.name) and table.own.get("exclude") is not None:
        hint = "to leave out columns, write `columns: {exclude: [...]}`"
        yield table.error("no-effect", "exclude", 'exclude needs a pattern such as "*"', hint)


def defaults_exclude_no_tables(view: View) -> Iterator[Finding]:
    """Each pattern has its own list of excluded tables."""
    if view.get("defaults", "exclude") is not None:
        path = ("defaults", "exclude")
        message = "exclude cannot be a default"
        yield Finding("no-effect", path=path, message=message, hint="write it under the pattern")


def no_name_is_also_a_pattern(view: View) -> Iterator[Finding]:
    """`odd[*]name` and the pattern `odd*name` would have the same task."""
    names = {table.name for table in view.tables}
    for table in view.tables:
        if is_pattern(table.name):
            continue
        pattern = unescape_wildcards(table.name)
        if pattern != table.name and pattern in names:
            message = f"its task would have the same name as that of the pattern {pattern!r}"
            hint = "write the pattern differently"
            yield Finding("bad-name", path=table.path, message=message, hint=hint, at="key")


NAME_RULES = (names_fit, table_names_are_plain)
PATTERN_RULES = (patterns_name_no_columns, exclude_needs_a_pattern)
