"""All steps of a pipeline against its source, lake and warehouse as they are now."""

from __future__ import annotations

from typing import Any

import psycopg

from loadsheet.connections import Connections
from loadsheet.errors import LoadsheetError
from loadsheet.plan.inputs import transform_inputs
from loadsheet.plan.preview import StepPreview
from loadsheet.plan.steps import CREATE_BUCKET
from loadsheet.postgres import Session
from loadsheet.preview import rights
from loadsheet.preview.extracts import preview_extract
from loadsheet.preview.loads import preview_load
from loadsheet.preview.sessions import read_only
from loadsheet.preview.transforms import preview_transform
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.text import Relation
from loadsheet.steps.diagnosis import diagnose
from loadsheet.warehouse import fence, ledger, tables
from loadsheet.warehouse.fence import Scope

# Later versions have added nothing that is asked here.
_KNOWN_SINCE = 2
_LEDGER = {
    "scope": ("SELECT", "INSERT", "UPDATE"),
    "load": ("SELECT", "INSERT"),
    "transform_run": ("SELECT", "INSERT"),
}


def preview(pipeline: Pipeline, connections: Connections) -> dict[str, StepPreview]:
    """By id what each step would do, and under `extract`, `load` and `transform` what comes before the first of each.

    Nothing is written: sessions are read-only, the lake is only asked for its bucket. Raises Unavailable when source
    or warehouse cannot be reached.
    """
    found = {CREATE_BUCKET: _bucket(pipeline, connections)}
    with read_only(pipeline, connections) as (source, warehouse):
        _Walk(pipeline, source, warehouse, found).through()
    return found


class _Walk:
    def __init__(self, pipeline: Pipeline, source: Session, warehouse: Session, found: dict[str, StepPreview]):
        self.pipeline, self.source, self.warehouse, self.found = pipeline, source, warehouse, found

    def through(self) -> None:
        """In the order of a run: each step's preview rests on those before it."""
        for kind in ("extract", "load", "transform"):
            self.found[kind] = StepPreview(id=kind, changes="no")
        self.has_ledger = self._has_ledger(self.found["extract"])
        schemas = self.pipeline.warehouse
        has_staging = rights.has_schema(self.found["load"], self.warehouse, schemas.schema)
        for table in self.pipeline.tables:
            self._table(table, has_staging)
        if self.pipeline.transforms:
            rights.has_schema(self.found["transform"], self.warehouse, schemas.mart_schema)
        for name, inputs in transform_inputs(self.pipeline).items():
            spec = self.pipeline.transform(name)
            step = preview_transform(self.pipeline, spec, inputs, self.warehouse, self.found, self.has_ledger)
            self._keep(step)

    def _table(self, table: Table, has_staging: bool) -> None:
        target = Relation(self.pipeline.warehouse.schema, table.name)
        seen = fence.observe(self.warehouse, self.pipeline.name, table.name) if self.has_ledger else Scope()
        is_first = seen.last_load_no is None or tables.kind(self.warehouse, target) is None
        extracted = preview_extract(self.pipeline, table, self.source, seen, is_first)
        load = preview_load(self.pipeline, table, extracted, self.warehouse, seen, has_staging)
        self._keep(extracted.preview)
        self._keep(load)

    def _keep(self, step: StepPreview) -> None:
        """A step that would fail changes nothing."""
        if step.fails:
            step.changes = "no"
        self.found[step.id] = step

    def _has_ledger(self, found: StepPreview) -> bool:
        """Whether there is a ledger to be asked; what has to be done about it where there is none."""
        version = ledger.version(self.warehouse)
        if tables.kind(self.warehouse, Relation("loadsheet", "scope")) is None:
            rights.has_schema(found, self.warehouse, "loadsheet")
            found.does, found.changes = "creates the ledger (schema loadsheet)", "yes"
            return False
        if version < ledger.VERSION:
            found.does, found.changes = f"brings the ledger from version {version} to {ledger.VERSION}", "yes"
            rights.owns(found, self.warehouse, Relation("loadsheet", "scope"), "alter")
        if version < _KNOWN_SINCE:
            told = "what so old a ledger knows is not read: every table looks like a first load"
            found.tell("warning", "ledger", told)
            return False
        try:
            ledger.refuse_newer(version)
        except LoadsheetError as error:
            found.error("ledger", str(error))
        return self._may_use_ledger(found)

    def _may_use_ledger(self, found: StepPreview) -> bool:
        allowed = [rights.uses_schema(found, self.warehouse, "loadsheet")] + [
            rights.has_rights(found, self.warehouse, Relation("loadsheet", name), needed)
            for name, needed in _LEDGER.items()
        ]
        return all(allowed)


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
