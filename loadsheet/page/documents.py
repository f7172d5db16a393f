"""The documents behind the page, as values that JSON has: all pipelines, one table or mart, one
run. docs/ui.md describes their keys."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import psycopg

from loadsheet import __version__
from loadsheet.connections.lookup import Connections
from loadsheet.engine.diagnosis import told
from loadsheet.errors import InputError, LoadsheetError, SpecError
from loadsheet.page import about, commits
from loadsheet.page.checks import checks_of
from loadsheet.page.entries import kind_of, target_entry, targets_of
from loadsheet.pinned import PinnedSession
from loadsheet.postgres import connect_warehouse
from loadsheet.project.folder import display_path, relative_problem
from loadsheet.redact import masked
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import declared_name, load_pipeline
from loadsheet.sqltest.files import read_tests
from loadsheet.sqltest.models import Case
from loadsheet.status.models import PipelineStatus
from loadsheet.status.source import add_source_lag
from loadsheet.status.warehouse import begin_on_warehouse, status_in
from loadsheet.wording import LONGEST_MESSAGE, shortened

# Most of the time is spent waiting for servers.
_AT_ONCE = 4
NOT_IN_FILE = "the table is not in the pipeline file any more"
Document = dict[str, Any]


def session(mode: str, airflow_base: str | None = None, theme: str = "system") -> Document:
    """Where the page runs. `mode` is `local`, `airflow` or `recorded`."""
    return {
        "mode": mode,
        "airflow_base": airflow_base,
        "theme": theme,
        "version": __version__,
    }


def overview(files: Sequence[Path], connections: Connections, ask_source: bool = True) -> Document:
    """All tables and marts of the pipelines in `files`, with their state.

    A pipeline whose file is broken or whose warehouse cannot be asked is in it, with the reason.
    Without `ask_source` no source is asked, which is faster, and no table has a lag.
    """
    return Overview(files, ask_source)(connections)


class Overview:
    """What `overview` returns, for callers that cannot wait for all of it: called a second time,
    with connections that do not answer, it has the pipelines that are known by then."""

    def __init__(self, files: Sequence[Path], ask_source: bool):
        self._files = files
        self._ask_source = ask_source
        self._known: dict[Path, Document] = {}

    def __call__(self, connections: Connections) -> Document:
        """The document."""
        with (
            OverviewReader(connections, self._ask_source) as reader,
            ThreadPoolExecutor(_AT_ONCE) as pool,
        ):
            pipelines = list(pool.map(partial(self._entry, reader), self._files))
        at = datetime.now(UTC)
        return finished({"at": at, "asked_source": self._ask_source, "pipelines": pipelines})

    def _entry(self, reader: OverviewReader, file: Path) -> Document:
        entry = self._known.get(file) or reader.entry(file)
        if not entry["unknown"]:
            self._known[file] = entry
        return entry


def target(pipeline: Pipeline, connections: Connections, kind: str, name: str) -> Document:
    """One table (`kind` is `table`) or mart (`transform`): its state, loads, SQL, columns, objects
    in the lake, lineage.

    Raises InputError where the pipeline has nothing of that name. What a server does not tell is
    None or empty, and `unknown` or `lineage_unknown` says why.
    """
    is_in_spec = about.is_in_spec(pipeline, kind, name)
    document = begun(pipeline, kind, name)
    is_loaded = False
    try:
        state = _target_state(pipeline, connections, kind, name)
        is_loaded = bool(state)
        document |= state
    except Exception as error:
        document["unknown"] = described(error)
    if not (is_in_spec or is_loaded):
        raise InputError(f"{pipeline.name} has no {kind} {name!r}")
    if kind == "table":
        document["lake"] = about.in_lake(pipeline, name, document["loads"])
    if not is_in_spec:
        document["lineage_unknown"] = NOT_IN_FILE
        return finished(document)
    tests, document["tests_unknown"] = tests_of(pipeline)
    document["checks"] = checks_of(pipeline, kind, name, tests)
    try:
        document |= about.lineage_of(pipeline, connections, kind, name)
    except Exception as error:
        document["lineage_unknown"] = described(error)
    return finished(document)


def begun(pipeline: Pipeline, kind: str, name: str) -> Document:
    """The document of a table or mart before a server has been asked: what the file says."""
    document: Document = {
        "pipeline": pipeline.name,
        "kind": kind,
        "name": name,
        "target": str(about.relation_of(pipeline, kind, name)),
        "unknown": None,
        "loads": [],
        "file": None,
        "sql": "",
        "comment": None,
        "primary_key": [],
        "columns": [],
        "source": None,
        "source_unknown": None,
        "checks": [],
        "tests_unknown": None,
        "lake": [],
        "upstream": None,
        "downstream": None,
        "lineage_unknown": None,
    }
    if about.is_in_spec(pipeline, kind, name):
        document |= about.by_spec(pipeline, kind, name)
    return document


def tests_of(pipeline: Pipeline) -> tuple[Sequence[Case], str | None]:
    """The tests of a pipeline, or why they cannot be read."""
    try:
        cases, _ = read_tests(pipeline)
    except SpecError as error:
        return [], described(error)
    return cases, None


def runs(pipeline: Pipeline, connections: Connections) -> Document:
    """The last runs of a pipeline, the newest first, each with what it has committed.

    Where the warehouse cannot be asked, `unknown` says why.
    """
    document: Document = {"pipeline": pipeline.name, "unknown": None, "runs": []}
    try:
        with connect_warehouse(connections(pipeline.warehouse.conn_id)) as warehouse:
            document["at"] = begin_on_warehouse(warehouse)
            if commits.has_ledger(warehouse):
                document["runs"] = commits.runs(warehouse, pipeline)
    except Exception as error:
        document["unknown"] = described(error)
    return finished(document)


def run(pipeline: Pipeline, connections: Connections, run_id: str) -> Document:
    """What a run has committed: its loads and builds, and the failures that are not yet replaced
    by later ones. All are empty for a run that the ledger does not know.

    Where the warehouse cannot be asked, `unknown` says why. Raises InputError for what can be the
    id of no run.
    """
    if "\0" in run_id:  # no text of PostgreSQL has it
        raise InputError(f"there is no run {run_id!r}")
    document: Document = {"pipeline": pipeline.name, "run_id": run_id, "unknown": None}
    document |= {"loads": [], "builds": [], "failures": []}
    try:
        with connect_warehouse(connections(pipeline.warehouse.conn_id)) as warehouse:
            document["at"] = begin_on_warehouse(warehouse)
            if commits.has_ledger(warehouse):
                document |= commits.of_run(warehouse, pipeline, run_id)
    except Exception as error:
        document["unknown"] = described(error)
    return finished(document)


def _target_state(pipeline: Pipeline, connections: Connections, kind: str, name: str) -> Document:
    """What the warehouse and the source know of a table or mart; empty where they know neither it
    nor its name."""
    state: Document = {}
    with connect_warehouse(connections(pipeline.warehouse.conn_id)) as warehouse:
        status = status_in(warehouse, pipeline, only=name)
        found = [one for one in targets_of(status) if kind_of(one) == kind]
        if not found:
            return {}
        one = found[0]
        schema = about.relation_of(pipeline, kind, name).schema
        here = about.by_catalog(warehouse, schema, [name]).get(name)
        if commits.has_ledger(warehouse):
            state["loads"] = commits.of_target(warehouse, pipeline, kind, one.target)
    source = None
    if kind == "table":
        add_source_lag(pipeline, connections, status)
        sources, state["source_unknown"] = sources_of(pipeline, connections, status, [name])
        source = sources.get(name)
    return {
        "at": status.at,
        **target_entry(one, status, {}),
        **about.by_catalogs(pipeline, kind, name, here, source),
        **state,
    }


def sources_of(
    pipeline: Pipeline, connections: Connections, status: PipelineStatus, names: Sequence[str]
) -> tuple[Mapping[str, Document], str | None]:
    """The source tables of these names as its catalog describes them, or why it was not asked."""
    if status.source_unknown:
        return {}, status.source_unknown
    try:
        return about.from_source(pipeline, connections, names), None
    except Exception as error:
        return {}, described(error)


def begun_entry(file: Path) -> tuple[Document, Pipeline | None]:
    """The entry of the pipeline in `file` before a server has been asked. Of a file with problems,
    the entry has these, and there is no pipeline."""
    entry: Document = {
        "name": declared_name(file),
        "description": "",
        "schedule": None,
        "owner": None,
        "tags": [],
        "file": display_path(file),
        "error": None,
        "unknown": None,
        "source_unknown": None,
        "notes": [],
        "targets": [],
    }
    try:
        pipeline = load_pipeline(file)
    except SpecError as error:
        entry["error"] = described(error)
        return entry, None
    entry["name"] = pipeline.name
    entry["description"] = pipeline.description
    entry["schedule"] = pipeline.schedule
    entry["owner"] = pipeline.owner
    entry["tags"] = list(pipeline.tags)
    return entry, pipeline


class OverviewReader:
    """Reads the entries of several pipelines, in several threads; a context manager.

    Pipelines of one warehouse share a few sessions: to connect takes longer than to ask. A server
    that one of them cannot reach is not asked for the next: each attempt would take ten seconds.
    """

    def __init__(self, connections: Connections, ask_source: bool):
        self._connections = connections
        self._ask_source = ask_source
        self._away: dict[str, str] = {}
        self._idle: defaultdict[str, list[PinnedSession]] = defaultdict(list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sessions in self._idle.values():
            for session in sessions:
                session.close()

    def entry(self, file: Path) -> Document:
        """The pipeline in `file`."""
        entry, pipeline = begun_entry(file)
        if pipeline:
            self.add_state(entry, pipeline)
        return entry

    def add_state(self, entry: Document, pipeline: Pipeline) -> None:
        """Add what the servers know to the pipeline's entry, or why they could not be asked."""
        try:
            entry |= self._state(pipeline)
        except Exception as error:
            entry["unknown"] = described(error)

    def _state(self, pipeline: Pipeline) -> Document:
        conn_id = pipeline.warehouse.conn_id
        if conn_id in self._away:
            return {"unknown": self._away[conn_id]}
        try:
            with self._warehouse(conn_id) as warehouse:
                status = status_in(warehouse, pipeline)
                recent = {}
                if any(one.last for one in targets_of(status)):
                    recent = commits.histories(warehouse, pipeline)
        except psycopg.OperationalError as error:
            if error.sqlstate is None:  # no answer of the server
                self._away[conn_id] = described(error)
            raise
        self._add_lag(pipeline, status)
        return {
            "source_unknown": status.source_unknown or None,
            "notes": status.gap_notes,
            "targets": [target_entry(one, status, recent) for one in targets_of(status)],
        }

    @contextmanager
    def _warehouse(self, conn_id: str) -> Iterator[PinnedSession]:
        """A session of the warehouse that no other thread uses. It is kept unless there is an
        error: the connection may be broken."""
        try:
            session = self._idle[conn_id].pop()
        except IndexError:
            session = connect_warehouse(self._connections(conn_id))
        try:
            yield session
        except BaseException:
            session.close()
            raise
        self._idle[conn_id].append(session)

    def _add_lag(self, pipeline: Pipeline, status: PipelineStatus) -> None:
        if not self._ask_source:
            return
        conn_id = pipeline.source.conn_id
        if conn_id in self._away:
            status.source_unknown = self._away[conn_id]
            return
        add_source_lag(pipeline, self._connections, status)
        if status.source_unknown:
            self._away[conn_id] = status.source_unknown


def described(error: Exception) -> str:
    """The error as users see it. Raises it again where it is a bug."""
    if isinstance(error, SpecError):
        return masked("\n".join(str(relative_problem(problem)) for problem in error.problems))
    if isinstance(error, LoadsheetError):
        return shortened(masked(str(error)), LONGEST_MESSAGE)
    text = told(error)
    if not text:
        raise error
    return text


def finished(document: Document) -> Document:
    """The document as JSON has it, and without secrets: times as text, no NaN."""
    return _plain(document, {})  # type: ignore[no-any-return]


def _plain(value: Any, known: dict[str, str]) -> Any:
    """`known` are the texts so far: a document of many tables has few different ones, and masking
    takes most of the time."""
    if isinstance(value, str):
        if value not in known:
            known[value] = masked(value)
        return known[value]
    if isinstance(value, Mapping):
        return {key: _plain(one, known) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one, known) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
