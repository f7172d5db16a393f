"""The DAGs of all pipeline files, with stand-ins for the files that are broken."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from pathlib import Path

from airflow.configuration import conf
from airflow.sdk import DAG, get_parsing_context

from loadsheet.airflow.dag_ids import (
    broken_file_id,
    candidates,
    folder_id,
    name_taken,
    texts_in,
)
from loadsheet.airflow.factory import BROKEN_TASK, broken_dag, build_dag
from loadsheet.airflow.freshness import freshness_dag, watched_dag
from loadsheet.errors import SpecError
from loadsheet.project.conflicts import duplicates
from loadsheet.project.folder import display_path
from loadsheet.redact import clean
from loadsheet.spec.compiled import is_remembered
from loadsheet.spec.models import FRESHNESS_DAG, Pipeline
from loadsheet.spec.parallel_check import checking_in_parallel
from loadsheet.spec.pipeline_file import check_file, find_specs, load_pipeline

_SHARE_OF_TIMEOUT = 0.6
_NOT_CHECKED = (
    "not checked yet: the checks of the other pipeline files took most of the time that Airflow"
    " gives a DAG file, [core] dagbag_import_timeout. The next parse continues. If this persists,"
    " split this pipeline, or use the DAG bundle, in which each file has that time for itself"
)


def pipeline_dags(root: Path, only: str | None = None) -> dict[str, DAG]:
    """DAG id -> DAG for every pipeline file of the project `root`, with the one that watches their
    freshness if a file asks for it; or for the DAG `only`.

    A worker needs the DAG of its task only: there, `only` is that one by default. Never raises for
    a broken file: its DAG is a stand-in, which fails and reports the problems.
    """
    context = get_parsing_context()
    only = only or context.dag_id
    if only is None:
        return _all_dags(find_specs(root), root)
    if only == FRESHNESS_DAG:
        return {only: freshness_dag(root)}
    for spec in candidates(root, only):
        dag_id, dag = _dag_or_stand_in(spec, root)
        if dag_id != only:
            continue
        # A file alone does not show that another pipeline writes the same table. A worker learns
        # it from its task, which only a stand-in has, and then it reads all files for the reason.
        if context.task_id == BROKEN_TASK and not dag.has_task(BROKEN_TASK):
            break
        return {only: dag}
    # It may be the stand-in of a file whose id or table was taken, which depends on all other
    # files.
    dags = _all_dags(find_specs(root), root)
    return {only: dags[only]} if only in dags else {}


def attempt(spec: Path, root: Path) -> tuple[str, DAG | str]:
    """The file's DAG id, with its DAG or its problems as text. Never raises for a broken file."""
    try:
        pipeline = load_pipeline(spec)
        return pipeline.name, build_dag(pipeline, root)
    except SpecError as error:
        problems = str(error)
    except Exception:  # a bug that one pipeline meets must not remove all others from Airflow
        problems = clean(traceback.format_exc())
    return broken_file_id(spec), problems.replace(f"{root}/", "")


def relative(spec: Path, root: Path) -> str:
    """The file's path in the project."""
    return spec.relative_to(root).as_posix()


def _all_dags(specs: list[Path], root: Path) -> dict[str, DAG]:
    """DAG id -> DAG of every file.

    If two files use the same name, it belongs to the folder of that name, or else to the first
    file; the other one gets a stand-in. So does a pipeline that writes a table which an earlier
    file writes.
    """
    built = _built(specs, root)
    # A file with problems is not checked once more.
    sound = [spec for spec in specs if not built[spec][1].has_task(BROKEN_TASK)]
    for spec, problems in _shared_targets(sound, root).items():
        dag_id = built[spec][0]
        built[spec] = dag_id, _stand_in(dag_id, spec, root, problems)
    owners: dict[str, Path] = {}
    # The files whose folder has the name come first.
    for spec in sorted(specs, key=lambda spec: spec.parent.name != built[spec][0]):
        owners.setdefault(built[spec][0], spec)
    dags = {dag_id: built[spec][1] for dag_id, spec in owners.items()}
    for spec in specs:
        name = built[spec][0]
        if owners[name] != spec:
            dag_id = folder_id(spec)
            while dag_id in dags:
                dag_id += ".broken"
            problem = name_taken(name, relative(owners[name], root))
            dags[dag_id] = broken_dag(dag_id, relative(spec, root), problem)
    watching = watched_dag(root)
    if watching:
        dags[watching.dag_id] = watching
    return dags


def _built(specs: list[Path], root: Path) -> dict[Path, tuple[str, DAG]]:
    """Each file's DAG id, with its DAG or its stand-in.

    Airflow ends a parse that takes too long, and then has no DAG at all. So the small files come
    first, and what is left when most of that time is over gets stand-ins until the next parse,
    which has the results of this one.
    """
    end = time.monotonic() + _SHARE_OF_TIMEOUT * _import_timeout()
    built: dict[Path, tuple[str, DAG]] = {}
    with checking_in_parallel(specs):
        for spec in sorted(specs, key=_size):
            if time.monotonic() < end or is_remembered(spec):
                built[spec] = _dag_or_stand_in(spec, root)
            else:
                dag_id = broken_file_id(spec)
                built[spec] = dag_id, _stand_in(dag_id, spec, root, _NOT_CHECKED)
    return {spec: built[spec] for spec in specs}


def _import_timeout() -> float:
    """Seconds after which Airflow ends the parse of a DAG file; infinite where it does not."""
    return conf.getfloat("core", "dagbag_import_timeout") or math.inf


def _size(spec: Path) -> int:
    """Bytes of the pipeline file and its SQL."""
    size = 0
    for file in (spec, *spec.parent.glob("sql/*.sql")):
        with contextlib.suppress(OSError):
            size += file.stat().st_size
    return size


def _shared_targets(specs: list[Path], root: Path) -> dict[Path, str]:
    """The problems of the pipelines that write a table which an earlier one writes, by file.

    Only a parse of all files looks for them: 0.04 s of the 3 s that 500 files take. A worker and a
    parse of the bundle read one file, in 3 to 7 ms. To check all others there would cost seconds
    for each file, so in a bundle only `loadsheet check` reports such tables.
    """
    pipelines: list[Pipeline] = []
    for spec in specs:
        try:
            pipeline = check_file(spec)[0]
        except Exception:  # reported by `attempt`
            continue
        if pipeline:
            pipelines.append(pipeline)
    try:
        problems = duplicates([], pipelines)
    except SpecError:  # a file was removed since it was checked; the next parse finds the others
        return {}
    texts: dict[Path, list[str]] = {}
    for problem in problems:
        if problem.code == "duplicate-target":
            text = str(problem).replace(f"{display_path(root)}/", "").replace(f"{root}/", "")
            texts.setdefault(Path(problem.file), []).append(text)
    return {file: "\n".join(lines) for file, lines in texts.items()}


def _dag_or_stand_in(spec: Path, root: Path) -> tuple[str, DAG]:
    """The file's DAG id, with its DAG or its stand-in."""
    dag_id, dag = attempt(spec, root)
    if isinstance(dag, str):
        dag = _stand_in(dag_id, spec, root, dag)
    return dag_id, dag


def _stand_in(dag_id: str, spec: Path, root: Path, problems: str) -> DAG:
    file = relative(spec, root)
    schedule = texts_in(spec).get("schedule")
    if schedule is not None:
        try:
            return broken_dag(dag_id, file, problems, schedule)
        except Exception:  # the schedule itself may be the problem
            pass
    return broken_dag(dag_id, file, problems)
