"""The names under `schedule.assets`: each must be a table or mart that a pipeline of the project
writes, and no pipeline may wait for itself over others. A name that none writes would never start a
run; pipelines that wait for each other start runs for as long as rows arrive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path

from loadsheet.names import closest, is_pattern
from loadsheet.plan.assets import asset_targets
from loadsheet.problem import Finding, Problem
from loadsheet.spec.models import Pipeline

Writers = Mapping[Path, Sequence[Sequence[Pipeline]]]
"""By pipeline file: who writes each name under its `schedule.assets`."""


def unwritten(others: Iterable[Pipeline], blamed: Sequence[Pipeline]) -> list[Problem]:
    """The problems of `blamed`: names under `schedule.assets` that neither they nor `others` write,
    and those by which a pipeline waits for itself.

    Raises SpecError when a file that has a problem cannot be read again.
    """
    everyone = [*others, *blamed]
    writers = {pipeline.file: _writers(pipeline, everyone) for pipeline in everyone}
    problems: list[Problem] = []
    for pipeline in blamed:
        findings = [*_unknown(pipeline, writers, everyone), *_circles(pipeline, writers)]
        if findings:
            # The checked form has no positions, which only a problem needs.
            from loadsheet.spec.strict_yaml import read_document

            document = read_document(pipeline.file)
            problems += [document.problem(finding) for finding in findings]
    return problems


def _writers(pipeline: Pipeline, everyone: Sequence[Pipeline]) -> list[list[Pipeline]]:
    """The pipelines that write each name under its `schedule.assets`."""
    return [
        [other for other in everyone if _writes(other, *target)]
        for target in asset_targets(pipeline)
    ]


def _unknown(
    pipeline: Pipeline, writers: Writers, everyone: Sequence[Pipeline]
) -> Iterator[Finding]:
    for place, name in enumerate(pipeline.assets):
        if writers[pipeline.file][place]:
            continue
        hint = "write schema.table of another pipeline"
        if is_pattern(name.rpartition(".")[2]):
            hint = "a pattern cannot be waited for: name the tables that it matches"
        elif meant := _meant(name, pipeline, everyone):
            hint = f"did you mean {meant}?"
        yield Finding(
            "unknown-table",
            path=("schedule", "assets", place),
            message=f"no pipeline of this project writes {name}",
            hint=hint,
        )


def _circles(pipeline: Pipeline, writers: Writers) -> Iterator[Finding]:
    for place, name in enumerate(pipeline.assets):
        # A name of its own is a problem of the file alone.
        way = _way(writers[pipeline.file][place], pipeline, writers)
        if len(way) > 1:
            circle = [one.name for one in (pipeline, *way)]
            steps = [f"{one} waits for {other}" for one, other in pairwise(circle)]
            yield Finding(
                "bad-schedule",
                path=("schedule", "assets", place),
                message=f"by {name}, this pipeline waits for itself: {', '.join(steps)}",
                hint="remove one of these waits, or give that pipeline a schedule of times",
            )


def _way(starts: Sequence[Pipeline], end: Pipeline, writers: Writers) -> list[Pipeline]:
    """The shortest way from one of `starts` to the pipeline `end` over what each waits for; empty
    where there is none."""
    ways = [[start] for start in starts]
    seen = {start.file for start in starts}
    for way in ways:  # which grows
        if way[-1] is end:
            return way
        for following in chain.from_iterable(writers[way[-1].file]):
            if following.file not in seen:
                seen.add(following.file)
                ways.append([*way, following])
    return []


def _writes(pipeline: Pipeline, conn_id: str, schema: str, table: str) -> bool:
    to = pipeline.warehouse
    if conn_id != to.conn_id:
        return False
    if schema == to.schema:
        is_matched = not is_pattern(table) and pipeline.pattern_of(table) is not None
        return is_matched or pipeline.has_table(table)
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
