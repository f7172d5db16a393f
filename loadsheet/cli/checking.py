"""All problems of a set of pipeline files: each file's own, and names used twice."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from loadsheet.spec.load import check_file
from loadsheet.spec.models import Pipeline
from loadsheet.spec.problem import Problem


def check_files(files: Iterable[Path]) -> list[Problem]:
    """The problems of `files`, file by file."""
    problems: list[Problem] = []
    pipelines: list[Pipeline] = []
    for file in files:
        pipeline, found = check_file(file)
        problems += found
        if pipeline:
            pipelines.append(pipeline)
    return problems + _same_names(pipelines)


def _same_names(pipelines: Iterable[Pipeline]) -> list[Problem]:
    """Pipelines of one name, which is a DAG id. Only what Airflow loads counts: other files may be drafts."""
    by_name = defaultdict(list)
    for pipeline in pipelines:
        if pipeline.file.name == "pipeline.yml":
            by_name[pipeline.name].append(pipeline)
    return [_same_name(first, other) for first, *others in by_name.values() for other in others]


def _same_name(first: Pipeline, other: Pipeline) -> Problem:
    key = re.search(r"^pipeline\s*:", other.file.read_text(), re.MULTILINE)
    return Problem(
        file=str(other.file),
        line=other.file.read_text().count("\n", 0, key.start()) + 1 if key else 1,
        column=1,
        path="pipeline",
        message=f"the name {other.name!r} is already taken by {first.file}",
        hint="the name is the DAG's id: give each pipeline its own",
    )
