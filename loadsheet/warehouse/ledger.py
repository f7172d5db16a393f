"""The ledger: fences, watermarks and what every load did, in the warehouse's schema `loadsheet`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import psycopg
from psycopg.rows import class_row

from loadsheet import __version__
from loadsheet.errors import Superseded
from loadsheet.lake.manifest import Manifest
from loadsheet.sql.text import Relation

Session = psycopg.Connection[Any]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Where a table of a pipeline stands. `fence` 0 and no watermark before its first extraction."""

    fence: int = 0
    watermark: str | None = None
    last_load_no: int | None = None
    content_sha256: str | None = None
    source_oid: int | None = None
    columns: list[dict[str, Any]] | None = None


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a load or a transform did to its target, in rows. `replaced` means that every row was written anew."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    replaced: bool = False

    @property
    def changed(self) -> int:
        """Rows that are not as before."""
        return self.inserted + self.updated + self.deleted

    def __str__(self) -> str:
        if self.replaced:
            return f"{self.inserted:,} rows, built anew"
        return f"{self.inserted:,} inserted, {self.updated:,} updated, {self.deleted:,} deleted"


def ensure(session: Session) -> None:
    """Create the ledger where it does not exist yet."""
    if session.execute("SELECT to_regclass('loadsheet.transform_run')").fetchone() != (None,):
        return
    with session.transaction():
        # CREATE ... IF NOT EXISTS by two sessions at once is an error in one of them.
        session.execute("SELECT pg_advisory_xact_lock(hashtextextended('loadsheet', 0))")
        session.execute(resources.files(__package__).joinpath("ledger.sql").read_bytes())


def lock(session: Session, target: Relation, shared: bool = False) -> None:
    """Wait for the target's lock and hold it until the transaction ends; all writers of a target take it."""
    kind = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    session.execute(f"SELECT {kind}(hashtextextended(%s, 0))", (f"loadsheet:{target}",))


def observe(session: Session, pipeline: str, table: str) -> Scope:
    """Where the table stands, without writing anything."""
    if session.execute("SELECT to_regclass('loadsheet.scope')").fetchone() == (None,):
        return Scope()
    with session.cursor(row_factory=class_row(Scope)) as cursor:
        cursor.execute(
            "SELECT fence, watermark, last_load_no, content_sha256, source_oid, columns FROM loadsheet.scope "
            "WHERE pipeline = %s AND table_name = %s",
            (pipeline, table),
        )
        return cursor.fetchone() or Scope()


def acquire(session: Session, pipeline: str, table: str, target: Relation, seen: Scope) -> int:
    """Take the next fence, if the table still stands where it was `seen`.

    Everything an extraction decided rests on what it saw, so taking the fence and checking that are one statement.
    Raises Superseded when another extraction or load came between.
    """
    session.execute(
        "INSERT INTO loadsheet.scope (pipeline, table_name, target) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (pipeline, table, str(target)),
    )
    row = session.execute(
        "UPDATE loadsheet.scope SET fence = fence + 1, target = %(target)s "
        "WHERE pipeline = %(pipeline)s AND table_name = %(table)s AND fence = %(fence)s "
        "AND last_load_no IS NOT DISTINCT FROM %(last_load_no)s AND watermark IS NOT DISTINCT FROM %(watermark)s "
        "RETURNING fence",
        {"target": str(target), "pipeline": pipeline, "table": table, **asdict(seen), "columns": None},
    ).fetchone()
    if row is None:
        raise Superseded(f"{pipeline}.{table}: another run extracted or loaded this table meanwhile; retry")
    return int(row[0])


def next_load_id(session: Session, pipeline: str, table: str, run_id: str) -> str:
    """The id of this run's next load of the table: the same for every retry until it is committed."""
    row = session.execute(
        "SELECT count(*) FROM loadsheet.load WHERE pipeline = %s AND table_name = %s AND run_id = %s",
        (pipeline, table, run_id),
    ).fetchone()
    committed = row[0] if row else 0
    return hashlib.sha256(json.dumps([pipeline, table, run_id, committed]).encode()).hexdigest()[:20]


