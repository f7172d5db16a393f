"""What a run was asked to do: by the schedule, the Airflow Variable `loadsheet`, the trigger form
or the command line.

The trigger form beats the Variable, the Variable beats the spec.

{"incremental": true, "pipelines": {"flights": {"incremental": false, "tables": ["bookings"]}}}

`incremental: false` means a full extract and load: everywhere, in one pipeline, or only in the
tables listed there. `accept_source: true`, everywhere or in one pipeline, lets runs go on although
the source was failed over; it is to be taken out again, because as long as it is set, the next
failover goes unreported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from loadsheet.errors import InputError
from loadsheet.names import did_you_mean
from loadsheet.outcome import RunRequest, Sample
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline

Interval = tuple[str | None, str | None]


def airflow_request(
    pipeline: Pipeline,
    *,
    run_id: str,
    variable: str | None = None,
    params: Mapping[str, Any] | None = None,
    data_interval: tuple[datetime | None, datetime | None] = (None, None),
) -> RunRequest:
    """The request of one run.

    `variable` is the Variable's JSON text (None when it does not exist), `params` the trigger form,
    `data_interval` the run's own (both None on a run without a logical date). Raises InputError
    naming the key that is wrong.
    """
    params = params or {}
    only = _chosen_tables(params.get("tables"), pipeline)
    asked = _asked_interval(params)
    refresh = typed(params.get("full_refresh", False), bool, "the run's parameter full_refresh")
    if refresh and asked:
        raise InputError(
            "the run's parameters ask for a full refresh and for an interval: a full refresh"
            " replaces the table, so it must read all of it. Leave one of them out."
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
    """`full` and every transform fed by it: a table read again in full may have lost rows that a
    mart still holds."""
    if full == "all" or not full:
        return full
    names = set(full)
    for name, inputs in transform_inputs(pipeline).items():
        if full.intersection(inputs.tables) or names.intersection(inputs.transforms):
            names.add(name)
    return frozenset(names)


def _chosen_tables(tables: Any, pipeline: Pipeline) -> frozenset[str] | None:
    return (
        frozenset(table_names(tables, pipeline, "the run's parameter tables")) if tables else None
    )


def _asked_interval(params: Mapping[str, Any]) -> Interval | None:
    start, end = params.get("interval_start"), params.get("interval_end")
    if not start and not end:
        return None
    if not start or not end:
        raise InputError(
            "the run's parameters interval_start and interval_end go together: give both or"
            " neither."
        )
    first, last = _moment(start, "interval_start"), _moment(end, "interval_end")
    if first >= last:
        raise InputError(
            f"the run's parameter interval_end ({end}) must be after interval_start ({start})."
        )
    return _iso(first), _iso(last)


def _moment(text: Any, name: str) -> datetime:
    try:
        return _in_utc(text)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"the run's parameter {name} is not a time: {text!r}. Write it like"
            " 2026-01-31T00:00:00+00:00."
        ) from None


def _in_utc(text: str) -> datetime:
    """The moment in UTC; one without a zone is in UTC. Raises ValueError, and OverflowError where
    it is before the year 1 or after 9999 there."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC)


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment else None


VARIABLE = "loadsheet"
Full = frozenset[str] | Literal["all"]

_NAMES = {bool: "true or false", dict: "an object", list: "a list"}


def full_by_variable(pipeline: Pipeline, text: str | None) -> Full:
    """Which tables the Variable's JSON `text` wants in full; `all` when it names no exception."""
    settings = _switches(text)
    everywhere = not settings["incremental"]
    entry = _own_entry(settings["pipelines"], pipeline)
    here = everywhere
    if "incremental" in entry:
        here = not entry["incremental"]
    if here and (everywhere or "tables" not in entry):
        return "all"
    if "tables" not in entry:
        return frozenset()
    listed = frozenset(entry["tables"])
    if here:
        return listed
    if everywhere:
        return frozenset(table.name for table in pipeline.tables) - listed
    return frozenset()


def accepted_by_variable(pipeline: Pipeline, text: str | None) -> bool:
    """Whether the Variable's JSON `text` accepts a source that was failed over."""
    settings = _switches(text)
    entry = _own_entry(settings["pipelines"], pipeline)
    return bool(entry.get("accept_source", settings["accept_source"]))


def table_names(value: Any, pipeline: Pipeline, where: str) -> list[str]:
    """`value` as a list of the pipeline's tables. Raises InputError that begins with `where`."""
    known = [table.name for table in pipeline.tables]
    names: list[str] = typed(value, list, where)
    unknown = [name for name in names if name not in known and not pipeline.pattern_of(name)]
    if unknown:
        raise InputError(
            f"{where} names {unknown[0]!r}, which is not a table of pipeline {pipeline.name!r}. "
            f"Its tables: {', '.join(known)}."
        )
    return names


def typed(value: Any, kind: type, where: str) -> Any:
    """`value` when it is a `kind`. Raises InputError that begins with `where`."""
    if not isinstance(value, kind):
        raise InputError(f"{where} must be {_NAMES[kind]}, not {json.dumps(value, default=str)}.")
    return value


