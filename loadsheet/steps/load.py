"""The load step: the newest complete attempt of a load, from the lake into staging."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from loadsheet.errors import Corrupt
from loadsheet.lake.manifest import FILE_NAME, Manifest, read_manifest
from loadsheet.lake.parts import Progress
from loadsheet.lake.store import Lake
from loadsheet.outcome import Outcome
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.text import Relation
from loadsheet.steps.extract import load_prefix
from loadsheet.warehouse.load import Loaded, find_committed
from loadsheet.warehouse.load import load as load_manifest


def load(
    pipeline: Pipeline, table: Table, load_id: str, lake: Lake, warehouse: Callable[[], Session], progress: Progress
) -> Outcome:
    """Commit what the extract step stored under `load_id`.

    `warehouse` opens a session: a second one is needed when the first is lost during COMMIT, to ask whether it held.
    """
    target = Relation(pipeline.warehouse.schema, table.name)
    name, manifest = newest_manifest(lake, load_prefix(pipeline, table, load_id))
    try:
        with warehouse() as session:
            done = load_manifest(session, lake, manifest, name, target, table, progress)
    except psycopg.OperationalError:
        # The session may have died after the server committed: only the ledger knows.
        with warehouse() as session:
            confirmed = find_committed(session, target, load_id)
        if confirmed is None:
            raise
        done = confirmed
    return _outcome(done, load_id)


def newest_manifest(lake: Lake, prefix: str) -> tuple[str, Manifest]:
    """The manifest with the highest fence below `prefix`, and its name. Raises Corrupt when there is none."""
    names = sorted(name for name in lake.names(prefix) if name.endswith(f"/{FILE_NAME}"))
    stored = lake.get(names[-1]) if names else None
    if stored is None:
        raise Corrupt(f"no complete extraction under {prefix}; run the extract step again")
    return names[-1], read_manifest(stored, names[-1])


def _outcome(done: Loaded, load_id: str) -> Outcome:
    effect = done.effect
    counts = {
        "extracted": done.extracted,
        "inserted": effect.inserted,
        "updated": effect.updated,
        "deleted": effect.deleted,
    }
    message = "; ".join([str(effect), *done.notes])
    return Outcome(status="done", message=message, load_id=load_id, counts=counts)
