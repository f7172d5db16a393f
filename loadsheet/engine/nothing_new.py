"""Finds the tables of a run that have nothing new, before their steps: many at once, in a few
statements (`source.nothing_new`).

What is found is what the extract step would find (`engine.extract`), and is recorded as it would:
first the ledger and the targets are observed, for all tables; then one snapshot of the source shows
which of them have no news. Nothing is said about a table that is not known to be a simple case, and
nothing where a server refuses to answer: then the table's own step looks, and tells.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

import psycopg

from loadsheet.deadline import limited
from loadsheet.engine.attempt import as_last
from loadsheet.engine.reading import content_hash, content_sha256, file_format
from loadsheet.engine.sessions import Servers
from loadsheet.errors import InputError, LoadsheetError, Refused
from loadsheet.lake.parts import Layout
from loadsheet.outcome import Outcome, RunRequest, nothing_new_since
from loadsheet.pinned import PinnedSession
from loadsheet.postgres import Session
from loadsheet.redact import summary
from loadsheet.source import holdback, identity, nothing_new, selection, stream
from loadsheet.source.rows import INITIAL_VALUE, OLDEST_TRANSACTION
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.copying import rows_of, select_columns
from loadsheet.sql.text import Relation
from loadsheet.warehouse import current, fence, foreign_rows, integrity, ledger
from loadsheet.warehouse.scope import Scope, read_scopes

_log = logging.getLogger(__name__)

FEWEST = 3
"""Of fewer tables, each step's own questions cost no more."""
# All are locked at the same time, and a server has room for 6,400 locks by default.
_AT_ONCE = 100
# Or the limit of a step, where that is shorter: nothing may wait for a server longer than it.
_LONGEST = timedelta(minutes=1)


def find_nothing_new(
    pipeline: Pipeline, request: RunRequest, servers: Servers
) -> dict[str, Outcome]:
    """The outcomes of the extract steps that are known to have nothing new, by table. Raises
    nothing of the servers: what they refuse, the steps meet again."""
    tables = [table for table in pipeline.tables if _may_be_known(table, request)]
    found: dict[str, Outcome] = {}
    if len(tables) < FEWEST:
        return found
    try:
        with (
            limited("looking for tables without news", min(_LONGEST, pipeline.tasks.timeout)),
            servers.source() as source,
            servers.warehouse() as warehouse,
        ):
            for part in quiet_tables(pipeline, tables, source, warehouse):
                recorded = _recorded(pipeline, part.quiet, source, warehouse)
                found |= {one.table.name: one.outcome for one in recorded}
                # Of thousands of tables, most have nothing new and need no step.
                with_news = part.described.keys() - found.keys()
                servers.described.add({name: part.described[name] for name in with_news})
    except (LoadsheetError, psycopg.Error) as error:
        _log.info("the other tables' own steps look for news: %s", summary(error))
    _log.info("nothing new in %d of %d tables", len(found), len(tables))
    return found


def _may_be_known(table: Table, request: RunRequest) -> bool:
    """Whether the table is one whose news may be known without its own step, in this run."""
    name = table.name
    if request.sample or request.accept_source or request.explicit_interval:
        return False
    if not request.wants(name) or request.is_full(name) or name in request.repair:
        return False
    if name in request.resumes or name in request.found_unchanged:
        return False
    return is_simple(table)


def is_simple(table: Table) -> bool:
    """Whether the table's news may be known without its own step, by the pipeline file."""
    if table.deletes or table.mode == "append":
        return False
    spec = table.incremental
    return spec is None or (spec.by == "watermark" and spec.lookback is None)


