"""The demo's folder: `.demo/` in the project, emptied at the start, or a temporary one where that
cannot be used."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def state_folder(project: Path) -> Iterator[Path]:
    """A folder of this process's own. Logs stay in it afterwards; a second demo at the same time
    gets another one."""
    folder = project / ".demo"
    lock = _lock(folder)
    if lock is None:
        yield Path(tempfile.mkdtemp(prefix="loadsheet-demo-"))
        return
    try:
        _empty(folder)
        yield folder
    finally:
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """An open lock file, held while the demo runs; None when the folder is in use or not ours to
    write."""
    try:
        folder.mkdir(exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != "lock":
            entry.unlink()
