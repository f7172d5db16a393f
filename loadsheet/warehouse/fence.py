"""The fence and watermark of each table.

The fence is a number that each extraction raises. Only the load of the newest extraction may
commit, which makes stale workers harmless (docs/protocol.md). In the order of the protocol:
`scope.read_scope`, `take_fence`, `seal_attempt`, `sealed_attempt`, `check_fence`,
`advance_watermark`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from loadsheet.errors import Fenced, Superseded
from loadsheet.lake.manifest import Manifest
from loadsheet.postgres import Session
from loadsheet.spec.models import Table
from loadsheet.sql.text import Relation
from loadsheet.warehouse import current, integrity, intervals
from loadsheet.warehouse.scope import Scope, read_scope
from loadsheet.warehouse.unfilled import Unfilled

_log = logging.getLogger(__name__)

# A new fence also breaks the seal of the attempt before: its load can no longer commit, and nothing
# more is read for it (`shared_read`). It is above those of the table's other targets, because the
# attempts of all are in one folder of the lake.
_RAISED = """fence = 1 + (
        SELECT max(fence) FROM loadsheet.scope
        WHERE pipeline = s.pipeline AND table_name = s.table_name),
    sealed_load_id = NULL, sealed_manifest = NULL, sealed_sha256 = NULL, shared_read = NULL
"""
_OVERTAKE_PENDING = f"""
UPDATE loadsheet.scope s SET {_RAISED}
WHERE s.pipeline = %s AND s.table_name = ANY (%s) AND s.target = ANY (%s)
  AND s.fence > (SELECT l.fence FROM loadsheet.load l WHERE l.load_no = s.last_load_no)
"""
_TAKE_FENCE = f"""
UPDATE loadsheet.scope s SET storage = %(storage)s, {_RAISED}
WHERE pipeline = %(pipeline)s AND table_name = %(table)s AND target = %(target)s
  AND fence = %(fence)s AND last_load_no IS NOT DISTINCT FROM %(last_load_no)s
  AND watermark IS NOT DISTINCT FROM %(watermark)s
RETURNING fence
"""
_SEAL = """
UPDATE loadsheet.scope SET sealed_load_id = %s, sealed_manifest = %s, sealed_sha256 = %s,
    shared_read = NULL
WHERE pipeline = %s AND table_name = %s AND target = %s AND fence = %s
"""
_SEALED = """
SELECT sealed_manifest, sealed_sha256 FROM loadsheet.scope
WHERE pipeline = %s AND table_name = %s AND target = %s AND sealed_load_id = %s
"""
# Columns that are no longer read stay in the list as long as the target has them: their values are
# the source's, not the user's.
_ADVANCE = f"""
UPDATE loadsheet.scope SET last_load_no = %(load_no)s, content_sha256 = %(content)s,
    source_oid = %(oid)s, source = %(source)s,
    columns = %(columns)s::jsonb || coalesce((
        SELECT jsonb_agg(old || '{{"dropped": true}}') FROM jsonb_array_elements(columns) old
        JOIN pg_attribute ON attrelid = to_regclass(%(target_sql)s)
            AND attname = old ->> 'name' AND NOT attisdropped
        WHERE NOT old ->> 'name' = ANY (%(names)s)), '[]'),
    storage = ({integrity.STORAGE}), intervals = {intervals.ADVANCED}, unfilled = %(unfilled)s,
    watermark = CASE WHEN %(moves)s THEN %(upper)s ELSE watermark END,
    cursor = CASE WHEN %(moves)s THEN %(cursor)s ELSE cursor END,
    deletes_checked_at = coalesce(CAST(%(checked)s AS timestamptz), deletes_checked_at),
    deletes_removed = CASE WHEN CAST(%(checked)s AS timestamptz) IS NULL THEN deletes_removed
        ELSE %(gone)s END,
    current_at = {current.ADVANCED}, waits_for = %(held_by)s