def _switches(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if text and text.strip() else {}
    except json.JSONDecodeError as error:
        raise InputError(
            f"the Airflow Variable {VARIABLE!r} is not JSON (line {error.lineno}, column"
            f' {error.colno}: {error.msg}). Set it to an object such as {{"incremental": true,'
            ' "pipelines": {}}, or delete it.'
        ) from None
    defaults = {"incremental": True, "accept_source": False, "pipelines": {}}
    settings = defaults | _object(found, "", set(defaults))
    for name, kind in (("incremental", bool), ("accept_source", bool), ("pipelines", dict)):
        typed(settings[name], kind, _key(name))
    return settings


def _own_entry(pipelines: dict[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    """The pipeline's own settings, checked. Those of others are not looked at: their mistakes are
    not ours."""
    path = f"pipelines.{pipeline.name}"
    entry = _object(
        pipelines.get(pipeline.name, {}), path, {"incremental", "tables", "accept_source"}
    )
    for name in ("incremental", "accept_source"):
        typed(entry.get(name, False), bool, _key(f"{path}.{name}"))
    if "incremental" not in entry and "tables" in entry:
        raise InputError(
            f'{_key(path)} lists tables but not what to do with them. Add "incremental": false or'
            " true."
        )
    if "tables" in entry:
        table_names(entry["tables"], pipeline, _key(f"{path}.tables"))
    return entry


def _object(value: Any, path: str, keys: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = typed(value, dict, _key(path))
    unknown = sorted(found.keys() - keys)
    if unknown:
        raise InputError(
            f"{_key(path)} has the unknown key {unknown[0]!r}. Known keys:"
            f" {', '.join(sorted(keys))}."
        )
    return found


def _key(path: str) -> str:
    key = f", key {path}," if path else ""
    return f"the Airflow Variable {VARIABLE!r}{key}"


def command_line_request(
    pipeline: Pipeline,
    *,
    tables: str | None,
    full_refresh: bool,
    accept_source: bool,
    start: str | None,
    end: str | None,
    sample: str | None = None,
) -> RunRequest:
    """The request of one run from the command line.

    `tables` is a list with commas. Raises InputError for a table the pipeline does not have, half
    an interval, an interval that is none, a full refresh of an interval, and a sample that is none
    or is asked for an interval.
    """
    only = _tables(pipeline, tables) if tables is not None else None
    if full_refresh and (start or end):
        raise InputError(
            "--full-refresh replaces a table, so it must read all of it: leave out --from and --to"
        )
    interval = _interval(start, end)
    if sample is not None and (start or end):
        raise InputError("--sample reads its tables in full each time: leave out --from and --to")
    full: Full = frozenset()
    if full_refresh or sample:
        full = only or "all"
    return RunRequest(
        run_id=f"cli__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        full_refresh=with_fed_transforms(pipeline, full),
        only=only,
        interval_start=interval[0],
        interval_end=interval[1],
        explicit_interval=interval != (None, None),
        accept_source=accept_source,
        sample=_sample(sample) if sample is not None else None,
    )


def _tables(pipeline: Pipeline, text: str) -> frozenset[str]:
    known = [table.name for table in pipeline.tables]
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError(f"--tables names no table; {pipeline.name} has {', '.join(known)}")
    for name in names:
        if name not in known:
            raise InputError(
                f"--tables: {pipeline.name} has no table {name!r}{did_you_mean(name, known)}"
            )
    return frozenset(names)


def _sample(text: str) -> Sample:
    digits = text.removesuffix("%")
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", digits):
        number = float(digits)
        if text.endswith("%") and 0 < number <= 100:
            return Sample(share=number / 100)
        if not text.endswith("%") and number > 0 and number.is_integer():
            return Sample(rows=int(number))
    raise InputError(
        f"--sample {text} is neither a share, such as 1% or 0.1%, nor a number of rows per table"
    )


def _interval(start: str | None, end: str | None) -> tuple[str | None, str | None]:
    if start is None and end is None:
        return None, None
    if start is None or end is None:
        raise InputError(
            "--from and --to go together: rows from the first are read, rows from the second"
            " are not"
        )
    first = _bound(start, "--from")
    last = _bound(end, "--to")
    if isinstance(first, Decimal) and isinstance(last, Decimal):
        is_interval = first < last
        bounds = (start, end)
    elif isinstance(first, datetime) and isinstance(last, datetime):
        is_interval = first < last
        bounds = (first.isoformat(), last.isoformat())
    else:
        raise InputError(f"--from {start} and --to {end} must both be times or both be numbers")
    if not is_interval:
        raise InputError(f"--to {end} must come after --from {start}")
    return bounds


def _bound(text: str, option: str) -> datetime | Decimal:
    if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text):
        return Decimal(text)
    try:
        return _in_utc(text)
    except (ValueError, OverflowError):
        raise InputError(
            f"{option} {text} is neither a time such as 2026-01-31 or 2026-01-31T12:00:00+00:00 nor"
            " a number"
        ) from None
