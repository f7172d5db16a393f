"""The entry to pipeline files: check one, load one, find all.

load_pipeline, check_file
  └─ _check_unchanged      this process's results, by the files' sizes and times
       └─ cached_check     the results on disk, by the files' content (compiled.py)
            └─ _check      the check itself
                 ├─ YAML -> document (strict_yaml) -> shape (schema) -> rules (rules/)
                 └─ SQL files (sql_files) -> what they read (sql_reading) -> Pipeline (build)
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from loadsheet.errors import SpecError
from loadsheet.problem import Problem
from loadsheet.spec.budget import limited_check
from loadsheet.spec.compiled import CheckResult, cached_check
from loadsheet.spec.files import is_there, leads_into, read_text, real_path
from loadsheet.spec.models import Pipeline

if TYPE_CHECKING:
    from loadsheet.problem import Finding
    from loadsheet.spec.strict_yaml import Document
    from loadsheet.spec.view import View

Stamp = tuple[tuple[str, int, int], ...]
"""Name, time of the last change in nanoseconds, and size of each file."""
# Nanoseconds. A file that is edited twice within one tick of the file system's clock looks
# unchanged, so the results of newer files are not kept in memory.
_SETTLED = 2_000_000_000
_NAME = re.compile(r"""^pipeline[ \t]*:[ \t]*(["']?)([\w.-]+)\1[ \t]*(?:#.*)?$""", re.MULTILINE)
"""The line of a pipeline's name, also in a file that is not valid YAML."""


def load_pipeline(path: Path) -> Pipeline:
    """The pipeline in `path` (`…/pipeline.yml`). Raises SpecError with all problems of the file and
    its SQL."""
    result = _check_unchanged(path)
    if result.pipeline is None:
        raise SpecError(result.problems)
    return result.pipeline


def check_file(path: Path) -> tuple[Pipeline | None, list[Problem]]:
    """The pipeline in `path`, None when there are errors, and its problems in the order of the
    file.

    A pipeline with warnings only is usable. Never raises: anything wrong with the file is a
    problem.
    """
    result = _check_unchanged(path)
    return result.pipeline, list(result.problems)


def check_text(path: Path, text: str) -> tuple[Pipeline | None, list[Problem]]:
    """What `check_file` would return if `path`, which need not exist, contained `text`."""
    result = _check(path, text)
    return result.pipeline, list(result.problems)


def find_specs(project: Path) -> list[Path]:
    """The pipeline files of the project folder `project`, sorted: `pipelines/*/pipeline.yml`."""
    files = (folder / "pipeline.yml" for folder in (project / "pipelines").glob("[!.]*"))
    return sorted(file for file in files if is_there(file))


def declared_name(path: Path) -> str:
    """The name that the pipeline in `path` has, as far as its text tells: the file may have
    problems. By default that is its folder's."""
    folder = path.absolute().parent.name
    try:
        refuse_link_outwards(path)
        match = _NAME.search(read_text(path))
    except SpecError:
        return folder
    return match[2] if match else folder


def refuse_link_outwards(path: Path) -> None:
    """Refuse a link that leads out of `pipelines/`. Raises SpecError.

    Problems quote the text of the file, so a user who may only write `pipelines/` could otherwise
    read other files. Links inside the folder, as a mounted ConfigMap has them, are followed.
    """
    pipelines = path.absolute().parents[1]
    if not os.path.islink(path) or leads_into(path, pipelines):
        return
    problem = Problem(
        file=str(path),
        line=1,
        column=1,
        path="",
        message="this link leads out of the pipelines folder",
        hint="replace the link with the file itself",
        code="unreadable-file",
    )
    raise SpecError([problem])


def _check_unchanged(path: Path) -> CheckResult:
    """Check `path`, or reuse the result where its files look unchanged."""
    stamp = _stamp(path)
    newest = max((mtime for _, mtime, _ in stamp), default=0)
    if time.time_ns() - newest < _SETTLED:
        return cached_check(path, _check)
    return _check_once(path, stamp)


@lru_cache(maxsize=1024)
def _check_once(path: Path, _: Stamp) -> CheckResult:
    return cached_check(path, _check)


def _stamp(path: Path) -> Stamp:
    """Changes whenever the file or its SQL does."""
    folder = path.absolute().parent
    files = [folder / path.name]
    with contextlib.suppress(OSError, ValueError):
        files += sorted((folder / "sql").glob("*.sql"))
    stamps: list[tuple[str, int, int]] = []
    for file in files:
        try:
            info = file.stat()
        except (OSError, ValueError):
            # A missing or unreadable file has a stamp too: the result changes when it appears.
            stamps.append((str(file), 0, 0))
        else:
            stamps.append((str(file), info.st_mtime_ns, info.st_size))
    return tuple(stamps)


def _check(path: Path, text: str | None = None) -> CheckResult:
    with limited_check():
        return _check_in_time(path, text)


def _check_in_time(path: Path, text: str | None) -> CheckResult:
    # Imported here: PyYAML and jsonschema take 0.1 s, which code that needs only the models should
    # not pay.
    from loadsheet.spec.build import build_pipeline, sketch_pipeline
    from loadsheet.spec.dependencies import transform_inputs
    from loadsheet.spec.rules.pipeline import rule_findings
    from loadsheet.spec.sql_files import read_transforms
    from loadsheet.spec.strict_yaml import read_document

    try:
        refuse_link_outwards(path)
        document = read_document(path, text)
    except SpecError as error:
        return CheckResult(None, error.problems)
    findings, view = _check_shape(document, path)
    if view:
        findings += rule_findings(view)
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
            # All problems at once: an error in the YAML does not hide those of the SQL.
            sketch = sketch_pipeline(view, path, sql)
            if sketch:
                from loadsheet.spec.sql_reading import infer_inputs  # brings the SQL parser

                # Not `transform_inputs`: a sketch must not be remembered as a pipeline.
                infer_inputs(sketch)
    except SpecError as error:
        problems += error.problems
        pipeline = None
    # The YAML file's problems first, then those of each SQL file.
    problems.sort(key=lambda p: (p.file != document.file, p.file, p.line, p.column))
    return CheckResult(pipeline, tuple(problems), document.data if pipeline else None)


def _check_shape(document: Document, path: Path) -> tuple[list[Finding], View | None]:
    """What is wrong with the YAML and against the schema, and the rest of the document for rules to
    look at; None where it is no mapping."""
    from loadsheet.spec.schema import shape_findings
    from loadsheet.spec.view import View

    shape = shape_findings(document.data)
    # One finding per path. A key like `on:` is both unquoted and unknown: what it meant helps more
    # than quoting it. For a value it is the other way round: `retries: 010` is first of all
    # ambiguous, and only therefore not a number.
    unknown_keys = {finding.path for finding in shape if finding.at == "key"}
    findings = [finding for finding in document.findings if finding.path not in unknown_keys]
    seen = {finding.path for finding in findings}
    findings += [finding for finding in shape if finding.path not in seen]
    if not isinstance(document.data, dict):
        return findings, None
    broken = {finding.path for finding in findings if finding.severity == "error"}
    return findings, View(data=document.data, broken=broken, folder=real_path(path).parent.name)
