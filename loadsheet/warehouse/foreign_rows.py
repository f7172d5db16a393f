"""Which pipelines may write to a target that another one has loaded."""

from __future__ import annotations

from collections.abc import Mapping

from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation
from loadsheet.warehouse import tables
from loadsheet.warehouse.scope import Scope

_NEWER_LOAD_OF_ANOTHER_PIPELINE = """
SELECT l.pipeline, l.source, s.source_oid FROM loadsheet.load l
JOIN loadsheet.scope s
  ON s.pipeline = l.pipeline AND s.table_name = l.table_name AND s.target = l.target
WHERE l.target = %s AND l.pipeline <> %s AND l.load_no > %s
ORDER BY l.load_no DESC LIMIT 1
"""
_LOADED_BY_OTHERS = """
SELECT DISTINCT l.target FROM unnest(%s::text[], %s::bigint[]) AS known (target, load_no)
JOIN loadsheet.load l ON l.target = known.target
WHERE l.pipeline <> %s AND l.load_no > known.load_no
"""
# Of a source's recorded facts, those that tell one server and database from another.
_IDENTIFYING = ("system_identifier", "database", "database_oid")


def are_newer(session: Session, pipeline: str, last: Mapping[Relation, int]) -> set[Relation]:
    """Of these targets, with the pipeline's last load of each, those that another pipeline has
    loaded since: `refuse` has to decide about them."""
    values = ([*map(str, last)], list(last.values()), pipeline)
    names = {name for (name,) in session.execute(_LOADED_BY_OTHERS, values)}
    return {target for target in last if str(target) in names}


def refuse(
    session: Session,
    pipeline: str,
    target: Relation,
    seen: Scope,
    source: dict[str, str],
    source_oid: int,
    appends: bool,
) -> None:
    """Raises Refused when another pipeline has loaded `target` since this one did, and its rows
    came from another source or this pipeline `appends`.

    Two pipelines that merge from one source do no harm to each other, because
    `merging.not_older` guards the rows; two that append may load the same rows twice. A first load
    reads the table whole (`warehouse.adopt` refuses one that appends).
    """
    other = session.execute(
        _NEWER_LOAD_OF_ANOTHER_PIPELINE, (str(target), pipeline, seen.last_load_no or 0)
    ).fetchone()
    if other is None or tables.kind(session, target) is None:
        return
    other_pipeline, other_source, other_oid = other
    is_foreign = other_oid != source_oid or any(
        other_source.get(fact) != source.get(fact) for fact in _IDENTIFYING
    )
    if not is_foreign and not appends:
        return
    whose = " from another source" if is_foreign else ""
    raise Refused(
        f"{target} was loaded by the pipeline {other_pipeline!r}{whose}: this run would overwrite "
        "or duplicate its rows, so nothing was written. Remove the table from one pipeline (under "
        "a pattern: `exclude`), or give one another warehouse.schema. To take the table over, read "
        f"it again: `loadsheet run {pipeline} --tables {target.name} --full-refresh` (Airflow: "
        "full_refresh in the trigger form)"
    )
