"""The ledger: what every load and transform did, and the last failure of each.

Its tables are in the warehouse's schema `loadsheet` (ledger.sql).
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, Literal

from loadsheet import __version__
from loadsheet.errors import Refused
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import Manifest
from loadsheet.postgres import Session
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation, literal
from loadsheet.warehouse import tables
from loadsheet.wording import counted

_log = logging.getLogger(__name__)

VERSION = 9
_OLDEST_READABLE = 2
_VERSION = """
SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'loadsheet'
"""
# `since` is the first failure since the last success.
_RECORD_FAILURE = """
INSERT INTO loadsheet.failure AS f
    (pipeline, kind, name, target, step, run_id, code, message, since, failed_at)
SELECT %(pipeline)s, %(kind)s, %(name)s, %(target)s, %(step)s, %(run_id)s, %(code)s, %(message)s,
    now, now
FROM (SELECT clock_timestamp() AS now) clock
ON CONFLICT (pipeline, kind, name, target) DO UPDATE SET
    step = excluded.step, run_id = excluded.run_id, code = excluded.code,
    message = excluded.message,
    since = CASE WHEN f.worked_at IS NULL THEN f.since ELSE excluded.since END,
    failed_at = excluded.failed_at, worked_at = NULL
"""
# A load of the whole table that changed it in place has kept the rows that were marked as deleted
# before. The last is a load into a target that another user had emptied.
IS_WHOLE = """(replaced
    OR action = 'replace' AND coalesce(counted = extracted - duplicates, true)
    OR action <> 'fill'
        AND coalesce(counted = inserted AND inserted = extracted - duplicates, false))"""
"""SQL: whether all rows that the target had after the load were its own."""

Kind = Literal["table", "transform"]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a load or a transform did to its target, in rows."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    replaced: bool = False
    """Every row was rewritten."""

    @property
    def changed(self) -> bool:
        """Whether the target may have other rows than before."""
        return self.replaced or self.inserted + self.updated + self.deleted > 0

    def __str__(self) -> str:
        if self.replaced:
            return f"{counted(self.inserted, 'row')}, rebuilt"
        return f"{self.inserted:,} inserted, {self.updated:,} updated, {self.deleted:,} deleted"


CHECK = "check "
"""How the code of a failure begins that no server gave: rows do not pass a check."""
# Integrity constraint violations, and a failed ASSERT.
_OF_CONSTRAINTS = ("SQLSTATE 23", "SQLSTATE P0004")


def is_of_check(code: str) -> bool:
    """Whether rows do not pass a check, by the code of the failure."""
    return code.startswith((CHECK, *_OF_CONSTRAINTS))


def ensure(session: Session) -> None:
    """Create the ledger if it does not exist, and bring an older one up to date.

    Raises Refused when a newer Loadsheet created it.
    """
    found = version(session)
    if found == VERSION:
        return
    with session.transaction():
        tables.lock_creation(session)
        # Another session may have created it while this one waited for the lock.
        found = version(session)
        if found < VERSION:
            _log.info("bringing the ledger from version %s to %s", found, VERSION)
            session.execute(resources.files(__package__).joinpath("ledger.sql").read_bytes())
            reach("ledger.created")
            session.execute(f"COMMENT ON SCHEMA loadsheet IS 'ledger version {VERSION}'")
    refuse_newer(found)


def refuse_newer(found: int) -> None:
    """Raises Refused when a newer Loadsheet created the ledger, whose version is `found`."""
    if found > VERSION:
        raise Refused(
            f"the warehouse's ledger has version {found}, but this Loadsheet knows {VERSION}: "
            "update Loadsheet"
        )


def is_readable(found: int) -> bool:
    """Whether commands that change nothing can read a ledger of the version `found`. Later versions
    added nothing that they cannot do without."""
    return found >= _OLDEST_READABLE


def version(session: Session) -> int:
    """The ledger's version; 0 if there is no ledger, or one from before it had a version."""
    query, values = version_question()
    return as_version(session.execute(query, values).fetchall())


