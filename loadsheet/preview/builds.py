"""Whether the warehouse takes a transform: rights, SQL, and what the catalog will show of it."""

from __future__ import annotations

import psycopg
from psycopg import sql

from loadsheet.plan.preview import StepPreview
from loadsheet.postgres import Session
from loadsheet.preview import rights
from loadsheet.preview.sessions import UNANSWERED
from loadsheet.redact import message
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.text import Relation, idents
from loadsheet.warehouse import tables


def may_write(
    found: StepPreview, session: Session, spec: Transform, target: Relation, is_increment: bool, has_schema: bool
) -> None:
    """Adds what forbids to build it: only an owner may replace a table or a view, rows are written by right."""
    if spec.materialized == "script":
        return
    if not is_increment and has_schema:
        rights.creates_in(found, session, target.schema)
    if tables.kind(session, target) is None:
        return
    in_place = spec.materialized == "table" and has_schema and tables.dependents(session, target)
    if spec.materialized == "merge" or in_place:
        more = () if is_increment else ("DELETE",)
        rights.has_rights(found, session, target, ("SELECT", "INSERT", "UPDATE", *more))
        rights.in_database(found, session, "TEMPORARY", "create temporary tables")
    else:
        rights.owns(found, session, target, "replace")


def explain(
    found: StepPreview, session: Session, pipeline: Pipeline, spec: Transform, select: sql.Composed
) -> int | None:
    """The planner reads the SELECT as a run would: names, types and rights. Returns about how many rows come of it."""
    schemas = idents([pipeline.warehouse.schema, pipeline.warehouse.mart_schema])
    try:
        with session.transaction():
            session.execute(f"SET LOCAL search_path = {schemas}, public")
            # `binary`: one statement and no second, as in a run.
            row = session.execute(sql.SQL("EXPLAIN (FORMAT JSON)\n") + select, binary=True).fetchone()
    except (psycopg.ProgrammingError, psycopg.DataError) as error:
        hint = f". {error.diag.message_hint}" if error.diag.message_hint else ""
        found.error("sql", f"{spec.file.name}: {message(error)} (SQLSTATE {error.sqlstate}){hint}")
        return None
    except UNANSWERED:  # a load swaps the table just now
        return None
    return int(row[0][0]["Plan"]["Plan Rows"]) if row else None


def ddl(spec: Transform, target: Relation, exists: bool, is_changed: bool) -> list[str]:
    """A new table or view; how a changed one comes out, only its SELECT says."""
    if spec.materialized == "script" or (exists and not is_changed):
        return []
    # PostgreSQL knows no CREATE OR REPLACE TABLE: the new one takes the place and the name of the old.
    replaces = "CREATE OR REPLACE VIEW" if exists else "CREATE VIEW"
    create = replaces if spec.materialized == "view" else "CREATE TABLE"
    return [f"{create} {target.sql} AS SELECT …"]
