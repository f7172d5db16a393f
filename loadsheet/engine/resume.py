"""Resumes a stopped run: which options it was started with, and which of its steps are done.

Two places remember that. The ledger in the warehouse knows what the run has extracted, loaded and
built (`has_loaded`, `extracted_load_id`, `has_built`). A file on this machine keeps the options,
and the tables in which the run found nothing new, of which the ledger has no row (`RunRecord`).

`LOADSHEET_STATE` names the folder of these files (empty: no files); the default is `loadsheet` in
the user's state folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from loadsheet.errors import InputError
from loadsheet.outcome import RunRequest
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline
from loadsheet.sql.text import Relation
from loadsheet.trust import only_we_may_write
from loadsheet.warehouse import ledger

_log = logging.getLogger(__name__)


def has_loaded(session: Session, pipeline: str, table: str, target: Relation, run_id: str) -> bool:
    """Whether the run has committed a load of the table."""
    committed = "load WHERE pipeline = %s AND table_name = %s AND target = %s AND run_id = %s"
    return _exists(session, committed, pipeline, table, str(target), run_id)


def load_of_run(
    session: Session, pipeline: str, table: str, target: Relation, run_id: str
) -> str | None:
    """The id of the last load of the table that the run has committed; None where there is none."""
    row = session.execute(
        "SELECT load_id FROM loadsheet.load WHERE pipeline = %s AND table_name = %s AND target = %s"
        " AND run_id = %s ORDER BY load_no DESC LIMIT 1",
        (pipeline, table, str(target), run_id),
    ).fetchone()
    return str(row[0]) if row else None


def extracted_load_id(
    session: Session, pipeline: str, table: str, target: Relation, run_id: str
) -> str | None:
    """The id of the load that the run has extracted completely and not loaded; None as soon as a
    newer extraction has taken the fence."""
    load_id = ledger.next_load_id(session, pipeline, table, target, run_id)
    sealed = "scope WHERE pipeline = %s AND table_name = %s AND target = %s AND sealed_load_id = %s"
    if not _exists(session, sealed, pipeline, table, str(target), load_id):
        return None
    return load_id


def has_built(
    session: Session, pipeline: str, transform: str, target: Relation, run_id: str
) -> bool:
    """Whether the run has built the transform in full."""
    built = (
        "transform_run WHERE pipeline = %s AND transform = %s AND target = %s AND run_id = %s"
        " AND full_build"
    )
    return _exists(session, built, pipeline, transform, str(target), run_id)


def _exists(session: Session, where: str, *values: str) -> bool:
    row = session.execute(f"SELECT EXISTS (SELECT FROM loadsheet.{where})", values).fetchone()
    return row == (True,)


class RunRecord:
    """The file about the last run of a pipeline.

    A run does not depend on it: where it cannot be written, the run cannot be resumed, that is all.
    """

    def __init__(self, pipeline: Pipeline):
        self._pipeline = pipeline
        self._file = _file(pipeline)
        self._digests = _digests_by_name(pipeline)
        self._unchanged: list[str] = []
        self._writing = threading.Lock()
        self._has_begun = False
        """Whether the file was written in a folder that is ours."""

    def begin(self, request: RunRequest) -> None:
        """Record that a run starts, or resumes."""
        self._request = request
        self._write()

    def add_unchanged(self, table: str) -> None:
        """Record that the run has read the whole table and found nothing new. Thread-safe."""
        if self._file is None or not self._has_begun:
            return
        # A line for each, behind the document: of 5,000 tables, each would write it again.
        line = json.dumps({"run": self._request.run_id, "unchanged": table}) + "\n"
        with self._writing, contextlib.suppress(OSError):
            # Where another run has replaced the file, the line has the wrong run; where one has
            # removed it, there is nothing to resume.
            handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
            with os.fdopen(handle, "w", encoding="utf-8") as target:
                target.write(line)

    @property
    def is_kept(self) -> bool:
        """Whether `--resume` would resume this run: not if another one has started since."""
        document = self._read()
        return document is not None and document["request"].run_id == self._request.run_id

    def end(self) -> None:
        """Remove the record: the run has succeeded, so there is nothing to resume."""
        if self._file and self.is_kept:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)

    def resumed(self) -> RunRequest:
        """The request that resumes the last stopped or failed run with its original options.

        A table whose entry in the spec has changed since is read again. Raises InputError when
        there is no such run, or when its servers or schemas have changed.
        """
        document = self._read()
        if not document:
            raise InputError(
                f"--resume: no run of {self._pipeline.name} was stopped on this machine; run it"
                " without --resume"
            )
        if document["places"] != _places_digest(self._pipeline):
            raise InputError(
                f"--resume: {self._pipeline.file} names another source, lake or warehouse than when"
                " the run was stopped; run it without --resume"
            )
        # The record keeps the earlier digests, in case this run is stopped as well: what was done
        # before was done by that spec.
        self._digests = document["parts"]
        same: set[str] = set()
        for name, digest in _digests_by_name(self._pipeline).items():
            if self._digests.get(name) == digest:
                same.add(name)
        self._unchanged = [name for name in document["unchanged"] if name in same]
        request: RunRequest = document["request"]
        unchanged = frozenset(self._unchanged)
        _log.info("run %s is resumed; nothing was new in %d tables", request.run_id, len(unchanged))
        return replace(request, resumes=frozenset(same), found_unchanged=unchanged)

    def _read(self) -> dict[str, Any] | None:
        """The record; None where there is none, or one of another version."""
        if self._file is None:
            return None
        try:
            # It decides which tables are not read again.
            if not only_we_may_write(self._file.parent):
                _log.info("%s is not believed: another user may write to its folder", self._file)
                return None
            first, *lines = self._file.read_text("utf-8").splitlines()
            document = json.loads(first)
            request = _request(document["request"])
            return {
                "places": document["places"],
                "parts": document["parts"],
                "unchanged": [*document["unchanged"], *_unchanged_in(lines, request.run_id)],
                "request": request,
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _write(self) -> None:
        if self._file is None:
            return
        document = {
            "request": asdict(self._request),
            "places": _places_digest(self._pipeline),
            "parts": self._digests,
            "unchanged": self._unchanged,
        }
        try:
            folder = self._file.parent
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not only_we_may_write(folder):
                _log.warning(
                    "the run cannot be resumed later: another user may write to %s", folder
                )
                return
            # Another run may be writing its own, so each has its temporary file.
            handle, temporary = tempfile.mkstemp(dir=folder)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as target:
                    json.dump(document, target, default=sorted)
                    target.write("\n")
                os.replace(temporary, self._file)
                self._has_begun = True
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            _log.info(
                "the run cannot be resumed later, %s cannot be written: %s", self._file, error
            )


def _unchanged_in(lines: Iterable[str], run_id: str) -> Iterator[str]:
    """The tables that the lines of this run name. The last line may be cut off."""
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if entry["run"] == run_id:
                yield str(entry["unchanged"])


def _file(pipeline: Pipeline) -> Path | None:
    folder = os.environ.get("LOADSHEET_STATE")
    if folder is None:
        state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        folder = os.path.join(state, "loadsheet")
    # A relative path would be another folder for each working directory.
    if not os.path.isabs(folder):
        return None
    # By the path as well: two checkouts of a project run independently.
    return Path(folder) / f"{_digest([str(pipeline.file.resolve()), pipeline.name])}.json"


def _places_digest(pipeline: Pipeline) -> str:
    return _digest([pipeline.source, pipeline.lake, pipeline.warehouse])


def _digests_by_name(pipeline: Pipeline) -> dict[str, str]:
    """A digest of each table's entry in the spec. Transforms have none: one whose SQL has changed
    is built again in any case."""
    digests = dict.fromkeys((transform.name for transform in pipeline.transforms), "")
    for table in pipeline.tables:
        # Retries and time limits do not change what is read.
        digests[table.name] = _digest([replace(table, tasks=pipeline.tasks)])
    return digests


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:20]


def _request(fields: dict[str, Any]) -> RunRequest:
    # JSON has no sets: `_write` has made sorted lists of them.
    sets = {name: frozenset(value) for name, value in fields.items() if isinstance(value, list)}
    return RunRequest(**{**fields, **sets})
