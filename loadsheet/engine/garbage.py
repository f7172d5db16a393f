"""Finds and removes objects in the lake that are no longer needed. Safe to run at any time.

`find` (or `find_sample`) combines two sources: the lake's listing, and what the ledger knows.
`loadsheet.lake.garbage.judge` gives a verdict on each attempt; `remove` carries the verdicts out.

A run needs only what was kept when it began, and what it stores itself. A restore needs old loads,
and its own load needs them from then on: so none takes place `without_restores`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

from loadsheet.comparison.snapshot import STAY_IDLE
from loadsheet.errors import InputError, WorkError
from loadsheet.lake import garbage
from loadsheet.lake.failure import LakeFailed
from loadsheet.lake.garbage import Attempt, CommittedLoad, TableRecord, Verdict
from loadsheet.lake.manifest import LONGEST_MANIFEST, document, load_prefix
from loadsheet.lake.store import Lake, StoredObject, is_refused
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger
from loadsheet.warehouse.scope import extracted_tables

_log = logging.getLogger(__name__)

# The fence protects an attempt of this pipeline that is under way, whatever its age. The age
# protects what this ledger has no fence for: another pipeline's attempt under the same prefix,
# before its manifest shows whose it is.
YOUNGEST = timedelta(hours=1)

# Earlier versions kept one scope for all targets of a table: the loads of others have none.
_SCOPES = """
WITH scope AS (
    SELECT * FROM loadsheet.scope WHERE pipeline = %(pipeline)s AND table_name = %(table)s
), targets AS (
    SELECT target FROM scope UNION
    SELECT target FROM loadsheet.load WHERE pipeline = %(pipeline)s AND table_name = %(table)s
)
SELECT target, coalesce(fence, (SELECT max(fence) FROM scope)), sealed_manifest, EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname || '.' || c.relname = target
), sealed_load_id IS NOT NULL AND NOT EXISTS (
    SELECT FROM loadsheet.load WHERE load_id = sealed_load_id
), now()
FROM targets LEFT JOIN scope USING (target)
"""
_LOADS = f"""
SELECT load_no, manifest, committed_at, {ledger.IS_WHOLE}, target, restored
FROM loadsheet.load
WHERE pipeline = %s AND table_name = %s ORDER BY load_no
"""
_RESTORES = """
SELECT table_name, count(*) FROM loadsheet.load
WHERE pipeline = %s AND restored IS NOT NULL GROUP BY 1
"""
# A pipeline that was renamed (`warehouse.adopt`). A name that has the table again is another's.
_FORMER_NAMES = """
SELECT DISTINCT source ->> 'pipeline' FROM loadsheet.load l
WHERE pipeline = %(pipeline)s AND table_name = %(table)s AND source ? 'pipeline' AND NOT EXISTS (
    SELECT FROM loadsheet.scope s
    WHERE s.pipeline = l.source ->> 'pipeline' AND s.table_name = l.table_name
)
"""


@dataclass(frozen=True, kw_only=True)
class TableGarbage:
    """The verdicts on everything the lake holds of a table."""

    table: str
    in_spec: bool
    verdicts: tuple[Verdict, ...]
    restores: int
    """How often the table has been restored."""


@dataclass(kw_only=True)
class Amount:
    """Objects, or versions of them, and their bytes. Marks of deletion are none."""

    objects: int = 0
    bytes: int = 0

    def add(self, objects: Iterable[StoredObject]) -> None:
        """Count these as well."""
        for stored in objects:
            if not stored.is_marker:
                self.objects += 1
                self.bytes += stored.size


@dataclass(kw_only=True)
class Removal:
    """What became of the objects that were to be removed, by the prefix of their attempt."""

    freed: dict[str, Amount] = field(default_factory=dict)
    """Removed for good."""
    marked: dict[str, Amount] = field(default_factory=dict)
    """Marked as deleted in a bucket that keeps versions: they still take their space."""
    refusals: dict[str, LakeFailed] = field(default_factory=dict)
    """Why attempts, or a part of their objects, stay: the lake refused to remove one."""

    @property
    def all_marked(self) -> Amount:
        """The sum over all attempts."""
        return Amount(
            objects=sum(amount.objects for amount in self.marked.values()),
            bytes=sum(amount.bytes for amount in self.marked.values()),
        )


def find(
    pipeline: Pipeline,
    lake: Lake,
    session: Session,
    older_than: timedelta,
    keep: int,
    versions: bool = False,
) -> list[TableGarbage]:
    """The verdicts table by table: which attempts may be removed, and why. Removes nothing.

    `older_than` is the least age of an object of unknown origin, `keep` the number of loads to keep
    of each table. Tables that are no longer in the spec come last. `versions` includes what is
    marked as deleted, in a bucket that keeps versions.

    Brings an older ledger up to date. Raises InputError when `keep` is too small; WorkError when
    the lake holds loads and the warehouse has no ledger, so that it is unknown which are needed;
    Refused when a newer Loadsheet made the ledger.
    """
    if keep < 1:
        raise InputError("gc must keep at least one load of each table")
    in_spec = [table.name for table in pipeline.tables]
    extracted = extracted_tables(session, pipeline.name)
    if extracted is None:
        if lake.exists(load_prefix(pipeline)):
            _refuse_without_ledger(pipeline, lake, in_spec)
        return []
    ledger.ensure(session)  # an older one does not record what is needed
    # A table that a pattern matches is in the spec, too. Only the ledger knows which there are.
    in_spec += sorted(name for name in extracted if pipeline.pattern_of(name))
    if not lake.exists(load_prefix(pipeline)):
        return []
    names = [*in_spec, *sorted(extracted - set(in_spec))]
    return [
        _judge_table(pipeline, name, lake, session, in_spec, older_than, keep, versions=versions)
        for name in names
        if name in extracted
    ]


def find_sample(pipeline: Pipeline, lake: Lake, session: Session) -> list[TableGarbage]:
    """The verdicts on everything the lake holds of a sample (`loadsheet.engine.sample.sampled`). It
    may all be removed: a sample is never rebuilt from the lake."""
    extracted = extracted_tables(session, pipeline.name)
    if not extracted or not lake.exists(load_prefix(pipeline)):
        return []
    return [
        _judge_table(pipeline, name, lake, session, [], timedelta(0), 1, wanted=False)
        for name in sorted(extracted)
    ]


@contextmanager
def without_restores(
    session: Session, pipeline: str, found: Iterable[TableGarbage]
) -> Iterator[Callable[[], object]]:
    """Within the block, no table of the pipeline is restored. Yields what raises a psycopg error
    where that is no longer sure, because the session was lost.

    Raises WorkError where a table was restored after its garbage was `found`.
    """
    with session.transaction():
        session.execute(STAY_IDLE)
        ledger.name_transaction(session, f"gc:{pipeline}")
        ledger.lock_loads(session, pipeline)
        _refuse_restored(session, pipeline, found)
        yield lambda: session.execute("SELECT")


# Separate, so that a test can show what happens without it.
def _refuse_restored(session: Session, pipeline: str, found: Iterable[TableGarbage]) -> None:
    restores = dict(session.execute(_RESTORES, (pipeline,)).fetchall())
    for table in found:
        if restores.get(table.table, 0) != table.restores:
            raise WorkError(
                f"{table.table} was restored while the lake was listed, and its rows may come from"
                " loads that were garbage before. Run this again"
            )


def remove(
    garbage_of_tables: Iterable[TableGarbage],
    lake: Lake,
    check: Callable[[], object] = lambda: None,
) -> Removal:
    """Remove the attempts whose verdict allows it. If it is stopped, nothing it leaves can be
    mistaken for a complete attempt. `check` is called before each, and stops it by what it raises.

    Objects that were found with their versions are removed for good. What the lake refuses to
    remove stays: a lock may protect a part of an attempt. Any other failure is raised.
    """
    removal = Removal()
    for table in garbage_of_tables:
        for verdict in table.verdicts:
            if verdict.remove:
                check()
                _remove_attempt(verdict.attempt, lake, removal)
    return removal


def _remove_attempt(attempt: Attempt, lake: Lake, removal: Removal) -> None:
    _log.debug("removing %s: %d objects", attempt.prefix, len(attempt.objects))

    def order(stored: StoredObject) -> tuple[bool, str, bool]:
        # The manifest first: parts without a manifest are known to be incomplete, a manifest
        # without its parts would be a false promise. A marker after what it hides: without it, the
        # object would be there again.
        return stored.name != attempt.manifest, stored.name, stored.is_marker

    freed = removal.freed.setdefault(attempt.prefix, Amount())
    staying: set[str] = set()
    marked: list[StoredObject] = []
    for stored in sorted(attempt.objects, key=order):
        if stored.name in staying and stored.is_marker:
            continue
        try:
            is_gone = _remove_object(stored, lake)
        except LakeFailed as error:
            if not is_refused(error):
                raise
            removal.refusals.setdefault(attempt.prefix, error)
            staying.add(stored.name)
            if stored.name == attempt.manifest:
                return
            continue
        if is_gone:
            freed.add([stored])
        else:
            marked.append(stored)
    if marked:
        left = _left_of(attempt, marked, lake)
        freed.add(stored for stored in marked if stored.name not in left)
        of_attempt = removal.marked.setdefault(attempt.prefix, Amount())
        of_attempt.add(stored for stored in marked if stored.name in left)


def _remove_object(stored: StoredObject, lake: Lake) -> bool:
    """Whether it is removed for good, and not marked as deleted."""
    if not stored.version:
        return lake.remove(stored.name)
    lake.remove_version(stored.name, stored.version)
    return True


def _left_of(attempt: Attempt, marked: list[StoredObject], lake: Lake) -> set[str]:
    """The names of which versions are left under the marks. Where versioning is suspended, the mark
    takes the place of an object that was stored since. Where versions cannot be listed, by this key
    or on this server, it is the worst: all."""
    try:
        versions = list(lake.versions(f"{attempt.prefix}/"))
    except LakeFailed as error:
        if not is_refused(error) and error.code != "NotImplemented":
            raise
        return {stored.name for stored in marked}
    return {stored.name for stored in versions if not stored.is_marker}


def _judge_table(
    pipeline: Pipeline,
    name: str,
    lake: Lake,
    session: Session,
    in_spec: list[str],
    older_than: timedelta,
    keep: int,
    wanted: bool = True,
    versions: bool = False,
) -> TableGarbage:
    roots = {load_prefix(pipeline, name)}
    # Older loads may be in other places, because the spec's prefix has changed.
    rows = session.execute(
        "SELECT DISTINCT manifest FROM loadsheet.load WHERE pipeline = %s AND table_name = %s",
        (pipeline.name, name),
    )
    for (manifest,) in rows:
        # <prefix>/<table>/<load_id>/<attempt>/manifest.json
        if manifest.count("/") >= 3:
            roots.add(manifest.rsplit("/", 3)[0] + "/")
    attempts: list[Attempt] = []
    for root in sorted(roots):
        objects = lake.versions(root) if versions else lake.listing(root)
        attempts += garbage.attempts(objects, root)
    # After the listing, so that the ledger knows the fence of every attempt in the listing.
    attempts = _without_loads_of_others(session, pipeline.name, name, attempts)
    target = Relation(pipeline.warehouse.schema, name)
    in_use = str(target) if name in in_spec else None
    records = _table_records(session, pipeline.name, name, in_use)
    if not wanted:
        records = [replace(record, wanted=False) for record in records]
    verdicts = garbage.judge(
        attempts, records, older_than, keep, lambda attempt: _owner(lake, attempt)
    )
    restores = sum(load.restored is not None for record in records for load in record.loads)
    return TableGarbage(
        table=name, in_spec=name in in_spec, verdicts=tuple(verdicts), restores=restores
    )


def _without_loads_of_others(
    session: Session, pipeline: str, table: str, attempts: list[Attempt]
) -> list[Attempt]:
    """The attempts without those that another pipeline has loaded: one that was renamed has left
    its loads under the prefix of its old name, which this pipeline may have now."""
    rows = session.execute(
        "SELECT manifest FROM loadsheet.load WHERE table_name = %s AND pipeline <> %s",
        (table, pipeline),
    )
    others = {manifest.rpartition("/")[0] for (manifest,) in rows}
    return [attempt for attempt in attempts if attempt.prefix not in others]


def _refuse_without_ledger(pipeline: Pipeline, lake: Lake, tables: list[str]) -> None:
    for name in tables:
        root = load_prefix(pipeline, name)
        if garbage.attempts(lake.listing(root), root):
            raise WorkError(
                f"{root} in the lake holds loads, but the warehouse ({pipeline.warehouse.conn_id})"
                " has no ledger (schema loadsheet) that would show which of them are needed. Check"
                " the connection"
            )


def _owner(lake: Lake, attempt: Attempt) -> tuple[str, str] | None:
    """Pipeline and table in the attempt's manifest; None when it cannot be read."""
    stored = lake.get(attempt.manifest or "", LONGEST_MANIFEST, attempt.manifest_version or None)
    try:
        manifest = document(stored or b"")
        return str(manifest["pipeline"]), str(manifest["table"])
    except (ValueError, KeyError, TypeError):
        return None


