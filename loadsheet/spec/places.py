"""Where the files beside a pipeline file are."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_ABOVE = Path(__file__).resolve().parents[2:]
_SCHEMAS = (folder / "schemas" / "pipeline.schema.json" for folder in _ABOVE)

SCHEMA_FILE = next((file for file in _SCHEMAS if file.is_file()), _ABOVE[0])
"""Beside the package, in a checkout and in an editable install; above it where the package is installed in an
environment inside the checkout, as pre-commit does."""


def sql_folder(pipeline_file: Path) -> Path:
    """Where the SQL files of the pipeline in `pipeline_file` are."""
    return pipeline_file.parent / "sql"


def is_there(file: str | Path) -> bool:
    """Whether there is a file of that name, be it a link to nowhere, or in a folder that may not be looked into: then
    whoever reads it says so, and nobody passes over it in silence."""
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