@dataclass(frozen=True, kw_only=True)
class Quiet:
    """A table with nothing new."""

    table: Table
    source: SourceTable
    scope: Scope
    where: str = ""
    """SQL for the rows that were looked for; empty for a table that is copied whole."""
    held_by: str = ""
    """The open transaction that would hold the watermark back; empty: none would."""
    read_at: str
    """The source's clock when it was looked at; empty where its age does not matter."""
    again: fence.SeenAgain | None = None
    """What is recorded of a table that is copied whole, and whose rows were written again with the
    same values."""

    @property
    def outcome(self) -> Outcome:
        """The outcome of its extract step."""
        if self.table.incremental is None:
            return nothing_new_since(None)
        remarks = (f"held back by {self.held_by}",) if self.held_by else ()
        return nothing_new_since(self.scope.watermark, remarks, bool(self.held_by))


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What a look at some tables has found."""

    quiet: list[Quiet]
    """Those that are known to have nothing new."""
    described: dict[str, SourceTable]
    """Those that were looked at, as `catalog.describe` describes them, by name."""


def quiet_tables(
    pipeline: Pipeline, tables: Sequence[Table], source: PinnedSession, warehouse: Session
) -> Iterator[Looked]:
    """Those of the tables that are known to have nothing new, part by part. Writes nothing.

    A refusal of a server is about one of them perhaps, so it is the end of the look at a part of
    them. Raises psycopg.OperationalError where a session is lost.
    """
    for start in range(0, len(tables), _AT_ONCE):
        some = tables[start : start + _AT_ONCE]
        try:
            seen = _observe(pipeline, some, warehouse)
            found = _look(pipeline, [one for one in some if one.name in seen], seen, source)
        except psycopg.Error as error:
            if isinstance(error, psycopg.OperationalError) and (source.broken or warehouse.broken):
                raise
            _log.info("these %d tables look for themselves: %s", len(some), summary(error))
        else:
            yield found


def _observe(pipeline: Pipeline, tables: Sequence[Table], warehouse: Session) -> dict[str, Scope]:
    """The scopes of the tables whose target is as their last load has left it. As `Attempt` does,
    before the source is looked at."""
    with warehouse.transaction():
        if ledger.version(warehouse) != ledger.VERSION:
            return {}
        targets = [_target(pipeline, table) for table in tables]
        scopes = read_scopes(warehouse, pipeline.name, targets)
        loads: dict[Relation, int] = {}
        storages: dict[Relation, str] = {}
        for table, target in zip(tables, targets, strict=True):
            scope = scopes.get(table.name)
            if scope is None or scope.last_load_no is None or scope.storage is None:
                continue
            # The load step goes on with the fill of older rows.
            if table.fill and scope.unfilled_columns:
                continue
            loads[target] = scope.last_load_no
            storages[target] = scope.storage
        fit = integrity.untouched(warehouse, storages)
        fit -= foreign_rows.are_newer(warehouse, pipeline.name, loads)
    return {target.name: scopes[target.name] for target in fit}


def _look(
    pipeline: Pipeline,
    tables: Sequence[Table],
    seen: Mapping[str, Scope],
    source: PinnedSession,
) -> Looked:
    """Those of the tables that have nothing new in one snapshot of the source."""
    schema = pipeline.source.schema
    plain = nothing_new.plain(source, schema, tables)
    if not plain:
        return Looked(quiet=[], described={})
    with source.snapshot():
        nothing_new.lock(source, schema, plain.values())
        source.fix_snapshot()
        read_at = holdback.now(source) if pipeline.promises_freshness else ""
        described = nothing_new.describe(source, schema, plain)
        layouts = _layouts(pipeline, plain.values(), described)
        candidates: list[Quiet] = []
        for table in plain.values():
            if table.name in layouts:
                candidates.append(
                    Quiet(
                        table=table,
                        source=described[table.name],
                        scope=seen[table.name],
                        read_at=read_at,
                    )
                )
        found = _without_new_rows(source, [one for one in candidates if one.table.incremental])
        whole = [one for one in candidates if one.table.incremental is None]
        found += _with_same_content(source, whole, layouts)
    return Looked(quiet=found, described=described)


def _layouts(
    pipeline: Pipeline, tables: Iterable[Table], described: Mapping[str, SourceTable]
) -> dict[str, Layout]:
    """How the tables would be stored, by name; without those that their own step refuses."""
    layouts = {}
    for table in tables:
        source = described.get(table.name)
        if source is None:
            continue
        with suppress(Refused, InputError):
            selection.refuse_mode(table, source)
            layout = Layout(file_format(pipeline, source), source.columns, source.key)
            layout.encoder()
            layouts[table.name] = layout
    return layouts


def _without_new_rows(source: PinnedSession, candidates: Sequence[Quiet]) -> list[Quiet]:
    """Those without a row above their watermark."""
    reads = []
    for one in candidates:
        # An older ledger does not say where the first load began.
        if INITIAL_VALUE in (one.scope.source or {}):
            last = as_last(one.scope)
            reads.append(nothing_new.Read(table=one.table, source=one.source, last=last))
    if not reads:
        return []
    by_name = {one.table.name: one for one in candidates}
    found = []
    for verdict in nothing_new.without_new_rows(source, reads, identity.see(source)):
        one = by_name[verdict.name]
        found.append(replace(one, where=verdict.where, held_by=verdict.held_by))
    return found


def _with_same_content(
    source: PinnedSession, candidates: Sequence[Quiet], layouts: Mapping[str, Layout]
) -> list[Quiet]:
    """Those small tables whose content is that of the last load."""
    small = nothing_new.small(source, [one.source.oid for one in candidates])
    found = []
    for one in candidates:
        if one.source.oid not in small:
            continue
        content = _content(source, one.source, layouts[one.table.name])
        action = one.table.mode_with_key(bool(one.source.key))
        if one.scope.has_content(content, action):
            found.append(one)
    return _with_facts(source, found)


def _with_facts(source: PinnedSession, found: Sequence[Quiet]) -> list[Quiet]:
    """These tables, with what is to be recorded where rows were written again, or by another
    server."""
    if not found:
        return []
    facts = identity.see(source).facts
    tables = []
    for one in found:
        tables.append((one.source, (one.scope.source or {}).get(OLDEST_TRANSACTION)))
    written = nothing_new.written_again(source, tables)
    with_facts = []
    for one in found:
        again = None
        if one.source.oid in written or identity.is_another(one.scope.source or {}, facts):
            its_facts = {**facts, **identity.table_facts(one.source)}
            again = fence.SeenAgain(oid=one.source.oid, facts=its_facts)
        with_facts.append(replace(one, again=again))
    return with_facts


def _content(source: PinnedSession, table: SourceTable, layout: Layout) -> str:
    """The hash of a small table's content, as `Upload` makes it."""
    blocks: list[bytes] = []
    job = stream.Job(select_columns(table.relation, table.columns, ""), blocks.append)
    stream.copy(source, job, layout.wire)
    content = content_hash(table.columns, table.key)
    content.update(rows_of(b"".join(blocks), layout.wire))
    return content_sha256([content.digest()])


