"""A renamed pipeline: what the ledger knows of its targets under another name, and taking it over.

The ledger is keyed by pipeline name and target. Under a new name a pipeline has no watermark, so
every table looks like a first load, although its rows are there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from loadsheet.errors import InputError, Refused, Unavailable
from loadsheet.names import did_you_mean
from loadsheet.outcome import RunRequest
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline, Table, Transform
from loadsheet.sql.params import uses_since_load
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger, tables

_log = logging.getLogger(__name__)

_LOADED_AS = """
SELECT pipeline FROM loadsheet.load WHERE target = %s AND pipeline <> %s
ORDER BY load_no DESC LIMIT 1
"""
_BUILT_AS = """
SELECT pipeline FROM loadsheet.transform_run WHERE target = %s AND pipeline <> %s
ORDER BY run_no DESC LIMIT 1
"""
_HAS_BUILT = """
SELECT EXISTS (SELECT FROM loadsheet.transform_run WHERE pipeline = %s AND target = %s)
"""
_BUILT_ELSEWHERE = """
SELECT target FROM loadsheet.transform_run WHERE pipeline = %s AND transform = ANY (%s)
ORDER BY run_no DESC LIMIT 1
"""
# A sample's name in the ledger has a `~`, which no pipeline's name can have.
_NAMES = """
SELECT pipeline FROM loadsheet.scope UNION SELECT pipeline FROM loadsheet.load
UNION SELECT pipeline FROM loadsheet.transform_run ORDER BY pipeline
"""
# The same name may have copies in other schemas: only the targets of the pipeline file are renamed.
_TABLES = """
SELECT o.target, o.last_load_no, n.last_load_no FROM loadsheet.scope o
LEFT JOIN loadsheet.scope n
    ON n.pipeline = %(new)s AND n.table_name = o.table_name AND n.target = o.target
WHERE o.pipeline = %(old)s AND o.target = %(schema)s || '.' || o.table_name
ORDER BY o.target
"""
_TRANSFORMS = """
SELECT target, max(run_no) FILTER (WHERE pipeline = %(old)s),
    max(run_no) FILTER (WHERE pipeline = %(new)s)
FROM loadsheet.transform_run
WHERE pipeline IN (%(old)s, %(new)s) AND target = %(mart_schema)s || '.' || transform
GROUP BY target HAVING bool_or(pipeline = %(old)s) ORDER BY target
"""
_TRY_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))"
_LOCK_SCOPES = "SELECT FROM loadsheet.scope WHERE pipeline IN (%(old)s, %(new)s) FOR UPDATE"
# An attempt that is not loaded yet has the old name in its manifest. It loses its seal and its
# fence, so that it cannot be loaded: the next extraction reads its rows.
_RAISE_FENCES = """
UPDATE loadsheet.scope s SET fence = 1 + (
        SELECT max(fence) FROM loadsheet.scope
        WHERE pipeline IN (%(old)s, %(new)s) AND table_name = s.table_name),
    sealed_load_id = NULL, sealed_manifest = NULL, sealed_sha256 = NULL
WHERE pipeline IN (%(old)s, %(new)s) AND target = ANY (%(tables)s)
"""
# A scope of the new name without a load has nothing to keep; one with a later load is kept.
_DROP_SCOPES = """
DELETE FROM loadsheet.scope
WHERE pipeline = %(new)s AND target = ANY (%(moved)s)
   OR pipeline = %(old)s AND target = ANY (%(kept)s)
"""
_MOVE_SCOPES = """
UPDATE loadsheet.scope SET pipeline = %(new)s
WHERE pipeline = %(old)s AND target = ANY (%(moved)s)
"""
# The lake's manifests keep the name they were written under: `engine.garbage` finds it here.
_MOVE_LOADS = """
UPDATE loadsheet.load
SET pipeline = %(new)s, source = jsonb_build_object('pipeline', pipeline) || source
WHERE pipeline = %(old)s AND target = ANY (%(tables)s)
"""
_MOVE_RUNS = """
UPDATE loadsheet.transform_run SET pipeline = %(new)s
WHERE pipeline = %(old)s AND target = ANY (%(transforms)s)
"""
# What failed under the new name failed because the state was missing.
_DROP_FAILURES = """
DELETE FROM loadsheet.failure f USING loadsheet.failure o
WHERE f.pipeline = %(new)s AND o.pipeline = %(old)s AND o.kind = f.kind AND o.name = f.name
  AND o.target = f.target AND f.target = ANY (%(all)s)