WHERE pipeline = %(pipeline)s AND table_name = %(table)s AND target = %(target)s
  AND fence = %(fence)s
"""
_IS_STILL = """
SELECT FROM loadsheet.scope
WHERE pipeline = %s AND table_name = %s AND target = %s AND fence = %s
  AND last_load_no IS NOT DISTINCT FROM %s AND watermark IS NOT DISTINCT FROM %s
FOR UPDATE
"""
# In an order that all runs share, so that none waits for another in a circle.
_ARE_STILL = """
SELECT table_name FROM loadsheet.scope s JOIN unnest(
    CAST(%s AS text[]), CAST(%s AS text[]), CAST(%s AS bigint[]), CAST(%s AS bigint[]),
    CAST(%s AS text[])
) AS seen (table_name, target, fence, last_load_no, watermark) USING (table_name, target)
WHERE s.pipeline = %s AND s.fence = seen.fence AND s.last_load_no = seen.last_load_no
    AND s.watermark IS NOT DISTINCT FROM seen.watermark
ORDER BY table_name FOR UPDATE OF s
"""
_RECORD_CHECK = """
UPDATE loadsheet.scope SET deletes_checked_at = %s, deletes_removed = %s
WHERE pipeline = %s AND table_name = %s AND target = %s
"""
# Rows that were written again with the same values belong to other transactions now.
_SEEN_AGAIN = """
UPDATE loadsheet.scope s SET source_oid = seen.oid, source = s.source || seen.facts
FROM unnest(
    CAST(%s AS text[]), CAST(%s AS text[]), CAST(%s AS oid[]), CAST(%s AS jsonb[])
) AS seen (table_name, target, oid, facts)
WHERE s.pipeline = %s AND s.table_name = seen.table_name AND s.target = seen.target
"""
# A fill reads no rows that are new, so it leaves the watermark and what belongs to it. But a source
# that falls back behind it has lost values that were read.
_FILLED = """
UPDATE loadsheet.scope SET last_load_no = %(load_no)s, unfilled = %(unfilled)s,
    source = source || %(lsn)s
WHERE pipeline = %(pipeline)s AND table_name = %(table)s AND target = %(target)s
  AND fence = %(fence)s
"""
# Intervals without rows have no load: only the scope knows them, as long as nothing has followed.
_RESTORE = f"""
UPDATE loadsheet.scope s SET {_RAISED}, last_load_no = %(load_no)s,
    watermark = %(watermark)s, cursor = %(cursor)s, content_sha256 = %(content)s,
    source_oid = %(oid)s, source = %(source)s, columns = %(columns)s,
    storage = ({integrity.STORAGE}), unfilled = %(unfilled)s, deletes_checked_at = NULL,
    deletes_removed = NULL, current_at = NULL, waits_for = '',
    intervals = CASE WHEN last_load_no = %(as_of)s THEN intervals ELSE coalesce((
        SELECT range_agg(tstzrange(start, stop))
        FROM unnest(%(starts)s::timestamptz[], %(stops)s::timestamptz[]) AS read (start, stop)
    ), '{{}}') END
