"""The one entry to pipeline files: check one, load one, find all. All problems at once, never a
traceback."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from loadsheet.errors import SpecError
from loadsheet.problem import Problem
from loadsheet.spec.compiled import Found, compiled
from loadsheet.spec.files import is_there, leads_into
from loadsheet.spec.models import Pipeline

if TYPE_CHECKING:
    from loadsheet.problem import Finding
    from loadsheet.spec.strict_yaml import Document
    from loadsheet.spec.view import View

Stamp = tuple[tuple[str, int, int], ...]


def load_pipeline(path: Path) -> Pipeline:
    """The pipeline in `path` (`…/pipeline.yml`). Raises SpecError with all problems of the file and
    its SQL."""
    found = _found(path)
    if found.pipeline is None:
        raise SpecError(found.problems)
    return found.pipeline


def check_file(path: Path) -> tuple[Pipeline | None, list[Problem]]:
    """The pipeline in `path`, None when there are errors, and its problems in the order of the
    file.

    Warnings alone leave the pipeline usable. Never raises: whatever is wrong with the file is a
    problem.
    """
    found = _found(path)
    return found.pipeline, list(found.problems)


def check_text(path: Path, text: str) -> tuple[Pipeline | None, list[Problem]]:
    """What `check_file` would find if `path`, which need not exist yet, held `text`."""
    found = _check(path, text)
    return found.pipeline, list(found.problems)


def find_specs(project: Path) -> list[Path]:
    """The pipeline files of the project folder `project`, sorted: `pipelines/*/pipeline.yml`."""
    files = (folder / "pipeline.yml" for folder in (project / "pipelines").glob("[!.]*"))
    return sorted(file for file in files if is_there(file))


@lru_cache(maxsize=1024)
def _found_once(path: Path, _: Stamp) -> Found:
    return compiled(path, _check)


def _check(path: Path, text: str | None = None) -> Found:
    # Imported here: PyYAML and jsonschema take 0.1 s, which code that needs only the models should
    # not pay.
    from loadsheet.spec.strict_yaml import read_document

    try:
        refuse_link_outwards(path)
        document = read_document(path, text)
    except SpecError as error:
        return Found(None, error.problems)
    return _check_document(document, path)


def refuse_link_outwards(path: Path) -> None:
    """Whoever may only write `pipelines/` must not have other files read by linking to them:
    problems quote the text.

    Links within it, as a mounted ConfigMap has them, are followed.
    """
    pipelines = path.absolute().parents[1]
    if os.path.islink(path) and not leads_into(path, pipelines):
        message, hint = "this link leads out of the folder of pipelines", "put the file itself here"
        raise SpecError(
            [
                Problem(
                    file=str(path),
                    line=1,
                    column=1,
                    path="",
                    message=message,
                    hint=hint,
                    code="unreadable-file",
                )
            ]
        )


def _check_document(document: Document, path: Path) -> Found:
    from loadsheet.spec.build import build_pipeline
    from loadsheet.spec.dependencies import transform_inputs
    from loadsheet.spec.rules.pipeline import rule_findings
    from loadsheet.spec.sql_files import read_transforms

    shape, view = _shape(document, path)
    findings = [*shape, *(rule_findings(view) if view else ())]
    problems = [document.problem(finding) for finding in findings]
    sql, sql_problems = read_transforms(document, path, findings)
    problems += sql_problems
    pipeline = None
    if not any(problem.severity == "error" for problem in problems):
        pipeline = build_pipeline(document.data, path, sql)
    try:
        if pipeline:
            transform_inputs(pipeline)
        elif view:
            _check_sql(view, path, sql)
    except SpecError as error:
        problems += error.problems
        pipeline = None
    in_order = sorted(problems, key=lambda p: (p.file != document.file, p.file, p.line, p.column))
    return Found(pipeline, tuple(in_order), document.data if pipeline else None)


def _shape(document: Document, path: Path) -> tuple[list[Finding], View | None]:
    """What is odd about the YAML or not as the schema says, and the rest as rules look at it."""
    from loadsheet.spec.schema import shape_findings
    from loadsheet.spec.view import View

    shape = shape_findings(document.data)
    # A key like `on:` is both unquoted and unknown: what it meant helps more than quoting it. For a
    # value it is the other way round: `retries: 010` is first of all ambiguous, and only therefore
    # not a number.
    unknown = {finding.path for finding in shape if finding.at == "key"}
    odd = [finding for finding in document.findings if finding.path not in unknown]
    seen = {finding.path for finding in odd}
    findings = [*odd, *(finding for finding in shape if finding.path not in seen)]
    if not isinstance(document.data, dict):
        return findings, None
    broken = {finding.path for finding in findings if finding.severity == "error"}
    return findings, View(data=document.data, broken=broken, folder=path.resolve().parent.name)


def _check_sql(view: View, path: Path, sql: Mapping[str, str]) -> None:
    """The SQL beside a document with errors, as far as it can be judged. Raises SpecError."""
    from loadsheet.spec.build import sketch_pipeline
    from loadsheet.spec.sql_reading import infer_inputs

    if pipeline := sketch_pipeline(view, path, sql):
        infer_inputs(pipeline)


def _found(path: Path) -> Found:
    stamp = _stamp(path)
    # A file edited twice within one tick of the file system's clock looks unchanged, so new files
    # are not cached.
    newest = max((mtime for _, mtime, _ in stamp), default=0)
    fresh = time.time_ns() - newest < 2_000_000_000
    return _found_once.__wrapped__(path, stamp) if fresh else _found_once(path, stamp)


def _stamp(path: Path) -> Stamp:
    """Changes whenever the file or its SQL does, so that a cached check is never stale."""
    folder = path.absolute().parent
    try:
        files = [folder / path.name, *sorted((folder / "sql").glob("*.sql"))]
    except (OSError, ValueError):
        files = [folder / path.name]
    return tuple(_file_stamp(file) for file in files)


def _file_stamp(file: Path) -> tuple[str, int, int]:
    try:
        stat = file.stat()
    except (OSError, ValueError):
        return str(file), 0, 0
    return str(file), stat.st_mtime_ns, stat.st_size
