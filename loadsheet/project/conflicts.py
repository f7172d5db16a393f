"""What two pipelines of a project must not share: a name, or a table that both write.

Said only where it is certain: from one source, a table that one pipeline names is there for the
other one's pattern, too. From two sources only a run can tell (`loadsheet.warehouse.fence`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from loadsheet.names import covers, escape_wildcards
from loadsheet.problem import Finding, KeyPath, Problem
from loadsheet.project.folder import shown
from loadsheet.spec.models import Pattern, Pipeline

Target = tuple[str, str, str]
"""Connection, schema, table."""


def duplicates(others: Iterable[Pipeline], blamed: Sequence[Pipeline]) -> list[Problem]:
    """The problems of `blamed` with names and tables that `others`, or those before them, have
    already."""
    names: dict[str, Pipeline] = {}
    targets: dict[Target, Pipeline] = {}
    routes: Routes = {}
    problems: list[Problem] = []
    for pipeline in (*others, *blamed):
        found = [*_name(pipeline, names), *_targets(pipeline, targets), *overlaps(pipeline, routes)]
        if found and any(pipeline is one for one in blamed):
            problems += _located(pipeline, found)
    return problems


def _name(pipeline: Pipeline, taken: dict[str, Pipeline]) -> Iterator[Finding]:
    first = taken.setdefault(pipeline.name, pipeline)
    if first is not pipeline:
        message = f"the name {pipeline.name!r} is already taken by {shown(first.file)}"
        hint = "the name is the DAG's id: give each pipeline its own"
        yield Finding(
            "duplicate-pipeline", path=("pipeline",), message=message, hint=hint, at="key"
        )


def _targets(pipeline: Pipeline, taken: dict[Target, Pipeline]) -> Iterator[Finding]:
    for target, path in _written(pipeline):
        first = taken.setdefault(target, pipeline)
        if first is not pipeline:
            schema = f"{target[1]}.{target[2]}"
            message = (
                f"{schema} is also written by the pipeline {first.name!r} ({shown(first.file)})"
            )
            key = "schema" if path[0] == "tables" else "mart_schema"
            hint = f"list it under `external` here, or give one of the two another warehouse.{key}"
            yield Finding("duplicate-target", path=path, message=message, hint=hint, at="key")


def _written(pipeline: Pipeline) -> Iterator[tuple[Target, KeyPath]]:
    """A script is left out: only it knows what it writes."""
    to = pipeline.warehouse
    for table in pipeline.tables:
        yield (to.conn_id, to.schema, table.name), ("tables", escape_wildcards(table.name))
    for transform in pipeline.transforms:
        if transform.materialized != "script":
            yield (to.conn_id, to.mart_schema, transform.name), ("transforms", transform.name)


def _located(pipeline: Pipeline, findings: Iterable[Finding]) -> list[Problem]:
    # Read again for the positions: the checked form has none, and this is needed only where
    # something is wrong.
    from loadsheet.spec.strict_yaml import read_document

    document = read_document(pipeline.file)
    return [document.problem(finding) for finding in findings]


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
            how, hint = (
                f"by its pattern {pattern.name!r}",
                f"add {_exclude(table.name)} to that pattern",
            )
            yield _finding(pipeline, escape_wildcards(table.name), table.name, first, how, hint)


def _matched(pipeline: Pipeline, first: Pipeline) -> Iterator[Finding]:
    for pattern in pipeline.patterns:
        also = next((other for other in first.patterns if _overlap(pattern, other)), None)
        if also:
            how = f"by its pattern {also.name!r}"
            hint = "leave its tables out of one of the two patterns by `exclude`"
            yield _finding(pipeline, pattern.name, pattern.name, first, how, hint)
        for table in first.tables:
            if pipeline.pattern_of(table.name) is pattern:
                hint = f"add {_exclude(table.name)} here"
                yield _finding(pipeline, pattern.name, table.name, first, "which names it", hint)


def _exclude(name: str) -> str:
    from loadsheet.spec.edit import flow_yaml

    return f"`exclude: {flow_yaml([escape_wildcards(name)])}`"


def _overlap(one: Pattern, other: Pattern) -> bool:
    """Whether one of the two matches all that the other does."""
    return _within(one, other) or _within(other, one)


def _within(inner: Pattern, outer: Pattern) -> bool:
    return covers(outer.name, inner.name) and not any(
        covers(left_out, inner.name) for left_out in outer.exclude
    )


def _finding(
    pipeline: Pipeline, key: str, name: str, first: Pipeline, how: str, hint: str
) -> Finding:
    table = f"{pipeline.warehouse.schema}.{name}"
    message = f"{table} is also written by the pipeline {first.name!r} ({shown(first.file)}), {how}"
    hint = f"{hint}, or give one of the two another warehouse.schema"
    return Finding("duplicate-target", path=("tables", key), message=message, hint=hint, at="key")