WHERE pipeline = %(pipeline)s AND table_name = %(table)s AND target = %(target)s
RETURNING fence
"""


@dataclass(frozen=True, kw_only=True)
class SealedAttempt:
    """The attempt that a load must read: its manifest's object name and that object's SHA-256."""

    manifest: str
    sha256: str


def take_fence(
    session: Session,
    pipeline: str,
    table: str,
    target: Relation,
    seen: Scope,
    storage: str | None,
) -> int:
    """Raise the table's fence and return it, if its scope is still what this extraction has `seen`.

    An extraction bases all decisions on the scope, so one statement both checks it and takes the
    fence. `storage` is the target's, as the extraction has checked it. Raises Fenced when
    another extraction or load changed the scope in the meantime.
    """
    _lock_fence(session, pipeline, table, target, is_known=seen.fence > 0)
    row = session.execute(
        _TAKE_FENCE,
        {
            "target": str(target),
            "storage": storage,
            "pipeline": pipeline,
            "table": table,
            "fence": seen.fence,
            "last_load_no": seen.last_load_no,
            "watermark": seen.watermark,
        },
    ).fetchone()
    if row is None:
        raise overtaken(pipeline, table)
    _log.debug("%s.%s: took fence %s", pipeline, table, row[0])
    return int(row[0])


def refuse_overtaken(
    session: Session, pipeline: str, table: str, target: Relation, seen: Scope
) -> None:
    """Raises Fenced where the table's scope is no longer what this extraction has `seen`: in a
    snapshot of `session`, the target's rows may be others, too."""
    now = read_scope(session, pipeline, table, target)
    if (now.fence, now.last_load_no, now.watermark) != (
        seen.fence,
        seen.last_load_no,
        seen.watermark,
    ):
        raise overtaken(pipeline, table)


def _lock_fence(
    session: Session, pipeline: str, table: str, target: Relation, is_known: bool = False
) -> None:
    """Make sure that the scope has a row, unless it `is_known` to have had one, and that no other
    session numbers an attempt now."""
    # Before a table's first extraction there is no row that an UPDATE could check.
    if not is_known:
        session.execute(
            "INSERT INTO loadsheet.scope (pipeline, table_name, target) VALUES (%s, %s, %s) "
            "ON CONFLICT DO NOTHING",
            (pipeline, table, str(target)),
        )
    # Two targets of one table may take theirs at the same time, and each must have its own number.
    session.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
        (f"loadsheet:fence:{pipeline}:{table}",),
    )


def seal_attempt(
    session: Session, manifest: Manifest, target: Relation, name: str, sha256: str
) -> None:
    """Record that the attempt is complete: its load reads only the manifest `name` with this hash.

    The lake alone proves nothing: an older manifest in the place of a newer one is a valid
    manifest. Raises Fenced when another extraction has taken the fence in the meantime.
    """
    scope = (manifest.pipeline, manifest.table, str(target))
    sealed = session.execute(
        _SEAL, (manifest.load_id, name, sha256, *scope, manifest.fence)
    ).rowcount
    if sealed != 1:
        raise overtaken(manifest.pipeline, manifest.table)


def sealed_attempt(
    session: Session, pipeline: str, table: str, target: Relation, load_id: str
) -> SealedAttempt:
    """The complete attempt of `load_id`. Raises Superseded when a newer extraction owns the table,
    and for an attempt that was extracted for another target."""
    query, values = sealed_question(pipeline, table, target, load_id)
    return as_sealed(pipeline, table, session.execute(query, values).fetchall())


def sealed_question(
    pipeline: str, table: str, target: Relation, load_id: str
) -> tuple[str, Sequence[str]]:
    """What `sealed_attempt` asks, for `postgres.ask_together`."""
    return _SEALED, (pipeline, table, str(target), load_id)


def as_sealed(pipeline: str, table: str, answer: Sequence[tuple[Any, ...]]) -> SealedAttempt:
    """The attempt by the answer to `sealed_question`; raises as `sealed_attempt`."""
    if not answer:
        raise _superseded(pipeline, table)
    manifest, sha256 = answer[0]
    return SealedAttempt(manifest=manifest, sha256=sha256)


@dataclass(frozen=True, kw_only=True)
class SeenAgain:
    """A table whose rows were written again, all with the values that its last load has left."""

    oid: int
    """The source's."""
    facts: Mapping[str, str]
    """The source's identity, and what its transactions were when the rows were read."""


