"""Compares a plan with its source, lake and warehouse: `loadsheet plan --connect`. Writes nothing."""

from __future__ import annotations

from typing import Any

import psycopg

from loadsheet.connections.lookup import Connections
from loadsheet.engine import garbage
from loadsheet.engine.diagnosis import diagnose
from loadsheet.engine.resolve import with_tables
from loadsheet.errors import LoadsheetError
from loadsheet.plan.steps import CREATE_BUCKET, step_id
from loadsheet.postgres import Session
from loadsheet.preview import rights
from loadsheet.preview.extracts import preview_extract
from loadsheet.preview.loads import preview_load
from loadsheet.preview.models import StepPreview
from loadsheet.preview.sessions import read_only
from loadsheet.preview.transforms import preview_transform
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Inputs, Pipeline, Table
from loadsheet.sql.text import Relation
from loadsheet.warehouse import fence, ledger, tables
from loadsheet.warehouse.fence import Scope

_KINDS = ("extract", "load", "transform")


def preview(
    pipeline: Pipeline, connections: Connections
) -> tuple[Pipeline, dict[str, StepPreview]]:
    """The pipeline with the tables that its patterns match now, and by id what each step would do;
    under `extract`,
    `load` and `transform` what comes before the first of each.

    Nothing is written: sessions are read-only, the lake is only asked for its bucket. Raises
    Unavailable when source or warehouse cannot be reached, Refused when the source's schema cannot
    be searched for a pattern.
    """
    found = {CREATE_BUCKET: _bucket(pipeline, connections)}
    with read_only(pipeline, connections) as (source, warehouse):
        if pipeline.patterns:
            pipeline = with_tables(pipeline, source, _known(pipeline, warehouse))
        _Walk(pipeline, source, warehouse, found).through()
    return pipeline, found


def _known(pipeline: Pipeline, warehouse: Session) -> set[str]:
    """The tables that the ledger knows; none where it may not be asked, which is told later."""
    try:
        return garbage.tables_known(warehouse, pipeline.name) or set()
    except psycopg.errors.InsufficientPrivilege:
        return set()


class _Walk:
    def __init__(
        self, pipeline: Pipeline, source: Session, warehouse: Session, found: dict[str, StepPreview]
    ):
        self.pipeline, self.source, self.warehouse, self.found = pipeline, source, warehouse, found
        self.found |= {kind: StepPreview(id=kind, changes="no") for kind in _KINDS}

    def through(self) -> None:
        """In the order of a run: each step's preview rests on those before it."""
        has_transforms = bool(self.pipeline.transforms)
        self.has_ledger = look(self.found["extract"], self.warehouse, has_transforms)
        schemas = self.pipeline.warehouse
        self.has_staging = self._has_schema("load", schemas.schema)
        for table in self.pipeline.tables:
            self._table(table)
        self.has_marts = has_transforms and self._has_schema("transform", schemas.mart_schema)
        for name, inputs in transform_inputs(self.pipeline).items():
            self._keep("transform", self._transform(name, inputs))

    def _has_schema(self, kind: str, schema: str) -> bool:
        found = self.found[kind]
        return rights.has_schema(found, self.warehouse, schema) and rights.uses_schema(
            found, self.warehouse, schema
        )

    def _why_not(self, before: str) -> str:
        schemas = self.pipeline.warehouse
        schema = {"load": schemas.schema, "transform": schemas.mart_schema}.get(before)
        if schema:
            return f"schema {schema} cannot be used"
        return "the ledger cannot be used" if before == "extract" else f"{before} would fail"

    def _table(self, table: Table) -> None:
        target = Relation(self.pipeline.warehouse.schema, table.name)
        seen = (
            fence.observe(self.warehouse, self.pipeline.name, table.name)
            if self.has_ledger
            else Scope()
        )
        is_first = seen.last_load_no is None or tables.kind(self.warehouse, target) is None
        extracted = preview_extract(
            self.pipeline, table, self.source, self.warehouse, seen, is_first
        )
        self._keep("extract", extracted.preview)
        if self._is_reached("load"):
            load = preview_load(
                self.pipeline, table, extracted, self.warehouse, seen, self.has_staging
            )
        else:
            load = StepPreview(id=step_id("load", table.name))
        self._keep("load", load)

    def _transform(self, name: str, inputs: Inputs) -> StepPreview:
        if not self._is_reached("transform"):
            return StepPreview(id=step_id("transform", name))
        spec = self.pipeline.transform(name)
        return preview_transform(
            self.pipeline, spec, inputs, self.warehouse, self.found, self.has_ledger, self.has_marts
        )

    def _is_reached(self, kind: str) -> bool:
        """Whether the ledger and the schemas up to this kind of step can be used, so that asking
        makes sense."""
        return not any(self.found[name].fails for name in _KINDS[: _KINDS.index(kind) + 1])

    def _keep(self, kind: str, step: StepPreview) -> None:
        """A step that would fail changes nothing, nor does one that is not reached."""
        before = (CREATE_BUCKET, *_KINDS[: _KINDS.index(kind) + 1])
        if why := next((self._why_not(name) for name in before if self.found[name].fails), None):
            step.does = step.does if step.fails else f"not reached: {why}"
            step.is_cut_off, step.ddl = True, []
        if step.fails or step.is_cut_off:
            step.changes = "no"
        self.found[step.id] = step


