"""`loadsheet doctor`: whether each connection works, and what the roles lack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

from loadsheet.cli.errors import FAILED, WRONG_INPUT
from loadsheet.cli.output import AsJson, PipelineOrAll, console, print_json, print_labelled, show
from loadsheet.connections import airflow_side
from loadsheet.connections.lookup import Connections, definitions_of, project_connections
from loadsheet.project.folder import open_pipelines
from loadsheet.redact import masked, visible
from loadsheet.spec.models import Pipeline
from loadsheet.wording import counted, listed

if TYPE_CHECKING:
    from loadsheet.engine.preflight import Place
    from loadsheet.preview.health import Health
    from loadsheet.preview.lacking import Lacking
    from loadsheet.preview.models import Remark

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
_INDENT = " " * 8
_AT_ONCE = 8
"""Servers that are asked at the same time."""


def doctor(
    ctx: typer.Context,
    pipeline: PipelineOrAll = None,
    as_json: AsJson = False,
) -> None:
    """Examine each connection: login, version, TLS, latency, clock, rights; print what is missing
    and the line that fixes it.

    Nothing is changed, except that one object is written to the lake and removed. The exit code is
    1 when a run would fail, 2 when a connection is missing or wrong.
    """
    specs, project = open_pipelines(ctx.obj, pipeline)
    connections = project_connections(project)
    healths = _examined(specs, connections)
    for health in healths:
        places = definitions_of(project, health.place.conn_id)
        if len(places) > 1 and not airflow_side.is_asked_first():
            message = f"it is defined more than once: {places[0]} is used, not {listed(places[1:])}"
            health.add("note", "definition", message, "remove what is not used")
    lacking = _lacking(specs, connections, healths)
    remarks = [remark for health in healths for remark in health.remarks]
    for privileges in lacking:
        remarks += privileges.remarks
    if as_json:
        print_json(_document(healths, lacking))
    else:
        _print(healths, lacking, remarks)
    if any(remark.code == "connection" for remark in remarks):
        raise typer.Exit(WRONG_INPUT)
    has_errors = any(remark.severity == "error" for remark in remarks)
    if has_errors or any(privileges.others for privileges in lacking):
        raise typer.Exit(FAILED)


def _examined(specs: Iterable[Pipeline], connections: Connections) -> list[Health]:
    """The health of each server of the pipelines, asked at the same time."""
    # Imported here: they bring the driver, which `--help` does not need.
    from concurrent.futures import ThreadPoolExecutor
    from contextvars import copy_context

    from loadsheet.engine.preflight import places
    from loadsheet.preview.health import examine

    used: dict[Place, None] = {}
    for spec in specs:
        used |= dict.fromkeys(places(spec))
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="loadsheet-doctor") as pool:
        futures = [pool.submit(copy_context().run, examine, place, connections) for place in used]
        return [future.result() for future in futures]


def _lacking(
    specs: Iterable[Pipeline], connections: Connections, healths: Sequence[Health]
) -> list[Lacking]:
    """What each pipeline lacks. A pipeline with a server that does not answer is left out."""
    from loadsheet.engine.preflight import places
    from loadsheet.preview.lacking import lacking_privileges

    away = {health.place for health in healths if not health.answers}
    return [
        lacking_privileges(spec, connections) for spec in specs if away.isdisjoint(places(spec))
    ]


def _document(healths: Sequence[Health], lacking: Sequence[Lacking]) -> dict[str, Any]:
    connections = []
    for health in healths:
        connections.append(
            {
                "conn_id": health.place.conn_id,
                "end": health.place.end,
                "answers": health.answers,
                "server": health.server,
                "role": health.role,
                "version": health.version,
                "tls": health.tls,
                "latency_ms": _rounded(health.latency_ms),
                "clock_seconds": _rounded(health.clock_seconds),
                "remarks": [_remark_document(remark) for remark in health.remarks],
            }
        )
    pipelines = []
    for privileges in lacking:
        pipelines.append(
            {
                "pipeline": privileges.pipeline,
                "other_errors": privileges.others,
                "remarks": [_remark_document(remark) for remark in privileges.remarks],
            }
        )
    return {"connections": connections, "pipelines": pipelines}


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


def _remark_document(remark: Remark) -> dict[str, str]:
    return {
        "severity": remark.severity,
        "code": remark.code,
        "message": visible(masked(remark.message)),
        "fix": remark.fix,
    }


def _print(
    healths: Sequence[Health], lacking: Sequence[Lacking], remarks: Sequence[Remark]
) -> None:
    for health in healths:
        facts = ", ".join(_facts(health))
        _print_part(f"{health.place.end} {health.place.conn_id}: {facts}", health.remarks)
    for privileges in lacking:
        facts = "the roles have the privileges"
        if any(remark.code == "preview" for remark in privileges.remarks):
            facts = "its privileges could not be examined"
        elif any(remark.severity == "error" for remark in privileges.remarks):
            facts = "lacks privileges"
        if privileges.others:
            plan = f"loadsheet plan {privileges.pipeline} --connect"
            facts += f"; `{plan}` shows {counted(privileges.others, 'other error')}"
        head = f"pipeline {privileges.pipeline}: {facts}"
        _print_part(head, privileges.remarks, fails=privileges.others > 0)
    severities = [remark.severity for remark in remarks]
    others = sum(privileges.others for privileges in lacking)
    errors = counted(severities.count("error") + others, "error")
    warnings = counted(severities.count("warning"), "warning")
    show(f"{counted(len(healths), 'connection')} examined: {errors}, {warnings}")


def _facts(health: Health) -> Iterator[str]:
    if health.server:
        login = f" as {health.role}" if health.role else ""
        yield f"{health.server}{login}"
    if health.version:
        yield f"PostgreSQL {health.version}"
    if health.tls:
        yield "not encrypted" if health.tls == "none" else health.tls
    if health.latency_ms is not None:
        yield f"{health.latency_ms:.1f} ms"
    if health.clock_seconds is not None:
        yield f"clock {health.clock_seconds:+.1f} s"
    if health.refusal:
        yield health.refusal


def _print_part(head: str, remarks: Sequence[Remark], fails: bool = False) -> None:
    out = console()
    label, style = "ok      ", "green"
    if fails or any(remark.severity == "error" for remark in remarks):
        label, style = "failed  ", "bold red"
    print_labelled(out, label, visible(masked(head)), style, _INDENT)
    for remark in remarks:
        message = visible(masked(remark.message)).replace("\n", " ")
        label = f"{_INDENT}{remark.severity} "
        print_labelled(out, label, message, _STYLES[remark.severity], f"{_INDENT}  ")
        if remark.fix:
            where = f" (on the {remark.end})" if remark.end else ""
            label = f"{_INDENT}  fix{where}  "
            print_labelled(out, label, visible(remark.fix), "", f"{_INDENT}    ")
