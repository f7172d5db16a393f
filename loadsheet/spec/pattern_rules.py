"""Rules about patterns in the place of a table's name."""

from __future__ import annotations

from collections.abc import Iterator

from loadsheet.names import is_pattern, plain
from loadsheet.spec.finding import Finding
from loadsheet.spec.view import Entry, View

_ONE_TABLE = ("primary_key", "columns")


def patterns_name_no_columns(table: Entry, _: View) -> Iterator[Finding]:
    """What is said of one table's columns is not true of all that match."""
    for key in _ONE_TABLE:
        if is_pattern(table.name) and table.own.get(key) is not None:
            hint = "give the table that needs it an entry of its own: it wins over the pattern"
            yield table.finding(
                "one-table-only", key, f"{key} cannot be said of all tables that match {table.name!r}", hint
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
        yield Finding("no-effect", path=("defaults", "exclude"), message="exclude cannot be a default", hint=hint)


def no_name_is_also_a_pattern(view: View) -> Iterator[Finding]:
    """`odd[*]name` and the pattern `odd*name` would be one task."""
    names = {table.name for table in view.tables}
    for table in view.tables:
        if not is_pattern(table.name) and (pattern := plain(table.name)) != table.name and pattern in names:
            message, hint = f"its task has the name of that of the pattern {pattern!r}", "write the pattern otherwise"
            yield Finding("bad-name", path=table.path, message=message, hint=hint, at="key")


PATTERN_RULES = (patterns_name_no_columns, exclude_needs_a_pattern)
