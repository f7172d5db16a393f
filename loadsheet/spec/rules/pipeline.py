"""All cross-field rules, and those about a pipeline as a whole or one of its transforms.

A rule is a function whose name states what holds in a valid file, and whose docstring says why. It
yields one finding for each place where that does not hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from loadsheet.names import is_pattern, matches
from loadsheet.problem import Finding
from loadsheet.spec.models import FRESHNESS_DAG
from loadsheet.spec.rules.names import (
    NAME_RULES,
    PATTERN_RULES,
    defaults_exclude_no_tables,
    no_name_is_also_a_pattern,
)
from loadsheet.spec.rules.routes import ROUTE_RULES
from loadsheet.spec.rules.sizes import sizes_are_sane
from loadsheet.spec.rules.tables import TABLE_RULES, freshness_can_be_kept
from loadsheet.spec.schedule import BadSchedule, check_frequency, check_schedule
from loadsheet.spec.view import Entry, View, cron_of, waits_for_assets

RESERVED_SCHEMAS = frozenset({"information_schema", "loadsheet", "pg_catalog", "pg_toast"})
"""PostgreSQL's own schemas and that of our ledger."""


def rule_findings(view: View) -> list[Finding]:
    """All violations of rules in the sound parts of a pipeline file."""
    findings = list(sizes_are_sane(view))
    if findings:  # the other rules compare each with each
        return findings
    for pipeline_rule in (*PIPELINE_RULES, *ROUTE_RULES, *NAME_RULES):
        findings.extend(pipeline_rule(view))
    for table in view.tables:
        for table_rule in (*TABLE_RULES, *PATTERN_RULES):
            findings.extend(table_rule(table, view))
    for transform in view.transforms:
        for transform_rule in TRANSFORM_RULES:
            findings.extend(transform_rule(transform, view))
    return findings


def merge_needs_a_key(transform: Entry, _: View) -> Iterator[Finding]:
    """Without a key, nothing decides which row is updated."""
    if transform.full["materialized"] == "merge" and transform.full.get("unique_key") is None:
        hint = "add unique_key: <column>, or use materialized: table"
        yield transform.error("unsafe-mode", "materialized", "merge needs a unique_key", hint)


def only_tables_have_keys(transform: Entry, _: View) -> Iterator[Finding]:
    """A view has no key, and a script creates its own."""
    kind = transform.full["materialized"]
    if kind in ("view", "script") and transform.full.get("unique_key") is not None:
        message = f"unique_key has no effect on a {kind}"
        hint = "remove it, or use merge or table"
        yield transform.error("no-effect", "unique_key", message, hint)


def scripts_have_no_age(transform: Entry, _: View) -> Iterator[Finding]:
    """A script writes what it likes, so nothing tells how old that is."""
    if transform.full["materialized"] == "script" and transform.full.get("fresh_within"):
        message = "fresh_within has no effect on a script, because what it writes is not known"
        hint = "remove it, or set it for a mart that reads what the script writes"
        yield transform.error("no-effect", "fresh_within", message, hint)


TRANSFORM_RULES = (
    merge_needs_a_key,
    only_tables_have_keys,
    scripts_have_no_age,
    freshness_can_be_kept,
)


def folder_names_the_dag(view: View) -> Iterator[Finding]:
    """Without `pipeline`, the folder's name is the DAG id."""
    # Airflow's rule for DAG ids.
    if "pipeline" in view.data or re.fullmatch(r"[A-Za-z0-9_.-]{1,250}", view.folder):
        return
    message = (
        f"the folder's name {view.folder!r} cannot be a DAG id"
        " (only letters, digits, '_', '-' and '.')"
    )
    yield Finding("bad-name", path=(), message=message, hint="add `pipeline: a_name`")


def name_is_not_our_dags(view: View) -> Iterator[Finding]:
    """A DAG that tells what is late has this id."""
    name = view.get("pipeline", default=view.folder)
    if name.startswith(FRESHNESS_DAG):
        message = f"the name {name!r} is that of the DAG that watches freshness"
        path = ("pipeline",) if "pipeline" in view.data else ()
        yield Finding("bad-name", path=path, message=message, hint="choose another name")


def schedule_is_known(view: View) -> Iterator[Finding]:
    """`schedule`, or its `times`, is a preset or a cron expression that fires."""
    schedule = cron_of(view)
    if schedule is None:
        return
    path = ("schedule", "times") if waits_for_assets(view) else ("schedule",)
    try:
        check_schedule(schedule)
    except BadSchedule as error:
        yield Finding("bad-schedule", path=path, message=str(error), hint=error.hint)
    if schedule == "@once" and waits_for_assets(view):
        message = "@once does not repeat, and cannot be combined with assets"
        yield Finding("bad-schedule", path=path, message=message, hint="remove it")


