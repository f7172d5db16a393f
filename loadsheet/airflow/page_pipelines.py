"""Which pipeline files belong to the DAGs that Airflow knows, for the page in the API server.

Airflow stores of each DAG the file that it was parsed from: with the bundle, that is the pipeline
file itself; with the loader, it is a Python file in or below the project's folder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from airflow.models.dag import DagModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from loadsheet.airflow.locate import CODE_ROOT
from loadsheet.spec.pipeline_file import declared_name, find_specs, load_pipeline


def pipeline_files(session: Session, dag_ids: Collection[str]) -> dict[str, Path]:
    """DAG id -> pipeline file, for those of the DAGs that are pipelines, in their order by id.

    The file need not exist: the DAG processor may run on another machine.
    """
    query = (
        select(DagModel.dag_id, DagModel.fileloc)
        .where(DagModel.dag_id.in_(dag_ids), ~DagModel.is_stale)
        .order_by(DagModel.dag_id)
    )
    projects: dict[Path, dict[str, Path]] = {}
    found: dict[str, Path] = {}
    for dag_id, fileloc in session.execute(query):
        if not fileloc:
            continue
        file = Path(fileloc)
        if is_pipeline_file(file):
            found[dag_id] = file
            continue
        for root in _projects(file):
            if root not in projects:
                projects[root] = _by_name(find_specs(root))
            if dag_id in projects[root]:
                found[dag_id] = projects[root][dag_id]
                break
    return found


def is_pipeline_file(file: Path) -> bool:
    """Whether a DAG's file is a pipeline file, by its place `pipelines/<folder>/pipeline.yml`."""
    return file.name == "pipeline.yml" and file.parent.parent.name == "pipelines"


def _projects(dag_file: Path) -> Iterable[Path]:
    """The folders with `pipelines/` above a DAG file, and that of our code, as for a task."""
    folders = [*dag_file.parents, CODE_ROOT]
    return [folder for folder in folders if (folder / "pipelines").is_dir()]


def _by_name(specs: Iterable[Path]) -> dict[str, Path]:
    """Pipeline name -> file. A broken file has the name that its text gives it."""
    files: dict[str, Path] = {}
    for spec in specs:
        try:
            name = load_pipeline(spec).name
        except Exception:  # the page shows the file's problems
            name = declared_name(spec)
        # As for the DAGs: a file in the folder of that name owns it.
        if name not in files or spec.parent.name == name:
            files[name] = spec
    return files
