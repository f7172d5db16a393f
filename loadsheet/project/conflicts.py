"""What two pipelines of a project must not share: a name, or a table that both write.

A conflict is reported only where it is certain: of one source, a table that one pipeline names also
exists for the other one's pattern. With two sources only a run can tell
(`loadsheet.warehouse.fence`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from loadsheet.names import covers, escape_wildcards
from loadsheet.problem import Finding, KeyPath, Problem
from loadsheet.project.folder import display_path
from loadsheet.spec.models import Pattern, Pipeline

Target = tuple[str, str, str]
"""Connection, schema, table."""
Route = tuple[str, str, str, str]
"""Connection and schema of the source, then of staging."""


def duplicates(others: Iterable[Pipeline], blamed: Sequence[Pipeline]) -> list[Problem]:
    """The problems of `blamed`: their names and tables that one of `others`, or an earlier one of
    `blamed`, has already.

    Raises SpecError when a file that has a problem cannot be read again.
    """
    names: dict[str, Pipeline] = {}
    targets: dict[Target, Pipeline] = {}
    routes: dict[Route, list[Pipeline]] = {}
    problems: list[Problem] = []
    for pipeline in others:
        _findings(pipeline, names, targets, routes)
    for pipeline in blamed:
        findings = _findings(pipeline, names, targets, routes)
        if findings:
            # The file is read again: the checked form has no positions, which only a problem needs.
            from loadsheet.spec.strict_yaml import read_document

            document = read_document(pipeline.file)
            problems += [document.problem(finding) for finding in findings]
    return problems


def _findings(
    pipeline: Pipeline,
    names: dict[str, Pipeline],
    targets: dict[Target, Pipeline],
    routes: dict[Route, list[Pipeline]],
) -> list[Finding]:
    """What `pipeline` shares with the pipelines in the three mappings, which it is added to."""
    return [
        *_same_name(pipeline, names),
        *_same_targets(pipeline, targets),
        *_pattern_overlaps(pipeline, routes),
    ]


def _same_name(pipeline: Pipeline, names: dict[str, Pipeline]) -> Iterator[Finding]:
    first = names.setdefault(pipeline.name, pipeline)
    if first is not pipeline:
        message = f"the name {pipeline.name!r} is already taken by {display_path(first.file)}"
        hint = "the name is the DAG's id: give each pipeline its own"
        yield Finding(
            "duplicate-pipeline", path=("pipeline",), message=message, hint=hint, at="key"
        )


def _same_targets(pipeline: Pipeline, targets: dict[Target, Pipeline]) -> Iterator[Finding]:
    for target, path in _targets(pipeline):
        first = targets.setdefault(target, pipeline)
        if first is not pipeline:
            table = f"{target[1]}.{target[2]}"
            key = "schema" if path[0] == "tables" else "mart_schema"
            yield _duplicate_target(
                path,
                f"{table} is also written by {_named(first)}",
                f"list it under `external` here, or give one of the two another warehouse.{key}",
            )


def _targets(pipeline: Pipeline) -> Iterator[tuple[Target, KeyPath]]:
    """What `pipeline` writes, each with its key in the file. Not its scripts: they may write
    anything."""
    to = pipeline.warehouse
    for table in pipeline.tables:
        yield (to.conn_id, to.schema, table.name), ("tables", escape_wildcards(table.name))
    for transform in pipeline.transforms:
        if transform.materialized != "script":
            yield (to.conn_id, to.mart_schema, transform.name), ("transforms", transform.name)


def _pattern_overlaps(pipeline: Pipeline, routes: dict[Route, list[Pipeline]]) -> Iterator[Finding]:
    """Tables that a pattern of `pipeline`, or of an earlier pipeline on its route, adds to what the
    other one loads."""
    source, to = pipeline.source, pipeline.warehouse
    earlier = routes.setdefault((source.conn_id, source.schema, to.conn_id, to.schema), [])
    for first in earlier:
        # Two pipelines without patterns are compared by `_same_targets`, and that is nearly every
        # pair: 1,000 pipelines on one route are half a million pairs.
        if first.patterns:
            yield from _matched_by_first(pipeline, first)
        if pipeline.patterns:
            yield from _matched_here(pipeline, first)
    earlier.append(pipeline)


def _matched_by_first(pipeline: Pipeline, first: Pipeline) -> Iterator[Finding]:
    """Tables that `pipeline` names and a pattern of `first` matches."""
    for table in pipeline.tables:
        pattern = first.pattern_of(table.name)
        if pattern:
            how = f"by its pattern {pattern.name!r}"
            hint = f"add {_exclude(table.name)} to that pattern"
            yield _overlap(pipeline, escape_wildcards(table.name), table.name, first, how, hint)


def _matched_here(pipeline: Pipeline, first: Pipeline) -> Iterator[Finding]:
    """Patterns of `pipeline` that match what a pattern of `first` matches, or a table it names."""
    named: dict[str, list[str]] = {}
    for table in first.tables:
        match = pipeline.pattern_of(table.name)
        if match:
            named.setdefault(match.name, []).append(table.name)
    for pattern in pipeline.patterns:
        for other in first.patterns:
            if _within(pattern, other) or _within(other, pattern):
                how = f"by its pattern {other.name!r}"
                hint = "leave its tables out of one of the two patterns by `exclude`"
                yield _overlap(pipeline, pattern.name, pattern.name, first, how, hint)
                # Its other overlaps would repeat the finding with another name.
                break
        for name in named.get(pattern.name, ()):
            hint = f"add {_exclude(name)} here"
            yield _overlap(pipeline, pattern.name, name, first, "which names it", hint)


def _within(inner: Pattern, outer: Pattern) -> bool:
    """Whether `outer` certainly matches all that `inner` does."""
    if not covers(outer.name, inner.name):
        return False
    # A name without a sign covers no pattern.
    return not any(covers(excluded, inner.name) for excluded in outer.excluded_patterns)


def _exclude(name: str) -> str:
    """The `exclude` key that leaves the table out of a pattern."""
    from loadsheet.spec.edit import flow_yaml

    return f"`exclude: {flow_yaml([escape_wildcards(name)])}`"


def _overlap(
    pipeline: Pipeline, key: str, name: str, first: Pipeline, how: str, hint: str
) -> Finding:
    table = f"{pipeline.warehouse.schema}.{name}"
    return _duplicate_target(
        ("tables", key),
        f"{table} is also written by {_named(first)}, {how}",
        f"{hint}, or give one of the two another warehouse.schema",
    )


def _duplicate_target(path: KeyPath, message: str, hint: str) -> Finding:
    return Finding("duplicate-target", path=path, message=message, hint=hint, at="key")


def _named(pipeline: Pipeline) -> str:
    return f"the pipeline {pipeline.name!r} ({display_path(pipeline.file)})"
