"""The documents behind the page, as values that JSON has: all pipelines, one table or mart, one
run. docs/ui.md describes their keys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from loadsheet import __version__
from loadsheet.connections.lookup import Connections
from loadsheet.engine.diagnosis import diagnose, named
from loadsheet.errors import InputError, LoadsheetError, SpecError
from loadsheet.page import about, commits
from loadsheet.postgres import connect_warehouse
from loadsheet.project.folder import display_path, relative_problem
from loadsheet.redact import masked
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import declared_name, load_pipeline
from loadsheet.status.document import open_for, watermark_age
from loadsheet.status.models import PipelineStatus, TableStatus, TargetStatus, TransformStatus
from loadsheet.status.source import add_source_lag
from loadsheet.status.warehouse import begin_on_warehouse, status_in
from loadsheet.wording import LONGEST_MESSAGE, shortened

# Most of the time is spent waiting for servers.
_AT_ONCE = 4
Document = dict[str, Any]


def session(
    mode: str, actions: Sequence[str] = (), airflow_base: str | None = None, theme: str = "system"
) -> Document:
    """What the page may do where it runs. `mode` is `local` or `airflow`, `actions` are the buttons
    that this user may press."""
    return {
        "mode": mode,
        "actions": list(actions),
        "airflow_base": airflow_base,
        "theme": theme,
        "version": __version__,
    }


def overview(files: Sequence[Path], connections: Connections, ask_source: bool = True) -> Document:
    """All tables and marts of the pipelines in `files`, with their state.

    A pipeline whose file is broken or whose warehouse cannot be asked is in it, with the reason.
    Without `ask_source` no source is asked, which is faster, and no table has a lag.
    """
    reader = OverviewReader(connections, ask_source)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        pipelines = list(pool.map(reader.entry, files))
    return _finished({"at": datetime.now(UTC), "asked_source": ask_source, "pipelines": pipelines})


def target(pipeline: Pipeline, connections: Connections, kind: str, name: str) -> Document:
    """One table (`kind` is `table`) or mart (`transform`): its state, loads, SQL, columns, objects
    in the lake, lineage.

    Raises InputError where the pipeline has nothing of that name. What a server does not tell is
    None or empty, and `unknown` or `lineage_unknown` says why.
    """
    is_in_spec = about.is_in_spec(pipeline, kind, name)
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
        "columns": [],
        "lake": [],
        "upstream": None,
        "downstream": None,
        "lineage_unknown": None,
    }
    if is_in_spec:
        document |= about.by_spec(pipeline, kind, name)
    is_loaded = False
    try:
        state = _target_state(pipeline, connections, kind, name)
        is_loaded = bool(state)
        document |= state
    except Exception as error:
        document["unknown"] = _described(error)
    if not (is_in_spec or is_loaded):
        raise InputError(f"{pipeline.name} has no {kind} {name!r}")
    if kind == "table":
        document["lake"] = about.in_lake(pipeline, name, document["loads"])
    if not is_in_spec:
        document["lineage_unknown"] = "the table is not in the pipeline file any more"
        return _finished(document)
    try:
        document |= about.lineage_of(pipeline, connections, kind, name)
    except Exception as error:
        document["lineage_unknown"] = _described(error)
    return _finished(document)


def run(pipeline: Pipeline, connections: Connections, run_id: str) -> Document:
    """What a run has committed: its loads and builds, and the failures that are not yet replaced
    by later ones. All are empty for a run that the ledger does not know.

    Where the warehouse cannot be asked, `unknown` says why.
    """
    document: Document = {"pipeline": pipeline.name, "run_id": run_id, "unknown": None}
    document |= {"loads": [], "builds": [], "failures": []}
    try:
        with connect_warehouse(connections(pipeline.warehouse.conn_id)) as warehouse:
            document["at"] = begin_on_warehouse(warehouse)
            if commits.has_ledger(warehouse):
                document |= commits.of_run(warehouse, pipeline, run_id)
    except Exception as error:
        document["unknown"] = _described(error)
    return _finished(document)


def _target_state(pipeline: Pipeline, connections: Connections, kind: str, name: str) -> Document:
    """What the warehouse and the source know of a table or mart; empty where they know neither it
    nor its name."""
    with connect_warehouse(connections(pipeline.warehouse.conn_id)) as warehouse:
        status = status_in(warehouse, pipeline, only=name)
        found = [one for one in _targets(status) if _kind(one) == kind]
        if not found:
            return {}
        one = found[0]
        about_it = about.by_catalog(warehouse, about.relation_of(pipeline, kind, name))
        if commits.has_ledger(warehouse):
            about_it["loads"] = commits.of_target(warehouse, pipeline, kind, one.target)
    if kind == "table":
        add_source_lag(pipeline, connections, status)
    return {"at": status.at, **_target_entry(one, status, {}), **about_it}


class OverviewReader:
    """Reads the entries of several pipelines. A server that one of them cannot reach is not asked
    for the next: each attempt would take ten seconds."""

    def __init__(self, connections: Connections, ask_source: bool):
        self._connections = connections
        self._ask_source = ask_source
        self._away: dict[str, str] = {}

    def entry(self, file: Path) -> Document:
        """The pipeline in `file`."""
        entry: Document = {
            "name": declared_name(file),
            "description": "",
            "schedule": None,
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
            entry["error"] = _described(error)
            return entry
        entry["name"] = pipeline.name
        entry["description"] = pipeline.description
        entry["schedule"] = pipeline.schedule
        try:
            entry |= self._state(pipeline)
        except Exception as error:
            entry["unknown"] = _described(error)
        return entry

    def _state(self, pipeline: Pipeline) -> Document:
        conn_id = pipeline.warehouse.conn_id
        if conn_id in self._away:
            return {"unknown": self._away[conn_id]}
        try:
            with connect_warehouse(self._connections(conn_id)) as warehouse:
                status = status_in(warehouse, pipeline)
                recent = {}
                if commits.has_ledger(warehouse):
                    recent = commits.histories(warehouse, pipeline)
        except psycopg.OperationalError as error:
            if error.sqlstate is None:  # no answer of the server
                self._away[conn_id] = _described(error)
            raise
        self._add_lag(pipeline, status)
        return {
            "source_unknown": status.source_unknown or None,
            "notes": status.gap_notes,
            "targets": [_target_entry(one, status, recent) for one in _targets(status)],
        }

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


def _targets(status: PipelineStatus) -> list[TargetStatus]:
    return [*status.tables, *status.transforms]


def _kind(one: TargetStatus) -> str:
    return "table" if isinstance(one, TableStatus) else "transform"


def _target_entry(
    one: TargetStatus, status: PipelineStatus, recent: Mapping[tuple[str, str], list[int]]
) -> Document:
    kind = _kind(one)
    entry: Document = {
        "kind": kind,
        "name": one.name,
        "target": one.target,
        "state": one.state,
        "age_seconds": None,
        "run_id": None,
        "lag": None,
        "lag_unknown": None,
        "watermark": None,
        "watermark_age_seconds": None,
        "rows": one.rows.number,
        "rows_exact": one.rows.exact,
        "history": recent.get((kind, one.name), []),
        "blocker": None,
        "due": None,
        "in_spec": True,
        "error": None,
        "verified": _verified_entry(one, status),
        "unverified": one.proof is not None and one.proof.is_late and not one.proof.differs,
    }
    if one.last:
        entry["age_seconds"] = (status.at - one.last.at).total_seconds()
        entry["run_id"] = one.last.run_id
    if one.failure:
        entry["error"] = {
            "at": one.failure.at,
            "since": one.failure.since,
            "step": one.failure.step,
            "run_id": one.failure.run_id,
            "code": one.failure.code or None,
            "message": one.failure.message,
        }
    if isinstance(one, TransformStatus):
        entry["materialized"] = one.materialized
        entry["due"] = one.due or None
    if isinstance(one, TableStatus):
        entry |= {
            "watermark": one.watermark,
            "cursor": one.cursor,
            "watermark_age_seconds": watermark_age(one, status),
            "lag_unknown": one.lag_unknown or None,
            "blocker": _blocker(one, status),
            "in_spec": one.in_spec,
        }
        if one.lag:
            entry["lag"] = {
                "newest": one.lag.newest,
                "ahead": one.lag.ahead,
                "seconds": one.lag.seconds,
                "distance": one.lag.distance,
            }
    return entry


def _verified_entry(one: TargetStatus, status: PipelineStatus) -> Document | None:
    look = one.verdict
    if look is None:
        return None
    return {
        "at": look.verified_at,
        "age_seconds": (status.at - look.verified_at).total_seconds(),
        "verdict": look.verdict,
        "part": look.part or None,
        "missing": look.missing,
        "extra": look.extra,
        "different": look.different,
        "through": look.through,
        "loaded_since": one.is_loaded_since(look),
    }


def _blocker(table: TableStatus, status: PipelineStatus) -> Document | None:
    """What holds the table back now, or held back its last load if it has not caught up since."""
    if table.held_back_by:
        open_seconds = open_for(table.held_back_by, status)
        return {"who": table.held_back_by.who, "now": True, "open_seconds": open_seconds}
    has_caught_up = table.lag is not None and not table.lag.ahead
    if table.last and table.last.held_by and not has_caught_up:
        return {"who": table.last.held_by, "now": False, "open_seconds": None}
    return None


def _described(error: Exception) -> str:
    """The error as users see it. Raises it again where it is a bug."""
    if isinstance(error, SpecError):
        return masked("\n".join(str(relative_problem(problem)) for problem in error.problems))
    if isinstance(error, LoadsheetError):
        return shortened(masked(str(error)), LONGEST_MESSAGE)
    diagnosis = diagnose(error)
    if diagnosis is None:
        raise error
    return f"{named(error)}{diagnosis}"


def _finished(document: Document) -> Document:
    """The document as JSON has it, and without secrets: times as text, no NaN."""
    return {key: _plain(value) for key, value in document.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
