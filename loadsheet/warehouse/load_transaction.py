"""One load: from verified parts in the lake to committed rows, in one warehouse transaction
(docs/protocol.md).

A load names its transaction after its table and its fence, so that a later one finds it in
pg_stat_activity.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import psycopg

from loadsheet.errors import Corrupt, Refused, Superseded
from loadsheet.failpoints import reach
from loadsheet.lake.manifest import Manifest
from loadsheet.lake.parts import Progress, read_parts
from loadsheet.lake.store import Lake
from loadsheet.names import slug
from loadsheet.postgres import Session
from loadsheet.spec.models import Table
from loadsheet.sql import merging
from loadsheet.sql.copying import WireFormat, copy_in
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation, ident
from loadsheet.sql.types import Column
from loadsheet.warehouse import build, drift, fence, ledger, tables
from loadsheet.warehouse.ledger import Effect

_log = logging.getLogger(__name__)

REBUILD = "run a full refresh of this table to rebuild it"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a load did, with remarks for people (drift, duplicates)."""

    effect: Effect
    extracted: int
    notes: tuple[str, ...] = ()


def load(
    session: Session,
    lake: Lake,
    manifest: Manifest,
    name: str,
    target: Relation,
    table: Table,
    progress: Progress,
) -> Loaded:
    """Commit the manifest's rows to `target`, or nothing. Loading the same manifest twice changes
    nothing.

    Raises Corrupt when the lake's bytes are not as promised, Superseded when a newer extraction
    owns the table, Refused when the rows contradict the spec; psycopg errors for trouble with the
    warehouse.
    """
    started = time.monotonic()
    tables.ensure_schema(session, target.schema)
    with session.transaction():
        end_older_tries(session, manifest)
        ledger.lock(session, target)
        reach("load.locked")
        if done := find_committed(session, manifest.load_id):
            return done
        fence.check(session, manifest)
        reach("load.fence_checked")
        work = _Load(session, lake, manifest, target, table, progress)
        try:
            effect = work.replace() if manifest.action == "replace" or work.is_new else work.merge()
        except Refused as error:
            raise Refused(
                f"{target}: {error}" if str(target) not in str(error) else str(error)
            ) from error
        reach("load.applied")
        ledger.record_load(
            session,
            manifest,
            name,
            target,
            work.number,
            effect,
            work.duplicates,
            time.monotonic() - started,
        )
        _log.info("%s: %s, %s", target, manifest.action, effect)
        reach("load.recorded")
        fence.advance(session, manifest, work.number)
        ledger.settle(session, manifest.pipeline, "table", manifest.table)
        reach("load.advanced")
    reach("load.committed")
    return Loaded(effect=effect, extracted=manifest.rows, notes=tuple(work.notes))


