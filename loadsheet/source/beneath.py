"""What a source relation is made of: the tables below a view, a partitioned or an inherited table.

Increments without a lookback rest on seeing every writer (`holdback`) and on the watermark's rows
being where they were (`identity`, `selection`). Both hold for plain tables. So a relation is walked
down to its leaves, and each leaf has to be a plain table of this database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

from loadsheet.errors import Refused, WorkError
from loadsheet.source.late_rows import View, why_late

# The relations of a view are read from its stored query, because pg_depend leaves out system
# catalogs. Functions with an oid below 16384 (FirstNormalObjectId) are PostgreSQL's own: the
# volatile ones, and those that tell the time (now, age, transaction_timestamp, statement_timestamp,
# and of SQLVALUEFUNCTION the first nine), let rows appear that no transaction has written. So does
# TABLESAMPLE. A user's own function or aggregate may read any table; a function may promise not to
# (IMMUTABLE). `attached` are the transactions that attached the relation to its parents.
_BELOW = r"""
WITH RECURSIVE below (oid, kind, attached) AS (
    SELECT oid, relkind, '' FROM pg_class WHERE oid = %(oid)s
    UNION
    SELECT c.oid, c.relkind, below.attached || next.attached FROM below, LATERAL (
        SELECT inhrelid, '.' || pg_inherits.xmin::text FROM pg_inherits WHERE inhparent = below.oid
        UNION ALL
        SELECT found[1]::oid, '' FROM pg_rewrite,
            regexp_matches(ev_action::text, ':relid (\d+)', 'g') found
        WHERE ev_class = below.oid AND below.kind = 'v' AND ev_type = '1'
    ) next (oid, attached) JOIN pg_class c ON c.oid = next.oid
)
SELECT oid, kind::text, string_agg(DISTINCT attached, ''), oid::regclass::text AS name,
    (SELECT relpersistence = 'u' FROM pg_class c WHERE c.oid = below.oid) AS is_unlogged,
    oid < 16384 AS is_system, CASE WHEN kind = 'v' THEN pg_get_viewdef(oid) END AS definition,
    kind = 'v' AND EXISTS (
        SELECT FROM pg_rewrite WHERE ev_class = below.oid AND ev_type = '1' AND (
            ev_action::text ~ '\{(SQLVALUEFUNCTION :op [0-8] |TABLESAMPLECLAUSE)' OR EXISTS (
                SELECT FROM regexp_matches(
                    ev_action::text, ':(?:(?:op)?funcid|aggfnoid) (\d+)', 'g') found
                JOIN pg_proc f ON f.oid = found[1]::oid
                WHERE provolatile = 'v' OR f.oid IN (1299, 1386, 2059, 2647, 2648)
                    OR (f.oid >= 16384 AND (provolatile = 's' OR prokind = 'a')))))
        AS calls_functions,
    (SELECT ev_action::text FROM pg_rewrite
     WHERE ev_class = below.oid AND kind = 'v' AND ev_type = '1') AS action,
    (SELECT json_object_agg(f.oid, CASE WHEN provolatile = 'i' THEN NULL
        WHEN f.oid < 16384 THEN proname::text ELSE f.oid::regproc::text END)
     FROM pg_proc f WHERE kind = 'v' AND f.oid IN (
         SELECT found[1]::oid FROM pg_rewrite, regexp_matches(
             ev_action::text, ':(?:op|elem)?funcid (\d+)', 'g') found
         WHERE ev_class = below.oid AND ev_type = '1')) AS functions
FROM below GROUP BY oid, kind ORDER BY oid
"""
# Of two answers, one is the snapshot's and one is the present's: pg_relation_filenode does not look
# into the snapshot.
_REWRITTEN = """
SELECT pg_class.oid::regclass::text FROM pg_class
WHERE oid = ANY (%s) AND relfilenode <> 0
    AND relfilenode IS DISTINCT FROM pg_relation_filenode(oid)