"""
_MOVE_FAILURES = """
UPDATE loadsheet.failure SET pipeline = %(new)s
WHERE pipeline = %(old)s AND target = ANY (%(all)s)
"""
# Of a target that the new name has loaded itself, its own verdict is the newer one.
_DROP_VERIFIED = """
DELETE FROM loadsheet.verified
WHERE pipeline = %(new)s AND target = ANY (%(all)s) AND NOT target = ANY (%(kept)s)
   OR pipeline = %(old)s AND target = ANY (%(kept)s)
"""
_MOVE_VERIFIED = """
UPDATE loadsheet.verified SET pipeline = %(new)s
WHERE pipeline = %(old)s AND target = ANY (%(all)s)
"""


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """What a pipeline has taken over, and what it had loaded or built itself. Targets' names."""

    tables: list[str]
    transforms: list[str]
    kept: list[str]


def loaded_as(session: Session, pipeline: str, target: Relation) -> str | None:
    """The other pipeline that has loaded `target` last; None where there is none."""
    row = session.execute(_LOADED_AS, (str(target), pipeline)).fetchone()
    return str(row[0]) if row else None


def note(target: Relation, other: str, pipeline: str, table: Table, request: RunRequest) -> str:
    """What a first load into a table of the pipeline `other` says."""
    spec = table.incremental
    reads = "it reads the whole table"
    if spec and not request.is_full(table.name):
        if spec.by == "data_interval" or request.explicit_interval:
            reads = (
                f"it reads the run's interval, and which intervals {other!r} has read is not known"
                " to it"
            )
        elif spec.initial_value is not None:
            reads = f"it reads all rows from {spec.cursor} {spec.initial_value} on"
    return (
        f"{target} was loaded by the pipeline {other!r}, and this is the first load by"
        f" {pipeline!r}: {reads}. Was the pipeline renamed? `loadsheet adopt"
        f" {other} {pipeline}` takes over where it was"
    )


def refuse_first_append(session: Session, target: Relation, other: str, pipeline: str) -> None:
    """Raises Refused where `pipeline`, which appends, would start on rows that the pipeline `other`
    has appended: the rows to read now may be fewer than those that are there."""
    filled = session.execute(f"SELECT EXISTS (SELECT FROM {target.sql})").fetchone()
    if filled != (True,):
        return
    raise Refused(
        f"{target} was loaded by the pipeline {other!r}, and {pipeline!r} has no watermark there:"
        " this run would replace the appended rows by those that the source has now, so nothing was"
        f" written. If the pipeline was renamed, run `loadsheet adopt {other}"
        f" {pipeline}`. To read the table again instead: `loadsheet run {pipeline} --tables"
        f" {target.name} --full-refresh` (Airflow: full_refresh in the trigger form). If both"
        " pipelines are in use, give one another warehouse.schema"
    )


def refuse_first_script(
    session: Session, pipeline: str, transform: Transform, target: Relation
) -> None:
    """Raises Refused where a script that reads `:since_load` would start from 0, although it has
    run under another pipeline's name, or with another mart schema: what it inserts would be
    doubled."""
    if transform.materialized != "script" or not uses_since_load(transform.sql):
        return
    if session.execute(_HAS_BUILT, (pipeline, str(target))).fetchone() == (True,):
        return
    from_0 = (
        " with :since_load = 0 it would write rows again; nothing was written. To run the script"
        f" from 0: `loadsheet run {pipeline} --rebuild {transform.name}` (Airflow: full_refresh in"
        " the trigger form)"
    )
    row = session.execute(_BUILT_AS, (str(target), pipeline)).fetchone()
    if row is not None:
        other = row[0]
        raise Refused(
            f"the script {target} has run in the pipeline {other!r}, and {pipeline!r} does not know"
            f" how far:{from_0}. If the pipeline was renamed: `loadsheet adopt {other} {pipeline}`"
        )
    elsewhere = _built_elsewhere(session, pipeline, [transform.name])
    if elsewhere:
        raise Refused(
            f"the script {target} has run as {elsewhere}, before warehouse.mart_schema changed,"
            f" and how far it has come is known only there:{from_0}. To go on where it"
            " was, set mart_schema back"
        )


def _built_elsewhere(session: Session, pipeline: str, transforms: Sequence[str]) -> str:
    """A target, in any schema, that one of these transforms has built; empty where none has."""
    row = session.execute(_BUILT_ELSEWHERE, (pipeline, list(transforms))).fetchone()
    return str(row[0]) if row else ""


