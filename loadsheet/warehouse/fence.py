"""The fence and watermark of each table, and which pipelines may write to it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from psycopg.rows import class_row

from loadsheet.errors import Overtaken, Refused, Superseded
from loadsheet.lake.manifest import Manifest
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation
from loadsheet.warehouse import tables


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Where a table of a pipeline stands. `fence` 0 and no watermark before its first extraction."""

    fence: int = 0
    watermark: str | None = None
    cursor: str | None = None
    """The column the watermark is of."""
    last_load_no: int | None = None
    content_sha256: str | None = None
    source_oid: int | None = None
    columns: list[dict[str, Any]] | None = None
    source: dict[str, str] | None = None
    """The source server as the last load met it (`source.identity.observe`)."""


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """The attempt that a load must read: its manifest's object name and the SHA-256 of that object."""

    manifest: str
    sha256: str


def observe(session: Session, pipeline: str, table: str) -> Scope:
    """Where the table stands, without writing anything."""
    with session.cursor(row_factory=class_row(Scope)) as cursor:
        cursor.execute(
            "SELECT fence, watermark, cursor, last_load_no, content_sha256, source_oid, columns, source "
            "FROM loadsheet.scope "
            "WHERE pipeline = %s AND table_name = %s",
            (pipeline, table),
        )
        return cursor.fetchone() or Scope()


def last_was_held(session: Session, seen: Scope) -> bool:
    """Whether the load that was `seen` left its watermark below rows that it had read."""
    row = session.execute(
        "SELECT held_by <> '' FROM loadsheet.load WHERE load_no = %s", (seen.last_load_no,)
    )
    return row.fetchone() == (True,)


def acquire(session: Session, pipeline: str, table: str, target: Relation, seen: Scope) -> int:
    """Take the next fence, if the table still stands where it was `seen`.

    Everything an extraction decided rests on what it saw, so taking the fence and checking that are
    one statement. Raises Overtaken when another extraction or load came between.
    """
    session.execute(
        "INSERT INTO loadsheet.scope (pipeline, table_name, target) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (pipeline, table, str(target)),
    )
    row = session.execute(
        "UPDATE loadsheet.scope SET fence = fence + 1, target = %(target)s, "
        "sealed_load_id = NULL, sealed_manifest = NULL, sealed_sha256 = NULL "
        "WHERE pipeline = %(pipeline)s AND table_name = %(table)s AND fence = %(fence)s "
        "AND last_load_no IS NOT DISTINCT FROM %(last_load_no)s AND watermark IS NOT DISTINCT FROM %(watermark)s "
        "RETURNING fence",
        {
            "target": str(target),
            "pipeline": pipeline,
            "table": table,
            "fence": seen.fence,
            "last_load_no": seen.last_load_no,
            "watermark": seen.watermark,
        },
    ).fetchone()
    if row is None:
        raise _overtaken(pipeline, table)
    return int(row[0])


def seal(session: Session, manifest: Manifest, name: str, sha256: str) -> None:
    """Say that the attempt is complete: its load reads the manifest `name`, and only with this
    hash.

    The lake cannot vouch for itself: an older manifest put in the place of a newer one is a perfect
    manifest. Raises Overtaken when another extraction has taken the fence meanwhile.
    """
    sealed = session.execute(
        "UPDATE loadsheet.scope SET sealed_load_id = %s, sealed_manifest = %s, sealed_sha256 = %s "
        "WHERE pipeline = %s AND table_name = %s AND fence = %s",
        (manifest.load_id, name, sha256, manifest.pipeline, manifest.table, manifest.fence),
    ).rowcount
    if sealed != 1:
        raise _overtaken(manifest.pipeline, manifest.table)


def sealed(session: Session, pipeline: str, table: str, load_id: str) -> Sealed:
    """The complete attempt of `load_id`. Raises Superseded when a newer extraction owns the table."""
    row = session.execute(
        "SELECT sealed_manifest, sealed_sha256 FROM loadsheet.scope "
        "WHERE pipeline = %s AND table_name = %s AND sealed_load_id = %s",
        (pipeline, table, load_id),
    ).fetchone()
    if row is None:
        raise _superseded(pipeline, table)
    return Sealed(manifest=row[0], sha256=row[1])


