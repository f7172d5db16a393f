"""Compares a plan with its source, lake and warehouse: `loadsheet plan --connect`."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import psycopg

from loadsheet.connections.lookup import Connections
from loadsheet.engine.diagnosis import diagnose
from loadsheet.engine.due import Due, due_now
from loadsheet.engine.resolve import with_matched_tables
from loadsheet.errors import LoadsheetError
from loadsheet.lake.manifest import load_prefix
from loadsheet.pinned import PinnedSession
from loadsheet.plan.steps import CREATE_BUCKET, VERIFY, step_id, verified_marts
from loadsheet.postgres import Session
from loadsheet.preview import rights
from loadsheet.preview.extracts import preview_extract
from loadsheet.preview.loads import preview_load
from loadsheet.preview.models import StepPreview
from loadsheet.preview.quiet import QuietPreview, preview_quiet
from loadsheet.preview.sessions import read_only_sessions
from loadsheet.preview.transforms import preview_transform
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Inputs, Pipeline, Table
from loadsheet.sql.grants import (
    LEDGER_PRIVILEGES,
    LEDGER_PRIVILEGES_OF_TRANSFORMS,
    LEDGER_PRIVILEGES_OF_VERIFY,
)
from loadsheet.sql.text import Relation
from loadsheet.warehouse import adopt, ledger, tables
from loadsheet.warehouse.scope import Scope, extracted_tables, read_scope
from loadsheet.wording import counted

_log = logging.getLogger(__name__)

_KINDS = ("extract", "load", "transform")

_LEDGER_SCHEMA = "loadsheet"


def preview_pipeline(
    pipeline: Pipeline, connections: Connections
) -> tuple[Pipeline, dict[str, StepPreview]]:
    """The pipeline with the tables that its patterns match now, and what each step would do, by id.

    Under `extract`, `load` and `transform` is what comes before the first step of the kind: the
    ledger and the schemas. Nothing is written: sessions are read-only, and the lake is asked only
    for its bucket.

    Raises Unavailable when the source or the warehouse cannot be reached, Refused when the source's
    schema cannot be searched for a pattern.
    """
    previews = {CREATE_BUCKET: _preview_bucket(pipeline, connections)}
    with read_only_sessions(pipeline, connections) as (source, warehouse):
        if pipeline.patterns:
            loaded: set[str] = set()
            # A role that may not read the ledger gets an error for that below.
            with suppress(psycopg.errors.InsufficientPrivilege):
                loaded = extracted_tables(warehouse, pipeline.name) or loaded
            pipeline = with_matched_tables(pipeline, source, loaded)
        _PipelinePreviewer(pipeline, source, warehouse, previews).run()
    return pipeline, previews


def _preview_bucket(pipeline: Pipeline, connections: Connections) -> StepPreview:
    """Whether the bucket exists; an error if the lake does not answer."""
    # The S3 client takes 60 ms to import.
    from loadsheet.lake.store import Lake

    preview = StepPreview(id=CREATE_BUCKET, changes="no", does="it exists")
    try:
        lake = Lake(connections(pipeline.lake.conn_id), pipeline.lake.bucket)
        if not lake.exists(load_prefix(pipeline)):
            preview.changes = "yes"
            preview.does = "it is created"
    except LoadsheetError:
        raise  # a connection that is missing or wrong is not the lake's answer
    except Exception as error:
        diagnosis: Any = diagnose(error)
        if diagnosis is None or isinstance(error, psycopg.Error):
            raise
        message = f"the lake (connection {pipeline.lake.conn_id!r}): {diagnosis}"
        preview.add_error("lake", message)
        preview.does = "would fail"
    return preview


class _PipelinePreviewer:
    """Previews the steps in the order of a run: each builds on the previews before it."""

    def __init__(
        self,
        pipeline: Pipeline,
        source: PinnedSession,
        warehouse: PinnedSession,
        previews: dict[str, StepPreview],
    ):
        self.pipeline = pipeline
        self.source = source
        self.warehouse = warehouse
        self.previews = previews
        self.quiet: dict[str, QuietPreview] = {}
        for kind in _KINDS:
            previews[kind] = StepPreview(id=kind, changes="no")

    def run(self) -> None:
        """Add the preview of every step."""
        has_transforms = bool(self.pipeline.transforms)
        schemas = self.pipeline.warehouse
        has_ledger = preview_ledger(self.previews["extract"], self.warehouse, has_transforms)
        has_staging = self._has_schema("load", schemas.schema)
        if has_ledger and has_staging:
            self.quiet = preview_quiet(self.pipeline, self.source, self.warehouse)
        for table in self.pipeline.tables:
            self._add_table(table, has_ledger, has_staging)
        has_marts = has_transforms and self._has_schema("transform", schemas.mart_schema)
        if has_transforms:
            rights.warn_of_creators(self.previews["transform"], self.warehouse, self.pipeline)
        for name, inputs in transform_inputs(self.pipeline).items():
            self._add_transform(name, inputs, has_ledger, has_marts)
        if self.pipeline.verify:
            self._add_verify(self.pipeline.verify, has_ledger)

    def _has_schema(self, kind: str, schema: str) -> bool:
        preview = self.previews[kind]
        if not rights.schema_exists(preview, self.warehouse, schema):
            return False
        return rights.may_use_schema(preview, self.warehouse, schema)

    def _add_table(self, table: Table, has_ledger: bool, has_staging: bool) -> None:
        quiet = self.quiet.get(table.name)
        if quiet:
            self._add("extract", quiet.extract)
            load = StepPreview(id=step_id("load", table.name))
            self._add("load", quiet.load if self._is_reached("load") else load)
            return
        _log.debug("previewing table %s", table.name)
        target = Relation(self.pipeline.warehouse.schema, table.name)
        scope = Scope()
        if has_ledger:
            scope = read_scope(self.warehouse, self.pipeline.name, table.name, target)
        # A table that was dropped is loaded in full again, whatever the ledger knows about it.
        was_loaded = scope.last_load_no is not None
        exists = tables.kind(self.warehouse, target) is not None
        other: str | None = None
        if has_ledger and exists and not was_loaded:
            other = adopt.loaded_as(self.warehouse, self.pipeline.name, target)
        is_first = not (was_loaded and exists)
        extract = preview_extract(
            self.pipeline, table, self.source, self.warehouse, scope, is_first, other
        )
        self._add("extract", extract.step)
        load = StepPreview(id=step_id("load", table.name))
        if self._is_reached("load"):
            load = preview_load(self.pipeline, table, extract, self.warehouse, scope, has_staging)
        self._add("load", load)

    def _add_transform(self, name: str, inputs: Inputs, has_ledger: bool, has_marts: bool) -> None:
        _log.debug("previewing transform %s", name)
        preview = StepPreview(id=step_id("transform", name))
        if self._is_reached("transform"):
            preview = preview_transform(
                self.pipeline,
                self.pipeline.transform(name),
                inputs,
                self.warehouse,
                self.previews,
                has_ledger,
                has_marts,
            )
        self._add("transform", preview)

    def _add_verify(self, frequency: str, has_ledger: bool) -> None:
        preview = StepPreview(id=VERIFY, changes="no")
        self.previews[VERIFY] = preview
        loads = [self.previews[step_id("load", table.name)] for table in self.pipeline.tables]
        marts = [step_id("transform", name) for name in verified_marts(self.pipeline)]
        before = {"load": loads, "transform": [self.previews[name] for name in marts]}
        for kind, previews in before.items():
            if any(each.fails or each.is_cut_off for each in previews):
                preview.does = f"not reached: a {kind} would fail"
                preview.is_cut_off = True
                return
        due = Due(
            tables=frozenset(table.name for table in self.pipeline.tables),
            marts=frozenset(verified_marts(self.pipeline)),
        )
        if has_ledger and ledger.version(self.warehouse) == ledger.VERSION:
            for name, privileges in LEDGER_PRIVILEGES_OF_VERIFY.items():
                relation = Relation(_LEDGER_SCHEMA, name)
                rights.has_privileges(preview, self.warehouse, relation, privileges)
            if preview.fails:
                preview.does = "would fail"
                return
            # This run counts, too, if it loads something.
            more_runs = int(any(load.changes != "no" for load in loads))
            due = due_now(self.warehouse, self.pipeline, frequency, more_runs)
        amounts = [counted(len(due.tables), "table")] if due.tables else []
        amounts += [counted(len(due.marts), "mart")] if due.marts else []
        preview.does = f"{' and '.join(amounts)} to compare" if due else "skipped: nothing is due"

    def _is_reached(self, kind: str) -> bool:
        """Whether the ledger and the schemas up to this kind of step can be used, so that they can
        be queried."""
        return not any(self.previews[name].fails for name in _up_to(kind))

    def _add(self, kind: str, step: StepPreview) -> None:
        """Add the step's preview. A step that would fail or is not reached changes nothing."""
        schemas = self.pipeline.warehouse
        obstacles = {
            "extract": "the ledger cannot be used",
            "load": f"schema {schemas.schema} cannot be used",
            "transform": f"schema {schemas.mart_schema} cannot be used",
        }
        for name in (CREATE_BUCKET, *_up_to(kind)):
            if not self.previews[name].fails:
                continue
            if not step.fails:
                obstacle = obstacles.get(name, f"{name} would fail")
                step.does = f"not reached: {obstacle}"
            step.is_cut_off = True
            step.ddl = []
            break
        if step.fails or step.is_cut_off:
            step.changes = "no"
        self.previews[step.id] = step


