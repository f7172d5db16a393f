"""Decides which of a table's objects in the lake are no longer needed, from a listing and the
ledger. Reads and removes nothing itself.

An attempt is all objects of one try to extract: `<load id>/<fence>-<random>/part-*`, `gone-*` and
`manifest.json`. The lake must be listed before the ledger is read. Every attempt with a smaller
fence than the table's is then superseded: it has been loaded already, or never will be.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from loadsheet.lake.history import History
from loadsheet.lake.manifest import FILE_NAME
from loadsheet.lake.store import StoredObject
from loadsheet.redact import on_one_line
from loadsheet.wording import shortened

# The names that Loadsheet gives to its objects, below the table's prefix.
_OBJECT = re.compile(
    r"[0-9a-f]{20}/(\d{8,})-[0-9a-f]{8}/"
    r"(?:(?:part|gone)-\d{5,}\.(?:(?:bin|csv)\.zst|parquet)|manifest\.json)"
)

_FOREIGN = (
    "the lake holds attempts of this table that this warehouse never made: another warehouse uses"
    " the same prefix, or this one was restored from a backup"
)
_GONE = "the table has left the spec and the warehouse"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The objects below `prefix`, which ends without a slash."""

    prefix: str
    fence: int
    objects: tuple[StoredObject, ...]

    @property
    def manifest(self) -> str | None:
        """The name of its manifest; None where it has none, so that it can never be loaded."""
        stored = self._stored_manifest()
        return stored.name if stored else None

    @property
    def manifest_version(self) -> str:
        """The version that holds the manifest; empty where versions were not listed."""
        stored = self._stored_manifest()
        return stored.version if stored else ""

    def _stored_manifest(self) -> StoredObject | None:
        name = f"{self.prefix}/{FILE_NAME}"
        for stored in self.objects:
            if stored.name == name and not stored.is_marker:
                return stored
        return None

    @property
    def count(self) -> int:
        """The objects, or their versions, without marks of deletion."""
        return sum(not stored.is_marker for stored in self.objects)

    @property
    def bytes(self) -> int:
        """Stored bytes."""
        return sum(stored.size for stored in self.objects)

    @property
    def newest(self) -> datetime:
        """When its last object was stored."""
        # Not when it was marked as deleted, unless nothing else is left of it.
        stored = [stored for stored in self.objects if not stored.is_marker]
        return max(stored.modified for stored in stored or self.objects)


@dataclass(frozen=True, kw_only=True)
class CommittedLoad:
    """A load that the warehouse committed to the table."""

    load_no: int
    prefix: str
    committed_at: datetime
    whole: bool
    """It wrote all rows that the table had then: a rebuild needs no earlier load."""
    restored: int | None = None
    """The load whose rows it has brought back: a restore has no objects of its own."""


@dataclass(frozen=True, kw_only=True)
class TableRecord:
    """The ledger's record of a table in one target, at `now` by the warehouse's clock."""

    pipeline: str
    table: str
    fence: int
    sealed: str | None
    """The manifest that the next load must read."""
    loads: tuple[CommittedLoad, ...]
    now: datetime
    wanted: bool = True
    """The target is the spec's, or in the warehouse."""
    former: tuple[str, ...] = ()
    """Names that the pipeline had before, in the manifests of its older attempts."""

    def has_made(self, owner: tuple[str, str] | None) -> bool:
        """Whether a manifest of `owner` (pipeline and table) is one of this table."""
        return owner is not None and owner in [
            (name, self.table) for name in (self.pipeline, *self.former)
        ]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether to remove an attempt, and why."""

    attempt: Attempt
    is_load: bool
    """The attempt was committed as a load."""
    remove: bool
    why: str


Owner = Callable[[Attempt], tuple[str, str] | None]
"""Reads pipeline and table from the attempt's manifest; None when it cannot be read."""


def attempts(objects: Iterable[StoredObject], root: str) -> list[Attempt]:
    """The attempts among the objects below `root` (with a slash at its end), in the order of their
    names.

    Objects with names that Loadsheet does not give are left out, so that they are never removed.
    """
    by_prefix: dict[str, list[StoredObject]] = defaultdict(list)
    fences: dict[str, int] = {}
    for stored in objects:
        match = _OBJECT.fullmatch(stored.name.removeprefix(root))
        if match:
            prefix = stored.name.rpartition("/")[0]
            by_prefix[prefix].append(stored)
            fences[prefix] = int(match[1])
    return [
        Attempt(prefix=prefix, fence=fences[prefix], objects=tuple(stored))
        for prefix, stored in sorted(by_prefix.items())
    ]


