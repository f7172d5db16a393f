"""Tables that two pipelines of a project load because a pattern of one of them says so.

Said only where it is certain: from one source, a table that one pipeline names is there for the other one's pattern,
too. From two sources only a run can tell (`loadsheet.warehouse.sharing`).
"""

from __future__ import annotations

from collections.abc import Iterator

from loadsheet.cli.places import shown
from loadsheet.names import covers, spelled
from loadsheet.spec.finding import Finding
from loadsheet.spec.models import Pattern, Pipeline

Route = tuple[str, str, str, str]
"""Connection and schema of the source, then of staging."""
Routes = dict[Route, list[Pipeline]]


def overlaps(pipeline: Pipeline, taken: Routes) -> Iterator[Finding]:
    """What `pipeline` loads that those on its route in `taken` load already; puts it there, too."""
    source, to = pipeline.source, pipeline.warehouse
    before = taken.setdefault((source.conn_id, source.schema, to.conn_id, to.schema), [])
    for first in before:
        yield from _named(pipeline, first)
        yield from _matched(pipeline, first)
    before.append(pipeline)


def _named(pipeline: Pipeline, first: Pipeline) -> Iterator[Finding]:
    for table in pipeline.tables:
        if pattern := first.pattern_of(table.name):
            how, hint = f"by its pattern {pattern.name!r}", f"add {_exclude(table.name)} to that pattern"
            yield _finding(pipeline, spelled(table.name), table.name, first, how, hint)


def _matched(pipeline: Pipeline, first: Pipeline) -> Iterator[Finding]:
    for pattern in pipeline.patterns:
        if also := next((other for other in first.patterns if _overlap(pattern, other)), None):
            hint = "leave its tables out of one of the two patterns by `exclude`"
            yield _finding(pipeline, pattern.name, pattern.name, first, f"by its pattern {also.name!r}", hint)
        for name in (table.name for table in first.tables if pipeline.pattern_of(table.name) is pattern):
            hint = f"add {_exclude(name)} here"
            yield _finding(pipeline, pattern.name, name, first, "which names it", hint)


def _exclude(name: str) -> str:
    from loadsheet.spec.writing import flow

    return f"`exclude: {flow([spelled(name)])}`"


def _overlap(one: Pattern, other: Pattern) -> bool:
    """Whether one of the two matches all that the other does."""
    return _within(one, other) or _within(other, one)


def _within(inner: Pattern, outer: Pattern) -> bool:
    return covers(outer.name, inner.name) and not any(covers(left_out, inner.name) for left_out in outer.exclude)


def _finding(pipeline: Pipeline, key: str, name: str, first: Pipeline, how: str, hint: str) -> Finding:
    table = f"{pipeline.warehouse.schema}.{name}"
    message = f"{table} is also written by the pipeline {first.name!r} ({shown(first.file)}), {how}"
    hint = f"{hint}, or give one of the two another warehouse.schema"
    return Finding("duplicate-target", path=("tables", key), message=message, hint=hint, at="key")
