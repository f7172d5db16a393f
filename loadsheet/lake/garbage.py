"""Which of a table's objects in the lake are no longer needed, by a listing and the ledger.
Pure.

An attempt is all objects of one try to extract: `<load id>/<fence>-<random>/part-*` and
`manifest.json`. The listing must be older than what the ledger says: then every attempt with a
smaller fence than the table's is superseded, and can never be loaded unless it is already.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from loadsheet.lake.manifest import FILE_NAME
from loadsheet.lake.store import Stored

_OURS = re.compile(
    r"[0-9a-f]{20}/(\d{8,})-[0-9a-f]{8}/(?:part-\d{5,}\.(?:(?:bin|csv)\.zst|parquet)|manifest\.json)"
)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The objects below `prefix`, which ends without a slash."""

    prefix: str
    fence: int
    objects: tuple[Stored, ...]

    @property
    def manifest(self) -> str | None:
        """The name of its manifest; an attempt without one does not exist for a load."""
        name = f"{self.prefix}/{FILE_NAME}"
        names = {found.name for found in self.objects}
        return name if name in names else None

    @property
    def bytes(self) -> int:
        """Stored bytes."""
        return sum(found.size for found in self.objects)

    @property
    def newest(self) -> datetime:
        """When its last object was stored."""
        return max(found.modified for found in self.objects)


@dataclass(frozen=True, kw_only=True)
class Load:
    """A committed load of the table."""

    load_no: int
    prefix: str
    committed_at: datetime
    whole: bool
    """It replaced the whole table, so nothing before it is needed to rebuild the table."""


@dataclass(frozen=True, kw_only=True)
class TableRecord:
    """What the ledger knows of a table, at `now` by the warehouse's clock."""

    pipeline: str
    table: str
    fence: int
    sealed: str | None
    """The manifest that the next load must read."""
    loads: tuple[Load, ...]
    now: datetime
    wanted: bool = True
    """The table is in the spec, or in the warehouse."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of an attempt, and why. `is_load`: it was committed."""

    attempt: Attempt
    is_load: bool
    remove: bool
    why: str


Owner = Callable[[str], tuple[str, str] | None]


def attempts(objects: Iterable[Stored], root: str) -> list[Attempt]:
    """The attempts among the objects below `root` (with a slash at its end), in the order of their
    names.

    Objects that are not called as ours are left out, and so left alone.
    """
    found: dict[str, list[Stored]] = defaultdict(list)
    fences: dict[str, int] = {}
    for item in objects:
        if match := _OURS.fullmatch(item.name.removeprefix(root)):
            prefix = item.name.rpartition("/")[0]
            found[prefix].append(item)
            fences[prefix] = int(match[1])
    return [Attempt(prefix=p, fence=fences[p], objects=tuple(found[p])) for p in sorted(found)]


def judge(
    found: Iterable[Attempt], standing: TableRecord, older_than: timedelta, keep: int, owner: Owner
) -> list[Verdict]:
    """A verdict on every attempt.

    Kept are: what a retry needs (the attempt on which the table stands), what a rebuild needs (the
    newest whole load and every later one), the `keep` newest loads, and whatever is younger than
    `older_than`. `owner` reads pipeline and table from a manifest that the ledger does not know
    (None: unreadable); it is asked only where it matters.
    """
    court = _Court(standing, older_than, keep, owner)
    found = list(found)
    if any(court.is_foreign(attempt) for attempt in found):
        return [court.verdict(attempt, False, _FOREIGN) for attempt in found]
    return [court.verdict(attempt, *court.judge(attempt)) for attempt in found]


_FOREIGN = (
    "the lake holds attempts of this table that this warehouse never made: another warehouse uses"
    " the same prefix, or this one was restored from a backup"
)


class _Court:
    def __init__(self, standing: TableRecord, older_than: timedelta, keep: int, owner: Owner):
        self.standing, self.keep, self.owner = standing, keep, owner
        self.before = standing.now - older_than
        self.loads = {load.prefix: load for load in standing.loads}
        newest_first = sorted(standing.loads, key=lambda load: load.load_no, reverse=True)
        self.newest = {load.prefix for load in newest_first[:keep]}
        self.whole = next((load.load_no for load in newest_first if load.whole), 0)

    def verdict(self, attempt: Attempt, remove: bool, why: str) -> Verdict:
        return Verdict(
            attempt=attempt, is_load=attempt.prefix in self.loads, remove=remove, why=why
        )

    def is_foreign(self, attempt: Attempt) -> bool:
        """Whether another ledger must have created it: this one never gave out its fence."""
        ours = (self.standing.pipeline, self.standing.table)
        manifest = attempt.manifest
        return (
            attempt.fence > self.standing.fence
            and manifest is not None
            and self.owner(manifest) == ours
        )

    def judge(self, attempt: Attempt) -> tuple[bool, str]:
        if load := self.loads.get(attempt.prefix):
            return self._old_load(load)
        return self._abandoned(attempt)

    def _old_load(self, load: Load) -> tuple[bool, str]:
        if self.standing.wanted and load.load_no >= self.whole:
            return False, "a rebuild needs it"
        if self.standing.wanted and load.prefix in self.newest:
            return False, f"among the newest {self.keep}"
        if load.committed_at > self.before:
            return False, "too young"
        return True, "a later load replaced the whole table" if self.standing.wanted else _GONE

    def _abandoned(self, attempt: Attempt) -> tuple[bool, str]:
        sealed = attempt.manifest is not None and attempt.manifest == self.standing.sealed
        if self.standing.wanted and (sealed or attempt.fence >= self.standing.fence):
            return False, "a retry needs it"
        if attempt.newest > self.before:
            return False, "too young"
        if attempt.manifest is None:
            return True, "it has no manifest"
        owner = self.owner(attempt.manifest)
        if owner is None:
            return False, "its manifest cannot be read"
        if owner != (self.standing.pipeline, self.standing.table):
            return False, f"it is {owner[0]}'s"
        return True, "superseded before it was loaded" if self.standing.wanted else _GONE


_GONE = "the table has left the spec and the warehouse"
