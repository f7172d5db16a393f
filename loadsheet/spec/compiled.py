"""The result of checking a pipeline file, cached on disk by content.

Airflow parses every file again in a new process every few seconds, and each task's worker parses
its own. Checking 24 steps takes 30 ms, nearly all of it for SQL; reading an entry takes 0.5 ms and
needs neither PyYAML nor jsonschema nor postgast.

The key is the SHA-256 of the YAML, the SQL files, and everything that decides what a check finds.
An entry holds the checked document, its warnings, and what each transform reads. The SQL itself
always comes from its file. Files with errors have no entry.

Two caches in memory surround this one; each step down is taken only where nothing is found:

    load_pipeline(path)            pipeline_file.py
      _check_once                  memory: CheckResult by path and the files' sizes and times
        cached_check               this module, disk: an entry by the files' content
          _check                   the check itself; its result becomes an entry (_pack)
        _unpack                    an entry becomes a Pipeline, and hands on what each transform
          remember_inputs          reads, so that no SQL is read again

    transform_inputs(pipeline)     dependencies.py
      _remembered                  memory: inputs by Pipeline, filled by remember_inputs
        infer_inputs               reads the SQL; imports the parser only here

`LOADSHEET_CACHE` names the folder (empty: no cache); the default is `loadsheet` in the user's cache
folder. Not the project, which may be read-only and is replaced by every deploy; not /tmp, where
other users could write. Entries are JSON, never pickle, and only in a folder that no other user may
write: someone who can change an entry must not be able to run code by it.
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
from dataclasses import astuple
from functools import cache as once
from importlib.metadata import distribution
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from loadsheet.problem import Problem
from loadsheet.spec.files import MAX_BYTES, SCHEMA_FILE, read_bounded, sql_folder
from loadsheet.spec.models import Pipeline
from loadsheet.trust import only_we_may_write

_log = logging.getLogger(__name__)

CHECKING = (".", "spec", "spec/rules", "sql")
"""The folders that hold every module a check imports. A test compares them with what a check really
imports."""
LIBRARIES = ("PyYAML", "croniter", "jsonschema", "postgast")
MOST_BYTES = 16 * MAX_BYTES
"""Limit for all files of a pipeline together, which are twice in memory: the key also covers SQL
files that no transform uses."""
MOST_ENTRIES = 32
"""Entries in each of the 256 subfolders, after which the oldest is deleted. That is room for some
8,000 pipelines of about 2 kB each."""


class CheckResult(NamedTuple):
    """What a check has found."""

    pipeline: Pipeline | None
    """None where there are errors."""
    problems: tuple[Problem, ...]
    data: Mapping[str, Any] | None = None
    """The document; None where there are errors."""


def cached_check(path: Path, check: Callable[[Path], CheckResult]) -> CheckResult:
    """What `check(path)` finds, or what it found before for the same content."""
    content = _content(path)
    key = _key(path, content) if content else None
    if content is None or key is None:
        return check(path)
    entry = read_entry(key)
    if entry is not None:
        _log.debug("%s: unchanged since its last check", path)
        return _unpack(entry, path, content)
    _log.debug("%s: new or changed, checking it", path)
    result = check(path)
    # Warnings about SQL files are not kept: an entry has no place for their paths.
    is_about_yaml = all(problem.file == str(path) for problem in result.problems)
    # The files may have been edited during the check; then the key does not describe the result.
    if result.pipeline and is_about_yaml and content == _content(path):
        write_entry(key, _pack(result))
    return result


def is_remembered(path: Path) -> bool | None:
    """Whether the cache has the result of checking `path`; None where nothing can be cached."""
    if not cache_is_on():
        return None
    content = _content(path)
    key = _key(path, content) if content else None
    if key is None:
        return None
    return read_entry(key) is not None


def _content(path: Path) -> dict[str, bytes] | None:
    """The SQL files by name, and the YAML under the empty name.

    None where a check has to look at more than content, for example at links, and where there is
    too much content.
    """
    folder = sql_folder(path)
    try:
        # A check refuses links that lead out of the folder, which content does not show.
        if os.path.islink(folder) or not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        sql_files: list[os.DirEntry[str]] = []
        if os.path.isdir(folder):
            sql_files = [entry for entry in os.scandir(folder) if entry.name.endswith(".sql")]
        sql_files.sort(key=attrgetter("name"))
        size = path.stat().st_size
        for file in sql_files:
            if not file.is_file(follow_symlinks=False):
                return None
            size += file.stat().st_size
        if size > MOST_BYTES:
            return None
        content = {"": _read(path)}
        for file in sql_files:
            content[file.name] = _read(file.path)
    except (OSError, ValueError):
        return None
    if any(len(data) > MAX_BYTES for data in content.values()):
        return None
    return content


def _read(file: str | Path) -> bytes:
    with open(file, "rb") as source:
        return read_bounded(source)


def _key(path: Path, content: Mapping[str, bytes]) -> str | None:
    try:
        digest = hashlib.sha256(checker_version())
    except (OSError, ImportError):  # code that is not in files, a library without metadata
        return None
    # The folder's name is the pipeline's where the document gives none.
    folder = os.path.basename(os.path.realpath(path.parent))
    for name, data in {f"{folder}/{path.name}": b"", **content}.items():
        # With each length, so that the end of one file cannot pass for the start of the next.
        digest.update(f"{name}\0{len(data)}\0".encode(errors="surrogateescape"))
        digest.update(data)
    return digest.hexdigest()


@once
def checker_version() -> bytes:
    """A hash that changes whenever a check might find something else: of our code, the schema, the
    libraries and Python.

    It covers the files as they are at the first call, so a long-lived process calls it when it
    imports the code. Raises OSError or ImportError where the code or a library cannot be read.
    """
    libraries = list(map(_facts_of, LIBRARIES))
    digest = hashlib.sha256(f"{sys.version} {libraries}".encode())
    for file in [SCHEMA_FILE, *code_files()]:
        digest.update(hashlib.sha256(_read(file)).digest())
    return digest.digest()


def _facts_of(library: str) -> str:
    """The metadata of an installed library, its version among them. Only to find the version in
    them would take five times as long."""
    installed = distribution(library)
    return installed.read_text("METADATA") or installed.version


def code_files() -> list[Path]:
    """Our modules that decide what a check finds."""
    package = Path(__file__).resolve().parents[1]
    files: list[Path] = []
    for folder in CHECKING:
        files += sorted((package / folder).glob("*.py"))
    return files


def _pack(result: CheckResult) -> dict[str, Any]:
    from loadsheet.spec.dependencies import transform_inputs

    assert result.pipeline
    inputs = transform_inputs(result.pipeline)
    return {
        "data": result.data,
        # The path is not part of the content: `_unpack` sets it.
        "warnings": [{**problem.as_dict(), "file": ""} for problem in result.problems],
        "inputs": [[name, *astuple(read)] for name, read in inputs.items()],
    }


def _unpack(entry: Any, path: Path, content: Mapping[str, bytes]) -> CheckResult:
    from loadsheet.spec.build import build_pipeline
    from loadsheet.spec.dependencies import remember_inputs
    from loadsheet.spec.models import Inputs

    data = entry["data"]
    sql: dict[str, str] = {}
    for name in data.get("transforms") or ():
        sql[name] = content[f"{name}.sql"].decode("utf-8-sig")
    pipeline = build_pipeline(data, path, sql)
    inputs: dict[str, Inputs] = {}
    for name, *read in entry["inputs"]:
        inputs[name] = Inputs(*map(tuple, read))
    remember_inputs(pipeline, inputs)
    warnings = [Problem(**{**problem, "file": str(path)}) for problem in entry["warnings"]]
    return CheckResult(pipeline, tuple(warnings), data)


def read_entry(key: str) -> Any:
    """The value stored under `key` (hex digits); None where there is none, or where the file is not
    exactly what was stored."""
    try:
        folder = _folder()
        if folder is None or not only_we_may_write(folder):
            return None
        checksum, _, body = _file(folder, key).read_text("utf-8").partition("\n")
        # The file may have been edited, damaged, or copied from another key.
        if checksum != _checksum(key, body):
            return None
        return json.loads(body)
    # A damaged entry counts as none: the file is checked again.
    except (OSError, ValueError, RecursionError):
        return None


def write_entry(key: str, value: Any) -> None:
    """Store `value` (plain JSON) under `key`, whole or not at all. Does nothing where the folder
    cannot be written."""
    with contextlib.suppress(OSError, ValueError):
        folder = _folder()
        if folder is None:
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not only_we_may_write(folder):
            return
        body = json.dumps(value, allow_nan=False)
        file = _file(folder, key)
        file.parent.mkdir(mode=0o700, exist_ok=True)
        _make_room(file.parent)
        # Renamed when it is complete: other processes read entries at any time.
        handle, temporary = tempfile.mkstemp(dir=file.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as target:
                target.write(f"{_checksum(key, body)}\n{body}")
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise


def cache_is_on() -> bool:
    """Whether there is a cache folder."""
    return _folder() is not None


def _folder() -> Path | None:
    chosen = os.environ.get("LOADSHEET_CACHE")
    if chosen is None:
        user_cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        chosen = os.path.join(user_cache, "loadsheet")
    # A relative path would be another folder for each working directory.
    return Path(chosen) if os.path.isabs(chosen) else None


def _file(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.json"


def _checksum(key: str, body: str) -> str:
    return hashlib.sha256(f"{key}\n{body}".encode()).hexdigest()


def _make_room(folder: Path) -> None:
    files = list(folder.iterdir())
    surplus = len(files) - MOST_ENTRIES + 1
    if surplus <= 0:
        return
    files.sort(key=lambda file: file.stat().st_mtime_ns)
    for old in files[:surplus]:
        old.unlink(missing_ok=True)
