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
from loadsheet.redact import BIDI_CONTROLS, CONTROLS

SCHEMA_FILE = Path(__file__).resolve().parents[1] / "schemas" / "pipeline.schema.json"
"""Inside the package, so that an installed one has it. Our repository's `schemas/` holds a copy."""

MAX_BYTES = 1024 * 1024
"""A pipeline file with 1,000 tables takes about 100 kB; a file near this size is something else."""

UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    f"{BIDI_CONTROLS}\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]"
)
"""Characters that YAML forbids, line breaks that only YAML 1.1 knows (they shift every position an
editor shows), and characters that make a file read otherwise than it is."""

FORBIDDEN_IN_SQL = re.compile(f"(?![\r\f\v])[{CONTROLS}{BIDI_CONTROLS}]")
"""Characters that no SQL file needs: PostgreSQL refuses NUL, and the others can show a reader
different code from what the server runs."""

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def sql_folder(pipeline_file: Path) -> Path:
    """The folder of the SQL files that belong to `pipeline_file`."""
    return pipeline_file.parent / "sql"


def is_there(file: str | Path) -> bool:
    """Whether there is a file of that name.

    A dangling link counts, and so does a file in a folder that may not be read: reading it then
    raises an error, whereas ignoring it would hide the mistake.
    """
    try:
        os.lstat(file)
    except OSError as error:
        return error.errno not in _ABSENT
    except ValueError:  # a name with a NUL
        return False
    return True


def real_path(path: Path) -> Path:
    """`path` as an absolute path, all links followed. A link to itself stays where it is."""
    # Not Path.resolve: before Python 3.13 it raises RuntimeError for a link to itself.
    return Path(os.path.realpath(path))


def leads_into(file: Path, folder: Path) -> bool:
    """Whether `file`, all links followed, is inside `folder`."""
    return real_path(file).is_relative_to(real_path(folder))


def read_text(path: Path, forbidden: re.Pattern[str] = UNPRINTABLE) -> str:
    """The file's text without a byte order mark.

    Raises SpecError with one problem when the file cannot be read, is larger than MAX_BYTES, is not
    UTF-8 or holds a character that `forbidden` finds.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise _unreadable(path, "this is a folder, not a file")
        # A named pipe would block the check, and a device may never end.
        if not stat.S_ISREG(mode):
            raise _unreadable(path, "this is not a regular file")
        with path.open("rb") as file:
            data = read_bounded(file)
    except FileNotFoundError:
        raise _unreadable(path, "there is no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _unreadable(path, f"the file cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise _unreadable(path, "the file is larger than 1 MiB", "split it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith(_UTF16):
            raise _unreadable(path, "the file is UTF-16", "save it as UTF-8") from None
        before = data[: error.start].decode("utf-8-sig")
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8"
        raise _unreadable(path, message, "save the file as UTF-8", before) from None
    match = forbidden.search(text)
    if match:
        message = f"the invisible character U+{ord(match.group()):04X} is not allowed here"
        raise _unreadable(path, message, "delete it", text[: match.start()])
    return text


def read_bounded(file: BinaryIO) -> bytes:
    """The content of the open `file`, at most MAX_BYTES + 1 bytes of it even if the file grows
    meanwhile."""
    # By the file's own size: Python allocates all bytes that are asked for, and allocating the
    # maximum took longer than reading a usual file.
    size = os.fstat(file.fileno()).st_size
    return file.read(min(size, MAX_BYTES) + 1)


def _unreadable(path: Path, message: str, hint: str = "", before: str = "") -> SpecError:
    """The error at the position that follows the text `before`."""
    problem = Problem(
        file=str(path),
        line=before.count("\n") + 1,
        column=len(before) - (before.rfind("\n") + 1) + 1,
        path="",
        message=message,
        hint=hint,
        code="unreadable-file",
    )
    return SpecError([problem])