def _up_to(kind: str) -> tuple[str, ...]:
    return _KINDS[: _KINDS.index(kind) + 1]


def preview_ledger(preview: StepPreview, session: Session, has_transforms: bool) -> bool:
    """Add what a run does about the ledger, and which privileges it lacks for that.

    Returns whether the ledger can be read.
    """
    if tables.kind(session, Relation(_LEDGER_SCHEMA, "scope")) is None:
        preview.does = "creates the ledger (schema loadsheet)"
        preview.changes = "yes"
        if rights.schema_exists(preview, session, _LEDGER_SCHEMA):
            _check_upgrade(preview, session)
        return False
    version = ledger.version(session)
    try:
        ledger.refuse_newer(version)
    except LoadsheetError as error:
        preview.add_error("ledger", str(error))
    if version < ledger.VERSION:
        preview.does = f"brings the ledger from version {version} to {ledger.VERSION}"
        preview.changes = "yes"
        _check_upgrade(preview, session)
    if not ledger.is_readable(version):
        preview.add_remark(
            "warning",
            "ledger",
            "a ledger of this version is too old to read: every table looks like a first load",
        )
        return False
    needed = list(LEDGER_PRIVILEGES.items())
    if has_transforms:
        needed += LEDGER_PRIVILEGES_OF_TRANSFORMS.items()
    allowed = rights.may_use_schema(preview, session, _LEDGER_SCHEMA)
    for name, privileges in needed:
        relation = Relation(_LEDGER_SCHEMA, name)
        # Every relation is checked, so that the plan shows all missing privileges at once.
        has_them = rights.has_privileges(preview, session, relation, privileges)
        allowed = allowed and has_them
    return allowed


def _check_upgrade(preview: StepPreview, session: Session) -> None:
    """Add an error for each privilege that the ledger's statements need.

    PostgreSQL checks them even where a statement (IF NOT EXISTS) has nothing to do.
    """
    rights.check_database(preview, session, "CREATE", "create schema loadsheet")
    rights.check_schema_owner(preview, session, _LEDGER_SCHEMA, "alter")
    for name in ("scope", "load", "transform_run"):
        rights.check_owner(preview, session, Relation(_LEDGER_SCHEMA, name), "alter")
