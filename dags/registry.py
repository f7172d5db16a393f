"""Which pipeline files there are, which DAG ids they get, and what becomes of those that are broken."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from dags.factory import broken_dag, build_dag
from loadsheet.errors import SpecError
from loadsheet.names import slug
from loadsheet.redact import clean
from loadsheet.spec.load import find_specs, load_pipeline, refuse_link_outwards
from loadsheet.spec.text import read_text

_DAG_ID = re.compile(r"[A-Za-z0-9_.-]{1,200}")


def pipeline_dags(root: Path, only: str | None = None) -> dict[str, DAG]:
    """DAG id -> DAG for every pipeline file below `root`; just the DAG `only` when it is given.

    Never raises for a file's sake: a file that cannot become a DAG becomes one that fails and says why.
    """
    if only is not None and (found := _one(root, only)):
        return {only: found}
    # Also where `only` was not found: a stand-in's id depends on which ids the other files have taken.
    dags = _all(find_specs(root), root)
    return dags if only is None else {only: dags[only]} if only in dags else {}


def taken_by(spec: Path, name: str, root: Path) -> Path | None:
    """The file that has the pipeline name `name`, when that is not `spec`; a broken file keeps the name it claims."""
    if spec.parent.name == name:
        return None
    for other in _claimants(root, name):
        if other == spec:
            return None
        if _name_of(other) == name:
            return other
    return None


def attempt(spec: Path, root: Path) -> tuple[str, DAG | str]:
    """The file's DAG id, and its DAG or what is wrong with it. Never raises for the file's sake."""
    try:
        pipeline = load_pipeline(spec)
        return pipeline.name, build_dag(pipeline, root)
    except SpecError as error:
        problems = str(error)
    except Exception:  # one pipeline's surprise must not take every other pipeline out of Airflow
        problems = clean(traceback.format_exc())
    return _readable_name(spec), problems.replace(f"{root}/", "")


def relative(spec: Path, root: Path) -> str:
    """The file's path as people know it."""
    return spec.relative_to(root).as_posix()


def taken(name: str, owner: str) -> str:
    """What to do about a name that `owner` has."""
    return f"the pipeline name {name!r} is taken by {owner}. Give one of the two files another `pipeline:`."


def _one(root: Path, dag_id: str) -> DAG | None:
    for spec in _claimants(root, dag_id):
        found, dag = _dag(spec, root)
        if found == dag_id:
            return dag
    return None


def _claimants(root: Path, dag_id: str) -> Iterator[Path]:
    """The file in the folder of that name, which wins over any other; then those that contain the name."""
    same_name = root / "pipelines" / dag_id / "pipeline.yml"
    if not dag_id.startswith(".") and "/" not in dag_id and os.path.exists(same_name):
        yield same_name
    for spec in find_specs(root):
        if dag_id in _text(spec):  # else not worth a check; `pipeline_dags` copes with a miss
            yield spec


def _all(specs: list[Path], root: Path) -> dict[str, DAG]:
    """A name claimed twice stays with the folder of that name, else with the first; the others get stand-ins."""
    built = {spec: _dag(spec, root) for spec in specs}
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


def _dag(spec: Path, root: Path) -> tuple[str, DAG]:
    """The file's DAG, or its stand-in, with its id."""
    dag_id, made = attempt(spec, root)
    if isinstance(made, str):
        made = _broken(dag_id, relative(spec, root), made, _raw(spec).get("schedule"))
    return dag_id, made


def _name_of(spec: Path) -> str:
    try:
        return load_pipeline(spec).name
    except Exception:  # whatever it is, the file's own parse says it
        return _readable_name(spec)


def _readable_name(spec: Path) -> str:
    """The DAG id of a broken file."""
    name = _raw(spec).get("pipeline")
    return name if isinstance(name, str) and _DAG_ID.fullmatch(name) else _folder_id(spec)


def _broken(dag_id: str, file: str, problems: str, schedule: Any) -> DAG:
    # Only text: dag-factory would import and call whatever a mapping with `__type__` names.
    if isinstance(schedule, str):
        try:
            return broken_dag(dag_id, file, problems, schedule)
        except Exception:  # the schedule may be what is broken
            pass
    return broken_dag(dag_id, file, problems)


def _raw(spec: Path) -> dict[str, str]:
    """The texts at the top level of a broken file, as far as it can be read.

    By its events, of which there are as many as the file is long: building its values would follow aliases and merge
    keys, and 30 lines of these are more than a machine's memory.
    """
    import yaml

    from loadsheet.spec.syntax import LOADER

    found: dict[str, str] = {}
    depth, key = 0, None
    try:
        for event in yaml.parse(_text(spec), LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth != 1 or isinstance(event, yaml.CollectionStartEvent):
                continue
            if key is None and isinstance(event, yaml.ScalarEvent):
                key = event.value
            else:
                if key is not None and isinstance(event, yaml.ScalarEvent) and not event.tag:
                    found[key] = event.value
                key = None
    except (yaml.YAMLError, ValueError):
        pass
    return found


def _text(spec: Path) -> str:
    """The file's text; empty for what a check would not read either: a pipe, a device, a link that leads away.

    Also for one that is gone since it was found, or that nobody may read: no reason to fail somebody else's DAG.
    """
    try:
        refuse_link_outwards(spec)
        return read_text(spec)
    except SpecError:
        return ""


def _free_id(spec: Path, taken: dict[str, DAG]) -> str:
    dag_id = _folder_id(spec)
    while dag_id in taken:
        dag_id += ".broken"
    return dag_id


def _folder_id(spec: Path) -> str:
    folder = spec.parent.name
    return folder if _DAG_ID.fullmatch(folder) else slug(folder.encode(errors="replace").decode())
