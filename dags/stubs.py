"""A folder of DAG files for Airflow, one per pipeline file.

Airflow asks such a file's modification time whether there is something to parse, so an edit is passed on by a new one.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from dags.edits import Edits
from dags.stub import SUFFIX, TEMPLATE, marker_of, stamp, stats, stub_name, stub_text, write_whole
from loadsheet.spec.places import is_there


class Stubs:
    """The DAG files for the pipelines of `project`, in a folder of this project's own below `within`.

    `forget` is the number of seconds after which Airflow drops a DAG that its file no longer holds. Several processes
    may work on the same folder at once.
    """

    def __init__(self, project: Path, within: Path, prefix: str = "", forget: float = 50):
        self.project = project.absolute()
        # In full: a commit that brings this very folder, with files of its own for Airflow to run, cannot be made.
        key = hashlib.sha256(f"{self.project}\n{TEMPLATE}".encode(errors="surrogateescape")).hexdigest()
        self.home = within / f"{prefix}pipelines-{key}"
        self.dags = self.home / "dags"
        self._edits = Edits(self.project / "pipelines", self.home, forget)
        self._waiting: set[str] = set()

    def add(self) -> None:
        """Write the files that are missing. This is all a worker needs: two folders are listed.

        Raises FileNotFoundError when there is no `pipelines` folder: that is a wrong path, not an empty project.
        """
        for place in (self.home, self.dags, self.home / "parsed"):
            place.mkdir(mode=0o775, parents=True, exist_ok=True)
        ignore = self.home / ".gitignore"
        if not ignore.exists():  # in a clone, `git clean` must not take away what a task is about to read
            write_whole(ignore, "*\n", drafts=self.home)
        there = {name for name, stub in stats(self.dags).items() if stub.st_size}  # a power failure leaves empty ones
        for name, folder in self._listed().items():
            if name not in there and self._has_spec(folder):
                self._write(name, folder)

    def refresh(self) -> None:
        """Make the folder say what has happened to the pipelines since the last call: new, edited and deleted ones.

        Raises FileNotFoundError as `add` does, and PermissionError when the folder is not Airflow's own.
        """
        self.add()
        self._refuse_strangers()
        folders = {name: folder for name, folder in self._listed().items() if self._has_spec(folder)}
        self._remove(folders)
        self._waiting |= self._edits.look(folders)
        for name in self._waiting & folders.keys():
            try:
                stamp(self.dags / name)
            except PermissionError:  # written by a worker that is another user
                self._write(name, folders[name])
            self._waiting.discard(name)

    def _refuse_strangers(self) -> None:
        """Airflow's default place is below /tmp, and what is there is run."""
        for place in (self.dags, self.home, self.home.parent):
            if place.stat().st_uid != os.geteuid():
                raise PermissionError(
                    f"{place} belongs to another user: remove it, or set [dag_processor] dag_bundle_storage_path to a "
                    "folder of Airflow's own"
                )
        for place in (self.dags, self.home):
            if place.stat().st_mode & 0o002:
                raise PermissionError(f"{place} may be written by everybody, and what is there is run: remove it")

    def _listed(self) -> dict[str, str]:
        """The name of the DAG file -> the folder, for everything in `pipelines`."""
        try:
            found = os.listdir(self.project / "pipelines")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.project} is no project: it has no folder `pipelines`") from error
        return {stub_name(folder): folder for folder in found if not folder.startswith(".")}

    def _has_spec(self, folder: str) -> bool:
        return is_there(os.path.join(self.project, "pipelines", folder, "pipeline.yml"))

    def _write(self, name: str, folder: str) -> None:
        write_whole(self.dags / name, stub_text(self.project, folder), drafts=self.home)

    def _remove(self, folders: dict[str, str]) -> None:
        gone = {name for name in os.listdir(self.dags) if name.endswith(SUFFIX)} - folders.keys()
        known = self._listed() if gone else {}
        for name in gone:
            if name in known and self._has_spec(known[name]):
                continue  # made by another process since we looked
            for file in (self.dags / name, marker_of(self.dags / name)):
                file.unlink(missing_ok=True)
