"""The files of a new project, and how they get into a folder that may hold files already."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loadsheet import __version__
from loadsheet.errors import InputError
from loadsheet.spec.files import SCHEMA_FILE

TEMPLATES = Path(__file__).with_name("template")

# The templates' names have no leading dot: a .gitignore there would work on our own repository.
FILES = {
    ".airflowignore": "airflowignore",
    ".dockerignore": "dockerignore",
    ".env.example": "env.example",
    ".github/workflows/loadsheet.yml": "github/loadsheet.yml",
    ".gitignore": "gitignore",
    ".pre-commit-config.yaml": "pre-commit-config.yaml",
    ".vscode/extensions.json": "vscode/extensions.json",
    ".vscode/settings.json": "vscode/settings.json",
    "Dockerfile": "Dockerfile",
    "README.md": "README.md",
    "connections/connections.yml": "connections/connections.yml",
    "dags/load_pipelines.py": "dags/load_pipelines.py",
    "docker-compose.yml": "docker-compose.yml",
    "variables/variables.json": "variables/variables.json",
}
EXAMPLE_FILES = {
    f"pipelines/example/{name}": f"pipelines/example/{name}"
    for name in ("pipeline.yml", "sql/daily_sales.sql", "tests/daily_sales.yml")
}
"""Only for a project without pipelines of its own."""
SCHEMA_FILES = ("pipeline.schema.json", "tests.schema.json")


@dataclass(frozen=True)
class Scaffold:
    """What `create_project` did. Names are relative to the project's folder, in their order."""

    folder: Path
    written: tuple[str, ...]
    kept: tuple[str, ...]
    """Files that were there already. They were not read, compared or changed."""


def create_project(folder: Path) -> Scaffold:
    """Write the files of a project into `folder`, new or existing, and leave existing files alone.

    Raises InputError, before anything is written, when a file is where a folder is needed, or a
    folder where a file is needed; OSError when the disk refuses.
    """
    contents = dict(sorted(_contents(folder)))
    _refuse_obstacles(folder, contents)
    written = []
    for name, content in contents.items():
        if _write_new(folder / name, content):
            written.append(name)
    kept = tuple(name for name in contents if name not in written)
    return Scaffold(folder, tuple(written), kept)


def project_name(folder: Path) -> str:
    """A name for the project's containers and its image, made from the folder's name."""
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_")
    return name or "loadsheet-project"


def ignores_env(gitignore: Path) -> bool:
    """Whether this .gitignore, which the user may have written, keeps `.env` out of Git."""
    if not gitignore.is_file():
        return False
    lines = gitignore.read_text(encoding="utf-8", errors="replace").splitlines()
    patterns = {line.strip() for line in lines}
    return not patterns.isdisjoint((".env", "/.env", ".env*", "*.env"))


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The project's files by name: the templates with their tokens replaced, and the schemas."""
    files = dict(FILES)
    pipelines = {file.parent.name for file in folder.glob("pipelines/*/pipeline.y*ml")}
    if pipelines <= {"example"}:
        files |= EXAMPLE_FILES
    values = {"@PROJECT@": project_name(folder), "@VERSION@": __version__}
    for name, template in files.items():
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        for token, value in values.items():
            text = text.replace(token, value)
        yield name, text.encode()
    for schema in SCHEMA_FILES:
        yield f"schemas/{schema}", SCHEMA_FILE.with_name(schema).read_bytes()


def _refuse_obstacles(folder: Path, names: dict[str, bytes]) -> None:
    """Raises InputError naming all files where a folder is needed, and folders where a file is."""
    folders = {folder, *folder.parents}
    for name in names:
        folders.update(folder / parent for parent in Path(name).parents)
    obstacles = []
    for place in sorted(folders):
        # A link to nowhere does not exist, and yet no folder can be created in its place.
        if (place.exists() or place.is_symlink()) and not place.is_dir():
            obstacles.append(f"{place} is not a folder")
    for name in names:
        if (folder / name).is_dir():
            obstacles.append(f"{folder / name} is a folder, not a file")
    if obstacles:
        raise InputError("; ".join(obstacles) + ". Nothing was written: rename what is in the way")


def _write_new(file: Path, content: bytes) -> bool:
    """Write the file unless its name is taken, even by a broken link; returns whether it did."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        target = file.open("xb")
    except FileExistsError:
        return False
    try:
        with target:
            target.write(content)
    except BaseException:
        file.unlink()  # at the next try, half a file would be kept as the user's own
        raise
    return True
