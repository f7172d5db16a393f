"""The SQL files of a pipeline's transforms: each must exist, be readable and inside the pipeline's
folder, and each must be used."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from loadsheet.errors import SpecError
from loadsheet.names import closest
from loadsheet.problem import Finding, Problem
from loadsheet.spec.files import FORBIDDEN_IN_SQL, is_there, leads_into, read_text, sql_folder
from loadsheet.spec.strict_yaml import Document


def read_transforms(
    document: Document, pipeline_file: Path, broken: Collection[Finding]
) -> tuple[dict[str, str], list[Problem]]:
    """Each transform's SQL text by name, and the problems of the files.

    Transforms whose name already has a finding in `broken` are left out.
    """
    transforms = document.data.get("transforms") if isinstance(document.data, dict) else None
    names = list(transforms) if isinstance(transforms, dict) else []
    folder = sql_folder(pipeline_file)
    problems: list[Problem] = []
    stems = _stems(folder)
    known = set(names)
    for stem in stems:
        if stem in known:
            continue
        # A warning only: the file may be a draft, and the pipeline runs without it.
        unused = Finding(
            "sql-file",
            path=("transforms",),
            message=f"no transform uses sql/{stem}.sql",
            hint=f"add `{stem}:` under transforms, or delete the file",
            at="key",
            severity="warning",
        )
        problems.append(document.problem(unused))
    broken_paths = {finding.path for finding in broken}
    texts: dict[str, str] = {}
    for name in names:
        # A name such as `../../etc/passwd` must not reach the file system.
        if ("transforms", name) in broken_paths:
            continue
        try:
            texts[name] = _read(document, folder, name, stems)
        except SpecError as error:
            problems.extend(error.problems)
    return texts, problems


def _read(document: Document, folder: Path, name: str, stems: Sequence[str]) -> str:
    file = folder / f"{name}.sql"
    if not is_there(file):
        meant = closest(name, stems)
        hint = f"create {file}"
        if meant:
            hint = f"rename sql/{meant}.sql, or this transform"
        raise _wrong_file(document, name, f"there is no file sql/{name}.sql", hint)
    if not leads_into(file, folder.parent):
        message = f"sql/{name}.sql is outside the pipeline's folder"
        raise _wrong_file(document, name, message, "copy the file into sql/")
    text = read_text(file, forbidden=FORBIDDEN_IN_SQL)
    if not text.strip():
        problem = Problem(
            file=str(file),
            line=1,
            column=1,
            path="",
            message="the file is empty",
            hint="write one SELECT, or the statements of a script",
            code="sql-file",
        )
        raise SpecError([problem])
    return text


def _wrong_file(document: Document, name: str, message: str, hint: str) -> SpecError:
    """The error at the transform's name in the pipeline file."""
    path = ("transforms", name)
    finding = Finding("sql-file", path=path, message=message, hint=hint, at="key")
    return SpecError([document.problem(finding)])


def _stems(folder: Path) -> list[str]:
    """The names of the SQL files, without hidden ones such as an editor's `.#daily.sql`."""
    try:
        return sorted(file.stem for file in folder.glob("*.sql") if not file.name.startswith("."))
    except OSError:
        return []
