"""Fills the columns that drift has added, in the rows that were loaded before (`fill: auto`).

After the load of its step, the table is read from the source once more, key and new columns only,
in ranges of the primary key. Each range is an extraction and a load of its own: a snapshot, a
fence, parts and a sealed manifest, one transaction. So a range that was read before another run's
rows can never be applied after them: that run has taken the fence. And what is committed is done: a
run that is killed leaves the rest to the next, which finds in the ledger how far the fill has come
(`warehouse.unfilled`).

A fill gives way. It takes no fence that another extraction has taken since the table's last load,
and none while a step that was overtaken extracts again (`warehouse.turn`). That run goes on with
the fill after its own load.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from loadsheet.deadline import remaining
from loadsheet.engine.attempt import Attempt
from loadsheet.engine.origin import wait_until_durable
from loadsheet.engine.reading import Upload, file_format, read_and_store
from loadsheet.engine.seal import seal
from loadsheet.engine.sessions import IdleSession
from loadsheet.engine.table_step import TableStep
from loadsheet.errors import Overtaken, Superseded, TargetLost
from loadsheet.lake.manifest import Manifest
from loadsheet.lake.parts import Layout, PartStore
from loadsheet.outcome import Outcome
from loadsheet.pinned import PINNED, PinnedSession
from loadsheet.source import catalog, fitness, holdback, identity
from loadsheet.source.rows import Selection
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Table
from loadsheet.sql.copying import FileFormat
from loadsheet.sql.text import ident, idents, typed
from loadsheet.sql.types import Column
from loadsheet.warehouse import ledger, turn, unfilled
from loadsheet.warehouse.gone import keeps_deleted
from loadsheet.warehouse.scope import Scope, held_by, is_quiet, read_scope
from loadsheet.warehouse.unfilled import Unfilled
from loadsheet.wording import counted

_log = logging.getLogger(__name__)

ROWS_PER_RANGE = 500_000
"""A range takes some seconds: a load that waits for the target's lock does not wait long, and
little is lost when a run is killed. A thousand ranges are half a billion rows."""
_LATER = "; the next run goes on with it"
_ORDER = """
SELECT concat_ws(' ', attnum, atttypid, collname, pg_collation_actual_version(pg_collation.oid))
FROM unnest(CAST(%s AS text[])) WITH ORDINALITY AS key (name, place)
JOIN pg_attribute ON attrelid = %s AND attname = name
LEFT JOIN pg_collation ON pg_collation.oid = attcollation
ORDER BY place
"""


class _Stopped(Exception):
    """The fill ends here. The text tells why."""


def fill_older_rows(step: TableStep, outcome: Outcome) -> Outcome:
    """Fill the columns that older rows of the table lack, after the load that ended with `outcome`.
    Returns that with what was filled.

    Raises SourceChanged, Refused and Corrupt as an extraction and a load do, psycopg and minio
    errors for trouble with the servers. What was filled before that stays.
    """
    fill = _Fill(step)
    remark = fill.run()
    if not remark:
        return outcome
    counts = dict(outcome.counts)
    counts["updated"] = counts.get("updated", 0) + fill.rows
    return replace(
        outcome,
        status="done" if fill.rows else outcome.status,
        message=f"{outcome.message}; {remark}",
        counts=counts,
        changed=outcome.changed or fill.rows > 0,
        remarks=(*outcome.remarks, remark),
        reason="",
    )


@dataclass(frozen=True)
class _Range:
    """A range of a table's keys, as it was read."""

    table: SourceTable
    """With the key and the columns to fill alone."""
    where: str
    through: tuple[str, ...] | None
    """The last key of the range; None where it has no end."""
    order: tuple[str, ...]
    """What the source orders the keys by."""


