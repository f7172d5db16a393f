"""What a run was asked to do: the Airflow Variable `loadsheet`, the trigger form and the schedule, merged. Pure.

The trigger form beats the Variable, the Variable beats the spec:

    {"incremental": true, "pipelines": {"flights": {"incremental": false, "tables": ["bookings"]}}}

`incremental: false` means a full extract and load: everywhere, in one pipeline, or only in the tables listed there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from loadsheet.errors import InputError
from loadsheet.outcome import RunRequest
from loadsheet.plan.order import transform_inputs
from loadsheet.spec.models import Pipeline

VARIABLE = "loadsheet"
Full = frozenset[str] | Literal["all"]
Interval = tuple[str | None, str | None]


def run_request(
    pipeline: Pipeline,
    *,
    run_id: str,
    variable: str | None = None,
    params: Mapping[str, Any] | None = None,
    data_interval: tuple[datetime | None, datetime | None] = (None, None),
) -> RunRequest:
    """The request of one run.

    `variable` is the Variable's JSON text (None when it does not exist), `params` the trigger form, `data_interval`
    the run's own (both None on a run without a logical date). Raises InputError naming the key that is wrong.
    """
    params = params or {}
    only = _chosen_tables(params.get("tables"), pipeline)
    asked = _asked_interval(params)
    refresh = _typed(params.get("full_refresh", False), bool, "the run's parameter full_refresh")
    if refresh and asked:
        raise InputError(
            "the run's parameters ask for a full refresh and for an interval: a full refresh replaces the table, "
            "so it must read all of it. Leave one of them out."
        )
    # A person who asks for an interval wants that interval, whatever the Variable says.
    full: Full = frozenset() if asked else full_by_variable(pipeline, variable)
    if refresh:
        full = "all" if only is None or full == "all" else full | only
    start, end = asked or (_iso(data_interval[0]), _iso(data_interval[1]))
    return RunRequest(
        run_id=run_id,
        full_refresh=with_fed_transforms(pipeline, full),
        only=only,
        interval_start=start,
        interval_end=end,
        explicit_interval=asked is not None,
    )


def full_by_variable(pipeline: Pipeline, text: str | None) -> Full:
    """Which tables the Variable's JSON `text` wants in full; `all` when it names no exception."""
    settings = _switches(text)
    everywhere = not settings["incremental"]
    entry = _own_entry(settings["pipelines"], pipeline)
    here = not entry["incremental"] if "incremental" in entry else everywhere
    if "tables" not in entry:
        return "all" if here else frozenset()
    listed = frozenset(entry["tables"])
    rest = frozenset(table.name for table in pipeline.tables) - listed
    if here and everywhere:
        return "all"
    return (listed if here else frozenset()) | (rest if everywhere else frozenset())


def with_fed_transforms(pipeline: Pipeline, full: Full) -> Full:
    """`full` and every transform fed by it: a table read again in full may have lost rows that a mart still holds."""
    if full == "all" or not full:
        return full
    names = set(full)
    for name, inputs in transform_inputs(pipeline).items():
        if full.intersection(inputs.tables) or names.intersection(inputs.transforms):
            names.add(name)
    return frozenset(names)


def _switches(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if text and text.strip() else {}
    except json.JSONDecodeError as error:
        raise InputError(
            f"the Airflow Variable {VARIABLE!r} is not JSON (line {error.lineno}, column {error.colno}: {error.msg}). "
            'Set it to an object such as {"incremental": true, "pipelines": {}}, or delete it.'
        ) from None
    settings = _object(found, "", {"incremental", "pipelines"})
    incremental = _typed(settings.get("incremental", True), bool, _key("incremental"))
    return {"incremental": incremental, "pipelines": _typed(settings.get("pipelines", {}), dict, _key("pipelines"))}


def _own_entry(pipelines: dict[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    """The pipeline's own settings, checked. Those of others are not looked at: their mistakes are not ours."""
    path = f"pipelines.{pipeline.name}"
    entry = _object(pipelines.get(pipeline.name, {}), path, {"incremental", "tables"})
    if "incremental" in entry:
        _typed(entry["incremental"], bool, _key(f"{path}.incremental"))
    elif "tables" in entry:
        raise InputError(f'{_key(path)} lists tables but not what to do with them. Add "incremental": false or true.')
    if "tables" in entry:
        _table_names(entry["tables"], pipeline, _key(f"{path}.tables"))
    return entry


def _chosen_tables(tables: Any, pipeline: Pipeline) -> frozenset[str] | None:
    return frozenset(_table_names(tables, pipeline, "the run's parameter tables")) if tables else None


def _table_names(value: Any, pipeline: Pipeline, where: str) -> list[str]:
    known = [table.name for table in pipeline.tables]
    names: list[str] = _typed(value, list, where)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"{where} names {unknown[0]!r}, which is not a table of pipeline {pipeline.name!r}. "
            f"Its tables: {', '.join(known)}."
        )
    return names


def _asked_interval(params: Mapping[str, Any]) -> Interval | None:
    start, end = params.get("interval_start"), params.get("interval_end")
    if not start and not end:
        return None
    if not start or not end:
        raise InputError("the run's parameters interval_start and interval_end go together: give both or neither.")
    first, last = _moment(start, "interval_start"), _moment(end, "interval_end")
    if first >= last:
        raise InputError(f"the run's parameter interval_end ({end}) must be after interval_start ({start}).")
    return _iso(first), _iso(last)


def _moment(text: Any, name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise InputError(
            f"the run's parameter {name} is not a time: {text!r}. Write it like 2026-01-31T00:00:00+00:00."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment else None


def _object(value: Any, path: str, keys: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = _typed(value, dict, _key(path))
    unknown = sorted(found.keys() - keys)
    if unknown:
        raise InputError(f"{_key(path)} has the unknown key {unknown[0]!r}. Known keys: {', '.join(sorted(keys))}.")
    return found


_NAMES = {bool: "true or false", dict: "an object", list: "a list"}


def _typed(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        raise InputError(f"{where} must be {_NAMES[kind]}, not {json.dumps(value, default=str)}.")
    return value


def _key(path: str) -> str:
    return f"the Airflow Variable {VARIABLE!r}" + (f", key {path}," if path else "")
