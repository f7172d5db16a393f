"""What the tables that SQL reads mean to a pipeline, and what is said about those that mean nothing to it."""

from __future__ import annotations

from loadsheet.spec.models import Pipeline
from loadsheet.spec.words import close
from loadsheet.sql.reads import Read
from loadsheet.sql.text import ident

Meaning = tuple[str, str]
"""`("table" | "transform", name)`."""

_ALWAYS_THERE = frozenset({"information_schema", "loadsheet"})
_SEARCHED_LAST = "public"


def meaning(pipeline: Pipeline, read: Read) -> Meaning | None:
    """The table or transform of `pipeline` that is read; None for what the pipeline does not make."""
    schemas = pipeline.warehouse
    if read.schema in (schemas.schema, None) and any(t.name == read.name for t in pipeline.tables):
        return "table", read.name
    # Only by its schema: "*" matches the name of any transform and of anything that a script makes for itself.
    if read.schema == schemas.schema and pipeline.pattern_of(read.name):
        return "table", read.name
    is_transform = any(t.name == read.name for t in pipeline.transforms)
    return ("transform", read.name) if is_transform and read.schema in (schemas.mart_schema, None) else None


def is_made_elsewhere(pipeline: Pipeline, read: Read) -> bool:
    """Whether the table is PostgreSQL's, the ledger's, or declared under `external`."""
    if (read.schema or read.name).startswith("pg_") or read.schema in _ALWAYS_THERE:
        return True
    schemas = pipeline.warehouse
    searched = (read.schema,) if read.schema else (schemas.schema, schemas.mart_schema, _SEARCHED_LAST)
    names = {name for schema in searched for name in (f"{schema}.{read.name}", f"{schema}.*")}
    return not names.isdisjoint(pipeline.external)


def what_is_wrong(pipeline: Pipeline, read: Read) -> tuple[str, str]:
    """The message and the hint for a table that nobody loads, builds or declares."""
    schemas = pipeline.warehouse
    name = f"{read.schema}.{read.name}" if read.schema else read.name
    if read.schema == schemas.schema:
        return f"reads {name}, which is not a table of this pipeline", _hint(pipeline, read, name)
    if read.schema == schemas.mart_schema:
        return f"reads {name}, which is not a transform of this pipeline", _hint(pipeline, read, name)
    return f"reads {name}, which this pipeline neither loads nor builds", _hint(pipeline, read, name)


def _hint(pipeline: Pipeline, read: Read, name: str) -> str:
    schemas = pipeline.warehouse
    if read.schema is None and (pattern := pipeline.pattern_of(read.name)):
        return f"write {schemas.schema}.{read.name} if it is a table of the pattern {pattern.name!r}"
    ours = [(schemas.schema, table.name) for table in pipeline.tables]
    ours += [(schemas.mart_schema, transform.name) for transform in pipeline.transforms]
    if meant := _close(read.name, [own for schema, own in ours if read.schema == schema]):
        return f"did you mean {meant!r}?{_in_quotes(meant)}"
    alike = [own for _, own in ours] if read.schema is None else [own for _, own in ours if own == read.name]
    if meant := _close(read.name, alike):
        return f"did you mean {next(schema for schema, own in ours if own == meant)}.{meant}?{_in_quotes(meant)}"
    if meant := _close(name, [external.replace("*", read.name) for external in pipeline.external]):
        return f"did you mean {meant}?"
    add = f"add {read.name!r} to `tables`, or list" if read.schema in (schemas.schema, None) else "list"
    return f"{add} `{name if read.schema else f'{_SEARCHED_LAST}.{name}'}` under `external` if it is made elsewhere"


def _in_quotes(name: str) -> str:
    """SQL folds what stands without quotes, so that capitals alone would find nothing."""
    return "" if name == name.lower() else f" Its capitals need quotes: {ident(name)}"


def _close(name: str, known: list[str]) -> str | None:
    return next((k for k in known if k.lower() == name.lower()), None) or close(name, known)
