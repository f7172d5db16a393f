"""The DAGs of all pipeline files, and what becomes of those that are broken."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_parsing_context

from loadsheet.airflow.dag_ids import claimants, folder_id, raw_values, readable_name, taken
from loadsheet.airflow.factory import BROKEN_TASK, broken_dag, build_dag
from loadsheet.errors import SpecError
from loadsheet.project.conflicts import duplicates
from loadsheet.project.folder import display_path
from loadsheet.redact import clean
from loadsheet.spec.models import Pipeline
from loadsheet.spec.parallel_check import checked_ahead
from loadsheet.spec.pipeline_file import check_file, find_specs, load_pipeline


def pipeline_dags(root: Path, only: str | None = None) -> dict[str, DAG]:
    """DAG id -> DAG for every pipeline file of the project `root`; just the DAG `only` when it is
    given. A task's worker asks Airflow for one DAG, and then that is the default.

    Never raises for a file's sake: a file that cannot become a DAG becomes one that fails and says
    why.
    """
    context = get_parsing_context()
    only = only or context.dag_id
    if only is None:
        return _all(find_specs(root), root)
    dag = _one(root, only)
    # The file alone does not show that another pipeline writes the same table. A worker learns it
    # from its task, which only a broken DAG has; then it parses all files to find the reason.
    if dag and (context.task_id != BROKEN_TASK or dag.has_task(BROKEN_TASK)):
        return {only: dag}
    # All files, too, where `only` was not found: the id of a stand-in depends on which ids the
    # other files have taken.
    dags = _all(find_specs(root), root)
    return {only: dags[only]} if only in dags else {}


def attempt(spec: Path, root: Path) -> tuple[str, DAG | str]:
    """The file's DAG id, and its DAG or what is wrong with it. Never raises for the file's sake."""
    try:
        pipeline = load_pipeline(spec)
        return pipeline.name, build_dag(pipeline, root)
    except SpecError as error:
        problems = str(error)
    except Exception:  # one pipeline's surprise must not take every other pipeline out of Airflow
        problems = clean(traceback.format_exc())
    return readable_name(spec), problems.replace(f"{root}/", "")


def relative(spec: Path, root: Path) -> str:
    """The file's path as people know it."""
    return spec.relative_to(root).as_posix()


def _one(root: Path, dag_id: str) -> DAG | None:
    for spec in claimants(root, dag_id):
        found, dag = _dag(spec, root)
        if found == dag_id:
            return dag
    return None


def _all(specs: list[Path], root: Path) -> dict[str, DAG]:
    """A name claimed twice stays with the folder of that name, else with the first; the others get
    stand-ins. So does a pipeline that writes a table which an earlier file writes."""
    with checked_ahead(specs):
        built = {spec: _dag(spec, root) for spec in specs}
    for spec, problems in _shared_targets(specs, root).items():
        dag_id = built[spec][0]
        schedule = raw_values(spec).get("schedule")
        built[spec] = dag_id, _broken(dag_id, relative(spec, root), problems, schedule)
    owners: dict[str, Path] = {}
    for spec in sorted(specs, key=lambda s: s.parent.name != built[s][0]):
        owners.setdefault(built[spec][0], spec)
    dags = {dag_id: built[spec][1] for dag_id, spec in owners.items()}
    for spec in specs:
        name = built[spec][0]
        if owners[name] != spec:
            dag_id = _free_id(spec, dags)
            problem = taken(name, relative(owners[name], root))
            dags[dag_id] = broken_dag(dag_id, relative(spec, root), problem)
    return dags


def _shared_targets(specs: list[Path], root: Path) -> dict[Path, str]:
    """The problems of the pipelines that write a table which an earlier one writes, by file.

    Only a parse of all files looks for them: 0.04 s of the 3 s that 500 files take. A worker and a
    parse of the bundle read one file, in 3 to 7 ms. To check all others there would cost seconds
    for each file, so in a bundle only `loadsheet check` reports such tables.
    """
    pipelines = list(filter(None, map(_checked, specs)))
    texts: dict[Path, list[str]] = {}
    try:
        problems = duplicates([], pipelines)
    except SpecError:  # a file was removed since it was checked: the next parse reports the rest
        return {}
    for problem in problems:
        if problem.code == "duplicate-target":
            text = str(problem).replace(f"{display_path(root)}/", "").replace(f"{root}/", "")
            texts.setdefault(Path(problem.file), []).append(text)
    return {file: "\n".join(lines) for file, lines in texts.items()}


def _checked(spec: Path) -> Pipeline | None:
    try:
        return check_file(spec)[0]
    except Exception:  # reported by `attempt`
        return None


def _dag(spec: Path, root: Path) -> tuple[str, DAG]:
    """The file's DAG, or its stand-in, with its id."""
    dag_id, made = attempt(spec, root)
    if isinstance(made, str):
        made = _broken(dag_id, relative(spec, root), made, raw_values(spec).get("schedule"))
    return dag_id, made


def _broken(dag_id: str, file: str, problems: str, schedule: Any) -> DAG:
    # Only text: dag-factory would import and call whatever a mapping with `__type__` names.
    if isinstance(schedule, str):
        try:
            return broken_dag(dag_id, file, problems, schedule)
        except Exception:  # the schedule may be what is broken
            pass
    return broken_dag(dag_id, file, problems)


def _free_id(spec: Path, taken: dict[str, DAG]) -> str:
    dag_id = folder_id(spec)
    while dag_id in taken:
        dag_id += ".broken"
    return dag_id
