"""The files of a pipeline: where they are, and their bytes as text or one clear problem."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from loadsheet.errors import SpecError
from loadsheet.problem import Problem
from loadsheet.redact import CONTROLS, TURNS

SCHEMA_FILE = Path(__file__).resolve().parents[1] / "schemas" / "pipeline.schema.json"
"""In the package, so that an installed one has it. `schemas/` of our repository has the same."""


def sql_folder(pipeline_file: Path) -> Path:
    """Where the SQL files of the pipeline in `pipeline_file` are."""
    return pipeline_file.parent / "sql"


def is_there(file: str | Path) -> bool:
    """Whether there is a file of that name, be it a link to nowhere, or in a folder that may not be
    looked into: reading it then gives an error, instead of ignoring it."""
    try:
        os.lstat(file)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
    except ValueError:  # a name with a NUL
        return False
    return True


def leads_into(file: Path, folder: Path) -> bool:
    """Whether `file`, all links followed, is below `folder`. A link to itself is where it stands."""
    # Not Path.resolve: before Python 3.13 it raises RuntimeError for a link to itself.
    return Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))


MAX_BYTES = 1024 * 1024
"""A spec of 1000 tables has about 100 kB; anything near this size is not a spec."""

UNPRINTABLE = re.compile(
    f"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{TURNS}\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]"
)
"""What YAML forbids, the line breaks only YAML 1.1 knows (they shift every position an editor
shows), and what makes a file read otherwise than it is."""

STEERING = re.compile(f"(?![\r\f\v])[{CONTROLS}{TURNS}]")
"""What no SQL file needs: PostgreSQL refuses NUL, and the rest shows a reader other code than the
server runs."""
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path, forbidden: re.Pattern[str] = UNPRINTABLE) -> str:
    """The file's text without a byte order mark.

    Raises SpecError with one problem when the file cannot be read, is larger than MAX_BYTES, is not
    UTF-8 or holds a character that `forbidden` finds.
    """
    data = _read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        if data.startswith(_UTF16):
            raise _unreadable(path, "the file is UTF-16", "save it as UTF-8") from None
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8"
        raise _unreadable(path, message, "save the file as UTF-8", before) from None
    if match := forbidden.search(text):
        message = f"the character U+{ord(match.group()):04X} cannot be seen and is not allowed here"
        raise _unreadable(path, message, "delete it", text[: match.start()])
    return text


def _read_bytes(path: Path) -> bytes:
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise _unreadable(path, "this is a folder, not a file")
        if not stat.S_ISREG(found.st_mode):
            raise _unreadable(path, "this is not a regular file")
        with path.open("rb") as file:
            data = read_bounded(file)
    except FileNotFoundError:
        raise _unreadable(path, "there is no such file") from None
    except (OSError, ValueError) as error:
        raise _unreadable(
            path, f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if len(data) > MAX_BYTES:
        raise _unreadable(path, "the file is larger than 1 MiB", "split it")
    return data


def read_bounded(file: BinaryIO) -> bytes:
    """What the open `file` holds; of more than MAX_BYTES one byte more, whatever it has become
    meanwhile.

    Room is made for its size: for the most there may be it took longer than to read what there is.
    """
    return file.read(min(os.fstat(file.fileno()).st_size, MAX_BYTES) + 1)


def _unreadable(path: Path, message: str, hint: str = "", before: str = "") -> SpecError:
    line = before.count("\n") + 1
    column = len(before) - (before.rfind("\n") + 1) + 1
    return SpecError(
        [
            Problem(
                file=str(path),
                line=line,
                column=column,
                path="",
                message=message,
                hint=hint,
                code="unreadable-file",
            )
        ]
    )