def _table_records(
    session: Session, pipeline: str, table: str, in_use: str | None
) -> list[TableRecord]:
    """What the ledger knows of the table in each target, in one snapshot. `in_use` is the target of
    the spec."""
    # One snapshot: a load that commits between two would be in only one of the answers.
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        names = {"pipeline": pipeline, "table": table}
        scopes = session.execute(_SCOPES, names).fetchall()
        rows = session.execute(_LOADS, (pipeline, table)).fetchall()
        former = session.execute(_FORMER_NAMES, names).fetchall()
    loads: dict[str, list[CommittedLoad]] = defaultdict(list)
    for number, manifest, committed_at, whole, target, restored in rows:
        load = CommittedLoad(
            load_no=number,
            prefix=manifest.rpartition("/")[0],
            committed_at=committed_at,
            whole=whole,
            restored=restored,
        )
        loads[target].append(load)
    return [
        TableRecord(
            pipeline=pipeline,
            table=table,
            fence=fence,
            sealed=sealed,
            now=now,
            # An attempt that waits for its load will make the target.
            wanted=in_warehouse or target == in_use or waits,
            loads=tuple(loads[target]),
            former=tuple(name for (name,) in former),
        )
        for target, fence, sealed, in_warehouse, waits, now in scopes
    ]