def _bucket(pipeline: Pipeline, connections: Connections) -> StepPreview:
    """Whether the bucket is there; a lake that cannot be asked is what the step would fail of."""
    from loadsheet.lake.store import Lake

    found = StepPreview(id=CREATE_BUCKET, changes="no", does="it is there")
    try:
        if not Lake(connections(pipeline.lake.conn_id), pipeline.lake.bucket).exists():
            found.changes, found.does = "yes", "it is created"
    except LoadsheetError:
        raise
    except Exception as error:
        diagnosis: Any = diagnose(error)
        if diagnosis is None or isinstance(error, psycopg.Error):
            raise
        found.error("lake", f"the lake (connection {pipeline.lake.conn_id!r}): {diagnosis}")
        found.does = "would fail"
    return found


SCHEMA = "loadsheet"
# Later versions have added nothing that is asked here.
_KNOWN_SINCE = 2
_OF_TABLES = {
    "scope": ("SELECT", "INSERT", "UPDATE"),
    "load": ("SELECT", "INSERT"),
    "load_no": ("USAGE",),
    "failure": ("SELECT", "INSERT", "UPDATE"),
}
_OF_TRANSFORMS = {"transform_run": ("SELECT", "INSERT"), "load_no": ("SELECT",)}


def look(found: StepPreview, session: Session, has_transforms: bool) -> bool:
    """Whether there is a ledger to be asked; adds to `found` what a run does about it, and what is
    lacking."""
    if tables.kind(session, Relation(SCHEMA, "scope")) is None:
        found.does, found.changes = "creates the ledger (schema loadsheet)", "yes"
        if rights.has_schema(found, session, SCHEMA):
            _may_make(found, session)
        return False
    version = ledger.version(session)
    try:
        ledger.refuse_newer(version)
    except LoadsheetError as error:
        found.error("ledger", str(error))
    if version < ledger.VERSION:
        found.does, found.changes = (
            f"brings the ledger from version {version} to {ledger.VERSION}",
            "yes",
        )
        _may_make(found, session)
    if version < _KNOWN_SINCE:
        told = "what so old a ledger knows is not read: every table looks like a first load"
        found.tell("warning", "ledger", told)
        return False
    return _may_use(found, session, has_transforms)


def _may_make(found: StepPreview, session: Session) -> None:
    """The ledger's statements want these also where each of them has nothing to do."""
    rights.in_database(found, session, "CREATE", "create schema loadsheet")
    rights.owns_schema(found, session, SCHEMA, "alter")
    for name in ("scope", "load", "transform_run"):
        rights.owns(found, session, Relation(SCHEMA, name), "alter")


def _may_use(found: StepPreview, session: Session, has_transforms: bool) -> bool:
    asked = [*_OF_TABLES.items(), *(_OF_TRANSFORMS.items() if has_transforms else ())]
    allowed = [rights.uses_schema(found, session, SCHEMA)]
    allowed += [
        rights.has_rights(found, session, Relation(SCHEMA, name), needed) for name, needed in asked
    ]
    return all(allowed)
