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

# The modes of files, and of links to files: a link is read as the file that it leads to in the same
# commit.
_FILE_MODES = (b"100644", b"100755", b"120000")
# Git sets these in a hook, for its own repository. Here the pipeline file tells which repository is
# meant.
_HOOK_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")


def pipeline_at(pipeline: Pipeline, project: Path, revision: str) -> Pipeline | None:
    """The pipeline as it was in `revision`: by its file's path, or else by its name in another
    folder of the project. None if it did not exist.

    Raises InputError outside a repository, without git, and for an unknown revision; SpecError,
    with places in the revision, when the file had problems then.
    """
    # Git's answer has no links in it, so the file's path must not have any either.
    file = pipeline.file.resolve()
    top = _git(file.parent, "rev-parse", "--show-toplevel").decode().rstrip("\n")
    root = Path(top).resolve()
    commit = _commit(root, revision)
    path = PurePosixPath(file.relative_to(root))
    if _files_at(root, commit, str(path)):
        return _load_at(root, commit, path, revision)
    return _find_by_name(root, commit, project.resolve(), pipeline.name, revision)


def _commit(root: Path, revision: str) -> str:
    """The id of the revision's commit. Raises InputError when there is none."""
    # A revision that begins with a dash must not be read as an option.
    options = ("--verify", "--quiet", "--end-of-options")
    try:
        return _git(root, "rev-parse", *options, f"{revision}^{{commit}}").decode().strip()
    except InputError:
        hint = ""
        if _git(root, "rev-parse", "--is-shallow-repository").strip() == b"true":
            hint = (
                ", which is a shallow clone: run git fetch --unshallow (in CI: check out the full "
                "history)"
            )
        raise InputError(
            f"--diff: {revision!r} is not a revision of the Git repository {root}{hint}"
        ) from None


def _find_by_name(
    root: Path, commit: str, project: Path, name: str, revision: str
) -> Pipeline | None:
    """The pipeline of this name in any folder of the project at that commit."""
    if not project.is_relative_to(root):
        return None
    folder = PurePosixPath(project.relative_to(root), "pipelines")
    for text in _files_at(root, commit, f"{folder}/", "-r"):
        path = PurePosixPath(text)
        if not path.match("pipelines/*/pipeline.yml"):
            continue
        try:
            pipeline = _load_at(root, commit, path, revision)
        except SpecError:
            continue  # another pipeline's problems must not stop this comparison
        if pipeline.name == name:
            return pipeline
    return None


def _load_at(root: Path, commit: str, path: PurePosixPath, revision: str) -> Pipeline:
    """The pipeline file at `path` of the commit, read with its SQL from a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="loadsheet-diff-") as temporary:
        # A file without a name takes the folder's.
        folder = Path(temporary) / (path.parent.name or root.name)
        file = folder / path.name
        (folder / "sql").mkdir(parents=True)
        sql = _files_at(root, commit, f"{path.parent}/sql/")
        names = [str(path), *(name for name in sql if name.endswith(".sql"))]
        for name, content in _contents(root, commit, names):
            target = file if name == str(path) else folder / "sql" / PurePosixPath(name).name
            target.write_bytes(content)
        try:
            pipeline = load_pipeline(file)
            # The inputs are read from the files and remembered, so ask before the folder is gone.
            transform_inputs(pipeline)
        except SpecError as error:
            # The temporary folder would mean nothing to the reader.
            place = f"{revision}:{path.parent}"
            problems: list[Problem] = []
            for problem in error.problems:
                in_revision = replace(
                    problem,
                    file=problem.file.replace(str(folder), place),
                    message=problem.message.replace(str(folder), place),
                    hint=problem.hint.replace(str(folder), place),
                )
                problems.append(in_revision)
            raise SpecError(problems) from None
    return pipeline


def _files_at(root: Path, commit: str, path: str, *options: str) -> list[str]:
    """The files in the folder `path` of the commit, or the file at `path`, named from the
    repository's root."""
    listing = _git(root, "ls-tree", "-z", "--full-tree", *options, commit, "--", path)
    files = []
    for entry in listing.split(b"\0"):
        details, _, name = entry.partition(b"\t")
        if details.startswith(_FILE_MODES):
            # The name of a file may be any bytes.
            files.append(name.decode(errors="surrogateescape"))
    return files


def _contents(root: Path, commit: str, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Each file and its content in the commit, except for links that lead to no file there."""
    # A line break would separate two requests; the name of a transform's file has none.
    paths = [path for path in paths if "\n" not in path]
    requests = "".join(f"{commit}:{path}\n" for path in paths)
    answer = _git(
        root,
        "cat-file",
        "--batch",
        "--follow-symlinks",
        stdin=requests.encode(errors="surrogateescape"),
    )
    for path in paths:
        head, _, answer = answer.partition(b"\n")
        if head.endswith(b" missing"):
            continue
        # `<oid> blob <size>`, or `symlink <size>` for a link that leads out of the commit.
        kind, size_text = head.split()[-2:]
        size = int(size_text)
        content = answer[:size]
        answer = answer[size + 1 :]
        if kind == b"blob":
            yield path, content


def _git(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """The output of a git command in the folder. Raises InputError when it fails, or when git is
    not installed."""
    command = ["git", "-C", str(folder), *arguments]
    environment = {k: value for k, value in os.environ.items() if k not in _HOOK_VARIABLES}
    try:
        process = subprocess.run(
            command, capture_output=True, check=False, input=stdin, env=environment
        )
    except FileNotFoundError:
        raise InputError("--diff needs git, which is not installed or not on PATH") from None
    if process.returncode:
        error = process.stderr.decode(errors="replace").strip().removeprefix("fatal: ")
        raise InputError(f"--diff: git failed in {folder}: {error}")
    return process.stdout
