"""The SQL files of a pipeline's transforms: each is there, readable, inside the pipeline's folder,
and used."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from loadsheet.errors import SpecError
from loadsheet.names import closest
from loadsheet.problem import Finding, Problem
from loadsheet.spec.files import STEERING, is_there, leads_into, read_text, sql_folder
from loadsheet.spec.strict_yaml import Document


def read_transforms(
    document: Document, pipeline_file: Path, broken: Collection[Finding]
) -> tuple[dict[str, str], list[Problem]]:
    """Each transform's SQL text by name, and what is wrong with the files; names that are `broken`
    are left out."""
    names = document.data.get("transforms") if isinstance(document.data, dict) else None
    names = list(names) if isinstance(names, dict) else []
    folder, texts = sql_folder(pipeline_file), {}
    problems = [document.problem(finding) for finding in _orphans(folder, names)]
    bad = {finding.path for finding in broken}
    for name in (name for name in names if ("transforms", name) not in bad):
        try:
            texts[name] = _read(document, folder, name)
        except SpecError as error:
            problems.extend(error.problems)
    return texts, problems


def _read(document: Document, folder: Path, name: str) -> str:
    file = folder / f"{name}.sql"
    if not is_there(file):
        raise SpecError([document.problem(_missing(folder, name))])
    if not leads_into(file, folder.parent):
        message = f"sql/{name}.sql is outside of the pipeline's folder"
        finding = Finding(
            "sql-file",
            path=("transforms", name),
            message=message,
            hint="copy the file into sql/",
            at="key",
        )
        raise SpecError([document.problem(finding)])
    text = read_text(file, forbidden=STEERING)
    if not text.strip():
        hint = "write one SELECT, or the statements of a script"
        raise SpecError(
            [
                Problem(
                    file=str(file),
                    line=1,
                    column=1,
                    path="",
                    message="the file is empty",
                    hint=hint,
                    code="sql-file",
                )
            ]
        )
    return text


def _missing(folder: Path, name: str) -> Finding:
    meant = closest(name, _stems(folder))
    hint = f"rename sql/{meant}.sql, or this transform" if meant else f"create {folder / name}.sql"
    return Finding(
        "sql-file",
        path=("transforms", name),
        message=f"there is no file sql/{name}.sql",
        hint=hint,
        at="key",
    )


def _orphans(folder: Path, names: list[str]) -> Iterator[Finding]:
    for stem in _stems(folder):
        if stem not in names:
            message = f"sql/{stem}.sql belongs to no transform"
            hint = f"add `{stem}:` under transforms, or delete the file"
            yield Finding(
                "sql-file",
                path=("transforms",),
                message=message,
                hint=hint,
                at="key",
                severity="warning",
            )


def _stems(folder: Path) -> list[str]:
    try:
        return sorted(file.stem for file in folder.glob("*.sql") if not file.name.startswith("."))
    except OSError:
        return []
