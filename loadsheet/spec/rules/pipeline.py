"""All cross-field rules, and those about a pipeline as a whole or one of its transforms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import chain

from loadsheet.problem import Finding
from loadsheet.spec.rules.names import (
    NAME_RULES,
    PATTERN_RULES,
    defaults_exclude_no_tables,
    no_name_is_also_a_pattern,
)
from loadsheet.spec.rules.tables import TABLE_RULES
from loadsheet.spec.schedule import BadSchedule, check_schedule
from loadsheet.spec.view import Entry, View


def merge_needs_a_key(transform: Entry) -> Iterator[Finding]:
    """Without a key nothing says which row is updated."""
    if transform.full["materialized"] == "merge" and transform.full.get("unique_key") is None:
        hint = "add unique_key: <column>, or use materialized: table"
        yield transform.finding("unsafe-mode", "materialized", "merge needs a unique_key", hint)


def only_tables_have_keys(transform: Entry) -> Iterator[Finding]:
    """A view has no key, and a script keeps its own."""
    kind = transform.full["materialized"]
    if kind in ("view", "script") and transform.full.get("unique_key") is not None:
        yield transform.finding(
            "no-effect",
            "unique_key",
            f"unique_key has no effect on a {kind}",
            "drop it, or use merge or table",
        )


TRANSFORM_RULES = (merge_needs_a_key, only_tables_have_keys)


RESERVED = frozenset({"information_schema", "loadsheet", "pg_catalog", "pg_toast"})
"""PostgreSQL's own schemas and that of our ledger."""


def rule_findings(view: View) -> list[Finding]:
    """What the rules object to in the sound parts of a pipeline file."""
    tables = (rule(table, view) for table in view.tables for rule in (*TABLE_RULES, *PATTERN_RULES))
    transforms = (rule(transform) for transform in view.transforms for rule in TRANSFORM_RULES)
    whole = (rule(view) for rule in (*PIPELINE_RULES, *NAME_RULES))
    return list(chain.from_iterable(chain(whole, tables, transforms)))


def folder_names_the_dag(view: View) -> Iterator[Finding]:
    """Without `pipeline`, the folder's name is the DAG id."""
    if "pipeline" not in view.data and not re.fullmatch(r"[A-Za-z0-9_.-]{1,250}", view.folder):
        message = (
            f"the folder's name {view.folder!r} cannot be a DAG id (letters, digits, '_', '-' and"
            " '.')"
        )
        yield Finding("bad-name", path=(), message=message, hint="add `pipeline: a_name`")


def schedule_is_known(view: View) -> Iterator[Finding]:
    """`schedule` is a cron expression or preset."""
    try:
        check_schedule(view.get("schedule", default="@once"))
    except BadSchedule as error:
        yield Finding("bad-schedule", path=("schedule",), message=str(error), hint=error.hint)


def start_date_exists(view: View) -> Iterator[Finding]:
    """`start_date` is a day of the calendar."""
    date = view.get("start_date", default="2000-01-01")
    try:
        datetime.fromisoformat(date)
    except ValueError as error:
        why = "an offset is below 24 hours" if "offset" in str(error) else error
        yield Finding(
            "bad-schedule", path=("start_date",), message=f"{date!r} is not in the calendar: {why}"
        )


def schemas_differ(view: View) -> Iterator[Finding]:
    """Staging tables and marts may share names, so they must not share a schema."""
    staging, mart = _warehouse_schemas(view)
    if staging == mart:
        at = "mart_schema" if view.get("warehouse", "mart_schema") else "schema"
        message = f"staging and marts are both in the schema {staging!r}"
        yield Finding(
            "schema-clash",
            path=("warehouse", at),
            message=message,
            hint="give schema and mart_schema different names",
        )


def schemas_are_free(view: View) -> Iterator[Finding]:
    """Nothing is written to PostgreSQL's or the ledger's own schema."""
    for key in ("schema", "mart_schema"):
        name = view.get("warehouse", key, default="")
        if name in RESERVED or name.startswith("pg_"):
            message = f"the schema {name!r} is reserved"
            yield Finding(
                "schema-clash",
                path=("warehouse", key),
                message=message,
                hint="choose another, e.g. staging or mart",
            )


def source_is_not_the_target(view: View) -> Iterator[Finding]:
    """Loading into the schema that is read from would replace the source's own tables."""
    if not view.sound("source") or view.get("source", "conn_id") != view.get(
        "warehouse", "conn_id"
    ):
        return
    schema = view.get("source", "schema", default="public")
    for key, target in zip(("schema", "mart_schema"), _warehouse_schemas(view), strict=True):
        if target == schema:
            message = f"the source's own schema {schema!r} would be written to"
            hint = "use another schema, or another connection if the warehouse is another database"
            yield Finding("schema-clash", path=("warehouse", key), message=message, hint=hint)


def _warehouse_schemas(view: View) -> tuple[str | None, str | None]:
    if not view.sound("warehouse"):
        return None, ""  # unknown, and different
    return view.get("warehouse", "schema", default="staging"), view.get(
        "warehouse", "mart_schema", default="mart"
    )


PIPELINE_RULES = (
    folder_names_the_dag,
    schedule_is_known,
    start_date_exists,
    schemas_differ,
    schemas_are_free,
    source_is_not_the_target,
    defaults_exclude_no_tables,
    no_name_is_also_a_pattern,
)
