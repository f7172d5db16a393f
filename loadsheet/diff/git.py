"""A pipeline as it was in a Git revision."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from loadsheet.errors import InputError, SpecError
from loadsheet.problem import Problem
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline

# Files, and links to them: a link is read as what it leads to in the same commit.
_FILES = (b"100644", b"100755", b"120000")
# A Git hook has these set, for the repository's top folder and for an index: the files here say
# which repository is meant.
_OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")


def pipeline_at(pipeline: Pipeline, project: Path, revision: str) -> Pipeline | None:
    """The pipeline as its file was in `revision`, or as another file there called it; None when
    there was none.

    Raises InputError outside a repository, without git and for a revision that is none; SpecError,
    its places in the revision, when the file had problems then.
    """
    file = pipeline.file.resolve()
    root = Path(_git(file.parent, "rev-parse", "--show-toplevel").decode().rstrip("\n")).resolve()
    try:
        commit = (
            _git(
                root,
                "rev-parse",
                "--verify",
                "--quiet",
                "--end-of-options",
                f"{revision}^{{commit}}",
            )
            .decode()
            .strip()
        )
    except InputError:
        raise InputError(
            f"--diff: {revision!r} is no revision of the Git repository {root}{_where_it_may_be(root)}"
        ) from None
    path = PurePosixPath(file.relative_to(root))
    if _tree(root, commit, str(path)):
        return _loaded(root, commit, path, revision)
    return _moved(root, commit, project.resolve(), pipeline.name, revision)


def _moved(root: Path, commit: str, project: Path, name: str, revision: str) -> Pipeline | None:
    """The pipeline of this name that another folder of the project held."""
    if not project.is_relative_to(root):
        return None
    folder = PurePosixPath(project.relative_to(root), "pipelines")
    for path in _tree(root, commit, f"{folder}/", "-r"):
        if PurePosixPath(path).match("pipelines/*/pipeline.yml"):
            try:
                found = _loaded(root, commit, PurePosixPath(path), revision)
            except SpecError:
                continue
            if found.name == name:
                return found
    return None


def _where_it_may_be(root: Path) -> str:
    if _git(root, "rev-parse", "--is-shallow-repository").strip() != b"true":
        return ""
    return (
        ", which is a shallow clone: run git fetch --unshallow (in CI: check out with its history)"
    )


def _loaded(root: Path, commit: str, path: PurePosixPath, revision: str) -> Pipeline:
    with tempfile.TemporaryDirectory(prefix="loadsheet-diff-") as temporary:
        # the pipeline's name where the file gives none
        home = Path(temporary) / (path.parent.name or root.name)
        (home / "sql").mkdir(parents=True)
        names = [
            name for name in _tree(root, commit, f"{path.parent}/sql/") if name.endswith(".sql")
        ]
        for name, content in _contents(root, commit, [str(path), *names]):
            target = (
                home / path.name if name == str(path) else home / "sql" / PurePosixPath(name).name
            )
            target.write_bytes(content)
        try:
            found = load_pipeline(home / path.name)
            transform_inputs(found)  # while its files are there
        except SpecError as error:
            place = f"{revision}:{path.parent}"
            raise SpecError(
                [_placed(problem, str(home), place) for problem in error.problems]
            ) from None
    return found


def _placed(problem: Problem, home: str, place: str) -> Problem:
    texts = {
        name: getattr(problem, name).replace(home, place) for name in ("file", "message", "hint")
    }
    return replace(problem, **texts)


def _tree(root: Path, commit: str, path: str, *options: str) -> list[str]:
    """The files in the folder `path` of the commit, or at `path`, by name from the repository's
    root."""
    listed = _git(root, "ls-tree", "-z", "--full-tree", *options, commit, "--", path)
    entries = (entry.partition(b"\t") for entry in listed.split(b"\0") if entry)
    return [
        name.decode(errors="surrogateescape")
        for meta, _, name in entries
        if meta.startswith(_FILES)
    ]


def _contents(root: Path, commit: str, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Each file and its content in the commit, but for links that lead to no file there."""
    paths = [path for path in paths if "\n" not in path]  # no transform has such a name
    asked = "".join(f"{commit}:{path}\n" for path in paths).encode(errors="surrogateescape")
    answer = _git(root, "cat-file", "--batch", "--follow-symlinks", said=asked)
    for path in paths:
        head, _, answer = answer.partition(b"\n")
        if head.endswith(b" missing"):
            continue
        # `<oid> blob <size>`, but `symlink <size>` for one that leads out of it
        kind, size = head.split()[-2:]
        content, answer = answer[: int(size)], answer[int(size) + 1 :]
        if kind == b"blob":
            yield path, content


def _git(folder: Path, *arguments: str, said: bytes = b"") -> bytes:
    command = ["git", "-C", str(folder), *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in _OF_A_HOOK}
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, input=said, env=environment
        )
    except FileNotFoundError:
        raise InputError("--diff needs git, and there is no program of that name here") from None
    if done.returncode:
        error = done.stderr.decode(errors="replace").strip().removeprefix("fatal: ")
        raise InputError(f"--diff: git cannot tell what {folder} was: {error}")
    return done.stdout
