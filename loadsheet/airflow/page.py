"""The page inside Airflow: its files and its documents, each behind Airflow's own authentication
and authorisation.

A pipeline is shown to those who may read its DAG. Nothing is changed here: the buttons call
Airflow's API from the browser, with the rights of the person who presses them.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from airflow.api_fastapi.app import API_ROOT_PATH, get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, get_user, requires_access_dag
from airflow.models.dag import DagModel
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from loadsheet.airflow.page_answers import Answers, Document, Work
from loadsheet.airflow.page_pipelines import pipeline_files
from loadsheet.errors import InputError, SpecError
from loadsheet.page import documents
from loadsheet.page.files import INDEX, security_headers, static_files
from loadsheet.plan.steps import build_plan
from loadsheet.project.folder import relative_problem
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline

ACTIONS = ("run", "full_refresh", "verify", "rebuild", "backfill")
"""The buttons. Each starts a run, so each needs the right to start one."""
# Airflow shows the page in a frame, and tells by the referrer that a run was started in its UI.
_HEADERS = security_headers("'self'") | {"Referrer-Policy": "same-origin"}
_FILES = static_files()
_answers = Answers()
_routes = APIRouter()


def page() -> FastAPI:
    """The application. Each of its routes answers only to a person whom Airflow knows."""
    app = FastAPI(
        title="Loadsheet",
        # They would be routes without the dependency.
        openapi_url=None,
        dependencies=[Depends(get_user)],
    )
    app.include_router(_routes)
    app.middleware("http")(_with_headers)
    app.exception_handler(HTTPException)(_as_document)
    return app


async def _with_headers(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    response.headers.update(_HEADERS)
    return response


def _as_document(_request: Request, error: HTTPException) -> Response:
    """A refusal in the form that the page shows."""
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _readable(user: GetUserDep, session: SessionDep) -> dict[str, Path]:
    """DAG id -> pipeline file, for the pipelines that the user may see."""
    dag_ids = get_auth_manager().get_authorized_dag_ids(user=user, method="GET", session=session)
    return pipeline_files(session, dag_ids)


def _file_of(dag_id: str, session: SessionDep) -> Path:
    """The pipeline file of a DAG that the user may see; 404 for another DAG."""
    file = pipeline_files(session, [dag_id]).get(dag_id)
    if file is None:
        raise HTTPException(404, f"the DAG {dag_id!r} is no pipeline of Loadsheet")
    return file


def _pipeline_of(file: Annotated[Path, Depends(_file_of)]) -> Pipeline:
    """The pipeline in the file; 409 with its problems where it is broken."""
    try:
        return load_pipeline(file)
    except SpecError as error:
        problems = [str(relative_problem(problem)) for problem in error.problems]
        raise HTTPException(409, _absent(file) or "\n".join(problems)) from None


PipelineDep = Annotated[Pipeline, Depends(_pipeline_of)]
_dag = Depends(requires_access_dag("GET"))
_dag_run = Depends(requires_access_dag("GET", DagAccessEntity.RUN))


def _absent(file: Path) -> str:
    """Why the file cannot be read, where it is not on this machine."""
    if file.exists():
        return ""
    return (
        f"Airflow has parsed {file}, but its API server has no such file: give the API server the"
        " project's folder as well, at the same place"
    )


def _may(user: BaseUser, method: Any, entity: DagAccessEntity, dag_id: str) -> bool:
    """Whether the user may do that to the DAG."""
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    return get_auth_manager().is_authorized_dag(
        method=method, access_entity=entity, details=details, user=user
    )


def _actions(user: BaseUser, dag_id: str, pipeline: Pipeline) -> list[str]:
    """The buttons that the pipeline has a use for, where the user may press them. Airflow asks
    again when one is pressed."""
    if not _may(user, "POST", DagAccessEntity.RUN, dag_id):
        return []
    return [action for action in ACTIONS if action != "verify" or pipeline.verify]


@_routes.get("/api/session")
def session() -> Document:
    """Where the page runs."""
    return documents.session("airflow", API_ROOT_PATH)


@_routes.get("/api/pipelines")
def overview(
    files: Annotated[dict[str, Path], Depends(_readable)],
    source: str | None = None,
) -> Document:
    """All pipelines that the user may see, with the state of their tables and marts; with
    `source=no` as far as the warehouses know it."""
    asks_source = source != "no"
    loaded = {dag_id: _loaded(file) for dag_id, file in files.items()}
    # Each warehouse by itself: one that is away delays no other. A broken file asks none.
    groups: dict[str, list[str]] = {}
    for dag_id, pipeline in loaded.items():
        warehouse = pipeline.warehouse.conn_id if pipeline else ""
        groups.setdefault(warehouse, []).append(dag_id)
    questions: dict[Hashable, Work] = {}
    for warehouse, dag_ids in groups.items():
        asked = [files[dag_id] for dag_id in dag_ids]
        question = documents.Overview(asked, asks_source)
        questions["overview", asks_source, warehouse, *asked] = question
    found = _answers.get(questions)
    entries: dict[str, Document] = {}
    for dag_ids, document in zip(groups.values(), found, strict=True):
        entries |= zip(dag_ids, document["pipelines"], strict=True)
    for dag_id, entry in entries.items():
        entries[dag_id] = entry | {
            "name": dag_id,  # of two files with one name, Airflow knows the second by another
            "error": _absent(files[dag_id]) or entry["error"],
        }
    return {
        "at": min((document["at"] for document in found), default=None),
        "pipelines": [entries[dag_id] for dag_id in files],
    }


def _loaded(file: Path) -> Pipeline | None:
    """The pipeline; None where its file is broken."""
    try:
        return load_pipeline(file)
    except SpecError:
        return None


def _answer(key: Hashable, question: Work) -> Document:
    """The answer to one question; 404 where it is about nothing that there is."""
    try:
        (document,) = _answers.get({key: question})
    except InputError as error:
        raise HTTPException(404, str(error)) from None
    return document


@_routes.get("/api/pipelines/{dag_id}/targets/{kind}/{name:path}", dependencies=[_dag])
def target(
    dag_id: str,
    kind: Literal["table", "transform"],
    name: str,
    pipeline: PipelineDep,
    user: GetUserDep,
) -> Document:
    """One table or mart."""
    question = partial(documents.target, pipeline, kind=kind, name=name)
    document = _answer(("target", pipeline.file, kind, name), question)
    more: Document = {"pipeline": dag_id, "actions": _actions(user, dag_id, pipeline)}
    if not _may(user, "GET", DagAccessEntity.CODE, dag_id):
        more["sql"] = ""
    return document | more


@_routes.get("/api/pipelines/{dag_id}/actions", dependencies=[_dag])
def actions(dag_id: str, pipeline: PipelineDep, user: GetUserDep) -> Document:
    """The buttons of a pipeline. The overview has none: to ask about each DAG may take an auth
    manager a request for each."""
    return {"actions": _actions(user, dag_id, pipeline)}


@_routes.get("/api/pipelines/{dag_id}/runs", dependencies=[_dag_run])
def runs(dag_id: str, pipeline: PipelineDep) -> Document:
    """The last runs of a pipeline."""
    question = partial(documents.runs, pipeline)
    return _answer(("runs", pipeline.file), question) | {"pipeline": dag_id}


@_routes.get("/api/pipelines/{dag_id}/runs/{run_id:path}", dependencies=[_dag_run])
def run(dag_id: str, run_id: str, pipeline: PipelineDep) -> Document:
    """What a run did."""
    question = partial(documents.run, pipeline, run_id=run_id)
    return _answer(("run", pipeline.file, run_id), question) | {"pipeline": dag_id}


# The tabs of Airflow lead here, and from here to a place on the page.


@_routes.get("/dags/{dag_id}")
def pipeline_tab(request: Request, dag_id: str) -> Response:
    """To the pipeline of a DAG."""
    return _to(request, dag_id)


@_routes.get("/dags/{dag_id}/runs/{run_id:path}")
def run_tab(request: Request, dag_id: str, run_id: str) -> Response:
    """To what a run did."""
    return _to(request, dag_id, "run", run_id)


@_routes.get("/dags/{dag_id}/tasks/{task_id}", dependencies=[_dag])
def task_tab(request: Request, dag_id: str, task_id: str, session: SessionDep) -> Response:
    """To the table or mart of a task; to the pipeline for a task of several."""
    file = pipeline_files(session, [dag_id]).get(dag_id)
    pipeline = _loaded(file) if file else None
    for step in build_plan(pipeline) if pipeline else ():
        if step.id == task_id and not (step.mapped or step.tables or step.is_of_pipeline):
            kind = "transform" if step.kind == "transform" else "table"
            return _to(request, dag_id, kind, step.name)
    return _to(request, dag_id)


def _to(request: Request, *parts: str) -> Response:
    place = "/".join(quote(part, safe="") for part in parts)
    # Where this application is, also where Airflow is below a path.
    return RedirectResponse(f"{request.scope['root_path']}/#/p/{place}", 302)


@_routes.get("/")
def index() -> Response:
    """The page."""
    return file(INDEX)


@_routes.get("/{name}")
def file(name: str) -> Response:
    """One of the page's files."""
    if name not in _FILES:
        raise HTTPException(404, "there is no such page")
    return Response(_FILES[name].content, media_type=_FILES[name].content_type)
