"""The folder of DAG files ("stubs") that the bundle shows to Airflow: one per pipeline file.

Airflow parses a DAG file again if its modification time has changed, so an edit of a pipeline is
passed on by setting a new one. Beside the stubs, each parse leaves a mark: an empty file whose
time is when the parse began, or one with the pipeline's name, if that is not its folder's.
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

from airflow.configuration import AIRFLOW_HOME

from loadsheet.names import slug
from loadsheet.spec.files import is_there
from loadsheet.spec.models import FRESHNESS_DAG
from loadsheet.trust import why_not_trusted

TEMPLATE = """\
# Airflow's DAG file for {spec!r}. Edit that file. This one is generated.
from loadsheet.airflow.dag_file import dag_of

dag = dag_of(__file__, {project!r}, {folder!r})
"""
WATCH_TEMPLATE = """\
# Airflow's DAG file for the DAG that tells what is late. This one is generated.
from pathlib import Path

from loadsheet.airflow.freshness import watched_dag

dag = watched_dag(Path({project!r}), {dag_id!r})
"""
WATCH_FILE = "loadsheet_freshness.py"
SUFFIX = ".yml.py"
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")


def stub_name(folder: str) -> str:
    """The name of the DAG file for the pipeline in `folder`; no other folder has the same."""
    if _PLAIN.fullmatch(folder):
        return f"{folder}{SUFFIX}"
    return f"{slug(ascii(folder))}+{SUFFIX}"


def stub_text(project: Path, folder: str) -> str:
    """The content of the DAG file for the pipeline in `folder`."""
    spec = f"pipelines/{folder}/pipeline.yml"
    return TEMPLATE.format(spec=spec, project=str(project), folder=folder)


def write_atomically(file: Path, text: str, drafts: Path, when: int | None = None) -> None:
    """Write `file` with the modification time `when` (nanoseconds; default: now). Raises OSError.

    `drafts` is a folder on the same disk in which Airflow does not look for DAG files.
    """
    handle, draft = tempfile.mkstemp(dir=drafts)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as target:
            target.write(text)
        os.chmod(draft, 0o644)  # a task may run as another user than the one that wrote the file
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


def mark(stub: Path, began: int, name: str | None = None) -> None:
    """Note for a DAG file when its latest parse `began` (nanoseconds) and its pipeline's `name`.

    The name is "" if it is the folder's; None keeps the one that the parse before has noted.
    """
    marker = marker_of(stub)
    noted = noted_name(stub)
    if name is None:
        name = noted
    # If it cannot be noted, the file is parsed once too often, which is better than too rarely.
    with contextlib.suppress(OSError):
        try:
            os.utime(marker, ns=(began, began))
        except OSError:
            # There is none yet, or it belongs to another user, who has used Airflow's command line.
            is_current = False
        else:
            is_current = name == noted
        if not is_current:
            write_atomically(marker, name, drafts=stub.parents[1], when=began)


def noted_name(stub: Path) -> str:
    """The pipeline's name that the latest parse has noted; empty if it is its folder's."""
    try:
        return marker_of(stub).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def marker_of(stub: Path) -> Path:
    """The file in which the parses of a DAG file note something."""
    return stub.parents[1] / "parsed" / stub.name


def alert_of(stub: Path) -> Path:
    """The file in which a parse notes what was reported of the pipeline file."""
    return stub.parents[1] / "alerts" / stub.name


def message_file_of(stub: Path) -> Path:
    """The file in which a parse leaves a message to be sent."""
    return stub.parents[1] / "messages" / stub.name


def thread_file_of(message_file: Path) -> Path:
    """The file with the threads that the message about a file's problems has begun."""
    return message_file.parents[1] / "threads" / message_file.name


def files_in(folder: Path) -> dict[str, os.stat_result]:
    """The size and the times of each file in the folder, by name."""
    files = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # removed meanwhile
                files[entry.name] = entry.stat()
    return files


Folders = Mapping[str, str]
"""The name of the DAG file -> the pipeline's folder."""
Version = tuple[str, int, int, int, int]
"""A source file's name, times, size and inode."""
Marks = Mapping[str, os.stat_result]
"""The name of the DAG file -> its mark."""


