"""The names under `schedule.assets`: each must be a table or mart that a pipeline of the project
writes. A name that none writes would never start a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from loadsheet.names import closest
from loadsheet.plan.assets import asset_targets
from loadsheet.problem import Finding, Problem
from loadsheet.spec.models import Pipeline


def unwritten(others: Iterable[Pipeline], blamed: Sequence[Pipeline]) -> list[Problem]:
    """The problems of `blamed`: names under `schedule.assets` that neither they nor `others` write.

    Raises SpecError when a file that has a problem cannot be read again.
    """
    everyone = [*others, *blamed]
    problems: list[Problem] = []
    for pipeline in blamed:
        findings = list(_findings(pipeline, everyone))
        if findings:
            # The checked form has no positions, which only a problem needs.
            from loadsheet.spec.strict_yaml import read_document

            document = read_document(pipeline.file)
            problems += [document.problem(finding) for finding in findings]
    return problems


def _findings(pipeline: Pipeline, everyone: Sequence[Pipeline]) -> Iterator[Finding]:
    for place, target in enumerate(asset_targets(pipeline)):
        if any(_writes(other, *target) for other in everyone):
            continue
        name = pipeline.assets[place]
        meant = _meant(name, pipeline, everyone)
        yield Finding(
            "unknown-table",
            path=("schedule", "assets", place),
            message=f"no pipeline of this project writes {name}",
            hint=f"did you mean {meant}?" if meant else "write schema.table of another pipeline",
        )


def _writes(pipeline: Pipeline, conn_id: str, schema: str, table: str) -> bool:
    to = pipeline.warehouse
    if conn_id != to.conn_id:
        return False
    if schema == to.schema:
        return pipeline.has_table(table) or pipeline.pattern_of(table) is not None
    return schema == to.mart_schema and pipeline.has_transform(table)


def _meant(name: str, pipeline: Pipeline, everyone: Sequence[Pipeline]) -> str | None:
    """The table or mart of another pipeline that `name` is a likely typo of, or one in another
    schema."""
    known: list[str] = []
    for other in everyone:
        if other is pipeline:
            continue
        to = other.warehouse
        prefix = "" if to.conn_id == pipeline.warehouse.conn_id else f"{to.conn_id}."
        known += [f"{prefix}{to.schema}.{table.name}" for table in other.tables]
        known += [f"{prefix}{to.mart_schema}.{mart.name}" for mart in other.transforms]
    table = name.rpartition(".")[2]
    same_table = [full for full in known if full.rpartition(".")[2] == table]
    return next(iter(same_table), None) or closest(name, known)
