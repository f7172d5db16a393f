"""`loadsheet gc`: what the lake no longer needs, found and removed. No step of a run; safe beside any of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

from loadsheet.errors import InputError, WorkError
from loadsheet.lake import garbage
from loadsheet.lake.garbage import Verdict
from loadsheet.lake.store import Lake
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline
from loadsheet.steps.extract import load_prefix
from loadsheet.warehouse import ledger, retention

# An attempt under way is safe by its fence, not by its age. The age is for what no fence of this ledger speaks of:
# another pipeline's attempt under the same prefix, before it has a manifest to say whose it is.
YOUNGEST = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class TableGarbage:
    """The verdicts on everything the lake holds of a table."""

    table: str
    in_spec: bool
    verdicts: tuple[Verdict, ...]


def find(pipeline: Pipeline, lake: Lake, session: Session, older_than: timedelta, keep: int) -> list[TableGarbage]:
    """What may go and what must stay, table by table; those that have left the spec come last. Removes nothing.

    Brings an older ledger up to date. Raises InputError when `keep` is too small, WorkError when the lake holds loads
    and the warehouse has no ledger: without it nobody knows what is needed; Refused when a newer Loadsheet made it.
    """
    if keep < 1:
        raise InputError("gc must keep at least one load of each table")
    in_spec = [table.name for table in pipeline.tables]
    known = retention.tables_known(session, pipeline.name)
    if known is not None:
        ledger.ensure(session)  # an older one does not tell what is needed
    in_spec += sorted(name for name in known or () if pipeline.pattern_of(name))
    if not lake.exists():
        return []
    if known is None:
        _refuse_without_ledger(pipeline, lake, in_spec)
        return []
    names = [*in_spec, *sorted(known - set(in_spec))]
    return [_judged(pipeline, name, lake, session, in_spec, older_than, keep) for name in names if name in known]


def find_sample(pipeline: Pipeline, lake: Lake, session: Session) -> list[TableGarbage]:
    """All that the lake holds of a pipeline that `loadsheet.sample.sampled` has moved: nobody rebuilds a sample."""
    known = retention.tables_known(session, pipeline.name)
    if not known or not lake.exists():
        return []
    return [_judged(pipeline, name, lake, session, [], timedelta(0), 1, wanted=False) for name in sorted(known)]


def remove(found: Iterable[TableGarbage], lake: Lake) -> None:
    """Remove what the verdicts say may go. Stopped half-way it leaves nothing that could be taken for whole."""
    for table in found:
        for verdict in table.verdicts:
            if verdict.remove:
                # The manifest first: parts without one are garbage to everybody, a manifest without parts is a lie.
                names = sorted(stored.name for stored in verdict.attempt.objects)
                for name in sorted(names, key=lambda name: name != verdict.attempt.manifest):
                    lake.remove(name)


def _judged(
    pipeline: Pipeline, name: str, lake: Lake, session: Session, in_spec: list[str], older_than: timedelta, keep: int,
    wanted: bool = True,
) -> TableGarbage:  # fmt: skip
    roots = {_root(pipeline, name)} | retention.prefixes_known(session, pipeline.name, name)
    listed = [attempt for root in sorted(roots) for attempt in garbage.attempts(lake.listing(root), root)]
    # After the listing: an attempt it shows has a fence that the ledger has given out.
    standing = retention.standing(session, pipeline.name, name, in_spec)
    assert standing is not None  # a scope is never taken away
    standing = replace(standing, wanted=standing.wanted and wanted)
    verdicts = garbage.judge(listed, standing, older_than, keep, lambda manifest: _owner(lake, manifest))
    return TableGarbage(table=name, in_spec=name in in_spec, verdicts=tuple(verdicts))


def _refuse_without_ledger(pipeline: Pipeline, lake: Lake, tables: list[str]) -> None:
    for name in tables:
        root = _root(pipeline, name)
        if garbage.attempts(lake.listing(root), root):
            raise WorkError(
                f"{root} in the lake holds loads, but the warehouse ({pipeline.warehouse.conn_id}) has no ledger "
                "(schema loadsheet) that would say which of them are needed. Check the connection"
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
