"""The compiled form of a pipeline file: what its check found, remembered from process to process by content.

Airflow parses every file again in a new process every few seconds, and each task's worker its own. Checking 24 steps
takes 30 ms, nearly all of it for SQL; an entry is read in 0.5 and needs neither PyYAML nor jsonschema nor sqlglot.

The key is the SHA-256 of the YAML, of the SQL files, and of all that decides what a check finds. An entry holds the
checked document, its warnings, and what each transform reads; the SQL itself is the file's, never the entry's.
Files with errors have no entry.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Callable, Mapping
from functools import cache as once
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from loadsheet.spec import cache
from loadsheet.spec.models import Pipeline
from loadsheet.spec.places import SCHEMA_FILE, sql_folder
from loadsheet.spec.problem import Problem
from loadsheet.spec.text import MAX_BYTES, read_bounded

LIBRARIES = ("PyYAML", "jsonschema", "sqlglot")
MOST_BYTES = 16 * MAX_BYTES
"""Of a pipeline's files together, twice in memory: files that no transform names are read for the key, too."""


class Found(NamedTuple):
    """What a check has found: the pipeline (None where there are errors), problems, and the document itself."""

    pipeline: Pipeline | None
    problems: tuple[Problem, ...]
    data: Mapping[str, Any] | None = None


def compiled(path: Path, check: Callable[[Path], Found]) -> Found:
    """What `check(path)` finds, or what it found for the same content before."""
    content = _content(path)
    key = _key(path, content) if content else None
    if content is None or key is None:
        return check(path)
    entry = cache.get(key)
    if entry is not None:
        return _unpack(entry, path, content)
    found = check(path)
    unchanged = content == _content(path)  # else somebody has edited the files meanwhile
    if found.pipeline and unchanged and all(problem.file == str(path) for problem in found.problems):
        cache.put(key, _pack(found))
    return found


def is_remembered(path: Path) -> bool | None:
    """Whether a check of `path` would be found in the cache; None where none can be kept."""
    content = _content(path) if cache.is_on() else None
    key = _key(path, content) if content else None
    return None if key is None else cache.get(key) is not None


def _content(path: Path) -> dict[str, bytes] | None:
    """The YAML and all SQL files by name; None where something stands that a check must look at: links, for one; and
    where they are too many to hold."""
    folder = sql_folder(path)
    try:
        if os.path.islink(folder) or not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        entries = list(os.scandir(folder)) if os.path.isdir(folder) else []
        sql = sorted((entry for entry in entries if entry.name.endswith(".sql")), key=lambda entry: entry.name)
        if not all(entry.is_file(follow_symlinks=False) for entry in sql):
            return None
        if path.stat().st_size + sum(entry.stat().st_size for entry in sql) > MOST_BYTES:
            return None
        content = {"": _read(path), **{entry.name: _read(entry.path) for entry in sql}}
    except (OSError, ValueError):
        return None
    return None if any(len(data) > MAX_BYTES for data in content.values()) else content


def _read(file: str | Path) -> bytes:
    with open(file, "rb") as source:
        return read_bounded(source)


def _key(path: Path, content: Mapping[str, bytes]) -> str | None:
    try:
        digest = hashlib.sha256(checker())
    except (OSError, ImportError):  # code that is not in files, a library without metadata
        return None
    folder = os.path.basename(os.path.realpath(path.parent))  # the pipeline's name where it does not give one
    for name, data in {f"{folder}/{path.name}": b"", **content}.items():
        digest.update(f"{name}\0{len(data)}\0".encode(errors="surrogateescape"))
        digest.update(data)
    return digest.hexdigest()


@once
def checker() -> bytes:
    """Another value whenever a check might find something else: our code, the schema, the libraries, Python.

    Of the files as they are at the first call: a process that lives long makes it when it imports the code.
    """
    package = Path(__file__).resolve().parents[1]
    files = [
        SCHEMA_FILE,
        *(file for part in (".", "spec", "plan", "sql") for file in sorted((package / part).glob("*.py"))),
    ]
    digest = hashlib.sha256(f"{sys.version} {[version(library) for library in LIBRARIES]}".encode())
    for file in files:
        digest.update(hashlib.sha256(_read(file)).digest())
    return digest.digest()


def _pack(found: Found) -> dict[str, Any]:
    from loadsheet.plan.inputs import transform_inputs

    assert found.pipeline
    return {
        "data": found.data,
        "warnings": [{**problem.as_dict(), "file": ""} for problem in found.problems],
        "inputs": [[name, i.tables, i.transforms] for name, i in transform_inputs(found.pipeline).items()],
    }


def _unpack(entry: Any, path: Path, content: Mapping[str, bytes]) -> Found:
    from loadsheet.plan.inputs import Inputs, remember
    from loadsheet.spec.build import build_pipeline

    data = entry["data"]
    sql = {name: content[f"{name}.sql"].decode("utf-8-sig") for name in data.get("transforms") or ()}
    pipeline = build_pipeline(data, path, sql)
    remember(pipeline, {name: Inputs(tuple(tables), tuple(marts)) for name, tables, marts in entry["inputs"]})
    warnings = tuple(Problem(**{**problem, "file": str(path)}) for problem in entry["warnings"])
    return Found(pipeline, warnings, data)