class _Fill:
    """The fill of one table's older rows."""

    def __init__(self, step: TableStep):
        self._step = step
        self._table = step.table
        self._target = step.target
        # The full refresh of a table is what has been done before.
        self._request = replace(step.request, full_refresh=frozenset())
        # The other half is enough for the range that is under way.
        self._least_seconds = remaining() / 2
        self.rows = 0
        """Rows that were updated."""

    def run(self) -> str:
        """Fill range by range; the remark about it, empty where there was nothing to fill."""
        name = self._step.pipeline.name
        with self._step.servers.warehouse() as session:
            scope = read_scope(session, name, self._table.name, self._target)
        if scope.unfilled is None:
            return ""
        names = ", ".join(scope.unfilled.names(scope.columns or ()))
        try:
            while load_id := self._extract_range():
                self.rows += self._step.load(load_id).counts["updated"]
        except _Stopped as stop:
            why = str(stop)
        except TargetLost:
            raise
        except (Overtaken, Superseded) as error:
            _log.info("%s. The fill ends", error)
            why = f"another run has overtaken it{_LATER}"
        else:
            return f"filled {names} in {counted(self.rows, 'older row')}"
        if self.rows:
            why = f"{why} ({counted(self.rows, 'row')} so far)"
        return f"{names} not filled in all older rows: {why}"

    def _extract_range(self) -> str | None:
        """Store the next range in the lake and return its load id; None when nothing is left."""
        if remaining() < self._least_seconds:
            raise _Stopped(f"half of the step's time limit has passed{_LATER}")
        step, servers = self._step, self._step.servers
        # In the order of an extraction: of two steps that wait for a session, none has the one that
        # the other waits for.
        with servers.source() as source, IdleSession(servers.warehouse) as warehouse:
            attempt = Attempt(step.pipeline, step.table, self._request, servers.lake, warehouse)
            lacking = attempt.seen.unfilled
            if lacking is None:
                return None
            self._give_way(attempt)
            return self._read_and_seal(attempt, lacking, source)

    def _give_way(self, attempt: Attempt) -> None:
        session = attempt.warehouse.session
        if attempt.change:
            raise _Stopped(f"{self._target} {attempt.change.what}")
        name = self._step.pipeline.name
        if not is_quiet(session, attempt.seen) or turn.is_taken(session, name, self._target):
            raise _Stopped(f"another run extracts the table{_LATER}")

    def _read_and_seal(self, attempt: Attempt, lacking: Unfilled, source: PinnedSession) -> str:
        schema, ask = self._step.pipeline.source.schema, attempt.ask_types
        with source.transaction():
            expected = catalog.describe(source, schema, self._table, ask)
        self._give_up_if_unfit(attempt, lacking, expected)
        if _has_drifted(expected, lacking, attempt.seen):
            raise _Stopped(f"the source's columns have changed since the load{_LATER}")
        before = identity.see_before(source)
        with catalog.locked_snapshot(source, self._table, expected, ask) as described:
            read_at = holdback.now(source)
            origin = self._identify_source(attempt, source, described, before)
            part = _next_range(source, described, lacking)
            self._refuse_values(attempt, source, part)
            format = file_format(self._step.pipeline, part.table)
            layout = Layout(format, part.table.columns, part.table.key)
            # The first part takes the fence.
            store = PartStore(
                attempt.lake, lambda: attempt.take_fence_once().prefix, layout, self._step.progress
            )
            rows = Selection(action="merge", where=part.where)
            upload = read_and_store(source, part.table, rows, store)
        upload.finish()
        wait_until_durable(attempt, source, origin)
        manifest = self._manifest(attempt, part, format, upload, read_at, origin)
        seal(attempt, manifest)
        return manifest.load_id

    def _refuse_values(self, attempt: Attempt, source: PinnedSession, part: _Range) -> None:
        # The cursor is not among the columns.
        table = replace(self._table, incremental=None)
        attempt.warehouse.use(
            lambda session: fitness.refuse_values(source, part.table, table, part.where, session)
        )

    def _manifest(
        self,
        attempt: Attempt,
        part: _Range,
        format: FileFormat,
        upload: Upload,
        read_at: str,
        origin: dict[str, str],
    ) -> Manifest:
        # A range without rows has stored no part, so nothing has taken the fence yet.
        fenced = attempt.take_fence_once()
        return Manifest(
            load_id=fenced.load_id,
            pipeline=self._step.pipeline.name,
            table=self._table.name,
            run_id=self._request.run_id,
            fence=fenced.fence,
            action="fill",
            builds_on_target=True,
            format=format,
            columns=part.table.columns,
            key=part.table.key,
            key_is_enforced=True,
            source_oid=part.table.oid,
            read_at=read_at,
            rows=upload.rows,
            parts=tuple(upload.parts),
            fills_through=part.through,
            fills_in_order=part.order,
            marks_gone=keeps_deleted(self._table),
            # The watermark stays, and so does what holds it back.
            held_by=attempt.warehouse.use(lambda session: held_by(session, attempt.seen)),
            seconds=time.monotonic() - attempt.started,
            source=origin,
            settings=PINNED,
        )

    def _give_up_if_unfit(
        self, attempt: Attempt, lacking: Unfilled, described: SourceTable
    ) -> None:
        """Stop, for good, where the table is none that can be filled."""
        has_others = attempt.warehouse.use(
            lambda session: ledger.has_loads_of_others(
                session, self._target, self._step.pipeline.name
            )
        )
        why = next(_misfits(self._table, described, lacking), "")
        if has_others:
            why = "another pipeline loads the table, too"
        if not why:
            return
        attempt.warehouse.use(
            lambda session: unfilled.forget(
                session, self._step.pipeline.name, self._target, lacking
            )
        )
        raise _Stopped(f"{why}; run a full refresh of this table")

    def _identify_source(
        self,
        attempt: Attempt,
        source: PinnedSession,
        described: SourceTable,
        before: identity.Identity | None,
    ) -> dict[str, str]:
        """The source's identity. Raises SourceChanged where it is not that of the last load."""
        last = attempt.seen.source or {}
        now, difference = identity.observe(source, last, before)
        attempt.source_is_durable = now.is_durable
        changes = identity.table_changes(described, attempt.seen.source_oid, last, last)
        changes = [*difference.changes, *changes]
        if changes:
            identity.refuse(described, self._step.pipeline.name, changes, difference.lags)
        return now.facts


