"""The ages of the tables and marts of many pipelines, from the ledger of their warehouse, in a few
statements.

A table is as old as the last look at its source that showed that nothing is missing: a load that
read all that was new, or a look that found nothing new. Where rows are appended, they wait for open
transactions; then its watermark may be younger than that. A table that is read by data interval is
as old as the end of the last interval.

A mart is as old as the oldest of its inputs. Where an input has changed since the mart was built,
it is at least as old as the first of these changes. The build's own time says nothing: of inputs
that seldom change it is long ago, and then a mart would be late whenever it is about to be built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from psycopg.rows import class_row

from loadsheet.freshness.models import Age, Cause
from loadsheet.freshness.verdicts import Verdicts, read_verdicts
from loadsheet.postgres import Session
from loadsheet.redact import on_one_line
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline, Table, Transform
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger

# Versions of the ledger: the oldest that has all that is read here but for looks that found nothing
# new, and the one from which it has these.
_OLDEST = 7
_LOOKS_SINCE = 8
_LOOKS = """
    s.current_at, CASE WHEN s.current_at IS NULL AND s.waits_for = '' THEN l.held_by
        ELSE s.waits_for END AS held_by
"""
_NO_LOOKS = "CAST(NULL AS timestamptz) AS current_at, l.held_by"
_SCOPES = """
SELECT s.pipeline, s.table_name AS name, s.target, s.watermark, {looks},
    upper(s.intervals) AS read_to,
    coalesce((SELECT committed_at FROM loadsheet.load WHERE load_no = l.restored), l.committed_at)
        - make_interval(secs => l.extract_seconds + l.load_seconds) AS read_at
FROM loadsheet.scope s JOIN loadsheet.load l ON l.load_no = s.last_load_no
WHERE s.pipeline = ANY(%(pipelines)s) OR s.target = ANY(%(others)s)
"""
_FAILURES = """
SELECT pipeline, kind, name, target, step, code, message FROM loadsheet.failure
WHERE pipeline = ANY(%(pipelines)s) AND worked_at IS NULL
"""
# By the index on the target, from its end.
_BUILDS = """
SELECT wanted.pipeline, wanted.target, seen_load
FROM unnest(%(pipelines)s::text[], %(targets)s::text[]) AS wanted (pipeline, target),
    LATERAL (SELECT seen_load FROM loadsheet.transform_run r
        WHERE r.target = wanted.target AND r.pipeline = wanted.pipeline
        ORDER BY run_no DESC LIMIT 1) AS last
"""
_CHANGED = "(replaced OR inserted + updated + deleted > 0)"
# The first load or build of an input that a mart has not seen, when it began.
_LACKS = f"""
SELECT wanted.pipeline, wanted.mart, min(first.began)
FROM unnest(%(pipelines)s::text[], %(marts)s::text[], %(inputs)s::text[], %(seen)s::bigint[])
        AS wanted (pipeline, mart, input, seen),
    LATERAL (
        (SELECT committed_at - make_interval(secs => extract_seconds + load_seconds) AS began
         FROM loadsheet.load l WHERE l.target = wanted.input AND load_no > seen AND {_CHANGED}
         ORDER BY load_no LIMIT 1)
        UNION ALL
        (SELECT committed_at - make_interval(secs => seconds)
         FROM loadsheet.transform_run r WHERE r.target = wanted.input AND run_no > seen
            AND {_CHANGED}
         ORDER BY run_no LIMIT 1)
    ) AS first
