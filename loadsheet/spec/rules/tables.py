"""Rules about one table, defaults merged in."""

from __future__ import annotations

from collections.abc import Iterator

from loadsheet.problem import Finding
from loadsheet.spec.view import Entry, View, as_list

_UNINHERIT = "drop one of the two (an inherited one: `incremental: null` or `mode: null`)"


def append_needs_incremental(table: Entry, _: View) -> Iterator[Finding]:
    """Appending everything on every run would double the table."""
    if table.full.get("mode") == "append" and "incremental" not in table.full:
        message = "append without incremental would insert every row again on each run"
        yield table.finding(
            "unsafe-mode", "mode", message, "add incremental: <column>, or use replace or merge"
        )


def replace_excludes_incremental(table: Entry, _: View) -> Iterator[Finding]:
    """Replacing a table by its newest rows would lose all the others."""
    if table.full.get("mode") == "replace" and "incremental" in table.full:
        key = "mode" if "mode" in table.own else "incremental"
        yield table.finding(
            "unsafe-mode", key, "replace and incremental exclude each other", _UNINHERIT
        )


def appended_nulls_repeat(table: Entry, _: View) -> Iterator[Finding]:
    """Rows without a cursor are read on every run: appended, they would pile up."""
    if (
        table.full.get("mode") == "append"
        and table.full.get("incremental", {}).get("nulls") == "include"
    ):
        message = "rows with a NULL cursor would be appended again on each run"
        path = (*table.path, "incremental", "nulls")
        yield Finding(
            "unsafe-mode", path=path, message=message, hint="use fail, exclude or mode: merge"
        )


def appended_rows_are_read_once(table: Entry, _: View) -> Iterator[Finding]:
    """What is read twice would be appended twice."""
    incremental = table.full.get("incremental", {})
    if table.full.get("mode") != "append":
        return
    if incremental.get("lookback") is not None:
        path = (
            *table.path,
            *(("lookback",) if table.own.get("lookback") else ("incremental", "lookback")),
        )
        message = "rows inside the lookback would be appended again on each run"
        hint = "use mode: merge, or drop it (an inherited one: `lookback: null`)"
        yield Finding("unsafe-mode", path=path, message=message, hint=hint)
    if _by(table) == "data_interval":
        message, hint = (
            "an interval that is read twice would be appended twice",
            "use mode: merge, or by: watermark",
        )
        yield Finding(
            "unsafe-mode", path=(*table.path, "incremental", "by"), message=message, hint=hint
        )


def interval_needs_schedule(table: Entry, view: View) -> Iterator[Finding]:
    """Only a schedule that repeats gives runs a data interval."""
    schedule = view.get("schedule")
    if _by(table) == "data_interval" and schedule in (None, "@once") and view.sound("schedule"):
        message = "by: data_interval needs a schedule that repeats"
        hint = 'add schedule: "@daily" at the top, or use by: watermark'
        yield Finding(
            "bad-schedule", path=(*table.path, "incremental", "by"), message=message, hint=hint
        )


def interval_has_no_initial_value(table: Entry, _: View) -> Iterator[Finding]:
    """The first interval starts where start_date says."""
    if _by(table) == "data_interval" and table.full["incremental"].get("initial_value") is not None:
        path = (*table.path, "incremental", "initial_value")
        message = "initial_value has no effect with by: data_interval"
        yield Finding(
            "no-effect",
            path=path,
            message=message,
            hint="set start_date instead",
            severity="warning",
        )


def include_or_exclude(table: Entry, _: View) -> Iterator[Finding]:
    """Naming what to carry already says what not to."""
    if {"include", "exclude"} <= set(table.full.get("columns", ())):
        yield table.finding(
            "column-conflict",
            "columns",
            "include and exclude exclude each other",
            "keep one of the two",
        )


def needed_columns_are_carried(table: Entry, _: View) -> Iterator[Finding]:
    """Primary key and cursor must reach the warehouse."""
    columns = table.full.get("columns", {})
    if {"include", "exclude"} <= set(columns):
        return
    for kind, column in _needed(table):
        if column in columns.get("exclude", ()):
            message = f"the {kind} column {column!r} cannot be left out"
            yield Finding(
                "column-conflict",
                path=(*table.path, "columns", "exclude"),
                message=message,
                hint="take it off this list",
            )
        if "include" in columns and column not in columns["include"]:
            message = f"the {kind} column {column!r} is missing here"
            yield Finding(
                "column-conflict",
                path=(*table.path, "columns", "include"),
                message=message,
                hint="add it to this list",
            )


def lookback_needs_incremental(table: Entry, _: View) -> Iterator[Finding]:
    """There is nothing to look back from."""
    if table.own.get("lookback") is not None and "incremental" not in table.full:
        yield table.finding(
            "no-effect",
            "lookback",
            "lookback has no effect without incremental",
            "add incremental: <column>",
        )


def lookback_is_given_once(table: Entry, _: View) -> Iterator[Finding]:
    """Two lookbacks beside each other leave open which one counts."""
    incremental = table.own.get("incremental")
    inside = isinstance(incremental, dict) and incremental.get("lookback") is not None
    if inside and table.own.get("lookback") is not None:
        yield table.finding(
            "no-effect",
            "lookback",
            "lookback is given twice for this table",
            "keep the one under incremental",
        )


def key_is_not_a_comma_list(table: Entry, _: View) -> Iterator[Finding]:
    """`primary_key: a, b` is one strange column to YAML."""
    for key in ("primary_key", "incremental"):
        value = table.own.get(key)
        if isinstance(value, str) and "," in value:
            hint = (
                f"several columns are written [{value}]"
                if key == "primary_key"
                else "name one column"
            )
            message = f"{value!r} is taken as the name of one column"
            yield Finding(
                "odd-name", path=(*table.path, key), message=message, hint=hint, severity="warning"
            )


def _by(table: Entry) -> str:
    by: str = table.full.get("incremental", {}).get("by", "watermark")
    return by


def _needed(table: Entry) -> Iterator[tuple[str, str]]:
    yield from (("primary key", column) for column in as_list(table.full.get("primary_key", [])))
    if "incremental" in table.full:
        yield "cursor", table.full["incremental"]["cursor"]


TABLE_RULES = (
    append_needs_incremental,
    replace_excludes_incremental,
    appended_nulls_repeat,
    appended_rows_are_read_once,
    interval_needs_schedule,
    interval_has_no_initial_value,
    include_or_exclude,
    needed_columns_are_carried,
    lookback_needs_incremental,
    lookback_is_given_once,
    key_is_not_a_comma_list,
)
