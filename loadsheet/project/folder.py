"""Where things are: the project's folder, its pipelines, and paths as users see them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from loadsheet.errors import InputError, SpecError
from loadsheet.names import closest
from loadsheet.problem import Problem
from loadsheet.spec.files import read_text, real_path
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import check_file, declared_name, find_specs, load_pipeline

PIPELINES = "pipelines"

_log = logging.getLogger(__name__)


def project_folder(explicit: Path | None, near: Path | None = None) -> Path:
    """The project: `explicit` (from --project) if given, else the nearest folder with `pipelines/`
    from `near` (default: the current folder) upwards, else the current folder.

    Raises InputError when `explicit` is not a project.
    """
    if explicit is None:
        return nearest_project(near or Path.cwd()) or Path.cwd()
    if not (explicit / PIPELINES).is_dir():
        raise InputError(f"{explicit} is not a project: it has no folder {PIPELINES}/")
    return explicit


def nearest_project(start: Path) -> Path | None:
    """The nearest folder with `pipelines/` from `start` upwards; None where there is none."""
    start = real_path(start)
    for folder in (start, *start.parents):
        if (folder / PIPELINES).is_dir():
            return folder
    return None


def open_pipeline(explicit: Path | None, name: str) -> tuple[Pipeline, Path]:
    """The pipeline `name` (a name, a pipeline file, or a folder that holds one) and its project.

    Raises InputError with the names there are, SpecError when the file has problems.
    """
    file, project = find_pipeline(explicit, name)
    return load_pipeline(file), project


def open_pipelines(explicit: Path | None, name: str | None) -> tuple[list[Pipeline], Path]:
    """The pipeline `name`, or all pipelines of the project where it is empty; and the project.

    Raises as `open_pipeline`; InputError also when the project has no pipelines.
    """
    if name:
        pipeline, project = open_pipeline(explicit, name)
        return [pipeline], project
    project = project_folder(explicit)
    return [load_pipeline(file) for file in project_specs(project)], project


def find_pipeline(explicit: Path | None, name: str) -> tuple[Path, Path]:
    """The file of the pipeline `name` and its project, as `open_pipeline` finds them, but the file
    may have problems. Raises InputError with the names there are."""
    if file := _as_file(explicit, name):
        return file, project_folder(explicit, file.parent)
    project = project_folder(explicit)
    specs = project_specs(project)
    # The folder of that name first: most pipelines are named after their folder, and then no other
    # file is read.
    specs.sort(key=lambda spec: spec.parent.name != name)
    for spec in specs:
        if not _may_be_named(spec, name):
            continue
        names = pipeline_names(spec)
        if name in names:
            _log.info("pipeline %s: %s", name, spec)
            return spec, project
        if spec.parent.name == name:
            raise InputError(f"{display_path(spec)} is the pipeline {names[0]!r}: write that name")
    known = sorted(pipeline_names(spec)[0] for spec in specs)
    meant = closest(name, known)
    suggestion = f" (did you mean {meant!r}?)" if meant else ""
    raise InputError(
        f"there is no pipeline {name!r} in {display_path(project)}{suggestion};"
        f" it has: {', '.join(known)}"
    )


def _may_be_named(spec: Path, name: str) -> bool:
    """Whether the file may hold the pipeline `name`: a file that takes long to check does not keep
    the others from running."""
    if name in (spec.parent.name, real_path(spec).parent.name):
        return True
    try:
        text = read_text(spec)
    except SpecError:  # its check reports it
        return False
    # Text with escaped letters may hide the name.
    return name in text or "\\" in text


def pipeline_names(spec: Path) -> list[str]:
    """The names under which the pipeline in the file `spec` is found: its own. A file with problems
    also has that of its folder: the problem may be the name."""
    pipeline, _ = check_file(spec)
    if pipeline:
        return [pipeline.name]
    return list(dict.fromkeys((declared_name(spec), spec.parent.name)))


def project_specs(project: Path) -> list[Path]:
    """The pipeline files of `project`. Raises InputError when it has none."""
    specs = find_specs(project)
    if not specs:
        raise InputError(
            f"no pipelines in {display_path(project)}: `loadsheet init` creates a project here with"
            " an example, `loadsheet new NAME` a pipeline; or name the project with --project DIR"
        )
    return specs


def display_path(path: Path | str) -> str:
    """`path` relative to the current folder where it lies below it, else absolute."""
    # Only the parent is resolved: a link is shown under its own name, not as its target.
    full = real_path(Path(path).parent) / Path(path).name
    if full.is_relative_to(Path.cwd()):
        return str(full.relative_to(Path.cwd()))
    return str(full)


def relative_problem(problem: Problem) -> Problem:
    """The problem with the path of its file as `display_path` writes it."""
    return replace(problem, file=display_path(problem.file))


def _as_file(explicit: Path | None, name: str) -> Path | None:
    """The pipeline file that `name` is a path to, from the current folder or from the project's;
    None when it is a pipeline's name.

    Raises InputError when it is a path, and there is no such pipeline file.
    """
    path = Path(name)
    has_folder = len(path.parts) > 1 or "/" in name
    candidates = [path]
    if has_folder and not path.is_absolute():
        candidates.append(project_folder(explicit) / path)
    try:
        for candidate in candidates:
            file = candidate / "pipeline.yml" if candidate.is_dir() else candidate
            if file.is_file():
                return refuse_other_kinds(explicit, file)
        if name in (".", "..") or (has_folder and path.is_dir()):
            path /= "pipeline.yml"
    except (OSError, ValueError):  # no name of a file: too long, or with a NUL
        return None
    if has_folder or path.suffix in (".yml", ".yaml"):
        raise InputError(f"there is no file {path}{_meant_by_path(explicit, path)}")
    return None


def refuse_other_kinds(explicit: Path | None, file: Path) -> Path:
    """`file`, which ends as a YAML file does. Problems quote their file's text, and that of another
    file, such as `.env`, may be a secret. Raises InputError."""
    if file.suffix in (".yml", ".yaml"):
        return file
    raise InputError(
        f"{file} is not a pipeline file: its name must end in .yml or .yaml"
        f"{_meant_by_path(explicit, file)}"
    )


def _meant_by_path(explicit: Path | None, path: Path) -> str:
    """The pipeline that a path to something else most likely means, else those there are, as the
    end of a message."""
    names = {}
    for spec in find_specs(project_folder(explicit)):
        names[spec.parent.name] = pipeline_names(spec)[0]
    for part in reversed((*path.parts[:-1], path.stem)):
        meant = closest(part, [*names, *names.values()])
        if meant:
            return f" (did you mean {names.get(meant, meant)!r}?)"
    return f"; the project has: {', '.join(sorted(names.values()))}" if names else ""