GROUP BY wanted.pipeline, wanted.mart
"""


def read_ages(session: Session, pipelines: Sequence[Pipeline]) -> dict[str, list[Age]]:
    """The ages of what `fresh_within` limits, by pipeline; all pipelines are of this warehouse.

    Raises Refused where a newer Loadsheet has created the ledger, psycopg errors where the
    warehouse fails.
    """
    row = session.execute("SELECT clock_timestamp()").fetchone()
    assert row
    facts = _read_facts(session, pipelines)
    known = _Known(facts, row[0])
    for pipeline in pipelines:
        known.add_tables(pipeline)
    # A mart may read one of another pipeline, which may come later.
    changed = True
    while changed:
        changed = False
        for pipeline in pipelines:
            changed |= known.add_marts(pipeline)
    return {pipeline.name: known.ages(pipeline) for pipeline in pipelines}


@dataclass(frozen=True, kw_only=True)
class _Scope:
    """A table that was loaded into a target."""

    pipeline: str
    name: str
    target: str
    watermark: str | None
    current_at: datetime | None
    held_by: str
    """The session for which the last look has left rows unread."""
    read_to: datetime | None
    """The end of the last data interval."""
    read_at: datetime
    """About when the rows of the last load were read."""


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """A table or mart that does not work."""

    pipeline: str
    kind: ledger.Kind
    name: str
    target: str
    step: str
    code: str
    message: str


@dataclass(kw_only=True)
class _Facts:
    """What the ledger has."""

    scopes: list[_Scope] = field(default_factory=list)
    failures: dict[tuple[str, ledger.Kind, str], _Failure] = field(default_factory=dict)
    """By pipeline, kind and name."""
    builds: dict[tuple[str, str], int] = field(default_factory=dict)
    """By pipeline and target of a mart, the last load that its last build has seen."""
    lacks: dict[tuple[str, str], datetime] = field(default_factory=dict)
    """By the same, when the first change of an input began that it has not seen."""
    verdicts: Verdicts = field(default_factory=lambda: Verdicts((), {}))


def _read_facts(session: Session, pipelines: Sequence[Pipeline]) -> _Facts:
    found = ledger.version(session)
    ledger.refuse_newer(found)
    facts = _Facts()
    # The next run of any of the pipelines brings an older one up to date.
    if found < _OLDEST:
        return facts
    names = [pipeline.name for pipeline in pipelines]
    others = {name for pipeline in pipelines for name in pipeline.external}
    marts = [(one.name, mart) for one in pipelines for mart in _marts(one)]
    looks = _LOOKS if found >= _LOOKS_SINCE else _NO_LOOKS
    asked = {"pipelines": names, "others": [*others]}
    with session.cursor(row_factory=class_row(_Scope)) as cursor:
        facts.scopes = cursor.execute(_SCOPES.format(looks=looks), asked).fetchall()
    with session.cursor(row_factory=class_row(_Failure)) as cursor:
        for failure in cursor.execute(_FAILURES, asked):
            facts.failures[failure.pipeline, failure.kind, failure.name] = failure
    wanted = {"pipelines": [name for name, _ in marts], "targets": [mart for _, mart in marts]}
    for name, target, seen in session.execute(_BUILDS, wanted):
        facts.builds[name, target] = seen
    for name, target, began in session.execute(_LACKS, _built_marts(pipelines, facts)):
        facts.lacks[name, target] = began
    written = [scope.target for scope in facts.scopes] + [mart for _, mart in marts]
    facts.verdicts = read_verdicts(session, pipelines, written)
    return facts


def _built_marts(pipelines: Sequence[Pipeline], facts: _Facts) -> dict[str, list[Any]]:
    """The values of _LACKS: each mart that was built, with each of its inputs."""
    values: dict[str, list[Any]] = {"pipelines": [], "marts": [], "inputs": [], "seen": []}
    for pipeline in pipelines:
        for name, inputs in _inputs(pipeline).items():
            mart = _mart(pipeline, name)
            seen = facts.builds.get((pipeline.name, mart))
            if seen is None:
                continue
            for target in inputs:
                values["pipelines"].append(pipeline.name)
                values["marts"].append(mart)
                values["inputs"].append(target)
                values["seen"].append(seen)
    return values


def _marts(pipeline: Pipeline) -> list[str]:
    return [_mart(pipeline, transform.name) for transform in pipeline.transforms]


def _mart(pipeline: Pipeline, name: str) -> str:
    return str(Relation(pipeline.warehouse.mart_schema, name))


def _inputs(pipeline: Pipeline) -> dict[str, list[str]]:
    """What each transform reads, in an order in which they can be built."""
    found = {}
    for name, reads in transform_inputs(pipeline).items():
        targets = [str(Relation(pipeline.warehouse.schema, table)) for table in reads.tables]
        targets += [_mart(pipeline, transform) for transform in reads.transforms]
        found[name] = [*targets, *reads.external]
    return found


@dataclass(frozen=True, kw_only=True)
class _State:
    """How old a target is, and why."""

    as_of: datetime | None
    cause: Cause | None = None


class _Known:
    """The states of targets, as far as they are known."""

    def __init__(self, facts: _Facts, at: datetime):
        self._facts = facts
        self._at = at
        self._states: dict[str, _State] = {}
        self._scopes: dict[tuple[str, str], _Scope] = {}
        for scope in facts.scopes:
            self._scopes[scope.pipeline, scope.target] = scope
            # Of another project's pipeline only this is known.
            self._states[scope.target] = _State(as_of=self._read_through(scope, None))

    def add_tables(self, pipeline: Pipeline) -> None:
        """Add the tables of the pipeline, and those that its patterns have matched."""
        for table in self._tables(pipeline):
            target = str(Relation(pipeline.warehouse.schema, table.name))
            scope = self._scopes.get((pipeline.name, target))
            as_of = self._read_through(scope, table) if scope else None
            cause = self._failure(pipeline, "table", table.name)
            if cause is None and scope and scope.held_by:
                cause = Cause(key="held", text=f"held back by {on_one_line(scope.held_by)}")
            self._states[target] = _State(as_of=as_of, cause=cause)

    def add_marts(self, pipeline: Pipeline) -> bool:
        """Add the marts of the pipeline, whose tables are there. Returns whether one of them is
        another than it was known to be: others may read it."""
        changed = False
        for name, inputs in _inputs(pipeline).items():
            target = _mart(pipeline, name)
            state = self._mart_state(pipeline, pipeline.transform(name), inputs)
            changed = changed or self._states.get(target) != state
            self._states[target] = state
        return changed

    def ages(self, pipeline: Pipeline) -> list[Age]:
        """The ages of all that the pipeline limits, in the order of its file, and then those of
        their comparisons."""
        found = []
        proofs = []
        for kind, spec, target in self._limited(pipeline):
            if spec.fresh_within and spec.fresh_within.limits_rows:
                found.append(self._age(kind, spec, target))
            proof = self._facts.verdicts.age(pipeline, kind, spec, target, self._at)
            if proof and self._is_looked_at(pipeline, proof):
                proofs.append(proof)
        return [*self._without_tables_that_are_gone(pipeline, found), *proofs]

    def _limited(self, pipeline: Pipeline) -> Iterator[tuple[ledger.Kind, Table | Transform, str]]:
        for table in self._tables(pipeline):
            yield "table", table, str(Relation(pipeline.warehouse.schema, table.name))
        for transform in pipeline.transforms:
            yield "transform", transform, _mart(pipeline, transform.name)

    def _age(self, kind: ledger.Kind, spec: Table | Transform, target: str) -> Age:
        assert spec.fresh_within
        state = self._states[target]
        return Age(
            kind=kind,
            name=spec.name,
            target=target,
            limits=spec.fresh_within,
            as_of=state.as_of,
            at=self._at,
            cause=state.cause,
        )

    def _tables(self, pipeline: Pipeline) -> Iterator[Table]:
        yield from pipeline.tables
        if not pipeline.patterns:
            return
        for scope in sorted(self._facts.scopes, key=lambda scope: scope.name):
            if scope.pipeline != pipeline.name or not pipeline.pattern_of(scope.name):
                continue
            if scope.target == str(Relation(pipeline.warehouse.schema, scope.name)):
                yield pipeline.table(scope.name)

    def _without_tables_that_are_gone(self, pipeline: Pipeline, ages: list[Age]) -> list[Age]:
        """Without the tables of patterns that the source no longer has: runs look at others of the
        pattern, and not at these."""
        working = set()
        for age in ages:
            pattern = age.kind == "table" and pipeline.pattern_of(age.name)
            if pattern and age.level in ("fresh", "warn"):
                working.add(pattern.name)
        left = []
        for age in ages:
            pattern = age.kind == "table" and pipeline.pattern_of(age.name)
            is_missing = age.level == "late" and age.cause is None
            if not (pattern and pattern.name in working and is_missing):
                left.append(age)
        return left

    def _is_looked_at(self, pipeline: Pipeline, proof: Age) -> bool:
        """Whether the source has the table, as far as is known: runs have looked at it lately, or
        at no other table of its pattern."""
        pattern = pipeline.pattern_of(proof.name) if proof.kind == "table" else None
        if pattern is None or proof.limits.fail is None:
            return True
        looked_at: set[str] = set()
        for table in self._tables(pipeline):
            state = self._states[str(Relation(pipeline.warehouse.schema, table.name))]
            is_recent = state.as_of is not None and self._at - state.as_of < proof.limits.fail
            if pipeline.pattern_of(table.name) == pattern and (is_recent or state.cause):
                looked_at.add(table.name)
        return proof.name in looked_at or not looked_at

    def _read_through(self, scope: _Scope, table: Table | None) -> datetime:
        spec = table.incremental if table else None
        if spec and spec.by == "data_interval" and scope.read_to:
            return min(scope.read_to, self._at)
        zone = spec.time_zone if spec else None
        known: list[datetime] = []
        if scope.current_at:
            known.append(scope.current_at)
        watermark = moment(scope.watermark, ZoneInfo(zone) if zone else self._at.tzinfo)
        # One from the future is a mistake in a row, and shows nothing.
        if watermark and watermark <= self._at:
            known.append(watermark)
        # An older ledger has no looks; nor has any before the first one that is not held back.
        if not scope.current_at and not (scope.held_by and known):
            known.append(scope.read_at)
        return max(known)

    def _mart_state(
        self, pipeline: Pipeline, transform: Transform, inputs: Sequence[str]
    ) -> _State:
        mart = (pipeline.name, _mart(pipeline, transform.name))
        failure = self._failure(pipeline, "transform", transform.name)
        if mart not in self._facts.builds:
            return _State(as_of=None, cause=failure)
        state = _State(as_of=self._at)
        for target in inputs:
            read = self._states.get(target)
            # What another tool loads has no age here.
            if read is None:
                continue
            if read.as_of is None:
                return read
            assert state.as_of
            if read.as_of < state.as_of:
                state = read
        if transform.materialized == "view":
            return replace(state, cause=failure or state.cause)
        lacks = self._facts.lacks.get(mart)
        if lacks:
            assert state.as_of
            cause = failure or Cause(key="unbuilt", text="not built since its inputs have changed")
            return _State(as_of=min(state.as_of, lacks), cause=cause)
        return state

    def _failure(self, pipeline: Pipeline, kind: ledger.Kind, name: str) -> Cause | None:
        failure = self._facts.failures.get((pipeline.name, kind, name))
        schema = pipeline.warehouse.schema if kind == "table" else pipeline.warehouse.mart_schema
        # Earlier versions recorded no target.
        if failure is None or failure.target not in ("", str(Relation(schema, name))):
            return None
        reason = on_one_line(failure.message.partition("\n")[0])
        return Cause(
            key=f"failed {failure.code} {reason.replace(name, '*')}",
            text=f"{failure.step} of {on_one_line(name)} failed: {reason}",
        )


def moment(text: str | None, zone: tzinfo | None) -> datetime | None:
    """The time that a cursor's value is, in the `zone` where it has none; None if it is no time, or
    one that Python cannot hold."""
    # As servers write times for us. Without this, a number such as 20240101 would be a day.
    head, _, _ = (text or "").partition(" ")
    try:
        if head != date.fromisoformat(head).isoformat():
            return None
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=zone)
