"""Which settings of two states of a pipeline file differ, one line for each, in the words of the file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from datetime import timedelta
from typing import Any

from loadsheet.spec.models import Pipeline, Table, Transform

# Their own changes are shown apart, or are none of the data's business.
_NOT_COMPARED = {"name", "file", "sql", "tables", "patterns", "transforms", "matched"}


def of_part(old: Table | Transform, new: Table | Transform, before: Pipeline, now: Pipeline) -> tuple[str, ...]:
    """Those of a table or a transform, but for what it takes from the pipeline's `tasks`."""
    inherited = {
        f"tasks.{f.name}"
        for f in fields(old.tasks)
        if getattr(old.tasks, f.name) == getattr(before.tasks, f.name)
        and getattr(new.tasks, f.name) == getattr(now.tasks, f.name)
    }
    return tuple(line for line in of_settings(old, new) if line.partition(":")[0] not in inherited)


def of_settings(old: Any, new: Any) -> Iterator[str]:
    """`primary_key: id -> id, line` for each setting of two dataclasses of one kind, by its dotted name."""
    before, now = dict(_flat(old)), dict(_flat(new))
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            yield f"{name}: {_shown(before.get(name))} -> {_shown(now.get(name))}"


def of_left_out(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    """Those of what a pattern does not mean."""
    return () if old == new else (f"exclude: {_shown(old)} -> {_shown(new)}",)


def of_sql(old: Transform, new: Transform) -> Iterable[str]:
    """A unified diff of the two files, without its head."""
    lines = difflib.unified_diff(old.sql.splitlines(), new.sql.splitlines(), n=2, lineterm="")
    found = [line for line in lines if not line.startswith(("---", "+++"))]
    return found or ([] if old.sql == new.sql else ["(only line ends differ)"])


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name, as in the file."""
    for part in fields(value):
        if not path and part.name in _NOT_COMPARED:
            continue
        inner, name = getattr(value, part.name), f"{path}{part.name}"
        if is_dataclass(inner):
            yield from _flat(inner, f"{name}.")
        else:
            yield {"include": "columns.include", "exclude": "columns.exclude"}.get(name, name), inner


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    return "none" if value is None or value == "" else str(value)