class Edits:
    """Finds the DAG files to parse, by comparing the pipelines with the previous look. The first
    look finds nothing, because Airflow parses every new file anyway.

    `forget` is the number of seconds after which Airflow drops a DAG that its file no longer holds.
    """

    def __init__(self, pipelines: Path, home: Path, forget: float):
        self._pipelines = pipelines
        self._dags = home / "dags"
        self._parsed = home / "parsed"
        self._forget = forget
        self._sources: dict[str, frozenset[Version]] = {}
        self._names: dict[str, str] | None = None
        self._again: dict[str, float] = {}

    def look(self, folders: Folders) -> set[str]:
        """The names of the DAG files to parse."""
        now = time.monotonic()
        marks = files_in(self._parsed)
        changed = self._edited(folders) | self._affected_by_renames(folders, marks)
        due = {name for name, when in self._again.items() if now > when}
        # An edited file is parsed once more, later: only then does Airflow drop the DAG of an
        # earlier name, which is no longer in the file.
        again: dict[str, float] = {}
        for name, when in self._again.items():
            if name in folders and name not in due:
                again[name] = when
        for name in changed:
            again[name] = now + self._forget + 5
        self._again = again
        return (changed | due | self._parsed_too_early(marks)) & folders.keys()

    def _parsed_too_early(self, marks: Marks) -> set[str]:
        """Those whose latest parse began before their latest stamp. Airflow compares the stamp with
        the end of the parse, and would never see an edit between the two."""
        names = set()
        for name, stub in files_in(self._dags).items():
            if name in marks and marks[name].st_mtime_ns < stub.st_mtime_ns:
                names.add(name)
        return names

    def _edited(self, folders: Folders) -> set[str]:
        before = self._sources
        self._sources = {}
        edited = set()
        for name, folder in folders.items():
            sources = _source_versions(self._pipelines / folder)
            self._sources[name] = sources
            if name in before and before[name] != sources:
                edited.add(name)
        return edited

    def _affected_by_renames(self, folders: Folders, marks: Marks) -> set[str]:
        """Those that share their name with a file whose name has changed: which of the two owns it
        may have changed, too. A file with its folder's name owns it in any case."""
        before = self._names
        names = dict(folders)
        for stub in folders.keys() & marks.keys():
            # An empty mark: the pipeline has its folder's name, and nothing has to be read.
            if marks[stub].st_size:
                names[stub] = noted_name(self._dags / stub) or folders[stub]
        self._names = names
        if before is None or before == names:
            return set()
        # Per pipeline name, the files that have come to it or left it.
        movers: dict[str, set[str]] = {}
        for stub in before.keys() | names.keys():
            if before.get(stub) == names.get(stub):
                continue
            for pipeline in (before.get(stub), names.get(stub)):
                if pipeline is not None:
                    movers.setdefault(pipeline, set()).add(stub)
        affected = set()
        for stub, pipeline in names.items():
            others = movers.get(pipeline, set()) - {stub}
            if pipeline != folders[stub] and others:
                affected.add(stub)
        return affected


def _source_versions(folder: Path) -> frozenset[Version]:
    """Changes whenever the pipeline file or one of its SQL files does."""
    versions = [_version(folder / "pipeline.yml")]
    with contextlib.suppress(OSError), os.scandir(folder / "sql") as entries:
        for entry in entries:
            if entry.name.endswith(".sql"):
                versions.append(_version(entry))
    return frozenset(versions)


def _version(file: Path | os.DirEntry[str]) -> Version:
    try:
        status = file.stat()
    except OSError:
        return file.name, 0, 0, 0, 0
    # The change time too: an unpacked file has the modification time of its archive, and may get
    # the inode of the old file.
    return file.name, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _make(folder: Path) -> None:
    """Create the folder and its parents, so that no other user may write to them, whatever the
    umask."""
    for place in (*reversed(folder.parents), folder):
        with contextlib.suppress(FileExistsError):
            place.mkdir(mode=0o755)


def _refuse_others(place: Path) -> None:
    """Raises PermissionError if another user could have written to the folder, or put it there:
    Airflow's default folder is below /tmp, and Python files in it are run.

    The owner of Airflow's home is trusted: what is configured there, Airflow runs. A task with
    `run_as_user` runs as another user.
    """
    users = {0, os.geteuid()}
    with contextlib.suppress(OSError):
        users.add(os.stat(AIRFLOW_HOME).st_uid)
    reason = why_not_trusted(place, users)
    if reason:
        raise _unsafe(reason)


def _unsafe(reason: str) -> PermissionError:
    return PermissionError(
        f"{reason}, and Airflow runs the Python files below it: remove it, or set [dag_processor]"
        " dag_bundle_storage_path to a folder of Airflow's own"
    )


