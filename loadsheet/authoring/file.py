"""A pipeline file as it is on disk: extended in memory, checked, and written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from difflib import unified_diff
from pathlib import Path
from typing import Any

from loadsheet.errors import InputError, SpecError
from loadsheet.project.folder import display_path
from loadsheet.spec.files import MAX_BYTES
from loadsheet.spec.pipeline_file import check_text

_BOM = "\ufeff"


class SpecFile:
    """The file at `path`, which has passed its check."""

    def __init__(self, path: Path):
        from loadsheet.spec.strict_yaml import read_document

        self.path = path
        self._bytes = path.read_bytes()
        text = self._bytes.decode()
        self._bom, self.text = (_BOM, text[1:]) if text.startswith(_BOM) else ("", text)
        self.data: Mapping[str, Any] = read_document(path, self.text).data

    def with_tables(self, entries: Mapping[str, Mapping[str, Any]]) -> str:
        """The text with `entries` as its last tables. Raises SpecError when it would not pass the
        check."""
        from loadsheet.spec.edit import with_tables
        from loadsheet.spec.strict_yaml import read_document

        if not entries:
            return self.text
        text = with_tables(self.text, entries)
        check_new(self.path, text)
        new = {name: entry or None for name, entry in entries.items()}
        if read_document(self.path, text).data != {
            **self.data,
            "tables": {**self.data["tables"], **new},
        }:
            raise InputError(
                f"{display_path(self.path)} is written in a way that cannot be extended; nothing was"
                " written"
            )
        return text

    def diff(self, text: str) -> str:
        """The unified diff from the file to `text`, as `patch` takes it."""
        return diff(self.path, self.text, text)

    def write(self, text: str) -> None:
        """Put `text` into the file's place. Raises InputError when it is read-only or was changed
        meanwhile."""
        target = self.path.resolve()
        _refuse_read_only(target, target.parent)
        temporary = _temporary(target, self._bom + text)
        try:
            if not target.exists() or target.read_bytes() != self._bytes:
                raise InputError(
                    f"{display_path(self.path)} was changed meanwhile; nothing was written: run it again"
                )
            shutil.copymode(target, temporary)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise


def write_new(path: Path, text: str) -> None:
    """Make the file and its folder. Raises InputError when the file is already there or no folder
    can be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(
            f"{display_path(path.parent)} cannot be a folder: there is a file; nothing was written"
        ) from None
    except PermissionError:
        raise InputError(
            f"{display_path(path.parent)} cannot be made: no permission; nothing was written"
        ) from None
    _refuse_read_only(path.parent)
    temporary = _temporary(path, text)
    try:
        os.chmod(temporary, 0o666 & ~_umask())
        os.link(temporary, path)
    except FileExistsError:
        raise InputError(f"{display_path(path)} is already there; nothing was written") from None
    finally:
        os.unlink(temporary)


def _refuse_read_only(*places: Path) -> None:
    """Putting a file in another's place asks only the folder; but who makes a file read-only wants
    it kept."""
    for place in places:
        if place.exists() and not os.access(place, os.W_OK):
            raise InputError(f"{display_path(place)} is read-only; nothing was written")


def check_new(path: Path, text: str) -> None:
    """Raises SpecError with what `loadsheet check` would say if `path` held `text`."""
    if len(text.encode()) > MAX_BYTES:
        raise InputError(
            f"{display_path(path)} would be larger than 1 MiB; nothing was written: split it"
        )
    pipeline, problems = check_text(path, text)
    if pipeline is None:
        raise SpecError(problems)


def diff(path: Path, old: str, new: str) -> str:
    """The unified diff of a file that held `old` (empty: was not there) and is to hold `new`."""
    name = display_path(path)
    before = f"a/{name}" if old else "/dev/null"
    lines = unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), before, f"b/{name}"
    )
    shown_lines = []
    for line in lines:
        shown_lines.append(line)
        if not line.endswith("\n"):
            shown_lines.append("\n\\ No newline at end of file\n")
    return "".join(shown_lines)


def _temporary(target: Path, text: str) -> str:
    """A file beside `target`, whose name no pipeline has, that holds `text` also after a crash."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return name


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
