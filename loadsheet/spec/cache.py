"""A folder of small JSON values by key, for whatever can be had again: nothing here may fail, only miss.

`LOADSHEET_CACHE` names the folder (empty: none); without it, `loadsheet` in the user's cache folder. Not in the
project, which may be read-only and is replaced by every deploy; not in /tmp, where others could write. JSON and never
pickle, and only in a folder that nobody else may write: whoever can change an entry must not gain anything by it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

MOST = 32
"""Entries in one of the 256 sub-folders; the oldest makes room. Some 8,000 pipelines, at about 2 kB each."""


def get(key: str) -> Any:
    """The value put under `key` (hex digits); None where there is none, or not exactly what was put there."""
    try:
        folder = _folder()
        if folder is None or not _is_ours_alone(folder):
            return None
        seal, _, body = _file(folder, key).read_text("utf-8").partition("\n")
        return json.loads(body) if seal == _seal(key, body) else None
    except (OSError, ValueError, RecursionError):
        return None


def put(key: str, value: Any) -> None:
    """Keep `value` (plain JSON) under `key`, whole or not at all; does nothing where that is not possible."""
    with contextlib.suppress(OSError, ValueError):
        folder = _folder()
        if folder is None:
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_ours_alone(folder):
            body = json.dumps(value, allow_nan=False)
            _write(_file(folder, key), f"{_seal(key, body)}\n{body}")


def is_on() -> bool:
    """Whether there is a folder to keep anything in."""
    return _folder() is not None


def _folder() -> Path | None:
    chosen = os.environ.get("LOADSHEET_CACHE")
    if chosen is None:
        chosen = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "loadsheet")
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
    if len(files) >= MOST:
        for old in sorted(files, key=lambda file: file.stat().st_mtime_ns)[: len(files) - MOST + 1]:
            old.unlink(missing_ok=True)
