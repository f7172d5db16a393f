"""A folder of DAG files for Airflow, one per pipeline file. Each is three lines that say which file to read.

Airflow asks such a file's modification time whether there is something to parse, so an edit is passed on by a new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import time
from pathlib import Path

from loadsheet.names import slug

TEMPLATE = """\
# Airflow's DAG file for {spec!r}. That is the file to edit; this one is written again whenever it is missing.
from dags.pipeline_file import dag_of

dag = dag_of(__file__, {project!r}, {folder!r})
"""
SUFFIX = ".yml.py"
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
Sources = frozenset[tuple[str, int, int, int]]


class Stubs:
    """The DAG files for the pipelines of `project`, in a folder of this project's own below `within`.

    `forget` is the number of seconds after which Airflow drops a DAG that its file no longer holds. Several processes
    may work on the same folder at once.
    """

    def __init__(self, project: Path, within: Path, prefix: str = "", forget: float = 50):
        self.project = project.absolute()
        key = hashlib.sha256(f"{self.project}\n{TEMPLATE}".encode(errors="surrogateescape")).hexdigest()[:12]
        home = within / f"{prefix}pipelines-{key}"
        self.dags, self.parsed = home / "dags", home / "parsed"
        self._forget = forget
        self._sources: dict[str, Sources] = {}
        self._again: dict[str, float] = {}

    def add(self) -> set[str]:
        """Write the files that are missing; returns their names. This is all a worker needs: two folders are listed.

        Raises FileNotFoundError when there is no `pipelines` folder: that is a wrong path, not an empty project.
        """
        for place in (self.dags, self.parsed):
            place.mkdir(parents=True, exist_ok=True)
        ignore = self.dags.parent / ".gitignore"
        if not ignore.exists():  # in a clone, `git clean` must not take away what a task is about to read
            self._write(ignore, "*\n")
        there = set(os.listdir(self.dags))
        missing = {name: folder for name, folder in self._folders().items() if name not in there}
        new = {name: folder for name, folder in missing.items() if self._has_spec(folder)}
        for name, folder in new.items():
            spec = f"pipelines/{folder}/pipeline.yml"
            text = TEMPLATE.format(spec=spec, project=str(self.project), folder=folder)
            self._write(self.dags / name, text)
        return set(new)

    def refresh(self) -> None:
        """Make the folder say what has happened to the pipelines since the last call: new, edited and deleted ones.

        Raises FileNotFoundError as `add` does, and PermissionError when the folder is somebody else's.
        """
        new = self.add()
        self._refuse_strangers()
        folders = {name: folder for name, folder in self._folders().items() if self._has_spec(folder)}
        gone = self._remove(folders)
        changed = self._changed(folders)
        if new or gone or changed:
            changed |= {name for name in folders if self._claims(name)}
        for name in changed:
            # Once more, later: then Airflow notices that the DAG of the old name is no longer in the file.
            self._again[name] = time.monotonic() + self._forget + 5
        for name in folders:
            if name in changed or self._unread(name) or self._due(name):
                _stamp(self.dags / name)

    def _refuse_strangers(self) -> None:
        """Airflow's default place is below /tmp, and what is there is run."""
        for place in (self.dags, *self.dags.parents[:2]):
            if place.stat().st_uid != os.geteuid():
                raise PermissionError(
                    f"{place} belongs to another user: remove it, or set [dag_processor] dag_bundle_storage_path to a "
                    "folder of Airflow's own"
                )

    def _folders(self) -> dict[str, str]:
        """The name of the DAG file -> the pipeline's folder."""
        try:
            found = sorted(os.listdir(self.project / "pipelines"))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.project} is no project: it has no folder `pipelines`") from error
        return {_stub_name(folder): folder for folder in found if not folder.startswith(".")}

    def _has_spec(self, folder: str) -> bool:
        # Not Path.exists, which raises for a folder that may not be entered: the others would wait for that one.
        return os.path.exists(self.project / "pipelines" / folder / "pipeline.yml")

    def _write(self, file: Path, text: str) -> None:
        """Whole or not at all; Airflow looks only into `dags`."""
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=self.dags.parent, delete=False) as draft:
            draft.write(text)
        os.chmod(draft.name, 0o644)  # a task may run as another user than the one that was first here
        os.replace(draft.name, file)

    def _remove(self, folders: dict[str, str]) -> set[str]:
        known = self._folders()
        gone = {name for name in os.listdir(self.dags) if name.endswith(SUFFIX) and name not in folders}
        for name in gone:
            if name in known and self._has_spec(known[name]):
                continue  # made by another process since we looked
            for file in (self.dags / name, self.parsed / name):
                file.unlink(missing_ok=True)
            self._sources.pop(name, None)
            self._again.pop(name, None)
        return gone

    def _changed(self, folders: dict[str, str]) -> set[str]:
        """Those that are not as the last call saw them. The first call sees none: then Airflow parses every file."""
        now = {name: _sources(self.project / "pipelines" / folder) for name, folder in folders.items()}
        changed = {name for name in now if self._sources.get(name, now[name]) != now[name]}
        self._sources = now
        return changed

    def _claims(self, name: str) -> bool:
        """Whether the pipeline has another name than its folder: who may have that depends on the other files."""
        try:
            return (self.parsed / name).stat().st_size > 0
        except FileNotFoundError:
            return False

    def _unread(self, name: str) -> bool:
        """Whether the latest parse began before the latest stamp: Airflow compares with when it ended, and would never
        see an edit that fell between the two."""
        try:
            return (self.parsed / name).stat().st_mtime_ns < (self.dags / name).stat().st_mtime_ns
        except FileNotFoundError:
            return False

    def _due(self, name: str) -> bool:
        due = name in self._again and time.monotonic() > self._again[name]
        if due:
            del self._again[name]
        return due


def mark(stub: Path, began: int, claim: str) -> None:
    """Say of a DAG file when its latest parse `began` (nanoseconds), and which name but its folder's it claims."""
    marker = stub.parents[1] / "parsed" / stub.name
    with contextlib.suppress(OSError):  # one parse too many is better than none
        marker.write_text(claim, encoding="utf-8")
        os.utime(marker, ns=(began, began))


def _stub_name(folder: str) -> str:
    return f"{folder if _PLAIN.fullmatch(folder) else slug(ascii(folder))}{SUFFIX}"


def _stamp(file: Path) -> None:
    now = time.time_ns()
    with contextlib.suppress(FileNotFoundError):
        os.utime(file, ns=(now, now))


def _sources(folder: Path) -> Sources:
    """Changes whenever the pipeline file or an SQL file beside it does."""
    found = [_source(folder / "pipeline.yml")]
    with contextlib.suppress(OSError), os.scandir(folder / "sql") as entries:
        found += [_source(entry) for entry in entries if entry.name.endswith(".sql")]
    return frozenset(found)


def _source(file: Path | os.DirEntry[str]) -> tuple[str, int, int, int]:
    try:
        stat = file.stat()
    except OSError:
        return file.name, 0, 0, 0
    return file.name, stat.st_mtime_ns, stat.st_size, stat.st_ino