def adopt(session: Session, pipeline: Pipeline, old: str) -> Adopted:
    """Give `pipeline` what the ledger knows of its targets under the name `old`: watermarks, loads,
    runs of transforms and failures, in one transaction.

    A target that the pipeline has loaded itself, later than `old`, keeps its own state. Raises
    InputError where `old` is not in the ledger, has nothing in the pipeline's schemas, or has left
    nothing to take over; Refused where both have loaded a target in turns; Unavailable where a step
    is running.
    """
    if tables.kind(session, Relation("loadsheet", "scope")) is None:
        raise InputError(
            f"the warehouse ({pipeline.warehouse.conn_id}) has no ledger (schema loadsheet), so"
            " there is nothing to take over. Check the connection"
        )
    ledger.ensure(session)
    known = [name for (name,) in session.execute(_NAMES).fetchall() if "~" not in name]
    if old not in known:
        others = [name for name in known if name != pipeline.name]
        raise InputError(
            f"the ledger knows no pipeline {old!r}{did_you_mean(old, others)}; the warehouse is"
            f" {pipeline.warehouse.conn_id}"
        )
    names = {
        "old": old,
        "new": pipeline.name,
        "schema": pipeline.warehouse.schema,
        "mart_schema": pipeline.warehouse.mart_schema,
    }
    with session.transaction():
        # A step that writes holds its target's lock. One that reads the source holds none: it
        # finds its fence gone, and stores nothing that can be loaded.
        loaded = session.execute(_TABLES, names).fetchall()
        built = session.execute(_TRANSFORMS, names).fetchall()
        for target in sorted({target for target, _, _ in (*loaded, *built)}):
            if session.execute(_TRY_LOCK, (f"loadsheet:{target}",)).fetchone() != (True,):
                raise Unavailable(
                    f"a step is writing {target} now, so nothing was taken over: stop the runs of"
                    f" {old} and {pipeline.name}, then run this again"
                )
        # Under the locks: a step may have committed before they were taken.
        loaded = session.execute(_TABLES, names).fetchall()
        built = session.execute(_TRANSFORMS, names).fetchall()
        if loaded and not built:
            _refuse_other_mart_schema(session, pipeline, old)
        adopted = _decide(pipeline, old, loaded, built)
        _move(session, names, adopted, loaded, built)
    _log.info("%s has taken over %s", pipeline.name, old)
    return adopted


def _refuse_other_mart_schema(session: Session, pipeline: Pipeline, old: str) -> None:
    """Raises InputError where the pipeline's transforms have run under the name `old`, in another
    schema: they would stay behind, and could not be taken over later."""
    elsewhere = _built_elsewhere(session, old, [spec.name for spec in pipeline.transforms])
    if elsewhere:
        raise InputError(
            f"{old!r} has built {elsewhere}, and {pipeline.name!r} builds in the schema"
            f" {pipeline.warehouse.mart_schema}: nothing was taken over. Set warehouse.mart_schema"
            " as it was, run this again, and change it afterwards"
        )


State = Sequence[tuple[str, int | None, int | None]]
"""Targets, each with the number of the last load or run by the old and by the new name."""


def _decide(pipeline: Pipeline, old: str, loaded: State, built: State) -> Adopted:
    kept: list[str] = []
    for target, by_old, by_new in (*loaded, *built):
        if by_new is None:
            continue
        if by_new < (by_old or 0):
            raise Refused(
                f"{target} was loaded by {pipeline.name!r}, and by {old!r} after that: the state of"
                " neither is complete, so nothing was taken over. Stop one pipeline, and read the"
                f" table again: `loadsheet run {pipeline.name} --full-refresh`"
            )
        kept.append(target)
    if not loaded and not built:
        warehouse = pipeline.warehouse
        raise InputError(
            f"the ledger knows no table of {old!r} in the schemas of {pipeline.name!r}"
            f" ({warehouse.schema}, {warehouse.mart_schema}), so there is nothing to take over"
        )
    adopted = Adopted(
        tables=[target for target, _, by_new in loaded if by_new is None],
        transforms=[target for target, _, by_new in built if by_new is None],
        kept=kept,
    )
    if not adopted.tables and not adopted.transforms:
        raise InputError(
            f"{pipeline.name!r} has loaded every table of {old!r} itself ({', '.join(kept)}), so"
            " there is nothing to take over"
        )
    return adopted


def _move(
    session: Session, names: dict[str, str], adopted: Adopted, loaded: State, built: State
) -> None:
    all_tables = [target for target, _, _ in loaded]
    transforms = [target for target, _, _ in built]
    values = {
        **names,
        "moved": adopted.tables,
        "kept": adopted.kept,
        "tables": all_tables,
        "transforms": transforms,
        "all": [*all_tables, *transforms],
    }
    statements = (
        _LOCK_SCOPES,
        _RAISE_FENCES,
        _DROP_SCOPES,
        _MOVE_SCOPES,
        _MOVE_LOADS,
        _MOVE_RUNS,
        _DROP_FAILURES,
        _MOVE_FAILURES,
        _DROP_VERIFIED,
        _MOVE_VERIFIED,
    )
    for statement in statements:
        session.execute(statement, values)
