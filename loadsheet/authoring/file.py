"""A pipeline file on disk: extended in memory, checked, then written completely or not at all."""

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
from loadsheet.spec.files import MAX_BYTES, real_path
from loadsheet.spec.pipeline_file import check_text

_BOM = "\ufeff"


class SpecFile:
    """The file at `path`, which has passed its check.

    `text` is its content without a byte order mark, `data` the parsed form.
    """

    def __init__(self, path: Path):
        from loadsheet.spec.strict_yaml import read_document

        self.path = path
        self._bytes = path.read_bytes()
        text = self._bytes.decode()
        # Kept apart, so that the edited file starts as the user's did.
        self._bom = _BOM if text.startswith(_BOM) else ""
        self.text = text.removeprefix(_BOM)
        self.data: Mapping[str, Any] = read_document(path, self.text).data

    def with_tables(self, entries: Mapping[str, Mapping[str, Any]]) -> str:
        """The text with `entries` as its last tables.

        Raises SpecError when it would not pass the check, InputError when the text cannot be
        extended.
        """
        from loadsheet.spec.edit import with_tables
        from loadsheet.spec.strict_yaml import read_document

        if not entries:
            return self.text
        text = with_tables(self.text, entries)
        check_new(self.path, text)
        # The text was edited without a parser, to keep comments and layout. Parsing it shows
        # whether the edit changed what it should, and nothing else.
        tables = dict(self.data["tables"])
        for name, entry in entries.items():
            tables[name] = entry or None
        if read_document(self.path, text).data != {**self.data, "tables": tables}:
            raise InputError(
                f"{display_path(self.path)} is written in a way that cannot be extended; nothing"
                " was written"
            )
        return text

    def diff(self, text: str) -> str:
        """The unified diff from the file to `text`."""
        return diff(self.path, self.text, text)

    def write(self, text: str) -> None:
        """Replace the file by one that holds `text`.

        Raises InputError when the file is read-only, or was changed since it was read.
        """
        target = real_path(self.path)
        _refuse_read_only(target, target.parent)
        temporary = _temporary(target, self._bom + text)
        try:
            if not target.exists() or target.read_bytes() != self._bytes:
                raise InputError(
                    f"{display_path(self.path)} was changed meanwhile; nothing was written: run it"
                    " again"
                )
            shutil.copymode(target, temporary)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise


def write_new(path: Path, text: str) -> None:
    """Create the file and its folder. Raises InputError when the file exists, or the folder cannot
    be created."""
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
        # Temporary files are private. The system has no call that only reads the umask.
        umask = os.umask(0o022)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        # A link, where a rename would replace a file that was created since.
        os.link(temporary, path)
    except FileExistsError:
        raise InputError(f"{display_path(path)} is already there; nothing was written") from None
    finally:
        os.unlink(temporary)


def _refuse_read_only(*places: Path) -> None:
    """Raises InputError for the first of `places` that is read-only.

    To replace a file, the system needs only the right to write to its folder. But a file that was
    made read-only is meant to be kept.
    """
    for place in places:
        if place.exists() and not os.access(place, os.W_OK):
            raise InputError(f"{display_path(place)} is read-only; nothing was written")


def check_new(path: Path, text: str) -> None:
    """Raises SpecError with the problems that `loadsheet check` would report if `path` held `text`,
    InputError when `text` is too large."""
    if len(text.encode()) > MAX_BYTES:
        raise InputError(
            f"{display_path(path)} would be larger than 1 MiB; nothing was written: split it"
        )
    pipeline, problems = check_text(path, text)
    if pipeline is None:
        raise SpecError(problems)


def diff(path: Path, old: str, new: str) -> str:
    """The unified diff, as `patch` takes it, of a file from `old` (empty: no file) to `new`."""
    name = display_path(path)
    before = f"a/{name}" if old else "/dev/null"
    text = ""
    for line in unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), before, f"b/{name}"
    ):
        text += line
        if not line.endswith("\n"):
            text += "\n\\ No newline at end of file\n"
    return text


def _temporary(target: Path, text: str) -> str:
    """A new file in the folder of `target`, flushed to disk, that holds `text`.

    Its name starts with a dot, so that it is never taken for a pipeline file.
    """
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return name