def waits_for_no_table_of_its_own(view: View) -> Iterator[Finding]:
    """A run that starts when the pipeline itself has changed a table would never end."""
    warehouse = view.get("warehouse")
    if not waits_for_assets(view) or warehouse is None:
        return
    staging = f"{warehouse.get('schema', 'staging')}."
    marts = warehouse.get("mart_schema", "mart")
    own = {staging + table.name for table in view.tables}
    own |= {f"{marts}.{transform.name}" for transform in view.transforms}
    patterns = [table for table in view.tables if is_pattern(table.name)]
    for place, name in enumerate(view.get("schedule", "assets", default=[])):
        target = name.removeprefix(f"{warehouse['conn_id']}.")
        table = target.removeprefix(staging)
        is_matched = table != target and any(_is_matched(table, one) for one in patterns)
        if target in own or is_matched:
            message = f"{name} is written by this pipeline itself"
            hint = "name what other pipelines write; own transforms follow their inputs anyway"
            path = ("schedule", "assets", place)
            yield Finding("bad-schedule", path=path, message=message, hint=hint)


def _is_matched(name: str, pattern: Entry) -> bool:
    excluded = pattern.own.get("exclude") or ()
    return matches(pattern.name, name) and not any(matches(one, name) for one in excluded)


def verify_is_known(view: View) -> Iterator[Finding]:
    """`verify` is a schedule that repeats, or a number of runs."""
    frequency = view.get("verify")
    if frequency is None:
        return
    try:
        check_frequency(frequency)
    except BadSchedule as error:
        yield Finding("bad-schedule", path=("verify",), message=str(error), hint=error.hint)


def start_date_exists(view: View) -> Iterator[Finding]:
    """`start_date` is a day of the calendar."""
    date = view.get("start_date")
    if date is None:
        return
    try:
        moment = datetime.fromisoformat(date)
        if moment.tzinfo:
            moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        why: object = error
        if isinstance(error, OverflowError):
            why = "in UTC it must be in one of the years 1 to 9999"
        # Python's own message about offsets names its datetime.timedelta.
        elif "offset" in str(error):
            why = "an offset must be less than 24 hours"
        message = f"{date!r} is not a valid date: {why}"
        yield Finding("bad-schedule", path=("start_date",), message=message)


def catchup_has_a_start(view: View) -> Iterator[Finding]:
    """`catchup` is about the scheduled runs since `start_date`."""
    if not view.get("catchup"):
        return
    if cron_of(view) in (None, "@once"):
        # A schedule with an error gets no second finding.
        if view.is_sound("schedule"):
            message = "catchup has no effect without a schedule that repeats"
            hint = 'add schedule: "@daily", or remove catchup'
            yield Finding(
                "no-effect",
                path=("catchup",),
                message=message,
                hint=hint,
                severity="warning",
            )
    elif view.get("start_date") is None and view.is_sound("start_date"):
        # Airflow would never start a run.
        message = "catchup needs a start_date"
        hint = 'add start_date: "2026-01-01", the first day to load'
        yield Finding("bad-schedule", path=("catchup",), message=message, hint=hint)


def schemas_differ(view: View) -> Iterator[Finding]:
    """Staging tables and marts may have the same names, so they need different schemas."""
    staging, mart = _warehouse_schemas(view)
    if staging == mart:
        # Point at a key that the file has: both may have their defaults.
        key = "mart_schema" if view.get("warehouse", "mart_schema") else "schema"
        message = f"staging tables and marts are both in the schema {staging!r}"
        hint = "give schema and mart_schema different names"
        yield Finding("schema-clash", path=("warehouse", key), message=message, hint=hint)


def schemas_are_free(view: View) -> Iterator[Finding]:
    """Nothing is written to PostgreSQL's own schemas or the ledger's."""
    for key in ("schema", "mart_schema"):
        name = view.get("warehouse", key, default="")
        if name in RESERVED_SCHEMAS or name.startswith("pg_"):
            message = f"the schema {name!r} is reserved"
            hint = "choose another one, e.g. staging or mart"
            yield Finding("schema-clash", path=("warehouse", key), message=message, hint=hint)


def source_is_not_the_target(view: View) -> Iterator[Finding]:
    """Loading into the schema that is read would replace the source's own tables."""
    if not view.is_sound("source"):
        return
    if view.get("source", "conn_id") != view.get("warehouse", "conn_id"):
        return
    schema = view.get("source", "schema", default="public")
    for key, target in zip(("schema", "mart_schema"), _warehouse_schemas(view), strict=True):
        if target == schema:
            message = f"the pipeline would write to the source's own schema {schema!r}"
            hint = "use another schema, or another connection if the warehouse is another database"
            yield Finding("schema-clash", path=("warehouse", key), message=message, hint=hint)


def _warehouse_schemas(view: View) -> tuple[str | None, str | None]:
    if not view.is_sound("warehouse"):
        return None, ""  # unknown, and different
    staging = view.get("warehouse", "schema", default="staging")
    mart = view.get("warehouse", "mart_schema", default="mart")
    return staging, mart


PIPELINE_RULES = (
    folder_names_the_dag,
    name_is_not_our_dags,
    schedule_is_known,
    waits_for_no_table_of_its_own,
    verify_is_known,
    start_date_exists,
    catchup_has_a_start,
    schemas_differ,
    schemas_are_free,
    source_is_not_the_target,
    defaults_exclude_no_tables,
    no_name_is_also_a_pattern,
)
