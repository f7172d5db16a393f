"""The staging tables of a pipeline, and the source columns that are in them, by the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadsheet import answers
from loadsheet.pinned import PinnedSession
from loadsheet.spec.models import Pipeline
from loadsheet.sql.merging import DELETED_AT, LOAD_ID, TOMBSTONES

_HAS_LEDGER = "SELECT pg_catalog.to_regclass('loadsheet.scope') IS NOT NULL"
_LOADED = """
SELECT table_name, coalesce(columns, '[]') FROM loadsheet.scope
WHERE pipeline = %s AND target = %s || '.' || table_name ORDER BY table_name
"""
_COLUMNS = """
SELECT relname, attname, pg_catalog.format_type(atttypid, atttypmod)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
JOIN pg_catalog.pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
WHERE nspname = %s AND relname = ANY (%s) ORDER BY relname, attnum
"""
_OURS = {
    LOAD_ID: "the number of the load that wrote the row",
    DELETED_AT: "when the row was found to be deleted from the source",
}


@dataclass(kw_only=True)
class StagedTable:
    """A staging table: its columns and where they come from."""

    name: str
    table: str
    """The source table."""
    columns: dict[str, str] = field(default_factory=dict)
    """Name and type in the warehouse; empty before the first load."""
    source_types: dict[str, str] = field(default_factory=dict)
    """The columns that the source has, by their name, which is the staging column's, too."""
    notes: dict[str, str] = field(default_factory=dict)
    """What is to be said about a column of no source column, or of another type."""


def staged_tables(session: PinnedSession, pipeline: Pipeline) -> dict[str, StagedTable]:
    """The staging tables by name: those of the spec, and those that its patterns have loaded; with
    the tombstones of each that has some. Raises psycopg errors."""
    schema = pipeline.warehouse.schema
    loaded: dict[str, Any] = {}
    if session.execute(_HAS_LEDGER).fetchone() == (True,):
        loaded = dict(session.execute(_LOADED, (pipeline.name, schema)).fetchall())
    names = [table.name for table in pipeline.tables]
    names += [name for name in loaded if pipeline.pattern_of(name) and name not in names]
    both = names + [name + TOMBSTONES for name in names]
    columns = columns_in(session, schema, both)
    found = {}
    for name in both:
        if name not in columns and name not in names:
            continue
        table = name if name in names else name.removesuffix(TOMBSTONES)
        staged = StagedTable(name=name, table=table, columns=columns.get(name, {}))
        _add_source(staged, answers.columns(session, loaded.get(table, [])) or [])
        found[name] = staged
    return found


def columns_in(
    session: PinnedSession, schema: str, names: Iterable[str]
) -> dict[str, dict[str, str]]:
    """The columns and types of the tables of these names that the schema has."""
    found: dict[str, dict[str, str]] = {}
    for table, column, type_name in session.execute(_COLUMNS, (schema, list(names))):
        found.setdefault(table, {})[column] = type_name
    return found


def _add_source(staged: StagedTable, recorded: Iterable[Mapping[str, Any]]) -> None:
    """`recorded` are the columns as the last load met them: those that are gone are marked."""
    here = {one["name"]: one for one in recorded if not one.get("dropped")}
    for name, type_name in staged.columns.items():
        if name in _OURS:
            staged.notes[name] = f"Loadsheet's own: {_OURS[name]}"
        elif name not in here:
            staged.notes[name] = "not in the source: dropped there, or added in the warehouse"
        elif here[name]["source_type"] != type_name:
            staged.notes[name] = f"{here[name]['source_type']} in the source, {type_name} here"
    for name, one in here.items():
        if name in staged.columns:
            staged.source_types[name] = one["source_type"]
