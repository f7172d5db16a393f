"""What the ledger knows about a pipeline's table in one target: its scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from loadsheet import answers
from loadsheet.postgres import Session
from loadsheet.spec.models import Mode
from loadsheet.sql.text import Relation
from loadsheet.warehouse import intervals, tables, unfilled
from loadsheet.warehouse.unfilled import Unfilled

# A restore is none: it may have brought back what a merge had left.
_IS_REPLACED = """
(SELECT action = 'replace' FROM loadsheet.load WHERE load_no = scope.last_load_no)
"""
# `plan` also reads ledgers of earlier versions, which lack some of the columns.
_SCOPE = f"""
SELECT table_name, fence, watermark, cursor, last_load_no, content_sha256, source_oid, source,
    to_jsonb(scope) ->> 'storage' AS storage, {intervals.SELECTED}, {unfilled.SELECTED},
    CAST(to_jsonb(scope) ->> 'deletes_checked_at' AS timestamptz) AS deletes_checked_at,
    coalesce({_IS_REPLACED}, false) AS is_replaced,
    (SELECT jsonb_agg(c ORDER BY place) FILTER (WHERE NOT c ? 'dropped')
     FROM jsonb_array_elements(columns) WITH ORDINALITY AS one (c, place)) AS columns,
    coalesce((SELECT jsonb_object_agg(c ->> 'name', coalesce(c ->> 'left', c ->> 'type'))
              FROM jsonb_array_elements(columns) c WHERE c ? 'dropped'), '{{}}') AS former
FROM loadsheet.scope WHERE pipeline = %s
"""
_READ_SCOPE = f"{_SCOPE} AND table_name = %s AND target = %s"
_READ_SCOPES = f"{_SCOPE} AND table_name = ANY (%s) AND target = ANY (%s)"
# The load that began the target's rows: the last that replaced them (a restore has the lower end of
# the load that it began with), or the first of all. One that found no row has no upper end, and the
# next began again.
_STARTED_FROM = """
SELECT coalesce(lower_cursor, '') FROM loadsheet.load
WHERE (pipeline, table_name, target) = (%(pipeline)s, %(table)s, %(target)s)
    AND upper_cursor IS NOT NULL AND load_no >= coalesce((
        SELECT max(load_no) FROM loadsheet.load
        WHERE (pipeline, table_name, target) = (%(pipeline)s, %(table)s, %(target)s)
            AND action IN ('replace', 'restore')), 0)
ORDER BY load_no LIMIT 1
"""
_NUMBERS = {"oldest_transaction", "next_transaction", "seen_on_standby"}
"""Facts about the source that are transaction ids."""
_IS_QUIET = "SELECT fence = %s FROM loadsheet.load WHERE load_no = %s"
_COLUMNS = """
SELECT coalesce(columns, '[]') FROM loadsheet.scope
WHERE pipeline = %s AND table_name = %s AND target = %s
"""
_IS_KNOWN = """
SELECT EXISTS (
    SELECT FROM loadsheet.scope WHERE pipeline = %s AND table_name = %s AND target = %s
)
"""


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What the ledger knows about a pipeline's table in one target.

    Before its first extraction, `fence` is 0 and there is no watermark.
    """

    fence: int = 0
    watermark: str | None = None
    cursor: str | None = None
    """The column that the watermark belongs to."""
    last_load_no: int | None = None
    content_sha256: str | None = None
    is_replaced: bool = False
    """The last load has left rows of this content in the target, and no others."""
    source_oid: int | None = None
    columns: list[dict[str, Any]] | None = None
    former: dict[str, str] = field(default_factory=dict)
    """The target's columns that earlier loads have read from the source, and the last has not, with
    the types that those have left."""
    source: dict[str, str] | None = None
    """The source server, as `source.identity.observe` saw it for the last load."""
    storage: str | None = None
    """The target's storage after the last load (`integrity.observe`); None in older ledgers."""
    intervals: Any = None
    """The data intervals that were read (`intervals.as_list`)."""
    deletes_checked_at: datetime | None = None
    """The source's clock when it was last searched for deleted rows."""
    unfilled_columns: dict[str, Any] | None = None
    """As the ledger has recorded them."""

    def has_content(self, content: str | None, action: Mode) -> bool:
        """Whether a load of a table with the hash `content` (None: it was not hashed) by the
        `action` would leave the target as it is.

        A merge leaves rows that are gone from the source, and an append may have rows twice. So
        what they have made of the same content need not be what a replacement makes of it.
        """
        if content is None or content != self.content_sha256:
            return False
        return action != "replace" or self.is_replaced

    @property
    def unfilled(self) -> Unfilled | None:
        """The columns that older rows have no values of yet."""
        return unfilled.read(self.unfilled_columns)


