"""Whether a target is still what the ledger says: the same table, with the rows of its loads.

The ledger says how far a table has come. A target that was truncated, restored from a backup or
made again without Loadsheet is not that far, and neither is the ledger if it was restored itself:
an increment would leave rows out, or append some again.

The target's storage is compared first, which costs a lookup. Only where it differs (also after
VACUUM FULL or CLUSTER) are the target's rows counted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from loadsheet.answers import at
from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation
from loadsheet.warehouse import belongings, tables
from loadsheet.wording import counted

_log = logging.getLogger(__name__)

# TRUNCATE and a rewrite give a table a new file; dropping and restoring one a new oid. The ledger's
# own file, because a ledger that was restored from a backup tells of an earlier target.
STORAGE = """
SELECT concat_ws(' ', target.oid, pg_relation_filenode(target.oid), scope.oid,
    pg_relation_filenode(scope.oid))
FROM pg_class target, pg_class scope
WHERE target.oid = to_regclass(%(target_sql)s) AND scope.oid = to_regclass('loadsheet.scope')
"""
"""What identifies the storage of the target and of the ledger."""
# Flags of the catalog instead of a look for what they stand for: they may be set for nothing, and
# such a target is looked at by `observe`.
_UNTOUCHED = """
SELECT known.place, concat_ws(' ', target.oid, pg_relation_filenode(target.oid), scope.oid,
    pg_relation_filenode(scope.oid)) = known.storage
FROM unnest(%(targets)s::text[], %(storages)s::text[]) WITH ORDINALITY
    AS known (target, storage, place)
JOIN pg_class target ON target.oid = to_regclass(known.target), pg_class scope
WHERE scope.oid = to_regclass('loadsheet.scope') AND target.relkind = 'r'
    AND NOT (target.relhassubclass OR target.relhasrules OR target.relrowsecurity)
    AND has_table_privilege(target.oid, 'SELECT')
"""

# What the target's loads, by all pipelines, have left in it: the rows after the last load that says
# so (it has sent the whole table, or counted), and what later ones have added and deleted; and
# the newest load that wrote rows, and whether another has counted rows of unknown loads since.
_LEDGER = """
WITH loads AS (
    SELECT load_no, counted IS NOT NULL AS is_counted,
        action = 'replace' OR replaced OR counted IS NOT NULL AS is_whole,
        coalesce(counted, extracted - duplicates) AS rows, inserted, updated, deleted
    FROM loadsheet.load WHERE target = %s
), last AS (
    SELECT coalesce(max(load_no) FILTER (WHERE is_whole), 0) AS whole,
        max(load_no) FILTER (WHERE inserted + updated > 0) AS written,
        max(load_no) FILTER (WHERE is_counted) AS counted
    FROM loads
)
SELECT coalesce(sum(rows) FILTER (WHERE load_no = whole), 0)::bigint
        + coalesce(sum(inserted - deleted) FILTER (WHERE load_no > whole), 0)::bigint,
    written, counted >= coalesce(written, 0)
FROM last LEFT JOIN loads ON true GROUP BY written, counted
"""


@dataclass(frozen=True)
class Change:
    """How a target differs from what the ledger says."""

    what: str
    """For messages, after the target's name."""
    is_empty: bool


def observe(
    session: Session, target: Relation, last_storage: str | None
) -> tuple[str, Change | None]:
    """The existing target's storage, and how it differs from what its loads left, where its storage
    was `last_storage`; None where it does not.

    A ledger of an earlier version has recorded no storage: then only an empty target is noticed.
    Raises Refused when its rows cannot be read and written safely.
    """
    belongings.refuse_unsafe(session, target)
    return observe_safe(session, target, last_storage)


def observe_safe(
    session: Session, target: Relation, last_storage: str | None
) -> tuple[str, Change | None]:
    """As `observe`, of a target whose rows are known to be read and written safely."""
    is_empty = f"NOT EXISTS (SELECT FROM {target.sql.replace('%', '%%')})"
    row = session.execute(f"SELECT ({STORAGE}), {is_empty}", {"target_sql": target.sql}).fetchone()
    assert row
    storage, has_no_row = row
    return storage, _change(session, target, has_no_row, last_storage in (None, storage))


def untouched(session: Session, storages: Mapping[Relation, str]) -> set[Relation]:
    """Of these targets, with their storage after the last load, those that are as their loads have
    left them: `observe` would find no change. In two questions for all; leaves out those that need
    a closer look, and those without rows."""
    targets = list(storages)
    values = {"targets": [one.sql for one in targets], "storages": list(storages.values())}
    found = []
    for place, is_same in session.execute(_UNTOUCHED, values).fetchall():
        if is_same:
            found.append(at(session, targets, place - 1))
    if not found:
        return set()
    filled = " UNION ALL ".join(
        f"SELECT {place} WHERE EXISTS (SELECT FROM {target.sql})"
        for place, target in enumerate(found)
    )
    return {at(session, found, place) for (place,) in session.execute(filled.encode())}


def _change(session: Session, target: Relation, is_empty: bool, is_same: bool) -> Change | None:
    if is_same and not is_empty:
        return None
    row = session.execute(_LEDGER, (str(target),)).fetchone()
    assert row
    expected, last_written, has_unknown_rows = row
    if is_empty:
        if expected <= 0:
            return None
        return Change(f"was emptied ({counted(expected, 'row')} by the ledger)", is_empty=True)
    _log.info("%s has other storage than after its last load; counting its rows", target)
    if LOAD_ID not in tables.columns_of(session, target):
        return Change("was replaced by a table that Loadsheet did not make", is_empty=False)
    rows, newest = _rows_and_newest(session, target)
    # A later load may have deleted the rows of the last one that wrote any. Such a target is taken
    # for changed if it was rewritten, too: an older one may have as many rows.
    if rows == expected and (newest == last_written or has_unknown_rows):
        return None
    return Change(
        f"was changed ({counted(rows, 'row')}, the newest of load {newest}; by the ledger"
        f" {counted(expected, 'row')}, load {last_written})",
        is_empty=False,
    )


def is_first_load(
    target: Relation, pipeline: Pipeline, table: Table, change: Change, explicit_interval: bool
) -> bool:
    """Whether the table is loaded as for the first time after the `change` of its target.

    An emptied target can be filled again from the start. A table that is read whole needs no state:
    its rows are merged into the target or replace it. Raises Refused where an increment would be
    built on rows that are not those of the ledger, and where an interval would be all that the
    target has.
    """
    if not table.incremental:
        return change.is_empty
    reads_interval = explicit_interval or table.incremental.by == "data_interval"
    if change.is_empty and not reads_interval:
        return True
    raise Refused(
        f"{target} {change.what} without Loadsheet, so this run would leave rows out or add some"
        " twice; nothing was written. Read the table again: `loadsheet run"
        f" {pipeline.name} --tables {table.name} --full-refresh` (Airflow: full_refresh in the"
        " trigger form)"
    )


def rows_by_ledger(session: Session, target: Relation) -> int:
    """The rows that the target's loads have left in it, marked ones included."""
    row = session.execute(_LEDGER, (str(target),)).fetchone()
    return int(row[0]) if row else 0


def count_rows(session: Session, target: Relation) -> int:
    """The number of the target's rows."""
    return _rows_and_newest(session, target)[0]


def _rows_and_newest(session: Session, target: Relation) -> tuple[int, int | None]:
    row = session.execute(f"SELECT count(*), max({LOAD_ID}) FROM {target.sql}").fetchone()
    assert row
    rows, newest = row
    return rows, newest