def version_question() -> tuple[str, Sequence[str]]:
    """What `version` asks, for `postgres.ask_together`."""
    return _VERSION, ()


def as_version(answer: Sequence[tuple[Any, ...]]) -> int:
    """The version by the answer to `version_question`."""
    row = answer[0] if answer else None
    match = re.search(r"ledger version (\d+)", row[0] or "") if row else None
    return int(match[1]) if match else 0


def lock_target(session: Session, target: Relation, shared: bool = False) -> None:
    """Wait for the target's lock and hold it until the transaction ends.

    All writers of a target take it. `shared` locks wait for writers only.
    """
    kind = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    # `engine.lock_holders` looks for the holders of the lock under the same key.
    session.execute(f"SELECT {kind}(hashtextextended(%s, 0))", (f"loadsheet:{target}",))


def lock_loads(session: Session, pipeline: str, shared: bool = False) -> None:
    """Wait for the lock of the pipeline's loads in the lake and hold it until the transaction ends.

    Restores share it; what removes loads takes it alone, because a restore may need them.
    """
    kind = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    session.execute(f"SELECT {kind}(hashtextextended(%s, 0))", (f"loadsheet:lake:{pipeline}",))


def name_transaction(session: Session, work: str) -> None:
    """Name the open transaction after its `work` (`restore:staging.orders`), for whoever waits for
    its locks and asks who holds them."""
    session.execute("SELECT set_config('application_name', %s, true)", (f"loadsheet:{work}",))


def is_written_now(session: Session, target: Relation) -> bool:
    """Whether another session holds the target's lock to write; if not, none can take it until the
    transaction ends."""
    row = session.execute(
        "SELECT pg_try_advisory_xact_lock_shared(hashtextextended(%s, 0))", (f"loadsheet:{target}",)
    ).fetchone()
    return row == (False,)


def next_load_id(session: Session, pipeline: str, table: str, target: Relation, run_id: str) -> str:
    """The id of this run's next load of the table into the target.

    Every retry gets the same id until the load is committed.
    """
    row = session.execute(
        "SELECT count(*) FROM loadsheet.load "
        "WHERE pipeline = %s AND table_name = %s AND target = %s AND run_id = %s",
        (pipeline, table, str(target), run_id),
    ).fetchone()
    loads_before = row[0] if row else 0
    identity = json.dumps([pipeline, table, str(target), run_id, loads_before])
    return hashlib.sha256(identity.encode()).hexdigest()[:20]


def committed_load(session: Session, load_id: str) -> tuple[Effect, int] | None:
    """The load's effect and the number of rows it carried; None if it is not committed."""
    query, values = committed_question(load_id)
    return as_committed(session.execute(query, values).fetchall())


def committed_question(load_id: str) -> tuple[str, Sequence[str]]:
    """What `committed_load` asks, for `postgres.ask_together`."""
    query = (
        "SELECT inserted, updated, deleted, replaced, extracted FROM loadsheet.load"
        " WHERE load_id = %s"
    )
    return query, (load_id,)


def as_committed(answer: Sequence[tuple[Any, ...]]) -> tuple[Effect, int] | None:
    """The load by the answer to `committed_question`."""
    if not answer:
        return None
    inserted, updated, deleted, replaced, extracted = answer[0]
    effect = Effect(inserted=inserted, updated=updated, deleted=deleted, replaced=replaced)
    return effect, extracted


def newest_clock(session: Session, target: Relation, clock: str) -> str:
    """The source's clock at the time when the newest of the target's rows were read.

    `clock` is the time of the load under way; an earlier load may have read later.
    """
    row = session.execute(
        "SELECT clock FROM loadsheet.load "
        "WHERE target = %s AND clock::timestamptz > %s::timestamptz "
        "ORDER BY clock::timestamptz DESC LIMIT 1",
        (str(target), clock),
    ).fetchone()
    return str(row[0]) if row else clock


def has_loads_of_others(session: Session, target: Relation, pipeline: str) -> bool:
    """Whether another pipeline has loaded the target."""
    row = session.execute(
        "SELECT EXISTS (SELECT FROM loadsheet.load WHERE target = %s AND pipeline <> %s)",
        (str(target), pipeline),
    ).fetchone()
    return row == (True,)