def judge(
    found: Iterable[Attempt],
    records: Iterable[TableRecord],
    older_than: timedelta,
    keep: int,
    owner: Owner,
) -> list[Verdict]:
    """A verdict on every attempt, by the records of all targets that the table was loaded into.

    Kept are the attempt that a retry needs (the sealed one, and any that may still be sealed), the
    `keep` newest loads, everything younger than `older_than`, and for each load that is kept the
    loads that a restore to it needs: the last load of the whole table before it, and every load in
    between. All are kept where the lake holds attempts of another warehouse. `owner` is called only
    where a manifest decides: it is a request to the lake.
    """
    policies = [_Policy(record, older_than, keep, owner) for record in records]
    found = list(found)
    for attempt in found:
        if all(policy.is_foreign(attempt) for policy in policies):
            return [policies[0].verdict(attempt, False, _FOREIGN) for attempt in found]
    return [_judge_attempt(attempt, policies) for attempt in found]


def _judge_attempt(attempt: Attempt, policies: list[_Policy]) -> Verdict:
    """The verdict of the target that the attempt was loaded into; of one that was not loaded, it is
    kept if any target may need it."""
    for policy in policies:
        if attempt.prefix in policy.loads:
            return policy.verdict(attempt, *policy.judge(attempt))
    verdicts = [policy.verdict(attempt, *policy.judge(attempt)) for policy in policies]
    for verdict in verdicts:
        if not verdict.remove:
            return verdict
    return verdicts[0]


class _Policy:
    """What to keep of one table. A judgement is whether to remove an attempt, and why."""

    def __init__(self, record: TableRecord, older_than: timedelta, keep: int, owner: Owner):
        self.record = record
        self.keep = keep
        self.owner = owner
        self.before = record.now - older_than
        self.loads = {load.prefix: load for load in record.loads if load.restored is None}
        history = History(record.loads)
        numbers = [load.load_no for load in history.loads]
        self.newest = set(numbers[-keep:])
        young = {load.load_no for load in history.loads if load.committed_at > self.before}
        self.needed_now = history.needed(numbers[-1:])
        self.needed_later = history.needed(self.newest | young)

    def verdict(self, attempt: Attempt, remove: bool, why: str) -> Verdict:
        is_load = attempt.prefix in self.loads
        return Verdict(attempt=attempt, is_load=is_load, remove=remove, why=why)

    def is_foreign(self, attempt: Attempt) -> bool:
        """Whether another ledger has made it: this one has not given out its fence yet."""
        if attempt.fence <= self.record.fence or attempt.manifest is None:
            return False
        return self.record.has_made(self.owner(attempt))

    def judge(self, attempt: Attempt) -> tuple[bool, str]:
        load = self.loads.get(attempt.prefix)
        if load:
            if self.record.wanted and load.load_no in self.needed_now:
                return False, "a rebuild needs it"
            if self.record.wanted and load.load_no in self.newest:
                return False, f"among the newest {self.keep}"
            if load.committed_at > self.before:
                return False, "too young"
            if not self.record.wanted:
                return True, _GONE
            if load.load_no in self.needed_later:
                return False, "a restore needs it"
            return True, "a later load replaced the whole table"
        # Not committed. What may still become a load stays, whatever its age.
        is_sealed = attempt.manifest is not None and attempt.manifest == self.record.sealed
        # An attempt with the table's own fence may be running now, and be sealed later.
        may_be_sealed = attempt.fence >= self.record.fence
        if self.record.wanted and (is_sealed or may_be_sealed):
            return False, "a retry needs it"
        if attempt.newest > self.before:
            return False, "too young"
        if attempt.manifest is None:
            return True, "it has no manifest"
        owner = self.owner(attempt)
        if owner is None:
            return False, "its manifest cannot be read"
        if not self.record.has_made(owner):
            return False, f"it belongs to {shortened(on_one_line(owner[0]))}"
        if not self.record.wanted:
            return True, _GONE
        return True, "superseded before it was loaded"
