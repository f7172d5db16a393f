"""Two pipelines that load one table: what the check of one project cannot know, the ledger does."""

from __future__ import annotations

from typing import Any

from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation
from loadsheet.warehouse import tables
from loadsheet.warehouse.fence import Scope

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
    """Raises Refused when another pipeline has loaded `target` since this one did, with rows of another source, or
    when this one `appends` what the other may have appended already.

    Merged from one source they do each other no harm (the guard of `merging.not_older`), and a pipeline that comes to
    the table for the first time reads it whole: so does one that was renamed.
    """
    other = session.execute(_NEWER, (str(target), pipeline, seen.last_load_no or 0)).fetchone()
    if other is None or tables.kind(session, target) is None:
        return
    name, its_source, its_oid = other
    is_foreign = its_oid != source_oid or _differs(its_source, source)
    if is_foreign or appends:
        whose = " from another source" if is_foreign else ""
        raise Refused(f"{target} was loaded by the pipeline {name!r}{whose}: {_remedy(pipeline, target)}")


def _differs(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return any(one.get(fact) != other.get(fact) for fact in _SAME)


def _remedy(pipeline: str, target: Relation) -> str:
    return _REMEDY.format(pipeline=pipeline, table=target.name)