def extracted_tables(session: Session, pipeline: str) -> set[str] | None:
    """The tables that were ever extracted for the pipeline; None where the warehouse has no
    ledger."""
    if tables.kind(session, Relation("loadsheet", "scope")) is None:
        return None
    rows = session.execute(
        "SELECT table_name FROM loadsheet.scope WHERE pipeline = %s", (pipeline,)
    )
    return {row[0] for row in rows}


def read_scope(session: Session, pipeline: str, table: str, target: Relation) -> Scope:
    """What the ledger knows about the table in the target now. Writes nothing."""
    return _scopes(session, _READ_SCOPE, (pipeline, table, str(target))).get(table, Scope())


def read_scopes(session: Session, pipeline: str, targets: Sequence[Relation]) -> dict[str, Scope]:
    """What the ledger knows about the tables now, by name; without those that it does not know.
    Writes nothing."""
    names = [target.name for target in targets]
    return _scopes(session, _READ_SCOPES, (pipeline, names, [*map(str, targets)]))


def _scopes(session: Session, query: str, values: tuple[Any, ...]) -> dict[str, Scope]:
    scopes = {}
    with session.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(query, values):
            name = row.pop("table_name")
            columns = answers.columns(session, row.pop("columns"))
            former = answers.texts(session, row.pop("former")) or {}
            source = answers.texts(session, row.pop("source"))
            for fact in _NUMBERS & (source or {}).keys():
                answers.whole_number(session, (source or {})[fact])
            unfilled.checked(session, row["unfilled_columns"])
            scopes[name] = Scope(columns=columns, former=former, source=source, **row)
    return scopes


def started_from(session: Session, pipeline: str, table: str, target: Relation) -> str | None:
    """The lowest cursor that the target's rows were read from: the initial value of the load that
    began them; empty for all rows, None where its record is gone."""
    names = {"pipeline": pipeline, "table": table, "target": str(target)}
    row = session.execute(_STARTED_FROM, names).fetchone()
    return str(row[0]) if row else None


def held_by(session: Session, scope: Scope) -> str:
    """What kept the scope's last load from moving its watermark above all rows that it had read;
    empty: nothing did."""
    row = session.execute(
        "SELECT held_by FROM loadsheet.load WHERE load_no = %s", (scope.last_load_no,)
    ).fetchone()
    return str(row[0]) if row else ""


def is_known(session: Session, pipeline: str, table: str, target: Relation) -> bool:
    """Whether the ledger knows the table under this pipeline's name; not any more, where `adopt`
    has given it another one."""
    return session.execute(_IS_KNOWN, (pipeline, table, str(target))).fetchone() == (True,)


def is_quiet(session: Session, seen: Scope) -> bool:
    """Whether no extraction has taken the table's fence since its last load."""
    row = session.execute(_IS_QUIET, (seen.fence, seen.last_load_no)).fetchone()
    return row == (True,)


def recorded_columns(
    session: Session, pipeline: str, table: str, target: Relation
) -> list[dict[str, Any]]:
    """The columns as the scope has them, also those that the last load has not read (`dropped`)."""
    row = session.execute(_COLUMNS, (pipeline, table, str(target))).fetchone()
    return list(row[0]) if row else []
