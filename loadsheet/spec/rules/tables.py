"""Rules about one table, defaults merged in."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from loadsheet.names import is_pattern
from loadsheet.problem import Finding
from loadsheet.spec.schedule import duration, in_hours, longest_gap, number_of_runs
from loadsheet.spec.view import Entry, View, as_list, cron_of, limits_of, waits_for_assets

_CANCEL = "remove one of the two (if it is inherited: `incremental: null` or `mode: null`)"


def append_needs_incremental(table: Entry, _: View) -> Iterator[Finding]:
    """Appending all rows on each run would double the table."""
    if table.full.get("mode") == "append" and "incremental" not in table.full:
        message = "append without incremental would insert every row again on each run"
        hint = "add incremental: <column>, or use replace or merge"
        yield table.error("unsafe-mode", "mode", message, hint)


def replace_excludes_incremental(table: Entry, _: View) -> Iterator[Finding]:
    """Replacing a table by its newest rows would lose all others."""
    if table.full.get("mode") == "replace" and "incremental" in table.full:
        key = "mode" if "mode" in table.own else "incremental"
        message = "replace and incremental cannot be combined"
        yield table.error("unsafe-mode", key, message, _CANCEL)


def appended_nulls_repeat(table: Entry, _: View) -> Iterator[Finding]:
    """Rows with a NULL cursor are read on each run: appended, they would accumulate."""
    incremental = table.full.get("incremental", {})
    if table.full.get("mode") == "append" and incremental.get("nulls") == "include":
        message = "rows with a NULL cursor would be appended again on each run"
        hint = "use fail, exclude or mode: merge"
        yield table.error("unsafe-mode", ("incremental", "nulls"), message, hint)


def appended_rows_are_read_once(table: Entry, _: View) -> Iterator[Finding]:
    """Rows that are read twice would be appended twice."""
    if table.full.get("mode") != "append":
        return
    if table.full.get("incremental", {}).get("lookback") is not None:
        # Point at the form in which the table has it.
        key = ("lookback",) if table.own.get("lookback") else ("incremental", "lookback")
        message = "rows inside the lookback would be appended again on each run"
        hint = "use mode: merge, or remove the lookback (if it is inherited: `lookback: null`)"
        yield table.error("unsafe-mode", key, message, hint)
    if _by(table) == "data_interval":
        message = "an interval that is read twice would be appended twice"
        hint = "use mode: merge, or by: watermark"
        yield table.error("unsafe-mode", ("incremental", "by"), message, hint)


def interval_needs_schedule(table: Entry, view: View) -> Iterator[Finding]:
    """Only a schedule that repeats gives runs a data interval."""
    # A schedule with an error gets no second finding.
    if _by(table) != "data_interval" or not view.is_sound("schedule"):
        return
    if waits_for_assets(view):
        message = "by: data_interval needs a schedule without assets: their runs have no interval"
        hint = 'write schedule: "@daily" at the top level, or use by: watermark'
        yield table.error("bad-schedule", ("incremental", "by"), message, hint)
    elif cron_of(view) in (None, "@once"):
        message = "by: data_interval needs a schedule that repeats"
        hint = 'add schedule: "@daily" at the top level, or use by: watermark'
        yield table.error("bad-schedule", ("incremental", "by"), message, hint)


def interval_has_no_initial_value(table: Entry, _: View) -> Iterator[Finding]:
    """The first interval begins at start_date."""
    if _by(table) == "data_interval" and table.full["incremental"].get("initial_value") is not None:
        message = "initial_value has no effect with by: data_interval"
        key = ("incremental", "initial_value")
        yield table.warning("no-effect", key, message, "set start_date instead")


def include_or_exclude(table: Entry, _: View) -> Iterator[Finding]:
    """A list of the columns to load already decides which ones to leave out."""
    if {"include", "exclude"} <= set(table.full.get("columns", ())):
        message = "include and exclude cannot be combined"
        yield table.error("column-conflict", "columns", message, "remove one of the two")


def needed_columns_are_loaded(table: Entry, _: View) -> Iterator[Finding]:
    """Primary key and cursor must reach the warehouse."""
    columns = table.full.get("columns", {})
    if {"include", "exclude"} <= set(columns):  # already an error
        return
    needed = [("primary key", column) for column in as_list(table.full.get("primary_key", []))]
    if "incremental" in table.full:
        needed.append(("cursor", table.full["incremental"]["cursor"]))
    excluded = set(columns.get("exclude", ()))
    included = set(columns.get("include", ()))
    for kind, column in needed:
        if column in excluded:
            message = f"the {kind} column {column!r} cannot be excluded"
            hint = "remove it from this list"
            yield table.error("column-conflict", ("columns", "exclude"), message, hint)
        if "include" in columns and column not in included:
            message = f"the {kind} column {column!r} is missing here"
            hint = "add it to this list"
            yield table.error("column-conflict", ("columns", "include"), message, hint)


def fill_needs_increments(table: Entry, _: View) -> Iterator[Finding]:
    """Only an increment that is merged leaves older rows whose new columns can be filled."""
    if table.own.get("fill") is None:
        return
    mode = table.full.get("mode")
    if mode == "append":
        message = "fill has no effect with mode: append, because rows are not known by a key"
        yield table.warning("no-effect", "fill", message, "remove it, or use mode: merge")
    elif mode == "replace" or "incremental" not in table.full:
        message = "fill has no effect where every run reads all rows, with their new columns"
        yield table.warning("no-effect", "fill", message, "remove it")


def lookback_needs_incremental(table: Entry, _: View) -> Iterator[Finding]:
    """Without a watermark there is nothing to look back from."""
    if table.own.get("lookback") is not None and "incremental" not in table.full:
        message = "lookback has no effect without incremental"
        yield table.error("no-effect", "lookback", message, "add incremental: <column>")


def lookback_is_given_once(table: Entry, _: View) -> Iterator[Finding]:
    """Of two lookbacks for one table, it is not clear which one counts."""
    incremental = table.own.get("incremental")
    inside = isinstance(incremental, dict) and incremental.get("lookback") is not None
    if inside and table.own.get("lookback") is not None:
        message = "lookback is given twice for this table"
        yield table.error("no-effect", "lookback", message, "keep the one under incremental")


def key_is_not_a_comma_list(table: Entry, _: View) -> Iterator[Finding]:
    """In YAML, `primary_key: a, b` is one column with an odd name."""
    for key in ("primary_key", "incremental"):
        value = table.own.get(key)
        if isinstance(value, str) and "," in value:
            message = f"{value!r} is read as the name of one column"
            hint = "name one column"
            if key == "primary_key":
                hint = f"write several columns as a list: [{value}]"
            yield table.warning("odd-name", key, message, hint)


def deletes_need_merge(table: Entry, _: View) -> Iterator[Finding]:
    """Which rows are gone is decided by primary key, in a table whose rows are kept from run to
    run."""
    deletes = table.full.get("deletes")
    if deletes is None:
        return
    mode = table.full.get("mode") or ("merge" if "incremental" in table.full else "replace")
    hint = "use mode: merge, or remove deletes (if it is inherited: `deletes: null`)"
    if mode == "append":
        message = "rows that are deleted from the source cannot be found with mode: append"
        yield table.error("deletes-mode", "deletes", message, hint)
    if mode == "replace" and deletes["action"] == "soft":
        message = "a replaced table has only the rows of the source, so none can be kept as deleted"
        yield table.error("deletes-mode", "deletes", message, hint)


def tasks_can_share_an_extract(table: Entry, view: View) -> Iterator[Finding]:
    """Several tasks read ranges of one table, while its extract task does nothing else."""
    if (table.full.get("extract_tasks") or 1) == 1:
        return
    hint = "remove extract_tasks (if it is inherited: `extract_tasks: null`)"
    granularity = table.full.get("granularity") or view.get("tasks", "granularity", default="step")
    if is_pattern(table.name):
        message = "how many tables a pattern matches is known when a run begins, too late for tasks"
        way_on = f"name the large table itself, next to the pattern, or {hint}"
        yield table.error("no-effect", "extract_tasks", message, way_on)
    elif granularity != "step":
        verb = "may be" if granularity == "auto" else "is"
        message = f"with granularity: {granularity}, the table {verb} extracted by one task"
        way_on = f"use granularity: step for this table, or {hint}"
        yield table.error("no-effect", "extract_tasks", message, way_on)
    elif view.get("lake", "format") == "parquet":
        message = "parts in Parquet are written by one task"
        yield table.error("no-effect", "extract_tasks", message, f"use csv or auto, or {hint}")


def freshness_can_be_kept(entry: Entry, view: View) -> Iterator[Finding]:
    """A warning comes before the alarm, and a run comes before either."""
    limits = {
        name: duration(text) for name, text in limits_of(entry.full.get("fresh_within")).items()
    }
    fail, warn = limits.get("fail"), limits.get("warn")
    if fail and warn and warn >= fail:
        message = "warn is not shorter than fail, so there would be no warning before the alarm"
        yield entry.error("freshness", ("fresh_within", "warn"), message, "make warn shorter")
    yield from _comes_in_time(entry, view, limits.get("verified"))
    cron = cron_of(view)
    if not fail or cron is None or waits_for_assets(view) or not view.is_sound("schedule"):
        return
    gap = _gap_as_long_as(fail, cron)
    if gap:
        message = f"late before the next run is due: up to {in_hours(gap)} pass between two runs"
        hint = "use a longer limit, or a schedule that runs more often"
        yield entry.warning("freshness", "fresh_within", message, hint)


def _comes_in_time(entry: Entry, view: View, limit: timedelta | None) -> Iterator[Finding]:
    """A warning where no comparison comes before the alarm that there was none."""
    frequency = view.get("verify")
    if not limit or not view.is_sound("verify"):
        return
    path = ("fresh_within", "verified")
    if frequency is None:
        message = "no step of this pipeline compares it"
        hint = 'add verify: "@weekly", or run `loadsheet verify` elsewhere'
        yield entry.warning("freshness", path, message, hint)
        return
    if number_of_runs(frequency) is not None:
        return
    gap = _gap_as_long_as(limit, frequency)
    if gap:
        message = f"late before the next comparison is due: up to {in_hours(gap)} pass between two"
        hint = "use a longer limit, or compare more often"
        yield entry.warning("freshness", path, message, hint)


def _gap_as_long_as(limit: timedelta, schedule: str) -> timedelta | None:
    """The longest time between two runs of the schedule, where the limit is no longer than it. None
    also for an unknown schedule, which is reported as such."""
    try:
        gap = longest_gap(schedule)
    except ValueError:
        return None
    return gap if gap and limit <= gap else None


def _by(table: Entry) -> str:
    by: str = table.full.get("incremental", {}).get("by", "watermark")
    return by


TABLE_RULES = (
    append_needs_incremental,
    replace_excludes_incremental,
    appended_nulls_repeat,
    appended_rows_are_read_once,
    interval_needs_schedule,
    interval_has_no_initial_value,
    include_or_exclude,
    needed_columns_are_loaded,
    fill_needs_increments,
    lookback_needs_incremental,
    lookback_is_given_once,
    key_is_not_a_comma_list,
    deletes_need_merge,
    tasks_can_share_an_extract,
    freshness_can_be_kept,
)
