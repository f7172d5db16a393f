"""Which tables a test may name: those that the pipeline loads, builds or reads."""

from __future__ import annotations

from loadsheet.plan.tables_read import is_made_elsewhere
from loadsheet.spec.models import Pipeline
from loadsheet.spec.words import close
from loadsheet.sql.reads import Read


def marts(pipeline: Pipeline) -> list[str]:
    """What transforms build, as `schema.table`; of a script nobody knows."""
    schema = pipeline.warehouse.mart_schema
    return [f"{schema}.{transform.name}" for transform in pipeline.transforms if transform.materialized != "script"]


def may_be_given(pipeline: Pipeline, name: str) -> bool:
    """Whether rows of it can matter: a table, also of a pattern, a mart, or one that others or scripts make."""
    schemas = pipeline.warehouse
    schema, dot, table = name.partition(".")
    if not dot:
        return False
    if name in marts(pipeline) or (schema == schemas.schema and _is_loaded(pipeline, table)):
        return True
    is_ours = schema in (schemas.schema, schemas.mart_schema)
    return is_made_elsewhere(pipeline, Read(schema=schema, name=table)) or (_has_scripts(pipeline) and not is_ours)


def may_be_expected(pipeline: Pipeline, name: str) -> bool:
    """Whether a transform can have built it."""
    schema = name.partition(".")[0]
    return name in marts(pipeline) or (schema == pipeline.warehouse.mart_schema and _has_scripts(pipeline))


def hint(pipeline: Pipeline, name: str, expected: bool) -> str:
    """What was meant by `name`, which may be neither given nor `expected`."""
    staging = [f"{pipeline.warehouse.schema}.{table.name}" for table in pipeline.tables]
    known = [*([] if expected else staging), *marts(pipeline)]
    meant = close(name, known) or next((k for k in known if k.partition(".")[2] == name), None)
    return f"did you mean {meant!r}?" if meant else f"it has {', '.join(known) or 'none'}"


def _is_loaded(pipeline: Pipeline, table: str) -> bool:
    return any(known.name == table for known in pipeline.tables) or pipeline.pattern_of(table) is not None


def _has_scripts(pipeline: Pipeline) -> bool:
    return any(transform.materialized == "script" for transform in pipeline.transforms)
