"""One DAG file of the bundle: its name, its text, how it is written, and what the parses of it leave behind."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from pathlib import Path

from loadsheet.names import slug

TEMPLATE = """\
# Airflow's DAG file for {spec!r}. That is the file to edit; this one is written again whenever it is missing.
from dags.pipeline_file import dag_of

dag = dag_of(__file__, {project!r}, {folder!r})
"""
SUFFIX = ".yml.py"
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")


def stub_name(folder: str) -> str:
    """The name of the DAG file for the pipeline in `folder`; no other folder has it."""
    plain = _PLAIN.fullmatch(folder)
    return f"{folder if plain else slug(ascii(folder)) + '+'}{SUFFIX}"


def stub_text(project: Path, folder: str) -> str:
    """What is in the DAG file for the pipeline in `folder`."""
    return TEMPLATE.format(spec=f"pipelines/{folder}/pipeline.yml", project=str(project), folder=folder)


def write_whole(file: Path, text: str, drafts: Path, when: int | None = None) -> None:
    """Whole or not at all, with the time `when` (nanoseconds; default: now). Raises OSError.

    `drafts` is a folder on the same disk where Airflow does not look.
    """
    handle, draft = tempfile.mkstemp(dir=drafts)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as target:
            target.write(text)
        os.chmod(draft, 0o644)  # a task may run as another user than the one that was first here
        if when is not None:
            os.utime(draft, ns=(when, when))
        os.replace(draft, file)
    except BaseException:
        os.unlink(draft)
        raise


def stamp(stub: Path) -> None:
    """Give the DAG file a new time, which makes Airflow parse it. Raises PermissionError for another user's file."""
    now = time.time_ns()
    with contextlib.suppress(FileNotFoundError):
        os.utime(stub, ns=(now, now))


def mark(stub: Path, began: int, claim: str | None = None) -> None:
    """Say of a DAG file when its latest parse `began` (nanoseconds), and which name but its folder's it claims: ""
    for none, None for the one that the parse before has found."""
    marker, known = marker_of(stub), claim_of(stub)
    with contextlib.suppress(OSError):  # one parse too many is better than none
        try:
            same = claim is None or claim == known
            os.utime(marker, ns=(began, began))
        except OSError:  # not there yet, or another user's: somebody has used Airflow's command line
            same = False
        if not same:
            write_whole(marker, known if claim is None else claim, drafts=stub.parents[1], when=began)


def claim_of(stub: Path) -> str:
    """The pipeline's name, where the latest parse has found another one than its folder's; else nothing."""
    try:
        return marker_of(stub).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def marker_of(stub: Path) -> Path:
    """Where the parses of a DAG file leave their marks."""
    return stub.parents[1] / "parsed" / stub.name


def stats(folder: Path) -> dict[str, os.stat_result]:
    """Each file of the folder with its size and times."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # removed since
                found[entry.name] = entry.stat()
    return found