def overtake_unchanged(
    session: Session,
    pipeline: str,
    seen: Mapping[Relation, Scope],
    again: Mapping[Relation, SeenAgain],
) -> set[Relation]:
    """Those of the targets whose scope is still what was `seen`. It stays so until the transaction
    ends, and what `record_unchanged` records is recorded of them."""
    targets = list(seen)
    scopes = [seen[target] for target in targets]
    values = (
        [target.name for target in targets],
        [str(target) for target in targets],
        [scope.fence for scope in scopes],
        [scope.last_load_no for scope in scopes],
        [scope.watermark for scope in scopes],
        pipeline,
    )
    names = {name for (name,) in session.execute(_ARE_STILL, values)}
    still = {target for target in targets if target.name in names}
    session.execute(_OVERTAKE_PENDING, (pipeline, [*names], [*map(str, still)]))
    _record_again(session, pipeline, {name: again[name] for name in still & again.keys()})
    return still


def _record_again(session: Session, pipeline: str, again: Mapping[Relation, SeenAgain]) -> None:
    if not again:
        return
    values = (
        [target.name for target in again],
        [str(target) for target in again],
        [one.oid for one in again.values()],
        [json.dumps(dict(one.facts)) for one in again.values()],
        pipeline,
    )
    session.execute(_SEEN_AGAIN, values)


def record_unchanged(
    session: Session,
    pipeline: str,
    table: str,
    target: Relation,
    seen: Scope,
    fence: int,
    checked_at: str | None,
    gone_rows: int,
    again: SeenAgain | None,
) -> None:
    """Record that an extraction has compared the whole table with what its last load has left, and
    there is nothing to load. `fence` is the extraction's, or what it has `seen`; `checked_at` is
    the source's clock where it has searched for deleted rows, `gone_rows` how many it has found;
    `again` where rows were written again with the same values. A crash of the source must no longer
    take back what it tells.

    An extraction that was sealed before and not loaded is overtaken: it is older, and a row that
    was gone then may have come back. Raises Fenced where its load has been committed meanwhile, or
    another extraction has begun: the target may be another than what was compared.
    """
    names = (pipeline, table, str(target))
    with session.transaction():
        if not _is_still(session, names, fence, seen):
            raise overtaken(pipeline, table)
        session.execute(_OVERTAKE_PENDING, (pipeline, [table], [str(target)]))
        if checked_at:
            session.execute(_RECORD_CHECK, (checked_at, gone_rows, *names))
        _record_again(session, pipeline, {target: again} if again else {})


# Separate, so that a test can show what happens without it.
def _is_still(session: Session, names: tuple[str, str, str], fence: int, seen: Scope) -> bool:
    """Whether the scope is what was `seen`, with this fence; then it stays so until the transaction
    ends."""
    values = (*names, fence, seen.last_load_no, seen.watermark)
    return session.execute(_IS_STILL, values).fetchone() is not None


def check_fence(session: Session, manifest: Manifest, target: Relation) -> None:
    """Raises Superseded when a newer extraction owns the table.

    A cheap check before the work; `advance_watermark` is the one that counts.
    """
    row = session.execute(
        "SELECT fence FROM loadsheet.scope WHERE pipeline = %s AND table_name = %s AND target = %s",
        (manifest.pipeline, manifest.table, str(target)),
    ).fetchone()
    _refuse_if_superseded(manifest, row is not None and row[0] == manifest.fence)


def advance_watermark(
    session: Session,
    manifest: Manifest,
    target: Relation,
    table: Table,
    load_no: int,
    left: Mapping[str, str] = MappingProxyType({}),
    lacking: Unfilled | None = None,
) -> None:
    """Move the watermark and record what was read, and the target's storage. `left` are the columns
    whose type in the target is that of an earlier load, `lacking` those that older rows have no
    values of.

    Must come last in the load's transaction. Raises Superseded unless the fence is still the
    manifest's.
    """
    columns = [asdict(column) for column in manifest.columns]
    for column in columns:
        if column["name"] in left:
            column["left"] = left[column["name"]]
    moved = session.execute(
        _ADVANCE,
        {
            "load_no": load_no,
            "content": manifest.content_sha256,
            "oid": manifest.source_oid,
            "columns": json.dumps(columns),
            "names": [column.name for column in manifest.columns],
            "unfilled": lacking.to_json() if lacking else None,
            "moves": manifest.moves_watermark,
            "source": json.dumps(manifest.source),
            "upper": manifest.upper,
            "cursor": manifest.cursor,
            "checked": manifest.deletes_checked_at,
            "gone": manifest.gone_found,
            "target_sql": target.sql,
            "pipeline": manifest.pipeline,
            "table": manifest.table,
            "target": str(target),
            "fence": manifest.fence,
            **intervals.advanced(table, manifest),
            **current.advanced(manifest),
        },
    ).rowcount
    _refuse_if_superseded(manifest, moved == 1)
    if manifest.moves_watermark:
        _log.debug("%s.%s: moved the watermark", manifest.pipeline, manifest.table)


