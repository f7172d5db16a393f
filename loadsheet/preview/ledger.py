"""Whether there is a ledger, what has to be done about it, and whether the role may use it."""

from __future__ import annotations

from loadsheet.errors import LoadsheetError
from loadsheet.plan.preview import StepPreview
from loadsheet.postgres import Session
from loadsheet.preview import rights
from loadsheet.sql.text import Relation
from loadsheet.warehouse import ledger, tables

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
    """Whether there is a ledger to be asked; adds to `found` what a run does about it, and what is lacking."""
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
        found.does, found.changes = f"brings the ledger from version {version} to {ledger.VERSION}", "yes"
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
    allowed += [rights.has_rights(found, session, Relation(SCHEMA, name), needed) for name, needed in asked]
    return all(allowed)
