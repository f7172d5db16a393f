"""What two pipelines of a project must not share: a name, and tables they write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from loadsheet.cli.overlaps import Routes, overlaps
from loadsheet.cli.places import shown
from loadsheet.names import spelled
from loadsheet.spec.finding import Finding, Path
from loadsheet.spec.models import Pipeline
from loadsheet.spec.problem import Problem

Target = tuple[str, str, str]
"""Connection, schema, table."""


def duplicates(others: Iterable[Pipeline], blamed: Sequence[Pipeline]) -> list[Problem]:
    """The problems of `blamed` with names and tables that `others`, or those before them, have already."""
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
        yield Finding("duplicate-pipeline", path=("pipeline",), message=message, hint=hint, at="key")


def _targets(pipeline: Pipeline, taken: dict[Target, Pipeline]) -> Iterator[Finding]:
    for target, path in _written(pipeline):
        first = taken.setdefault(target, pipeline)
        if first is not pipeline:
            schema = f"{target[1]}.{target[2]}"
            message = f"{schema} is also written by the pipeline {first.name!r} ({shown(first.file)})"
            key = "schema" if path[0] == "tables" else "mart_schema"
            hint = f"list it under `external` here, or give one of the two another warehouse.{key}"
            yield Finding("duplicate-target", path=path, message=message, hint=hint, at="key")


def _written(pipeline: Pipeline) -> Iterator[tuple[Target, Path]]:
    """A script is left out: only it knows what it writes."""
    to = pipeline.warehouse
    for table in pipeline.tables:
        yield (to.conn_id, to.schema, table.name), ("tables", spelled(table.name))
    for transform in pipeline.transforms:
        if transform.materialized != "script":
            yield (to.conn_id, to.mart_schema, transform.name), ("transforms", transform.name)


def _located(pipeline: Pipeline, findings: Iterable[Finding]) -> list[Problem]:
    # Read again for the positions: the checked form has none, and this is needed only where something is wrong.
    from loadsheet.spec.document import read_document

    document = read_document(pipeline.file)
    return [document.problem(finding) for finding in findings]