ORDER BY pg_class.oid LIMIT 1
"""
_KINDS = {"f": "is a foreign table", "m": "is a materialized view"}


@dataclass(frozen=True, kw_only=True)
class Beneath:
    """The leaves of a relation, and what its views select."""

    leaves: tuple[int, ...]
    """The oids of the tables that hold the rows, in order."""
    attached: tuple[str, ...] = ()
    """For each leaf, when it was attached to its parents, in transaction ids; empty for a table
    that is its own leaf."""
    why_untrusted: str = ""
    """Why writers of the relation cannot all be seen, for messages; empty where all leaves are
    plain tables."""
    unlogged: str = ""
    """A leaf that a crash of the server empties; empty where there is none."""
    why_late: str = ""
    """Why a row may appear long after it was written, for messages; empty where none can."""
    definition: str | None = None
    """A hash of which rows the views select; None where there is no view."""


class _Below(NamedTuple):
    """A row of _BELOW: the relation itself, or one below it."""

    oid: int
    kind: str
    attached: str
    name: str
    is_unlogged: bool
    is_system: bool
    definition: str | None
    calls_functions: bool
    action: str | None
    """`definition`, `action` and `functions` are those of a view."""
    functions: dict[str, str | None] | None


def walk(session: psycopg.Connection[Any], oid: int, named: Collection[str]) -> Beneath:
    """What is below the relation `oid`. `named` are the columns whose meaning counts, the cursor
    and the key: a view that only gets other columns selects the same rows. Raises Refused for a
    view's query that is not as PostgreSQL stores it."""
    rows = session.execute(_BELOW, {"oid": oid}).fetchall()
    leaves = []
    attached = []
    unlogged = []
    untrusted = []
    definitions = []
    views: list[View] = []
    has_table = False
    for one in (_Below(*row) for row in rows):
        if one.kind == "v":
            if one.definition is None or one.action is None:
                raise Refused(
                    f"the source's catalogs show view {one.name} without its query: check what the"
                    " connection leads to"
                )
            is_top = one.oid == oid
            definitions.append(_rows_selected(one.definition, named if is_top else None))
            view = View(one.name, one.action, one.functions or {})
            # The one that is read comes first.
            views.insert(0 if is_top else len(views), view)
            if one.calls_functions:
                untrusted.append(
                    f"view {one.name} calls functions, which may read other tables or the time"
                )
            continue
        has_table = True
        if one.kind != "p":
            leaves.append(one.oid)
            attached.append(one.attached)
        if one.is_unlogged:
            unlogged.append(one.name)
        if one.is_system:
            untrusted.append(f"{one.name} is a system catalog")
        elif one.kind not in ("r", "p"):
            untrusted.append(f"{one.name} {_KINDS.get(one.kind, 'is no table')}")
    if not has_table:
        untrusted.append("there is no table below it")
    hashed = None
    if definitions:
        hashed = hashlib.sha256("\n".join(definitions).encode()).hexdigest()[:20]
    return Beneath(
        leaves=tuple(leaves),
        attached=tuple(attached),
        why_untrusted=untrusted[0] if untrusted else "",
        unlogged=unlogged[0] if unlogged else "",
        why_late=why_late(views),
        definition=hashed,
    )


def rewritten(session: psycopg.Connection[Any], beneath: Beneath) -> str | None:
    """The first leaf that was rewritten (TRUNCATE, REFRESH, CLUSTER ...) after the snapshot was
    taken and before the leaf was locked: it would look empty. None where there is none.

    To call in the transaction of the snapshot, after the relation was read from.
    """
    row = session.execute(_REWRITTEN, (list(beneath.leaves),)).fetchone()
    if row is None:
        return None
    return str(row[0])


def _rows_selected(definition: str, columns: Collection[str] | None) -> str:
    """What of a view's `definition` decides about its rows, and about the values in `columns`
    (None: in all)."""
    # Tables without a view need no parser (25 ms of import).
    from loadsheet.sql.parsing import parse
    from loadsheet.sql.tokens import Unparsable

    try:
        (statement,) = parse(definition)
        body = _without_places(statement.body)
        if columns is not None and _is_simple(body):
            targets = body.get("targetList", [])
            body["targetList"] = [target for target in targets if _name_of(target) in columns]
        return json.dumps(body, sort_keys=True)
    # A view may be newer than the grammar, or nested too deeply for its tree to be walked.
    except (Unparsable, WorkError, ValueError, RecursionError):
        return definition


def _is_simple(body: dict[str, Any]) -> bool:
    """Whether the columns of a SELECT have no part in which rows it has."""
    is_union = body.get("op") != "SETOP_NONE"
    return not is_union and "distinctClause" not in body and "groupClause" not in body


def _without_places(node: Any) -> Any:
    """The tree without positions in the text, which differ with its layout."""
    if isinstance(node, list):
        return [_without_places(part) for part in node]
    if isinstance(node, dict):
        return {
            key: _without_places(part)
            for key, part in node.items()
            if not key.endswith(("location", "_len"))
        }
    return node


def _name_of(target: dict[str, Any]) -> str | None:
    """The column's name that an entry of a SELECT list gives."""
    entry = target["ResTarget"]
    if "name" in entry:
        return str(entry["name"])
    fields = entry["val"].get("ColumnRef", {}).get("fields", [])
    if not fields or "String" not in fields[-1]:
        return None
    return str(fields[-1]["String"]["sval"])
