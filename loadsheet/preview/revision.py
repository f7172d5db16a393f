"""A pipeline as it was in a Git revision."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

from loadsheet.errors import InputError, SpecError
from loadsheet.plan.inputs import transform_inputs
from loadsheet.spec.load import load_pipeline
from loadsheet.spec.models import Pipeline

_REGULAR = (b"100644", b"100755")


def pipeline_at(pipeline: Pipeline, project: Path, revision: str) -> Pipeline | None:
    """The pipeline as its file was in `revision`, or as another file there called it; None when there was none.

    Raises InputError outside a repository, without git and for a revision that is none; SpecError, its places in the
    revision, when the file had problems then.
    """
    file = pipeline.file.resolve()
    root = Path(_git(file.parent, "rev-parse", "--show-toplevel").decode().rstrip("\n")).resolve()
    try:
        commit = (
            _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
            .decode()
            .strip()
        )
    except InputError:
        raise InputError(f"--diff: {revision!r} is no revision of the Git repository {root}") from None
    path = PurePosixPath(file.relative_to(root))
    if _tree(root, commit, str(path)):
        return _loaded(root, commit, path, revision)
    return _moved(root, commit, project.resolve(), pipeline.name, revision)


def _moved(root: Path, commit: str, project: Path, name: str, revision: str) -> Pipeline | None:
    """The pipeline of this name that another folder of the project held."""
    if not project.is_relative_to(root):
        return None
    folder = PurePosixPath(project.relative_to(root), "pipelines")
    for path in _tree(root, commit, f"{folder}/"):
        if PurePosixPath(path).match("pipelines/*/pipeline.yml"):
            try:
                found = _loaded(root, commit, PurePosixPath(path), revision)
            except SpecError:
                continue
            if found.name == name:
                return found
    return None


def _loaded(root: Path, commit: str, path: PurePosixPath, revision: str) -> Pipeline:
    with tempfile.TemporaryDirectory(prefix="loadsheet-diff-") as temporary:
        home = Path(temporary) / (path.parent.name or root.name)  # the pipeline's name where the file gives none
        (home / "sql").mkdir(parents=True)
        (home / path.name).write_bytes(_git(root, "cat-file", "blob", f"{commit}:{path}"))
        for name in _tree(root, commit, f"{path.parent}/sql/"):
            target = home / "sql" / PurePosixPath(name).name
            if target.suffix == ".sql":
                target.write_bytes(_git(root, "cat-file", "blob", f"{commit}:{name}"))
        try:
            found = load_pipeline(home / path.name)
            transform_inputs(found)  # while its files are there
        except SpecError as error:
            place = f"{revision}:{path.parent}"
            raise SpecError([replace(p, file=p.file.replace(str(home), place)) for p in error.problems]) from None
    return found


def _tree(root: Path, commit: str, path: str) -> list[str]:
    """The regular files below `path` in the commit, by name from the repository's root."""
    listed = _git(root, "ls-tree", "-r", "-z", "--full-tree", commit, "--", path)
    entries = (entry.partition(b"\t") for entry in listed.split(b"\0") if entry)
    return [name.decode(errors="surrogateescape") for meta, _, name in entries if meta.startswith(_REGULAR)]


def _git(folder: Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise InputError("--diff needs git, and there is no program of that name here") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().removeprefix("fatal: ")
        raise InputError(f"--diff: git cannot tell what {folder} was: {said}")
    return done.stdout