def is_of_others(pipeline: str) -> str:
    """SQL: whether another pipeline has written the target's row `t`."""
    return (
        f"EXISTS (SELECT FROM loadsheet.load WHERE load_no = t.{LOAD_ID}"
        f" AND pipeline <> {literal(pipeline)})"
    )


def draw_number(session: Session) -> int:
    """The next number of a load or a transform's run. Call it under the target's lock, so that
    numbers rise in commit order."""
    row = session.execute("SELECT nextval('loadsheet.load_no')").fetchone()
    assert row
    return int(row[0])


def record_load(
    session: Session,
    manifest: Manifest,
    name: str,
    sha256: str | None,
    target: Relation,
    load_no: int,
    effect: Effect,
    duplicates: int,
    gone: int,
    counted: int | None,
    seconds: float,
    restored: int | None = None,
) -> None:
    """Write the load's row.

    `name` and `sha256` are those of the manifest's object, `duplicates` the number of rows that
    were left out, `gone` those of the target's that were deleted or marked because the source has
    them no longer, `counted` the target's rows where earlier loads do not explain them,
    `seconds` how long the load has taken so far, `restored` the number of the load whose rows a
    restore has brought back.
    """
    # A table may have thousands of partitions. The scope keeps them, for the next load.
    source = dict(manifest.source)
    source.pop("leaves", None)
    row = {
        "load_id": manifest.load_id,
        "load_no": load_no,
        "pipeline": manifest.pipeline,
        "table_name": manifest.table,
        "target": str(target),
        "run_id": manifest.run_id,
        "fence": manifest.fence,
        "action": manifest.action if restored is None else "restore",
        "format": manifest.format,
        "extracted": manifest.rows,
        "duplicates": duplicates,
        "gone": gone,
        "counted": counted,
        **asdict(effect),
        "bytes": manifest.size,
        "lower_cursor": manifest.lower,
        "upper_cursor": manifest.upper,
        "held_by": manifest.held_by,
        "clock": manifest.clock or manifest.read_at,
        "manifest": name,
        "manifest_sha256": sha256,
        "restored": restored,
        "source": json.dumps(source),
        "version": __version__,
        "extract_seconds": manifest.seconds,
        "load_seconds": seconds,
    }
    _insert(session, "loadsheet.load", row)


def record_transform(session: Session, row: dict[str, Any]) -> None:
    """Write the row of a transform's run."""
    _insert(session, "loadsheet.transform_run", row)


def _insert(session: Session, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(row)
    values = ", ".join(f"%({name})s" for name in row)
    session.execute(f"INSERT INTO {table} ({names}) VALUES ({values})", row)


def record_failure(
    session: Session,
    pipeline: str,
    kind: Kind,
    target: Relation,
    *,
    step: str,
    run_id: str,
    code: str,
    message: str,
) -> None:
    """Record that `step` failed. `message` must contain no secrets and no row data."""
    session.execute(
        _RECORD_FAILURE,
        {
            "pipeline": pipeline,
            "kind": kind,
            "name": target.name,
            "target": str(target),
            "step": step,
            "run_id": run_id,
            "code": code,
            "message": message,
        },
    )


def clear_failure(session: Session, pipeline: str, kind: Kind, target: Relation) -> None:
    """Record that the table or transform works again. Writes nothing if it had not failed."""
    clear_failures(session, pipeline, kind, [target])


def clear_failures(
    session: Session, pipeline: str, kind: Kind, targets: Sequence[Relation]
) -> None:
    """As `clear_failure`, for several tables or transforms of one schema."""
    # Earlier versions recorded no target.
    session.execute(
        "UPDATE loadsheet.failure SET worked_at = clock_timestamp() "
        "WHERE pipeline = %s AND kind = %s AND name = ANY (%s) AND target = ANY (%s)"
        " AND worked_at IS NULL",
        (pipeline, kind, [one.name for one in targets], [*map(str, targets), ""]),
    )