def _recorded(
    pipeline: Pipeline, quiet: Sequence[Quiet], source: PinnedSession, warehouse: Session
) -> list[Quiet]:
    """Record what each table's own step would: that it works, and that nothing that was read
    earlier may replace what has been compared now. Those that another run has changed meanwhile are
    left to their step."""
    if not quiet:
        return []
    whole = {_target(pipeline, one.table): one for one in quiet if one.table.incremental is None}
    scopes = {target: one.scope for target, one in whole.items()}
    again = {target: one.again for target, one in whole.items() if one.again}
    for one in list(again.values())[:1]:
        identity.wait_until_durable(source, one.facts)
    with warehouse.transaction():
        still_whole = fence.overtake_unchanged(warehouse, pipeline.name, scopes, again)
        changed = scopes.keys() - still_whole
        still = [one for one in quiet if _target(pipeline, one.table) not in changed]
        targets = [_target(pipeline, one.table) for one in still]
        ledger.clear_failures(warehouse, pipeline.name, "table", targets)
        if pipeline.promises_freshness and still:
            # Whatever holds a watermark back, there is no visible row above it.
            held_by = dict.fromkeys(targets, "")
            current.record_looks(warehouse, pipeline.name, held_by, quiet[0].read_at)
    return still


def _target(pipeline: Pipeline, table: Table) -> Relation:
    return Relation(pipeline.warehouse.schema, table.name)
