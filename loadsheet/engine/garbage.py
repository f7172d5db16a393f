"""Finds and removes what the lake no longer needs. Safe to run at any time."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

from loadsheet.errors import InputError, WorkError
from loadsheet.lake import garbage
from loadsheet.lake.garbage import CommittedLoad, TableRecord, Verdict
from loadsheet.lake.manifest import load_prefix
from loadsheet.lake.store import Lake
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger, tables

# An attempt under way is safe by its fence, not by its age. The age is for what no fence of this
# ledger speaks of: another pipeline's attempt under the same prefix, before it has a manifest to
# say whose it is.
YOUNGEST = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class TableGarbage:
    """The verdicts on everything the lake holds of a table."""

    table: str
    in_spec: bool
    verdicts: tuple[Verdict, ...]


def find(
    pipeline: Pipeline, lake: Lake, session: Session, older_than: timedelta, keep: int
) -> list[TableGarbage]:
    """What may go and what must stay, table by table; those that have left the spec come last.
    Removes nothing.

    Brings an older ledger up to date. Raises InputError when `keep` is too small, WorkError when
    the lake holds loads and the warehouse has no ledger: without it there is no record of what is
    needed; Refused when a newer Loadsheet made it.
    """
    if keep < 1:
        raise InputError("gc must keep at least one load of each table")
    in_spec = [table.name for table in pipeline.tables]
    known = tables_known(session, pipeline.name)
    if known is not None:
        ledger.ensure(session)  # an older one does not tell what is needed
    in_spec += sorted(name for name in known or () if pipeline.pattern_of(name))
    if not lake.exists():
        return []
    if known is None:
        _refuse_without_ledger(pipeline, lake, in_spec)
        return []
    names = [*in_spec, *sorted(known - set(in_spec))]
    return [
        _judged(pipeline, name, lake, session, in_spec, older_than, keep)
        for name in names
        if name in known
    ]


def find_sample(pipeline: Pipeline, lake: Lake, session: Session) -> list[TableGarbage]:
    """Everything the lake holds of a sample (`loadsheet.engine.sample.sampled`): it is never
    rebuilt from the lake."""
    known = tables_known(session, pipeline.name)
    if not known or not lake.exists():
        return []
    return [
        _judged(pipeline, name, lake, session, [], timedelta(0), 1, wanted=False)
        for name in sorted(known)
    ]


def remove(found: Iterable[TableGarbage], lake: Lake) -> None:
    """Remove what the verdicts say may go. Stopped half-way it leaves nothing that could be taken
    for whole."""
    for table in found:
        for verdict in table.verdicts:
            if verdict.remove:
                # The manifest first: parts without one are garbage to everybody, a manifest without
                # parts is a lie.
                names = sorted(stored.name for stored in verdict.attempt.objects)
                for name in sorted(names, key=lambda name: name != verdict.attempt.manifest):
                    lake.remove(name)


def _judged(
    pipeline: Pipeline,
    name: str,
    lake: Lake,
    session: Session,
    in_spec: list[str],
    older_than: timedelta,
    keep: int,
    wanted: bool = True,
) -> TableGarbage:
    roots = {_root(pipeline, name)} | prefixes_known(session, pipeline.name, name)
    listed = [
        attempt for root in sorted(roots) for attempt in garbage.attempts(lake.listing(root), root)
    ]
    # After the listing: an attempt it shows has a fence that the ledger has given out.
    record = table_record(session, pipeline.name, name, in_spec)
    assert record is not None  # a scope is never taken away
    record = replace(record, wanted=record.wanted and wanted)
    verdicts = garbage.judge(
        listed, record, older_than, keep, lambda manifest: _owner(lake, manifest)
    )
    return TableGarbage(table=name, in_spec=name in in_spec, verdicts=tuple(verdicts))


def _refuse_without_ledger(pipeline: Pipeline, lake: Lake, tables: list[str]) -> None:
    for name in tables:
        root = _root(pipeline, name)
        if garbage.attempts(lake.listing(root), root):
            raise WorkError(
                f"{root} in the lake holds loads, but the warehouse ({pipeline.warehouse.conn_id})"
                " has no ledger (schema loadsheet) that would say which of them are needed. Check"
                " the connection"
            )


def _root(pipeline: Pipeline, table: str) -> str:
    return load_prefix(pipeline, table)


def _owner(lake: Lake, manifest: str) -> tuple[str, str] | None:
    """Pipeline and table in a manifest of any version; None when it cannot be read."""
    try:
        found = json.loads(lake.get(manifest) or b"")
        return str(found["pipeline"]), str(found["table"])
    except (ValueError, KeyError, TypeError):
        return None


_SCOPE = """
SELECT fence, sealed_manifest, EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname || '.' || c.relname = target
), now()
FROM loadsheet.scope WHERE pipeline = %s AND table_name = %s
"""
_LOADS = """
SELECT load_no, manifest, committed_at, action = 'replace' OR replaced FROM loadsheet.load
WHERE pipeline = %s AND table_name = %s ORDER BY load_no
"""


def tables_known(session: Session, pipeline: str) -> set[str] | None:
    """The tables that were ever extracted for the pipeline; None where the warehouse has no
    ledger."""
    if tables.kind(session, Relation("loadsheet", "scope")) is None:
        return None
    found = session.execute(
        "SELECT table_name FROM loadsheet.scope WHERE pipeline = %s", (pipeline,)
    )
    return {row[0] for row in found}


def prefixes_known(session: Session, pipeline: str, table: str) -> set[str]:
    """Where committed loads of the table were ever stored, each with a slash at its end: a spec's
    prefix may change."""
    found = session.execute(
        "SELECT DISTINCT manifest FROM loadsheet.load WHERE pipeline = %s AND table_name = %s",
        (pipeline, table),
    )
    return {row[0].rsplit("/", 3)[0] + "/" for row in found if row[0].count("/") >= 3}


def table_record(
    session: Session, pipeline: str, table: str, in_spec: Collection[str]
) -> TableRecord | None:
    """What the ledger says of the table, in one snapshot; None when it was never extracted."""
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        scope = session.execute(_SCOPE, (pipeline, table)).fetchone()
        if scope is None:
            return None
        loads = session.execute(_LOADS, (pipeline, table)).fetchall()
    fence, sealed, in_warehouse, now = scope
    return TableRecord(
        pipeline=pipeline,
        table=table,
        fence=fence,
        sealed=sealed,
        now=now,
        wanted=in_warehouse or table in in_spec,
        loads=tuple(
            CommittedLoad(load_no=no, prefix=name.rpartition("/")[0], committed_at=at, whole=whole)
            for no, name, at, whole in loads
        ),
    )
