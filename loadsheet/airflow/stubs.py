"""The folder of DAG files that the bundle shows to Airflow: one per pipeline file.

Airflow asks such a file's modification time whether there is something to parse, so an edit is
passed on by a new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from loadsheet.names import slug
from loadsheet.spec.files import is_there

TEMPLATE = """\
# Airflow's DAG file for {spec!r}. That is the file to edit; this one is written again whenever it is missing.
from loadsheet.airflow.dag_file import dag_of

dag = dag_of(__file__, {project!r}, {folder!r})
"""
SUFFIX = ".yml.py"
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")


def stub_name(folder: str) -> str:
    """The name of the DAG file for the pipeline in `folder`; no other folder has it."""
    plain = _PLAIN.fullmatch(folder)
    return f"{folder if plain else slug(ascii(folder)) + '+'}{SUFFIX}"


def stub_text(project: Path, folder: str) -> str:
    """What is in the DAG file for the pipeline in `folder`."""
    return TEMPLATE.format(
        spec=f"pipelines/{folder}/pipeline.yml", project=str(project), folder=folder
    )


def write_whole(file: Path, text: str, drafts: Path, when: int | None = None) -> None:
    """Whole or not at all, with the time `when` (nanoseconds; default: now). Raises OSError.

    `drafts` is a folder on the same disk where Airflow does not look.
    """
    handle, draft = tempfile.mkstemp(dir=drafts)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as target:
            target.write(text)
        os.chmod(draft, 0o644)  # a task may run as another user than the one that was first here
        if when is not None:
            os.utime(draft, ns=(when, when))
        os.replace(draft, file)
    except BaseException:
        os.unlink(draft)
        raise


def stamp(stub: Path) -> None:
    """Give the DAG file a new time, which makes Airflow parse it. Raises PermissionError for
    another user's file."""
    now = time.time_ns()
    with contextlib.suppress(FileNotFoundError):
        os.utime(stub, ns=(now, now))


def mark(stub: Path, began: int, claim: str | None = None) -> None:
    """Say of a DAG file when its latest parse `began` (nanoseconds), and which name but its
    folder's it claims: "" for none, None for the one that the parse before has found."""
    marker, known = marker_of(stub), claim_of(stub)
    with contextlib.suppress(OSError):  # one parse too many is better than none
        try:
            same = claim is None or claim == known
            os.utime(marker, ns=(began, began))
        # Missing, or another user's: Airflow's command line was used.
        except OSError:
            same = False
        if not same:
            write_whole(
                marker, known if claim is None else claim, drafts=stub.parents[1], when=began
            )


def claim_of(stub: Path) -> str:
    """The pipeline's name, where the latest parse has found another one than its folder's; else
    nothing."""
    try:
        return marker_of(stub).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def marker_of(stub: Path) -> Path:
    """Where the parses of a DAG file leave their marks."""
    return stub.parents[1] / "parsed" / stub.name


def stats(folder: Path) -> dict[str, os.stat_result]:
    """Each file of the folder with its size and times."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # removed since
                found[entry.name] = entry.stat()
    return found


Folders = Mapping[str, str]
"""The name of the DAG file -> the pipeline's folder."""
Source = tuple[str, int, int, int, int]
Stats = Mapping[str, os.stat_result]


