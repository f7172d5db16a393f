"""One look at the freshness of a project: reads its pipeline files, the ledgers and a Variable, has
`freshness.watch` judge, and sends what is to be told."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Variable
from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time.comms import GetPreviousDagRun

from loadsheet.airflow.dag_ids import broken_file_id, routes_in
from loadsheet.airflow.digest import send_due
from loadsheet.airflow.freshness_alerts import send_all
from loadsheet.airflow.operators import airflow_connection
from loadsheet.deadline import limited
from loadsheet.errors import SpecError
from loadsheet.freshness.ages import read_ages
from loadsheet.freshness.models import Age, Cause
from loadsheet.freshness.watch import (
    Incident,
    Memory,
    Promise,
    Seen,
    after_telling,
    look,
    to_tell,
)
from loadsheet.postgres import connect_warehouse
from loadsheet.redact import on_one_line, summary
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import find_specs, load_pipeline
from loadsheet.spec.routes import Route, route_of
from loadsheet.wording import age

_log = logging.getLogger(__name__)
# All warehouses of a project are asked one after the other, and the look has 4 minutes.
_WAREHOUSE_LIMIT = timedelta(seconds=30)
_STATEMENT_TIMEOUT = "20s"


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a pipeline's file was, and where its messages go."""

    file: str
    routes: tuple[Route, ...]


@dataclass(kw_only=True)
class _Files:
    """The project's pipeline files."""

    pipelines: dict[str, Pipeline] = field(default_factory=dict)
    """Those that limit the age of something."""
    places: dict[str, _Place] = field(default_factory=dict)
    """Of the same ones, by their names."""
    broken: dict[str, str] = field(default_factory=dict)
    """The first problem of each broken file, by the name that it seems to have."""
    others: set[str] = field(default_factory=set)
    """The names of those that limit nothing."""
    in_digests: list[Pipeline] = field(default_factory=list)
    """Those that a digest tells of."""
    broken_routes: dict[str, list[Route]] = field(default_factory=dict)
    """The routes that broken files name, by the files' paths."""
    away: dict[str, str] = field(default_factory=dict)
    """Why warehouses could not be asked, by their connections: a look waits for each once."""


def watch(root: Path, variable: str, ti: Any) -> None:
    """Look at all pipelines of the project `root`. `variable` is the name of the Variable with what
    the look before has left, `ti` the running task. Raises what Airflow's API raises."""
    stored = Variable.get(variable, default=None)
    memory, places = _remembered(stored)
    files = _read_files(root)
    places = {name: places[name] for name in memory.promises} | files.places
    seen = _see(files, memory, places, root)
    now = datetime.now(UTC)
    memory, late = look(memory, seen, now, Airflow(ti, now).explain)
    for one in late:
        how = f"{age(one.age.total_seconds())} old" if one.age else "never loaded"
        _log.info("%s is late: %s", on_one_line(one.target), how)
    judged = sum(len([*ages]) for ages in seen.ages.values())
    _log.info("%d late, of %d tables and marts with a limit", len(late), judged)
    alarms, over = to_tell(memory)
    routes = {name: place.routes for name, place in places.items()}
    # Before the first message and after each: one that was sent and not noted is sent again.
    stored = _note(variable, stored, _as_text(memory, places))
    for incident, told in send_all([*alarms, *over], late, routes):
        memory = after_telling(memory, {incident: told})
        stored = _note(variable, stored, _as_text(memory, places))
    send_due(files.in_digests, files.broken_routes, f"{variable}__digests", now, files.away)


def _note(variable: str, stored: str | None, text: str) -> str:
    """Store the text where it is not what is `stored`. Returns what is stored now."""
    if text != stored:
        Variable.set(variable, text, description="What Loadsheet remembers of what is late")
    return text


def _read_files(root: Path) -> _Files:
    files = _Files()
    for spec in find_specs(root):
        try:
            pipeline = load_pipeline(spec)
        except SpecError as error:
            problem = str(error).partition("\n")[0].replace(f"{root}/", "")
            files.broken[broken_file_id(spec)] = problem
            files.broken_routes[spec.relative_to(root).as_posix()] = routes_in(spec)
            continue
        except Exception as error:  # a bug that one file meets must not hide the others
            files.broken[broken_file_id(spec)] = summary(error)
            continue
        if any(route.hears("digest") for route in pipeline.notify):
            files.in_digests.append(pipeline)
        if not pipeline.promises_freshness:
            files.others.add(pipeline.name)
            continue
        files.pipelines[pipeline.name] = pipeline
        file = spec.relative_to(root).as_posix()
        files.places[pipeline.name] = _Place(file=file, routes=pipeline.notify)
    return files