class _Load:
    """The work inside the transaction. `number` is drawn under the target's lock, so it rises in
    commit order."""

    def __init__(
        self,
        session: Session,
        lake: Lake,
        manifest: Manifest,
        target: Relation,
        table: Table,
        progress: Progress,
    ):
        self.session, self.lake, self.manifest, self.target = session, lake, manifest, target
        self.table, self.progress = table, progress
        self.number = ledger.draw_number(session)
        self.duplicates = 0
        self.notes: list[str] = []
        existing = existing_columns(session, target)
        self.is_new = not existing
        if self.is_new and manifest.builds_on_target:
            raise Superseded(
                f"{target} is gone since its rows were read, and they are not all; re-run the extract step"
            )
        scope = fence.observe(session, manifest.pipeline, manifest.table)
        self.drift = drift.compare(manifest.columns, manifest.source_oid, existing or {}, scope)
        if existing and table.schema_contract == "freeze":
            drift.refuse_if_frozen(target, self.drift)

    def replace(self) -> Effect:
        """All rows into a fresh table, then that table in the target's place."""
        fresh = Relation(self.target.schema, f"_loadsheet_{self.number}")
        kept = {} if self.is_new else self.drift.kept
        self._create(fresh, kept)
        self._fill(fresh)
        self._number(fresh)
        if not self.is_new:
            self._keep_up()
            self.notes += self.drift.notes
        rows, key = self.manifest.rows - self.duplicates, self.manifest.key
        return build.replace(
            self.session, fresh, rows, self.target, key, self.number, self.table.max_shrink
        )

    def _keep_up(self) -> None:
        """Bring the target as far as its indexes, or all that hangs on it, need to find their
        columns again."""
        dependents = tables.dependents(self.session, self.target)
        if not dependents:
            drift.rename(self.session, self.target, self.drift)
            return
        remedy = drop_first(dependents[0])
        drift.alter(self.session, self.target, self.drift, remedy)
        drift.refuse_changed_key(self.session, self.target, self.manifest.key, remedy)

    def merge(self) -> Effect:
        """The rows into a temporary table, then the difference into the target."""
        drift.refuse_replaced(self.target, self.drift, REBUILD)
        drift.alter(self.session, self.target, self.drift, REBUILD)
        drift.refuse_changed_key(self.session, self.target, self.manifest.key, REBUILD)
        self.notes += self.drift.notes
        incoming = Relation("pg_temp", f"_loadsheet_{self.number}")
        self._create(incoming, {})
        self._fill(incoming)
        if self.manifest.action == "append":
            return build.merge(self.session, incoming, self.target, (), self.number)
        return build.merge(
            self.session, incoming, self.target, self.manifest.key, self.number, self._guard()
        )

    def _create(self, table: Relation, kept: dict[str, str]) -> None:
        temporary, drop = (
            ("TEMPORARY ", " ON COMMIT DROP") if table.schema == "pg_temp" else ("", "")
        )
        columns = column_list(self.manifest.columns, kept)
        self.session.execute(f"CREATE {temporary}TABLE {table.sql} ({columns}){drop}")

    def _fill(self, table: Relation) -> None:
        """COPY every part, checking each against the manifest; then one row per key."""
        rows = size = 0
        with closing(read_parts(self.lake, self.manifest.parts)) as parts:
            for part, blocks in parts:
                rows += self._copy(table, blocks)
                size += part.bytes
                self.progress(rows, size)
                reach("load.part_copied")
        if rows != self.manifest.rows:
            raise Corrupt(
                f"the lake holds {rows} rows, the manifest says {self.manifest.rows}; run the extract step again"
            )
        if self.manifest.key and not self.manifest.key_is_enforced:
            cursor, kind = self.manifest.cursor, self.manifest.cursor_type
            newest = merging.ordered(cursor, kind) if cursor and kind else None
            self.duplicates = build.one_row_per_key(self.session, table, self.manifest.key, newest)
            if self.duplicates:
                self.notes.append(
                    f"{self.duplicates} rows shared a key with a newer one and were left out"
                )
        reach("load.filled")

    def _number(self, table: Relation) -> None:
        """Give all rows the load's number, in the catalog alone: added now, the column costs no
        byte of a row.

        The default is dropped at once, so that nobody else's rows get it.
        """
        self.session.execute(
            f"ALTER TABLE {table.sql} ADD COLUMN {LOAD_ID} bigint NOT NULL DEFAULT {self.number}"
        )
        self.session.execute(f"ALTER TABLE {table.sql} ALTER {LOAD_ID} DROP DEFAULT")

    def _copy(self, table: Relation, blocks: Iterable[bytes]) -> int:
        wire: WireFormat = "binary" if self.manifest.format == "binary" else "csv"
        names = [c.name for c in self.manifest.columns]
        fresh = table.schema != "pg_temp"
        statement = copy_in(table.sql, names, wire, self.session.info.server_version, freeze=fresh)
        try:
            with self.session.cursor() as cursor:
                with cursor.copy(statement) as copy:
                    for block in blocks:
                        copy.write(block)
                return cursor.rowcount
        except psycopg.errors.DataError as error:
            raise Refused(
                f"{self.target} cannot hold what the source sent: {error.diag.message_primary}"
            ) from error

    def _guard(self) -> str:
        cursor, type_name = self.manifest.cursor, self.manifest.cursor_type
        if not cursor or not type_name:
            return ""
        read_at = ledger.newest_reading(
            self.session, self.target, self.manifest.clock or self.manifest.read_at
        )
        return merging.not_older(cursor, type_name, f"CAST('{read_at}' AS {type_name})")


def drop_first(dependent: str) -> str:
    """What to do so that a table can be rebuilt on which something depends."""
    return f"drop {dependent}, which depends on the table, so that it can be rebuilt"


def existing_columns(session: Session, target: Relation) -> dict[str, str]:
    """The target's columns and types; empty when it is yet to be made. Raises Refused when somebody
    else made it."""
    columns = tables.columns_of(session, target)
    if columns and LOAD_ID not in columns:
        raise Refused(
            f"{target} exists and was not made by Loadsheet: drop or rename it, or choose another schema"
        )
    return columns


def column_list(columns: Sequence[Column], kept: Mapping[str, str]) -> str:
    """The columns of CREATE TABLE: those that arrive, then those that only the target has."""
    arriving = [f"{ident(c.name)} {c.type}" for c in columns]
    return ", ".join(arriving + [f"{ident(name)} {type_name}" for name, type_name in kept.items()])


def find_committed(session: Session, load_id: str) -> Loaded | None:
    """What the load did, if it is committed already: by an earlier try, or by this one whose COMMIT
    got no answer."""
    done = ledger.committed(session, load_id)
    return (
        Loaded(effect=done[0], extracted=done[1], notes=("was committed already",))
        if done
        else None
    )


# Who holds an older fence can no longer commit (`fence.advance`). Who holds the same one is another
# try of the same load: of two, only the one that connected first is ended, so that they never end
# each other, and one that wakes up never ends the try that has taken over. One's own role's
# sessions need no further right.
_END_OLDER = """
WITH try AS (
    SELECT pid, backend_start AS since, substring(application_name FROM %s)::bigint AS fence FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user
)
SELECT pg_terminate_backend(old.pid) FROM try old, try me
WHERE me.pid = pg_backend_pid() AND (old.fence < me.fence OR old.fence = me.fence AND old.since < me.since)
"""
_LONGEST_NAME = 63  # the server cuts application_name there


def end_older_tries(session: Session, manifest: Manifest) -> None:
    """Name the open transaction after the load; end the sessions of its older tries and of the
    table's older loads.

    Call it before the first lock is taken. Whoever is ended meets a lost session, and asks the
    ledger.
    """
    table = hashlib.sha256(json.dumps([manifest.pipeline, manifest.table]).encode()).hexdigest()[
        :16
    ]
    prefix = f"loadsheet:load:{table}:"
    name = f"{prefix}{manifest.fence}:{slug(manifest.table)}"[:_LONGEST_NAME]
    session.execute("SELECT set_config('application_name', %s, true)", (name,))
    session.execute(_END_OLDER, (f"^{prefix}([0-9]{{1,18}}):",))