class Edits:
    """Compares with what the last look saw. The first look finds nothing: then Airflow parses every
    file anyway.

    `forget` is the number of seconds after which Airflow drops a DAG that its file no longer holds.
    """

    def __init__(self, pipelines: Path, home: Path, forget: float):
        self._pipelines, self._forget = pipelines, forget
        self._dags, self._parsed = home / "dags", home / "parsed"
        self._sources: dict[str, frozenset[Source]] = {}
        self._claims: dict[str, str] | None = None
        self._again: dict[str, float] = {}

    def look(self, folders: Folders) -> set[str]:
        """The names of the DAG files to parse."""
        now, marks = time.monotonic(), stats(self._parsed)
        changed = self._edited(folders) | self._rivals(folders, marks)
        due = {name for name, when in self._again.items() if now > when}
        waiting = {
            name: when for name, when in self._again.items() if name in folders and name not in due
        }
        # Once more, later: then Airflow notices that the DAG of the old name is no longer in the
        # file.
        self._again = waiting | dict.fromkeys(changed, now + self._forget + 5)
        return (changed | due | self._unread(marks)) & folders.keys()

    def _unread(self, marks: Stats) -> set[str]:
        """Those whose latest parse began before the latest stamp: Airflow compares with when it
        ended, and would never see an edit that fell between the two."""
        return {
            name
            for name, stub in stats(self._dags).items()
            if name in marks and marks[name].st_mtime_ns < stub.st_mtime_ns
        }

    def _edited(self, folders: Folders) -> set[str]:
        last = self._sources
        self._sources = {
            name: _sources(self._pipelines / folder) for name, folder in folders.items()
        }
        return {name for name, found in self._sources.items() if last.get(name, found) != found}

    def _rivals(self, folders: Folders, marks: Stats) -> set[str]:
        """Those with another name than their folder's (that one cannot be taken), when another file
        has come to that name or left it."""
        last = self._claims
        claims = self._claims = {
            name: (name in marks and marks[name].st_size and claim_of(self._dags / name)) or folder
            for name, folder in folders.items()
        }
        if last is None or last == claims:
            return set()
        moved = [
            (name, claim)
            for name in last.keys() | claims.keys()
            if last.get(name) != claims.get(name)
            for claim in (last.get(name), claims.get(name))
        ]
        return {
            name
            for name, claim in claims.items()
            if claim != folders[name]
            and any(claim == other and name != who for who, other in moved)
        }


def _sources(folder: Path) -> frozenset[Source]:
    """Changes whenever the pipeline file or an SQL file beside it does."""
    found = [_source(folder / "pipeline.yml")]
    with contextlib.suppress(OSError), os.scandir(folder / "sql") as entries:
        found += [_source(entry) for entry in entries if entry.name.endswith(".sql")]
    return frozenset(found)


def _source(file: Path | os.DirEntry[str]) -> Source:
    try:
        stat = file.stat()
    except OSError:
        return file.name, 0, 0, 0, 0
    # The change time too: an unpacked file brings the modification time of its archive, and may get
    # the old inode.
    return file.name, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


class Stubs:
    """The DAG files for the pipelines of `project`, in a folder of this project's own below
    `within`.

    `forget` is the number of seconds after which Airflow drops a DAG that its file no longer holds. Several processes
    may work on the same folder at once.
    """

    def __init__(self, project: Path, within: Path, prefix: str = "", forget: float = 50):
        self.project = project.absolute()
        # In full: a commit that brings this very folder, with files of its own for Airflow to run,
        # cannot be made.
        key = hashlib.sha256(
            f"{self.project}\n{TEMPLATE}".encode(errors="surrogateescape")
        ).hexdigest()
        self.home = within / f"{prefix}pipelines-{key}"
        self.dags = self.home / "dags"
        self._edits = Edits(self.project / "pipelines", self.home, forget)
        self._waiting: set[str] = set()

    def add(self) -> None:
        """Write the files that are missing. This is all a worker needs: two folders are listed.

        Raises FileNotFoundError when there is no `pipelines` folder: that is a wrong path, not an
        empty project.
        """
        for place in (self.home, self.dags, self.home / "parsed"):
            place.mkdir(mode=0o775, parents=True, exist_ok=True)
        ignore = self.home / ".gitignore"
        # in a clone, `git clean` must not take away what a task is about to read
        if not ignore.exists():
            write_whole(ignore, "*\n", drafts=self.home)
        # a power failure leaves empty ones
        there = {name for name, stub in stats(self.dags).items() if stub.st_size}
        for name, folder in self._listed().items():
            if name not in there and self._has_spec(folder):
                self._write(name, folder)

    def refresh(self) -> None:
        """Make the folder say what has happened to the pipelines since the last call: new, edited
        and deleted ones.

        Raises FileNotFoundError as `add` does, and PermissionError when the folder is not Airflow's
        own.
        """
        self.add()
        self._refuse_strangers()
        folders = {
            name: folder for name, folder in self._listed().items() if self._has_spec(folder)
        }
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
                    f"{place} belongs to another user: remove it, or set [dag_processor]"
                    " dag_bundle_storage_path to a folder of Airflow's own"
                )
        for place in (self.dags, self.home):
            if place.stat().st_mode & 0o002:
                raise PermissionError(
                    f"{place} may be written by everybody, and what is there is run: remove it"
                )

    def _listed(self) -> dict[str, str]:
        """The name of the DAG file -> the folder, for everything in `pipelines`."""
        try:
            found = os.listdir(self.project / "pipelines")
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.project} is no project: it has no folder `pipelines`"
            ) from error
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
