"""Resumes a run: which options it was started with, and which of its steps are already done.

What it has done is not kept here: the ledger knows. `LOADSHEET_STATE` names the folder (empty:
none); without it,
`loadsheet` in the user's state folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from loadsheet.errors import InputError
from loadsheet.outcome import RunRequest
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline
from loadsheet.warehouse import ledger


def has_loaded(session: Session, pipeline: str, table: str, run_id: str) -> bool:
    """Whether the run has committed a load of the table."""
    return _exists(
        session,
        "load WHERE pipeline = %s AND table_name = %s AND run_id = %s",
        pipeline,
        table,
        run_id,
    )


def extracted_load_id(session: Session, pipeline: str, table: str, run_id: str) -> str | None:
    """The load that the run has extracted completely and not loaded; None as soon as a newer
    extraction has begun."""
    load_id = ledger.next_load_id(session, pipeline, table, run_id)
    sealed = "scope WHERE pipeline = %s AND table_name = %s AND sealed_load_id = %s"
    return load_id if _exists(session, sealed, pipeline, table, load_id) else None


def has_built(session: Session, pipeline: str, transform: str, run_id: str) -> bool:
    """Whether the run has built the transform in full."""
    built = "transform_run WHERE pipeline = %s AND transform = %s AND run_id = %s AND full_build"
    return _exists(session, built, pipeline, transform, run_id)


def _exists(session: Session, where: str, *values: str) -> bool:
    return session.execute(f"SELECT EXISTS (SELECT FROM loadsheet.{where})", values).fetchone() == (
        True,
    )


class RunRecord:
    """The record of a pipeline's run. Where none can be written there is none; the run does not
    depend on it."""

    def __init__(self, pipeline: Pipeline):
        self._pipeline = pipeline
        self._file = _file(pipeline)
        self._parts = _parts(pipeline)
        self._unchanged: list[str] = []
        self._writing = threading.Lock()

    def begin(self, request: RunRequest) -> None:
        """A run begins, or goes on."""
        self._request = request
        self._write()

    def unchanged(self, table: str) -> None:
        """The run has read the whole table and found nothing new in it, which the ledger is not
        told. Any thread."""
        with self._writing:
            self._unchanged.append(table)
            if self.is_kept:
                self._write()

    @property
    def is_kept(self) -> bool:
        """Whether `--resume` would resume this run: not where another one has started since."""
        found = self._read()
        return found is not None and found["request"].run_id == self._request.run_id

    def end(self) -> None:
        """The run has succeeded: there is nothing to resume."""
        if self._file and self.is_kept:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)

    def resumed(self) -> RunRequest:
        """The request that resumes the last stopped or failed run with its original options.

        A table whose part of the spec was changed since is read again. Raises InputError when there
        is no such run, or when its servers or schemas are others now.
        """
        found = self._read()
        if not found:
            raise InputError(
                f"--resume: no run of {self._pipeline.name} was stopped on this machine; run it"
                " without --resume"
            )
        if found["places"] != _places(self._pipeline):
            raise InputError(
                f"--resume: {self._pipeline.file} names another source, lake or warehouse than when"
                " the run was stopped; run it without --resume"
            )
        # also for the next time: what the run did before was done by these
        self._parts = found["parts"]
        now = _parts(self._pipeline)
        same = {name for name, digest in now.items() if self._parts.get(name) == digest}
        self._unchanged = [name for name in found["unchanged"] if name in same]
        asked: RunRequest = found["request"]
        tables = asked.only
        if tables is None:
            tables = frozenset(table.name for table in self._pipeline.tables)
        left = tables - frozenset(self._unchanged)
        return replace(asked, resumes=frozenset(same), only=left)

    def _read(self) -> dict[str, Any] | None:
        """The record; None where there is none, or one that another version has written."""
        try:
            found: dict[str, Any] = json.loads(self._file.read_text("utf-8")) if self._file else {}
            return {
                **{key: found[key] for key in ("places", "parts", "unchanged")},
                "request": _request(found["request"]),
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _write(self) -> None:
        document = {
            "request": asdict(self._request),
            "places": _places(self._pipeline),
            "parts": self._parts,
            "unchanged": self._unchanged,
        }
        if self._file:
            with contextlib.suppress(OSError):
                self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                # another run may be writing its own
                fresh = self._file.with_suffix(f".{os.getpid()}.new")
                fresh.write_text(json.dumps(document, default=sorted), "utf-8")
                fresh.replace(self._file)


def _file(pipeline: Pipeline) -> Path | None:
    folder = os.environ.get("LOADSHEET_STATE")
    if folder is None:
        folder = os.path.join(
            os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "loadsheet"
        )
    if not os.path.isabs(folder):
        return None
    return Path(folder) / f"{_digest([str(pipeline.file.resolve()), pipeline.name])}.json"


def _places(pipeline: Pipeline) -> str:
    return _digest([pipeline.source, pipeline.lake, pipeline.warehouse])


def _parts(pipeline: Pipeline) -> dict[str, str]:
    """Tables by what the spec says of them. A transform is built again by itself when its SQL has
    changed."""
    return {
        **{transform.name: "" for transform in pipeline.transforms},
        **{
            table.name: _digest([replace(table, tasks=pipeline.tasks)]) for table in pipeline.tables
        },
    }


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:20]


def _request(fields: dict[str, Any]) -> RunRequest:
    sets = {name: frozenset(value) for name, value in fields.items() if isinstance(value, list)}
    return RunRequest(**{**fields, **sets})
