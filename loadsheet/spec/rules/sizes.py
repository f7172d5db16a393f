"""How much a pipeline file may hold: what passes can be compared each with each."""

from __future__ import annotations

from collections.abc import Iterator

from loadsheet.names import is_pattern
from loadsheet.problem import Finding, KeyPath
from loadsheet.spec.view import View
from loadsheet.wording import counted

MOST_ENTRIES = 5_000
"""Under `tables`: each is two tasks of one DAG."""
MOST_PATTERNS = 100
"""Among the tables and what they exclude: each is compared with all tables."""
MOST_COLUMNS = 1_600
"""Columns that a table of PostgreSQL can have. Lists under `defaults` are copied to each table."""


def sizes_are_sane(view: View) -> Iterator[Finding]:
    """No list is longer than a pipeline can use."""
    tables = view.data.get("tables")
    if isinstance(tables, dict):
        yield from _too_many(("tables",), "table", len(tables), MOST_ENTRIES)
    patterns = 0
    for table in view.tables:
        names = [table.name, *(table.own.get("exclude") or ())]
        patterns += sum(map(is_pattern, names))
    yield from _too_many(("tables",), "pattern", patterns, MOST_PATTERNS)
    entries = [(table.path, table.own) for table in view.tables]
    if view.is_sound("defaults"):
        entries.append((("defaults",), view.data.get("defaults") or {}))
    for path, own in entries:
        columns = own.get("columns") or {}
        lists = {"primary_key": own.get("primary_key")}
        lists |= {key: columns.get(key) for key in ("include", "exclude")}
        for key, listed in lists.items():
            if isinstance(listed, list):
                at = (*path, key) if key == "primary_key" else (*path, "columns", key)
                yield from _too_many(at, "column", len(listed), MOST_COLUMNS)


def _too_many(path: KeyPath, noun: str, count: int, most: int) -> Iterator[Finding]:
    if count > most:
        message = f"{counted(count, noun)}, and at most {most:,} are possible"
        hint = "split the pipeline into several"
        if noun == "column":
            hint = "a table of PostgreSQL has no more"
        yield Finding("too-much", path=path, message=message, hint=hint, at="key")
