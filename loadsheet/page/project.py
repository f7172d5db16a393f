"""The documents of a project on this machine, by the path that the page asks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from loadsheet.connections.lookup import Connections
from loadsheet.errors import InputError, SpecError
from loadsheet.page import documents
from loadsheet.page.documents import Document
from loadsheet.project.folder import relative_problem
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import declared_name, load_pipeline

# Several tabs, or an impatient reload, ask the servers once.
_FRESH_SECONDS = 2.0


class ProjectDocuments:
    """Answers what the page asks, for the pipelines of a project. It may be called by many threads
    at once."""

    def __init__(self, files: Callable[[], Sequence[Path]], connections: Connections):
        """`files` lists the pipeline files, each time as they are then."""
        self._files = files
        self._connections = connections
        self._overviews = {
            ask_source: _Shared(self._read_overview(ask_source)) for ask_source in (False, True)
        }

    def answer(self, path: Sequence[str], asks_source: bool = True) -> Document:
        """The document at `path`, the parts behind `api/`. Raises InputError where there is
        none."""
        match path:
            case ["session"]:
                return documents.session("local")
            case ["pipelines"]:
                return self._overviews[asks_source].read()
            case ["pipelines", name, "targets", kind, target]:
                return documents.target(self._pipeline(name), self._connections, kind, target)
            case ["pipelines", name, "runs"]:
                return documents.runs(self._pipeline(name), self._connections)
            case ["pipelines", name, "runs", run_id]:
                return documents.run(self._pipeline(name), self._connections, run_id)
        raise InputError(f"there is no page api/{'/'.join(path)}")

    def _read_overview(self, ask_source: bool) -> Callable[[], Document]:
        return lambda: documents.overview(self._files(), self._connections, ask_source)

    def _pipeline(self, name: str) -> Pipeline:
        for file in self._files():
            if name not in (declared_name(file), file.absolute().parent.name):
                continue
            try:
                pipeline = load_pipeline(file)
            except SpecError as error:
                problems = [str(relative_problem(problem)) for problem in error.problems]
                raise InputError("\n".join(problems)) from None
            if pipeline.name == name:
                return pipeline
        raise InputError(f"there is no pipeline {name!r}")


class _Shared:
    """A document that several threads read at once, and that is read again when it is no longer
    fresh."""

    def __init__(self, read: Callable[[], Document]):
        self._read = read
        self._lock = threading.Lock()
        self._document: Document | None = None
        self._until = 0.0

    def read(self) -> Document:
        with self._lock:
            if self._document is None or time.monotonic() > self._until:
                self._document = self._read()
                self._until = time.monotonic() + _FRESH_SECONDS
            return self._document