def check(session: Session, manifest: Manifest) -> None:
    """Raises Superseded when a newer extraction owns the table: cheaply, before the work."""
    row = session.execute(
        "SELECT fence FROM loadsheet.scope WHERE pipeline = %s AND table_name = %s",
        (manifest.pipeline, manifest.table),
    ).fetchone()
    _refuse_if_superseded(manifest, row is not None and row[0] == manifest.fence)


def advance(session: Session, manifest: Manifest, load_no: int) -> None:
    """Move the watermark and remember what was read. Last in the transaction; raises Superseded
    unless ours."""
    moved = session.execute(
        "UPDATE loadsheet.scope SET last_load_no = %(load_no)s, content_sha256 = %(content)s, source_oid = %(oid)s, "
        "columns = %(columns)s, source = %(source)s, "
        "watermark = CASE WHEN %(moves)s THEN %(upper)s ELSE watermark END, "
        "cursor = CASE WHEN %(moves)s THEN %(cursor)s ELSE cursor END "
        "WHERE pipeline = %(pipeline)s AND table_name = %(table)s AND fence = %(fence)s",
        {
            "load_no": load_no,
            "content": manifest.content_sha256,
            "oid": manifest.source_oid,
            "columns": json.dumps([asdict(column) for column in manifest.columns]),
            "moves": manifest.moves_watermark,
            "source": json.dumps(manifest.source),
            "upper": manifest.upper,
            "cursor": manifest.cursor,
            "pipeline": manifest.pipeline,
            "table": manifest.table,
            "fence": manifest.fence,
        },
    ).rowcount
    _refuse_if_superseded(manifest, moved == 1)


def _overtaken(pipeline: str, table: str) -> Overtaken:
    return Overtaken(
        f"{pipeline}.{table}: another run extracted or loaded this table meanwhile; retry"
    )


def _refuse_if_superseded(manifest: Manifest, ours: bool) -> None:
    if not ours:
        raise _superseded(
            manifest.pipeline, manifest.table, f" (this load has fence {manifest.fence})"
        )


def _superseded(pipeline: str, table: str, mine: str = "") -> Superseded:
    return Superseded(
        f"{pipeline}.{table}: a newer extraction owns this table{mine}; nothing was written. Re-run the extract step "
        "of this run, or let the newer run load"
    )


# Of pipelines whose table goes there still: one that has moved on to another schema is no concern.
_NEWER = """
SELECT l.pipeline, l.source, s.source_oid FROM loadsheet.load l
JOIN loadsheet.scope s ON s.pipeline = l.pipeline AND s.table_name = l.table_name AND s.target = l.target
WHERE l.target = %s AND l.pipeline <> %s AND l.load_no > %s ORDER BY l.load_no DESC LIMIT 1
"""
_SAME = ("system_identifier", "database", "database_oid")
_REMEDY = (
    "its rows would be overwritten or doubled, so nothing was written. Leave the table out of one pipeline "
    "(under a pattern: `exclude`), or give one another warehouse.schema. To take the table over, read it again: "
    "`loadsheet run {pipeline} --tables {table} --full-refresh` (Airflow: full_refresh in the trigger form)"
)


def refuse_foreign_rows(
    session: Session,
    pipeline: str,
    target: Relation,
    seen: Scope,
    source: dict[str, str],
    source_oid: int,
    appends: bool,
) -> None:
    """Raises Refused when another pipeline has loaded `target` since this one did, with rows of
    another source, or when this one `appends` what the other may have appended already.

    Merged from one source they do each other no harm (the guard of `merging.not_older`), and a
    pipeline that comes to the table for the first time reads it whole: so does one that was
    renamed.
    """
    other = session.execute(_NEWER, (str(target), pipeline, seen.last_load_no or 0)).fetchone()
    if other is None or tables.kind(session, target) is None:
        return
    name, its_source, its_oid = other
    is_foreign = its_oid != source_oid or _differs(its_source, source)
    if is_foreign or appends:
        whose = " from another source" if is_foreign else ""
        raise Refused(
            f"{target} was loaded by the pipeline {name!r}{whose}: {_remedy(pipeline, target)}"
        )


def _differs(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return any(one.get(fact) != other.get(fact) for fact in _SAME)


def _remedy(pipeline: str, target: Relation) -> str:
    return _REMEDY.format(pipeline=pipeline, table=target.name)
