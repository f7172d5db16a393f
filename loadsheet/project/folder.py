"""Where things are: the project's folder, its pipelines, and files as seen from the current folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from loadsheet.errors import InputError
from loadsheet.names import closest
from loadsheet.problem import Problem
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import check_file, find_specs, load_pipeline

PIPELINES = "pipelines"


def project_folder(given: Path | None, near: Path | None = None) -> Path:
    """The project: `given`, else the nearest folder with `pipelines/` from `near` (default: here)
    upwards, else here.

    Raises InputError when `given` is not a project.
    """
    if given:
        if not (given / PIPELINES).is_dir():
            raise InputError(f"{given} is not a project: it has no folder {PIPELINES}/")
        return given
    start = (near or Path.cwd()).resolve()
    return next(
        (folder for folder in (start, *start.parents) if (folder / PIPELINES).is_dir()), Path.cwd()
    )


def open_pipeline(given: Path | None, name: str) -> tuple[Pipeline, Path]:
    """The pipeline called `name`, or in the file or folder `name`, and its project.

    Raises InputError naming the known pipelines, SpecError when the file has problems.
    """
    file, project = find_pipeline(given, name)
    return load_pipeline(file), project


def find_pipeline(given: Path | None, name: str) -> tuple[Path, Path]:
    """The file of the pipeline called `name`, or the file or the folder's file `name`, and its
    project; the file may be broken. Raises InputError naming the known pipelines."""
    if file := _as_file(name):
        return file, project_folder(given, file.parent)
    project = project_folder(given)
    specs = project_specs(project)
    names = {}
    # By folder first: a pipeline is usually called like its folder, and then no other file is
    # read.
    for spec in sorted(specs, key=lambda spec: spec.parent.name != name):
        names[spec] = _name_in(spec)
        if names[spec] == name:
            return spec, project
    raise InputError(
        f"there is no pipeline {name!r} in {shown(project)}{_known(name, sorted(names.values()))}"
    )


def project_specs(project: Path) -> list[Path]:
    """The pipeline files of `project`. Raises InputError when it has none."""
    specs = find_specs(project)
    if not specs:
        wanted = f"{PIPELINES}/<name>/pipeline.yml"
        raise InputError(
            f"no pipelines in {shown(project)}: write {wanted}, or name the project with"
            " --project DIR"
        )
    return specs


def shown(path: Path | str) -> str:
    """`path` relative to the current folder where it lies below it, else absolute."""
    # A link is shown as itself, not as what it leads to.
    full = Path(path).parent.resolve() / Path(path).name
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)


def relative_problem(problem: Problem) -> Problem:
    """The problem with its file as seen from the current folder."""
    return replace(problem, file=shown(problem.file))


def _as_file(name: str) -> Path | None:
    """The pipeline file that `name` is a path to; None when it is a pipeline's name."""
    path = Path(name)
    try:
        file = path / "pipeline.yml" if path.is_dir() else path
        if file.is_file():
            return file
    except OSError:  # too long for a file's name
        return None
    if len(path.parts) > 1 or path.suffix in (".yml", ".yaml"):
        raise InputError(f"there is no file {file}")
    return None


def _name_in(spec: Path) -> str:
    pipeline, _ = check_file(spec)
    return pipeline.name if pipeline else spec.parent.name


def _known(name: str, names: list[str]) -> str:
    meant = closest(name, names)
    suggestion = f" (did you mean {meant!r}?)" if meant else ""
    return f"{suggestion}; it has: {', '.join(names)}"
