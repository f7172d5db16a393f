"""Where a pipeline stands: what the ledger knows, beside what the source says now. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import psycopg

from loadsheet.connections import Connections
from loadsheet.errors import LoadsheetError, Refused
from loadsheet.limit import limited
from loadsheet.postgres import Session, connect_source, connect_warehouse
from loadsheet.source import lag
from loadsheet.source.holdback import Holder
from loadsheet.spec.models import Pipeline, Table, Transform
from loadsheet.sql.text import Relation
from loadsheet.steps.diagnosis import diagnose
from loadsheet.steps.transform import relations_read
from loadsheet.warehouse import due, status
from loadsheet.warehouse.status import Failure, Known, Watermark, Work

# A source that does not answer must not keep what the warehouse knows from being shown.
_LONGEST_ASKING = timedelta(seconds=20)

State = Literal["failed", "never", "held_back", "behind", "due", "current", "loaded"]


@dataclass(kw_only=True)
class Standing:
    """What tables and transforms have in common. `failure` is one that has not been mended yet."""

    name: str
    target: str
    rows: int | None
    rows_exact: bool
    last: Work | None
    failure: Failure | None


@dataclass(kw_only=True)
class TableStanding(Standing):
    """Where a table stands; `lag` is None where it is not known, and `lag_unknown` says why."""

    watermark: str | None
    cursor: str | None
    lag: lag.Lag | None = None
    lag_unknown: str = ""
    held_back_by: Holder | None = None
    """The oldest transaction open in the source now, while rows wait there."""

    @property
    def state(self) -> State:
        """The worst that is known of it; `loaded` when the source could not say whether there is more."""
        if self.failure:
            return "failed"
        if self.last is None:
            return "never"
        if self.lag is None:
            return "loaded"
        if self.lag.ahead:
            return "held_back" if self.held_back_by else "behind"
        return "current"


@dataclass(kw_only=True)
class TransformStanding(Standing):
    """Where a transform stands; `due` says why the next run will build it, empty when it will not."""

    materialized: str
    due: str = ""

    @property
    def state(self) -> State:
        """The worst that is known of it."""
        if self.failure:
            return "failed"
        if self.last is None:
            return "never"
        return "due" if self.due else "current"


@dataclass(kw_only=True)
class PipelineStanding:
    """Where a pipeline stood `at` a moment of the warehouse's clock."""

    pipeline: str
    at: datetime
    tables: list[TableStanding]
    transforms: list[TransformStanding]
    source_clock: datetime | None = None
    source_unknown: str = ""
    """Why the source could not be asked; empty when it was."""


def standing(pipeline: Pipeline, connections: Connections) -> PipelineStanding:
    """Ask the warehouse, then the source. Raises ConnectionMissing, Refused and psycopg errors for the warehouse;
    a source that cannot be asked is only said to be so."""
    with connect_warehouse(connections(pipeline.warehouse.conn_id)) as session:
        at = status.begin(session)
        known = status.known(session, pipeline.name)
        found = PipelineStanding(
            pipeline=pipeline.name,
            at=at,
            tables=[_table(session, pipeline, name, known) for name in _names(pipeline, known)],
            transforms=[_transform(session, pipeline, transform, known) for transform in pipeline.transforms],
        )
    _ask_source(pipeline, connections, found)
    return found


def _names(pipeline: Pipeline, known: Known) -> list[str]:
    """The tables of the spec, then those the ledger remembers from an earlier one."""
    return list(dict.fromkeys([*(table.name for table in pipeline.tables), *known.watermarks]))


def _table(session: Session, pipeline: Pipeline, name: str, known: Known) -> TableStanding:
    target, last = Relation(pipeline.warehouse.schema, name), known.loads.get(name)
    rows, exact = status.rows_in(session, target)
    mark = known.watermarks.get(name, Watermark(value=None, cursor=None))
    return TableStanding(
        name=name, target=last.target if last else str(target), rows=rows, rows_exact=exact, last=last,
        failure=_open(known, "table", name), watermark=mark.value, cursor=mark.cursor,
    )  # fmt: skip


def _transform(session: Session, pipeline: Pipeline, transform: Transform, known: Known) -> TransformStanding:
    target, last = Relation(pipeline.warehouse.mart_schema, transform.name), known.builds.get(transform.name)
    rows, exact = status.rows_in(session, target)
    job = None
    if last:
        job = due.decide(session, pipeline, transform, target, relations_read(pipeline, transform), full=False)
    return TransformStanding(
        name=transform.name, target=str(target), rows=rows, rows_exact=exact, last=last,
        failure=_open(known, "transform", transform.name), materialized=transform.materialized,
        due=job.reason if job else "",
    )  # fmt: skip


def _open(known: Known, kind: str, name: str) -> Failure | None:
    failure = known.failures.get((kind, name))
    return failure if failure and failure.worked_at is None else None


def _ask_source(pipeline: Pipeline, connections: Connections, found: PipelineStanding) -> None:
    specs = {t.name: pipeline.table(t.name) for t in found.tables if _is_in_spec(pipeline, t.name)}
    asked = []
    for table in found.tables:
        table.lag_unknown = _unasked(specs.get(table.name), table)
        asked += [] if table.lag_unknown else [table]
    try:
        with (
            limited("asking the source", _LONGEST_ASKING),
            connect_source(connections(pipeline.source.conn_id)) as session,
        ):
            found.source_clock = datetime.fromisoformat(lag.begin(session))
            for table in asked:
                _ask(session, pipeline.source.schema, specs[table.name], table)
    except Exception as error:
        found.source_unknown = _words(error)
        for table in asked:
            table.lag_unknown = "" if table.lag else table.lag_unknown or "the source could not be asked"


def _is_in_spec(pipeline: Pipeline, name: str) -> bool:
    return any(table.name == name for table in pipeline.tables) or pipeline.pattern_of(name) is not None


def _unasked(spec: Table | None, table: TableStanding) -> str:
    """Why there is nothing to ask the source about this table; empty when there is."""
    if spec is None:
        return "it is not in the spec"
    if spec.incremental is None:
        return "it is copied whole, without a cursor"
    if spec.incremental.by == "data_interval":
        return "it is read by data interval, without a watermark"
    if table.watermark is None:
        return "it has no watermark yet"
    if table.cursor and table.cursor != spec.incremental.cursor:
        return f"its watermark is of {table.cursor}, its cursor now is {spec.incremental.cursor}"
    return ""


def _ask(session: Session, schema: str, spec: Table, table: TableStanding) -> None:
    with _one_table(table):
        table.lag, table.held_back_by = lag.lag(session, schema, spec, table.watermark or "")


@contextmanager
def _one_table(table: TableStanding) -> Iterator[None]:
    """What one table is refused for says nothing about the others; a lost line does."""
    try:
        yield
    except (Refused, psycopg.ProgrammingError, psycopg.DataError, psycopg.errors.QueryCanceled) as error:
        table.lag_unknown = _words(error)


def _words(error: Exception) -> str:
    """What cannot be known and why, in one line. Raises `error` again when it is a bug."""
    if isinstance(error, LoadsheetError):
        return str(error)
    found = diagnose(error)
    if found is None:
        raise error
    return f"{found.text} ({found.code})"