class Stubs:
    """The DAG files for the pipelines of `project`, in a folder below `within` that no other
    project uses.

    `forget` is the number of seconds after which Airflow drops a DAG that its file no longer holds.
    `name` is the bundle's. Several processes may work on the same folder at once.
    """

    def __init__(
        self, project: Path, within: Path, prefix: str = "", forget: float = 50, name: str = ""
    ):
        self.project = project.absolute()
        # Of several bundles, each has its own DAG that tells what is late.
        plain = name if not name or _PLAIN.fullmatch(name) else slug(ascii(name))
        self._watch_id = f"{FRESHNESS_DAG}_{plain}" if plain else FRESHNESS_DAG
        # The whole hash, so that no commit can be made that holds this very folder, with Python
        # files for Airflow to run.
        identity = f"{self.project}\n{TEMPLATE}".encode(errors="surrogateescape")
        key = hashlib.sha256(identity).hexdigest()
        self.home = within / f"{prefix}pipelines-{key}"
        self.dags = self.home / "dags"
        self.messages = self.home / "messages"
        self._edits = Edits(self.project / "pipelines", self.home, forget)
        self._unstamped: set[str] = set()
        self._watched: frozenset[str] = frozenset()

    def add(self) -> None:
        """Write the files that are missing. A worker needs no more, and only two folders are
        listed.

        Raises FileNotFoundError if there is no folder `pipelines`: the path is wrong, because an
        empty project has one; PermissionError if another user could have written DAG files.
        """
        names = ("parsed", "alerts", "threads")
        folders = (self.dags, self.messages, *(self.home / name for name in names))
        _make(self.home.parent)
        for place in (self.home, *folders):
            place.mkdir(mode=0o775, exist_ok=True)
        # Before anything in them is run or believed: a worker has no other look at them.
        for place in (self.home, *folders):
            _refuse_others(place)
        ignore = self.home / ".gitignore"
        # In a clone, `git clean` must not remove what a task is about to read.
        if not ignore.exists():
            write_atomically(ignore, "*\n", drafts=self.home)
        # An empty file counts as missing: a power failure leaves such files.
        complete = {name for name, stub in files_in(self.dags).items() if stub.st_size}
        for name, folder in self._folders().items():
            if name not in complete and self._has_spec(folder):
                self._write(name, folder)
        if WATCH_FILE not in complete:
            self._write_watch()

    def parse_all(self) -> None:
        """Have Airflow parse every DAG file."""
        for name in os.listdir(self.dags):
            if not name.endswith(SUFFIX):
                continue
            try:
                stamp(self.dags / name)
            except PermissionError:  # another user's: the next refresh replaces it
                self._unstamped.add(name)

    def refresh(self) -> None:
        """Update the DAG files for new, edited and deleted pipelines.

        Raises FileNotFoundError as `add`, and PermissionError if the folder is not Airflow's own.
        """
        self.add()
        self._refuse_another_owner()
        folders = {}
        for name, folder in self._folders().items():
            if self._has_spec(folder):
                folders[name] = folder
        self._remove_all_but(folders)
        edited = self._edits.look(folders)
        # Only its parse finds out whether a file asks for it, or asks no more.
        if edited or folders.keys() != self._watched:
            self._watched = frozenset(folders)
            try:
                stamp(self.dags / WATCH_FILE)
            except PermissionError:  # as below
                self._write_watch()
        self._unstamped |= edited
        for name in self._unstamped & folders.keys():
            try:
                stamp(self.dags / name)
            except PermissionError:  # written by a worker that runs as another user
                self._write(name, folders[name])
            self._unstamped.discard(name)

    def _refuse_another_owner(self) -> None:
        """The processor stamps and removes DAG files, which only their owner can."""
        for place in (self.dags, self.home, self.home.parent):
            if place.stat().st_uid != os.geteuid():
                raise _unsafe(f"{place} belongs to another user")

    def _folders(self) -> dict[str, str]:
        """The name of the DAG file -> the folder, for everything in `pipelines`."""
        try:
            entries = os.listdir(self.project / "pipelines")
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.project} is not a project: it has no folder `pipelines`"
            ) from error
        return {stub_name(entry): entry for entry in entries if not entry.startswith(".")}

    def _has_spec(self, folder: str) -> bool:
        return is_there(os.path.join(self.project, "pipelines", folder, "pipeline.yml"))

    def _write(self, name: str, folder: str) -> None:
        write_atomically(self.dags / name, stub_text(self.project, folder), drafts=self.home)

    def _write_watch(self) -> None:
        text = WATCH_TEMPLATE.format(project=str(self.project), dag_id=self._watch_id)
        write_atomically(self.dags / WATCH_FILE, text, drafts=self.home)

    def _remove_all_but(self, folders: Folders) -> None:
        stubs = {name for name in os.listdir(self.dags) if name.endswith(SUFFIX)}
        gone = stubs - folders.keys()
        if not gone:
            return
        folders_now = self._folders()
        for name in gone:
            if name in folders_now and self._has_spec(folders_now[name]):
                continue  # added by another process since we listed the folder
            stub = self.dags / name
            stub.unlink(missing_ok=True)
            message = message_file_of(stub)
            for note in (marker_of(stub), alert_of(stub), message, thread_file_of(message)):
                note.unlink(missing_ok=True)