def _misfits(table: Table, described: SourceTable, lacking: Unfilled) -> Iterator[str]:
    """Why older rows cannot be filled, for messages; nothing where they can."""
    if not described.is_table:
        yield f"{described.relation} is not a table"
    elif described.beneath.why_untrusted:
        yield described.beneath.why_untrusted
    if not described.key_is_enforced or table.mode_with_key(True) != "merge":
        yield "its rows are not merged by a primary key that the source enforces"
    for name in described.key:
        # An enum's values have an order and a text; other types that land as text need not.
        if described.column(name).cast and not described.natures[name].is_enum:
            yield f"the key column {name} ({described.column(name).source_type}) lands as text"
    if lacking.source_oid != described.oid:
        yield "the source's table is another one now"


def _has_drifted(described: SourceTable, lacking: Unfilled, seen: Scope) -> bool:
    """Whether the columns of a range are not those of the last load: its drift comes first."""
    recorded = {column["attnum"]: column for column in seen.columns or ()}
    narrow = _columns_of_range(described, lacking)
    for column in narrow:
        last = recorded.get(column.attnum)
        if last is None or (last["name"], last["type"]) != (column.name, column.type):
            return True
        if tuple(last.get("labels", ())) != column.labels:
            return True
        if tuple(last.get("inside", ())) != column.inside:
            return True
    return len(narrow) != len(described.key) + len(lacking.attnums)


def _columns_of_range(described: SourceTable, lacking: Unfilled) -> tuple[Column, ...]:
    return tuple(
        column
        for column in described.columns
        if column.name in described.key or column.attnum in lacking.attnums
    )


def _next_range(source: PinnedSession, described: SourceTable, lacking: Unfilled) -> _Range:
    """The rows above the last key that is filled, as many as a range has.

    The source alone compares keys, in the order of its primary key's index.
    """
    key = [described.column(name) for name in described.key]
    columns = f"({', '.join(_comparable(described, column, ident(column.name)) for column in key)})"
    order = _order_of_keys(source, described)
    bounds = []
    # In another order (a key whose columns changed places, another collation), keys above the last
    # one may lack the values, too: then the fill begins again.
    if lacking.through is not None and lacking.order == order:
        bounds.append(f"{columns} > {_literals(described, key, lacking.through)}")
    where = f" WHERE {bounds[0]}" if bounds else ""
    texts = ", ".join(f"CAST({ident(name)} AS text)" for name in described.key)
    last_and_next = source.execute(
        f"SELECT {texts} FROM {described.relation.sql} t{where}"
        # Without the prefix, these were the names of the texts.
        f" ORDER BY {idents(described.key, 't.')} OFFSET {ROWS_PER_RANGE - 1} LIMIT 2"
    ).fetchall()
    through = last_and_next[0] if len(last_and_next) == 2 else None
    if through:
        bounds.append(f"{columns} <= {_literals(described, key, through)}")
    narrow = _columns_of_range(described, lacking)
    new = [column.name for column in narrow if column.attnum in lacking.attnums]
    # Where the source has no value, older rows have none, too. IS NULL takes a composite value of
    # NULLs for one, and num_nonnulls takes 100 arguments at most.
    has_value = " OR ".join(f"{ident(name)} IS DISTINCT FROM NULL" for name in new)
    bounds.append(f"({has_value})")
    return _Range(
        table=replace(described, columns=narrow),
        where=" AND ".join(bounds),
        through=through,
        order=order,
    )


def _order_of_keys(source: PinnedSession, described: SourceTable) -> tuple[str, ...]:
    """What the order of the keys depends on, per column: its place, its type, its collation."""
    rows = source.execute(_ORDER, (list(described.key), described.oid))
    return tuple(text for (text,) in rows)


def _literals(described: SourceTable, key: list[Column], values: tuple[str, ...]) -> str:
    literals = []
    for column, value in zip(key, values, strict=True):
        literals.append(_comparable(described, column, typed(value, column.source_type)))
    return f"({', '.join(literals)})"


def _comparable(described: SourceTable, column: Column, value: str) -> str:
    """SQL for a value of the column that has operators: a domain over an enum has none."""
    nature = described.natures[column.name]
    if nature.is_enum and column.source_type != nature.base_type:
        return f"CAST({value} AS {nature.base_type})"
    return value