def committed(session: Session, load_id: str) -> tuple[Effect, int] | None:
    """What the load did and how many rows it carried, if it is committed."""
    row = session.execute(
        "SELECT inserted, updated, deleted, replaced, extracted FROM loadsheet.load WHERE load_id = %s", (load_id,)
    ).fetchone()
    return (Effect(inserted=row[0], updated=row[1], deleted=row[2], replaced=row[3]), row[4]) if row else None


def draw_number(session: Session) -> int:
    """The next load number; call it under the target's lock."""
    row = session.execute("SELECT nextval('loadsheet.load_no')").fetchone()
    assert row
    return int(row[0])


def check_fence(session: Session, manifest: Manifest) -> None:
    """Raises Superseded when a newer extraction owns the table: cheaply, before the work."""
    row = session.execute(
        "SELECT fence FROM loadsheet.scope WHERE pipeline = %s AND table_name = %s", (manifest.pipeline, manifest.table)
    ).fetchone()
    _refuse_if_superseded(manifest, row is not None and row[0] == manifest.fence)


def advance(session: Session, manifest: Manifest, load_no: int) -> None:
    """Move the watermark and remember what was read. Last in the transaction; raises Superseded unless ours."""
    moved = session.execute(
        "UPDATE loadsheet.scope SET last_load_no = %(load_no)s, content_sha256 = %(content)s, source_oid = %(oid)s, "
        "columns = %(columns)s, watermark = CASE WHEN %(moves)s THEN %(upper)s ELSE watermark END "
        "WHERE pipeline = %(pipeline)s AND table_name = %(table)s AND fence = %(fence)s",
        {
            "load_no": load_no, "content": manifest.content_sha256, "oid": manifest.source_oid,
            "columns": json.dumps([asdict(column) for column in manifest.columns]), "moves": manifest.moves_watermark,
            "upper": manifest.upper, "pipeline": manifest.pipeline, "table": manifest.table, "fence": manifest.fence,
        },
    ).rowcount  # fmt: skip
    _refuse_if_superseded(manifest, moved == 1)


def record_load(
    session: Session, manifest: Manifest, name: str, target: Relation, load_no: int, effect: Effect,
    duplicates: int, seconds: float,
) -> None:  # fmt: skip
    """Write the load's row; `name` is the manifest's object name, `seconds` how long the load took so far."""
    row = {
        "load_id": manifest.load_id, "load_no": load_no, "pipeline": manifest.pipeline, "table_name": manifest.table,
        "target": str(target), "run_id": manifest.run_id, "fence": manifest.fence, "action": manifest.action,
        "format": manifest.format, "extracted": manifest.rows, "duplicates": duplicates, **asdict(effect),
        "bytes": manifest.size, "lower_cursor": manifest.lower, "upper_cursor": manifest.upper,
        "held_by": manifest.held_by, "manifest": name, "source": json.dumps(manifest.source), "version": __version__,
        "extract_seconds": manifest.seconds, "load_seconds": seconds,
    }  # fmt: skip
    _insert(session, "loadsheet.load", row)


def record_transform(session: Session, row: dict[str, Any]) -> None:
    """Write a transform's run."""
    _insert(session, "loadsheet.transform_run", row)


def _insert(session: Session, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(row)
    values = ", ".join(f"%({name})s" for name in row)
    session.execute(f"INSERT INTO {table} ({names}) VALUES ({values})", row)


def _refuse_if_superseded(manifest: Manifest, ours: bool) -> None:
    if not ours:
        raise Superseded(
            f"{manifest.pipeline}.{manifest.table}: a newer extraction owns this table (this load has fence "
            f"{manifest.fence}); nothing was written. Re-run the extract step of this run, or let the newer run load"
        )