def _see(files: _Files, memory: Memory, places: Mapping[str, _Place], root: Path) -> Seen:
    ages: dict[str, Sequence[Age]] = {}
    unjudged: dict[str, Cause] = {}
    for name in memory.promises.keys() - files.pipelines.keys() - files.others:
        file = places[name].file
        if name in files.broken:
            text = f"its file has problems: {files.broken[name]}"
            unjudged[name] = Cause(key="broken", text=text, whole=True)
        elif (root / file).exists():
            text = f"{file} has another pipeline name now"
            unjudged[name] = Cause(key="gone", text=text, whole=True)
        else:
            unjudged[name] = Cause(key="gone", text=f"{file} is gone", whole=True)
    by_warehouse: dict[str, list[Pipeline]] = {}
    for pipeline in files.pipelines.values():
        by_warehouse.setdefault(pipeline.warehouse.conn_id, []).append(pipeline)
    for conn_id, pipelines in by_warehouse.items():
        try:
            ages.update(_ages_in(conn_id, pipelines))
        # Whatever it is, it is an incident of these pipelines: the others are judged all the same.
        except Exception as error:
            _log.warning("the warehouse %s cannot be asked: %s", conn_id, summary(error))
            text = f"the warehouse {conn_id} cannot be asked: {on_one_line(summary(error))}"
            files.away[conn_id] = text
            for pipeline in pipelines:
                unjudged[pipeline.name] = Cause(key="warehouse", text=text, whole=True)
    return Seen(ages=ages, unjudged=unjudged)


def _ages_in(conn_id: str, pipelines: Sequence[Pipeline]) -> dict[str, list[Age]]:
    with (
        limited(f"asking {conn_id}", _WAREHOUSE_LIMIT),
        connect_warehouse(airflow_connection(conn_id)) as session,
    ):
        session.pin({"statement_timeout": _STATEMENT_TIMEOUT}, read_only=True)
        return read_ages(session, pipelines)


class Airflow:
    """What Airflow tells about pipelines. It is asked only about one that has become late."""

    def __init__(self, ti: Any, now: datetime):
        self._ti = ti
        self._now = now
        self._asked: dict[str, Cause] = {}

    def explain(self, pipeline: str, cause: Cause | None) -> Cause:
        """Why the pipeline is late: a DAG that is paused or unknown before what the ledger tells,
        which is the `cause` of one target."""
        if pipeline not in self._asked:
            try:
                self._asked[pipeline] = self._ask(pipeline)
            except Exception as error:
                _log.warning("Airflow does not tell about %s: %s", pipeline, summary(error))
                text = "no run has loaded it, and Airflow does not tell why"
                self._asked[pipeline] = Cause(key="idle", text=text, whole=True)
        told = self._asked[pipeline]
        if cause is None or (told.key in ("paused", "unknown") and not cause.own):
            return told
        return cause

    def _ask(self, pipeline: str) -> Cause:
        try:
            dag = self._ti.get_dag(pipeline)
        except AirflowRuntimeError as error:
            if "404" not in str(error):
                raise
            return Cause(key="unknown", text="Airflow has no DAG of this name", whole=True)
        if dag.is_paused:
            return Cause(key="paused", text="its DAG is paused", whole=True)
        if self._ti.get_dr_count(dag_id=pipeline, states=["running"]):
            return Cause(key="running", text="its run has not ended yet", whole=True)
        if self._ti.get_dr_count(dag_id=pipeline, states=["queued"]):
            return Cause(key="queued", text="its run waits in Airflow's queue", whole=True)
        last = self._last_scheduled_run(pipeline)
        if last is None:
            return Cause(key="idle", text="no scheduled run of its DAG was started", whole=True)
        text = f"its last scheduled run ended as {last.state.value}: {last.run_id}"
        return Cause(key=f"run {last.state.value}", text=text, whole=True)

    def _last_scheduled_run(self, pipeline: str) -> Any:
        # The running task's own method is about its own DAG. The name is set when a task begins.
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

        question = GetPreviousDagRun(dag_id=pipeline, logical_date=self._now)
        answer: Any = SUPERVISOR_COMMS.send(question)
        return answer.dag_run


def _as_text(memory: Memory, places: Mapping[str, _Place]) -> str:
    pipelines: dict[str, Any] = {}
    for name, promise in memory.promises.items():
        pipelines[name] = {
            "file": places[name].file,
            "routes": [route.as_keys() for route in places[name].routes],
            "due": _iso(promise.due),
            "target": promise.target,
            "limit": promise.limit and promise.limit.total_seconds(),
            "missing": {target: _iso(since) for target, since in promise.missing.items()},
        }
    incidents = [{**asdict(one), "since": _iso(one.since)} for one in memory.incidents]
    return json.dumps({"pipelines": pipelines, "incidents": incidents}, ensure_ascii=False)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _remembered(text: str | None) -> tuple[Memory, dict[str, _Place]]:
    """What the Variable has; nothing where it was edited to something else."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        stored = json.loads(text or "{}")
        promises: dict[str, Promise] = {}
        places: dict[str, _Place] = {}
        for name, one in stored.get("pipelines", {}).items():
            routes = tuple(map(route_of, one["routes"]))
            places[name] = _Place(file=one["file"], routes=routes)
            promises[name] = Promise(
                due=one["due"] and datetime.fromisoformat(one["due"]),
                target=one["target"],
                limit=one["limit"] and timedelta(seconds=one["limit"]),
                missing={
                    target: datetime.fromisoformat(since)
                    for target, since in one["missing"].items()
                },
            )
        incidents: list[Incident] = []
        for one in stored.get("incidents", ()):
            one["since"] = datetime.fromisoformat(one["since"])
            one["targets"] = tuple(one["targets"])
            one["affected"] = tuple(one["affected"])
            one["places"] = tuple(one["places"])
            one["heard"] = tuple(one["heard"])
            incidents.append(Incident(**one))
        return Memory(promises=promises, incidents=tuple(incidents)), places
    _log.warning("what was remembered cannot be read: what is late now is told again")
    return Memory(), {}
