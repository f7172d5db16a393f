"""Which DAG files Airflow has to parse again: the pipelines that were edited, and those whose name somebody else has
claimed or given up."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

from dags.stub import claim_of, stats

Folders = Mapping[str, str]
"""The name of the DAG file -> the pipeline's folder."""
Source = tuple[str, int, int, int, int]
Stats = Mapping[str, os.stat_result]


class Edits:
    """Compares with what the last look saw. The first look finds nothing: then Airflow parses every file anyway.

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
        waiting = {name: when for name, when in self._again.items() if name in folders and name not in due}
        # Once more, later: then Airflow notices that the DAG of the old name is no longer in the file.
        self._again = waiting | dict.fromkeys(changed, now + self._forget + 5)
        return (changed | due | self._unread(marks)) & folders.keys()

    def _unread(self, marks: Stats) -> set[str]:
        """Those whose latest parse began before the latest stamp: Airflow compares with when it ended, and would never
        see an edit that fell between the two."""
        return {
            name
            for name, stub in stats(self._dags).items()
            if name in marks and marks[name].st_mtime_ns < stub.st_mtime_ns
        }

    def _edited(self, folders: Folders) -> set[str]:
        last = self._sources
        self._sources = {name: _sources(self._pipelines / folder) for name, folder in folders.items()}
        return {name for name, found in self._sources.items() if last.get(name, found) != found}

    def _rivals(self, folders: Folders, marks: Stats) -> set[str]:
        """Those with another name than their folder's (that one nobody can take), when another file has come to that
        name or left it."""
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
            if claim != folders[name] and any(claim == other and name != who for who, other in moved)
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
    # The change time too: an unpacked file brings the modification time of its archive, and may get the old inode.
    return file.name, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
