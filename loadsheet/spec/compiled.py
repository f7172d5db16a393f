"""The compiled form of a pipeline file: the result of its check, cached on disk by content.

Airflow parses every file again in a new process every few seconds, and each task's worker its own.
Checking 24 steps takes 30 ms, nearly all of it for SQL; an entry is read in 0.5 and needs neither
PyYAML nor jsonschema nor postgast.

The key is the SHA-256 of the YAML, of the SQL files, and of all that decides what a check finds. An
entry holds the checked document, its warnings, and what each transform reads; the SQL itself is the
file's, never the entry's. Files with errors have no entry.

`LOADSHEET_CACHE` names the folder (empty: none); without it, `loadsheet` in the user's cache folder. Not in the
project, which may be read-only and is replaced by every deploy; not in /tmp, where others could
write. JSON and never pickle, and only in a folder that no other user may write: someone who can
change an entry must not gain anything by it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache as once
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from loadsheet.problem import Problem
from loadsheet.spec.files import MAX_BYTES, SCHEMA_FILE, read_bounded, sql_folder
from loadsheet.spec.models import Pipeline

_log = logging.getLogger(__name__)

CHECKING = (".", "spec", "spec/rules", "sql")
"""The folders that hold every module a check imports. A test compares them with what a check really
imports."""
LIBRARIES = ("PyYAML", "croniter", "jsonschema", "postgast")
MOST_BYTES = 16 * MAX_BYTES
"""Of a pipeline's files together, twice in memory: files that no transform names are read for the
key, too."""


class Found(NamedTuple):
    """What a check has found: the pipeline (None where there are errors), problems, and the
    document itself."""

    pipeline: Pipeline | None
    problems: tuple[Problem, ...]
    data: Mapping[str, Any] | None = None


def compiled(path: Path, check: Callable[[Path], Found]) -> Found:
    """What `check(path)` finds, or what it found for the same content before."""
    content = _content(path)
    key = _key(path, content) if content else None
    if content is None or key is None:
        return check(path)
    entry = read_entry(key)
    if entry is not None:
        _log.debug("%s: its check is in the cache", path)
        return _unpack(entry, path, content)
    found = check(path)
    unchanged = content == _content(path)  # else the files were edited meanwhile
    if (
        found.pipeline
        and unchanged
        and all(problem.file == str(path) for problem in found.problems)
    ):
        write_entry(key, _pack(found))
    return found


def is_remembered(path: Path) -> bool | None:
    """Whether a check of `path` would be found in the cache; None where none can be kept."""
    content = _content(path) if cache_is_on() else None
    key = _key(path, content) if content else None
    return None if key is None else read_entry(key) is not None


def _content(path: Path) -> dict[str, bytes] | None:
    """The YAML and all SQL files by name; None where something stands that a check must look at:
    links, for one; and where they are too many to hold."""
    folder = sql_folder(path)
    try:
        if os.path.islink(folder) or not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        entries = list(os.scandir(folder)) if os.path.isdir(folder) else []
        sql = [entry for entry in entries if entry.name.endswith(".sql")]
        sql.sort(key=attrgetter("name"))
        if not all(entry.is_file(follow_symlinks=False) for entry in sql):
            return None
        if path.stat().st_size + sum(entry.stat().st_size for entry in sql) > MOST_BYTES:
            return None
        content = {"": _read(path), **{entry.name: _read(entry.path) for entry in sql}}
    except (OSError, ValueError):
        return None
    too_long = any(len(data) > MAX_BYTES for data in content.values())
    return None if too_long else content


def _read(file: str | Path) -> bytes:
    with open(file, "rb") as source:
        return read_bounded(source)


def _key(path: Path, content: Mapping[str, bytes]) -> str | None:
    try:
        digest = hashlib.sha256(checker())
    except (OSError, ImportError):  # code that is not in files, a library without metadata
        return None
    # the pipeline's name where it does not give one
    folder = os.path.basename(os.path.realpath(path.parent))
    for name, data in {f"{folder}/{path.name}": b"", **content}.items():
        digest.update(f"{name}\0{len(data)}\0".encode(errors="surrogateescape"))
        digest.update(data)
    return digest.hexdigest()


@once
def checker() -> bytes:
    """Another value whenever a check might find something else: our code, the schema, the
    libraries, Python.

    Of the files as they are at the first call: a process that lives long makes it when it imports
    the code.
    """
    digest = hashlib.sha256(f"{sys.version} {[version(library) for library in LIBRARIES]}".encode())
    for file in [SCHEMA_FILE, *code_files()]:
        digest.update(hashlib.sha256(_read(file)).digest())
    return digest.digest()


def code_files() -> list[Path]:
    """Our modules that decide what a check finds."""
    package = Path(__file__).resolve().parents[1]
    return [file for part in CHECKING for file in sorted((package / part).glob("*.py"))]


def _pack(found: Found) -> dict[str, Any]:
    from loadsheet.spec.dependencies import transform_inputs

    assert found.pipeline
    return {
        "data": found.data,
        "warnings": [{**problem.as_dict(), "file": ""} for problem in found.problems],
        "inputs": [
            [name, i.tables, i.transforms] for name, i in transform_inputs(found.pipeline).items()
        ],
    }


def _unpack(entry: Any, path: Path, content: Mapping[str, bytes]) -> Found:
    from loadsheet.spec.build import build_pipeline
    from loadsheet.spec.dependencies import remember
    from loadsheet.spec.models import Inputs

    data = entry["data"]
    sql = {
        name: content[f"{name}.sql"].decode("utf-8-sig") for name in data.get("transforms") or ()
    }
    pipeline = build_pipeline(data, path, sql)
    remember(
        pipeline,
        {name: Inputs(tuple(tables), tuple(marts)) for name, tables, marts in entry["inputs"]},
    )
    warnings = tuple(Problem(**{**problem, "file": str(path)}) for problem in entry["warnings"])
    return Found(pipeline, warnings, data)


MOST_ENTRIES = 32
"""Entries in one of the 256 sub-folders; the oldest makes room. Some 8,000 pipelines, at about 2 kB
each."""


def read_entry(key: str) -> Any:
    """The value put under `key` (hex digits); None where there is none, or not exactly what was put
    there."""
    try:
        folder = _folder()
        if folder is None or not _is_ours_alone(folder):
            return None
        seal, _, body = _file(folder, key).read_text("utf-8").partition("\n")
        return json.loads(body) if seal == _seal(key, body) else None
    except (OSError, ValueError, RecursionError):
        return None


def write_entry(key: str, value: Any) -> None:
    """Keep `value` (plain JSON) under `key`, whole or not at all; does nothing where that is not
    possible."""
    with contextlib.suppress(OSError, ValueError):
        folder = _folder()
        if folder is None:
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_ours_alone(folder):
            body = json.dumps(value, allow_nan=False)
            _write(_file(folder, key), f"{_seal(key, body)}\n{body}")


def cache_is_on() -> bool:
    """Whether there is a folder to keep anything in."""
    return _folder() is not None


def _folder() -> Path | None:
    chosen = os.environ.get("LOADSHEET_CACHE")
    if chosen is None:
        chosen = os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "loadsheet"
        )
    return Path(chosen) if os.path.isabs(chosen) else None


def _is_ours_alone(folder: Path) -> bool:
    stat = folder.stat()
    return stat.st_uid == os.geteuid() and not stat.st_mode & 0o022


def _file(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.json"


def _seal(key: str, body: str) -> str:
    return hashlib.sha256(f"{key}\n{body}".encode()).hexdigest()


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(mode=0o700, exist_ok=True)
    _make_room(file.parent)
    handle, temporary = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as target:
            target.write(text)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise


def _make_room(folder: Path) -> None:
    files = list(folder.iterdir())
    if len(files) >= MOST_ENTRIES:
        for old in sorted(files, key=lambda file: file.stat().st_mtime_ns)[
            : len(files) - MOST_ENTRIES + 1
        ]:
            old.unlink(missing_ok=True)