def record_fill(
    session: Session,
    manifest: Manifest,
    target: Relation,
    load_no: int,
    lacking: Unfilled | None,
) -> None:
    """Record that a range of older rows is filled, which leaves the watermark where it is.
    `lacking` is what is left to fill.

    Must come last in the load's transaction. Raises Superseded unless the fence is still the
    manifest's.
    """
    recorded = session.execute(
        _FILLED,
        {
            "load_no": load_no,
            "unfilled": lacking.to_json() if lacking else None,
            "lsn": json.dumps(position(manifest)),
            "pipeline": manifest.pipeline,
            "table": manifest.table,
            "target": str(target),
            "fence": manifest.fence,
        },
    ).rowcount
    _refuse_if_superseded(manifest, recorded == 1)


def position(manifest: Manifest) -> dict[str, str]:
    """Of the source's recorded facts, how far it was written when the rows were read."""
    return {name: manifest.source[name] for name in ("lsn",) if name in manifest.source}


def restore(
    session: Session,
    pipeline: str,
    table: str,
    target: Relation,
    scope: Scope,
    columns: Sequence[Mapping[str, Any]],
    lacking: Unfilled | None,
    reads: Sequence[tuple[Any, Any]],
    load_no: int,
    as_of: int,
) -> int:
    """Make the table's scope what it was after the load `as_of`, and raise its fence, which is
    returned: no extraction or load under way can commit.

    `scope` and the intervals `reads` are those of then, `columns` the target's now. Of those that
    are `lacking`, older rows have no values. `load_no` is the restore's number. The next search
    for deleted rows is due at once: rows that one has removed since are there again. Call it last
    in the transaction that has made the target's rows.
    """
    _lock_fence(session, pipeline, table, target)
    row = session.execute(
        _RESTORE,
        {
            "load_no": load_no,
            "watermark": scope.watermark,
            "cursor": scope.cursor,
            "content": scope.content_sha256,
            "oid": scope.source_oid,
            "source": json.dumps(scope.source),
            "columns": json.dumps(columns),
            "unfilled": lacking.to_json() if lacking else None,
            "target_sql": target.sql,
            "as_of": as_of,
            "starts": [start for start, _ in reads],
            "stops": [stop for _, stop in reads],
            "pipeline": pipeline,
            "table": table,
            "target": str(target),
        },
    ).fetchone()
    assert row
    return int(row[0])


def overtaken(pipeline: str, table: str) -> Fenced:
    """What is raised where another extraction or load has changed the table meanwhile."""
    return Fenced(
        f"{pipeline}.{table}: another run extracted or loaded this table meanwhile; retry"
    )


# Separate, so that a test can show what happens without the fence.
def _refuse_if_superseded(manifest: Manifest, has_fence: bool) -> None:
    if not has_fence:
        raise _superseded(
            manifest.pipeline, manifest.table, f" (this load has fence {manifest.fence})"
        )


def _superseded(pipeline: str, table: str, fence: str = "") -> Superseded:
    return Superseded(
        f"{pipeline}.{table}: a newer extraction owns this table{fence}; nothing was written"
    )
