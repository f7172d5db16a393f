"""What a run was asked to do: the Variable (see `loadsheet.switches`), the trigger form and the schedule, merged. Pure.

The trigger form beats the Variable, the Variable beats the spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from loadsheet.errors import InputError
from loadsheet.outcome import RunRequest
from loadsheet.plan.inputs import transform_inputs
from loadsheet.spec.models import Pipeline
from loadsheet.switches import Full, accepted_by_variable, full_by_variable, table_names, typed

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
    refresh = typed(params.get("full_refresh", False), bool, "the run's parameter full_refresh")
    if refresh and asked:
        raise InputError(
            "the run's parameters ask for a full refresh and for an interval: a full refresh replaces the table, "
            "so it must read all of it. Leave one of them out."
        )
    # A person who asks for an interval wants that interval, whatever the Variable says.
    full: Full = frozenset() if asked else full_by_variable(pipeline, variable)
    if refresh:
        full = "all" if only is None or full == "all" else full | only
    accept = typed(params.get("accept_source", False), bool, "the run's parameter accept_source")
    start, end = asked or (_iso(data_interval[0]), _iso(data_interval[1]))
    return RunRequest(
        run_id=run_id,
        full_refresh=with_fed_transforms(pipeline, full),
        only=only,
        interval_start=start,
        interval_end=end,
        explicit_interval=asked is not None,
        accept_source=accept or accepted_by_variable(pipeline, variable),
    )


def with_fed_transforms(pipeline: Pipeline, full: Full) -> Full:
    """`full` and every transform fed by it: a table read again in full may have lost rows that a mart still holds."""
    if full == "all" or not full:
        return full
    names = set(full)
    for name, inputs in transform_inputs(pipeline).items():
        if full.intersection(inputs.tables) or names.intersection(inputs.transforms):
            names.add(name)
    return frozenset(names)


def _chosen_tables(tables: Any, pipeline: Pipeline) -> frozenset[str] | None:
    return frozenset(table_names(tables, pipeline, "the run's parameter tables")) if tables else None


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
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):  # overflow: in UTC it is before the year 1 or after 9999
        raise InputError(
            f"the run's parameter {name} is not a time: {text!r}. Write it like 2026-01-31T00:00:00+00:00."
        ) from None


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment else None
