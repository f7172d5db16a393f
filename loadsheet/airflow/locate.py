"""Where a task finds its pipeline file.

A DAG is parsed in one place, and its tasks run in others: on a worker, or in the clone of the
commit that a run was scheduled with. A stored DAG therefore names the file relative to its project,
and each process completes that name with the folder from which it has parsed the DAG itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loadsheet.errors import InputError

if TYPE_CHECKING:
    from airflow.sdk import DAG

CODE_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds our code: where a checkout has its own `pipelines/`."""


def remember_project(dag: DAG, root: Path | None) -> None:
    """Set on a DAG which project it was built from. Airflow does not store it."""
    dag.loadsheet_project = root.resolve() if root else None  # type: ignore[attr-defined]


def pipeline_file(spec: str, dag: DAG | None) -> Path:
    """The pipeline file of a task of `dag`; `spec` is absolute, or relative to its project.

    The project is the one that the DAG was built from. For a DAG that other code built, such as a
    rendered one, it is the nearest folder above the DAG file, or else the folder of our code, that
    has such a file. Raises InputError, naming the folders, if there is none.
    """
    if Path(spec).is_absolute():
        return Path(spec)
    if project := getattr(dag, "loadsheet_project", None):
        return Path(project, spec)
    folders: list[Path] = []
    if dag and dag.fileloc:
        # A link counts as the DAG file that it leads to, as for the loader of a project.
        folders += Path(dag.fileloc).resolve().parents
        folders += Path(dag.fileloc).absolute().parents
    folders.append(CODE_ROOT)
    # The two chains share most folders: each is searched once, and named once in the error.
    folders = list(dict.fromkeys(folders))
    for folder in folders:
        if (folder / spec).is_file():
            return folder / spec
    searched = ", ".join(map(str, folders))
    raise InputError(f"there is no pipeline file {spec!r} in any of these folders: {searched}")
