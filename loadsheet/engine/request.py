"""What a run is asked to do: `airflow_request`, `command_line_request` and `repair_request` make a
RunRequest.

In Airflow the trigger form has priority over the Variable `loadsheet`, and the Variable over the
spec. The Variable is a JSON object:

{"incremental": true, "pipelines": {"flights": {"incremental": false, "tables": ["bookings"]}}}

`incremental: false` means a full extract and load: everywhere, in one pipeline, or only in the
tables listed there. `accept_source: true`, everywhere or in one pipeline, lets runs continue
although the source was failed over. Remove it afterwards: as long as it is set, the next failover
is not reported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Set
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from loadsheet.errors import InputError
from loadsheet.names import closest, did_you_mean
from loadsheet.outcome import EVERYTHING, RunRequest, Sample
from loadsheet.plan.steps import verified_marts
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline

VARIABLE = "loadsheet"
_DEFAULTS: dict[str, Any] = {"incremental": True, "accept_source": False, "pipelines": {}}
_PARAMETERS = (
    "full_refresh",
    "tables",
    "accept_source",
    "interval_start",
    "interval_end",
    "transforms",
    "verify",
)
"""The fields of the trigger form: `loadsheet.plan.dag_config.form_params`."""
_PIPELINE_KEYS = {"incremental", "tables", "accept_source"}
_TYPE_NAMES = {bool: "true or false", dict: "an object", list: "a list"}

FullRefresh = frozenset[str] | Literal["all"]
Interval = tuple[str | None, str | None]


def airflow_request(
    pipeline: Pipeline,
    *,
    run_id: str,
    variable: str | None = None,
    params: Mapping[str, Any] | None = None,
    undeclared: Iterable[str] = (),
    data_interval: tuple[datetime | None, datetime | None] = (None, None),
) -> RunRequest:
    """The request of a run in Airflow.

    `variable` is the Variable's JSON text (None when it does not exist), `params` the trigger form,
    `undeclared` the keys of the run's conf that its DAG has no parameter for, `data_interval` the
    run's own (both None on a run without a logical date). Raises InputError that names the wrong
    key.
    """
    params = params or {}
    undeclared = set(undeclared)
    _refuse_unknown_keys(undeclared)
    if "verify" in undeclared and not pipeline.verify:
        raise InputError(
            f"the run's conf has `verify`, and pipeline {pipeline.name!r} has no step that compares"
            f" its tables. Add `verify:` to {pipeline.file.name}, or run `loadsheet verify"
            f" {pipeline.name}`."
        )
    only = None
    if params.get("tables"):
        names = _table_names(params["tables"], pipeline, "the run's parameter tables")
        only = frozenset(names)
    interval = _form_interval(params)
    refresh = _form_flag(params, "full_refresh")
    accept_source = _form_flag(params, "accept_source")
    if refresh and interval:
        raise InputError(
            "the run's parameters ask for a full refresh and for an interval: a full refresh"
            " replaces the table, so it must read all of it. Leave one of them out."
        )
    settings = _variable_settings(variable)
    own_settings = _own_settings(settings["pipelines"], pipeline)
    full: FullRefresh = frozenset()
    if not interval:  # someone who asks for an interval gets it, whatever the Variable contains
        full = _full_by_variable(settings, own_settings, pipeline)
    if refresh:
        full = "all" if only is None or full == "all" else full | only
    full = _with_rebuilt(full, _form_transforms(params, pipeline))
    start, end = interval or (_iso(data_interval[0]), _iso(data_interval[1]))
    return RunRequest(
        run_id=run_id,
        full_refresh=_with_fed_transforms(pipeline, full),
        only=only,
        interval_start=start,
        interval_end=end,
        explicit_interval=interval is not None,
        accept_source=(
            accept_source or own_settings.get("accept_source", settings["accept_source"])
        ),
        verify=_form_verify(params, pipeline),
    )


def command_line_request(
    pipeline: Pipeline,
    *,
    tables: str | None,
    full_refresh: bool,
    rebuild: str | None = None,
    accept_source: bool,
    start: str | None,
    end: str | None,
    sample: str | None = None,
    variable: str | None = None,
) -> RunRequest:
    """The request of a run from the command line.

    `tables` and `rebuild` (transforms) are lists with commas, `start` and `end` are times or
    numbers, `sample` is a share or a number of rows, `variable` is as for `airflow_request`. Raises
    InputError for a table or transform that the pipeline does not have, a value that cannot be
    read, half an interval, an interval that ends before it starts, and options that exclude each
    other.
    """
    only = None
    if tables is not None:
        only = _option_tables(pipeline, tables)
    has_interval = bool(start or end)
    if full_refresh and has_interval:
        raise InputError(
            "--full-refresh replaces a table, so it must read all of it: leave out --from and --to"
        )
    interval = _option_interval(start, end)
    if sample is not None and has_interval:
        raise InputError("--sample reads its tables in full each time: leave out --from and --to")
    full: FullRefresh = frozenset()
    if full_refresh or sample:
        full = only or "all"
    settings = _variable_settings(variable)
    own_settings = _own_settings(settings["pipelines"], pipeline)
    if not has_interval and full != "all":
        by_variable = _full_by_variable(settings, own_settings, pipeline)
        full = "all" if by_variable == "all" else full | by_variable
    if rebuild is not None:
        names = [transform.name for transform in pipeline.transforms]
        rebuilt = _option_names(pipeline, rebuild, "--rebuild", "transform", names)
        full = _with_rebuilt(full, rebuilt)
    return RunRequest(
        run_id=_run_id("cli"),
        full_refresh=_with_fed_transforms(pipeline, full),
        only=only,
        interval_start=interval[0],
        interval_end=interval[1],
        explicit_interval=interval != (None, None),
        accept_source=(
            accept_source or own_settings.get("accept_source", settings["accept_source"])
        ),
        sample=None if sample is None else _option_sample(sample),
    )


def repair_request(
    pipeline: Pipeline, *, rows_of: Set[str], whole: Set[str], marts: Set[str]
) -> RunRequest:
    """The request of `loadsheet verify --repair`: of the tables `rows_of`, the rows that differ are
    read; the tables `whole` are read, and the `marts` built, in full."""
    return RunRequest(
        run_id=_run_id("repair"),
        only=frozenset(rows_of | whole),
        repair=frozenset(rows_of),
        is_repair=True,
        full_refresh=_with_fed_transforms(pipeline, frozenset(whole | marts)),
    )


def _run_id(kind: str) -> str:
    return f"{kind}__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def _with_rebuilt(full: FullRefresh, transforms: frozenset[str]) -> FullRefresh:
    """`full` and the transforms that are to be built in full although nothing has changed."""
    return full if full == "all" else full | transforms


def _with_fed_transforms(pipeline: Pipeline, full: FullRefresh) -> FullRefresh:
    """`full` and every transform fed by it: a table that is read again in full may have lost rows
    that a mart still holds."""
    if full == "all" or not full:
        return full
    names = set(full)
    # In the order in which they run, so one pass finds the transforms of transforms as well.
    for name, inputs in transform_inputs(pipeline).items():
        if full.intersection(inputs.tables) or names.intersection(inputs.transforms):
            names.add(name)
    return frozenset(names)


# The trigger form.


def _refuse_unknown_keys(undeclared: Iterable[str]) -> None:
    """Raises InputError: an ignored `full_refesh` would be a run that reads only what is new."""
    for key in sorted(set(undeclared) - set(_PARAMETERS)):
        meant = closest(key, _PARAMETERS)
        hint = f" Did you mean {meant}?" if meant else ""
        raise InputError(
            f"the run's conf has the unknown key {key!r}.{hint} Known keys:"
            f" {', '.join(_PARAMETERS)}."
        )


def _form_flag(params: Mapping[str, Any], name: str) -> bool:
    flag: bool = _typed(params.get(name, False), bool, f"the run's parameter {name}")
    return flag


def _form_interval(params: Mapping[str, Any]) -> Interval | None:
    start = params.get("interval_start")
    end = params.get("interval_end")
    if not start and not end:
        return None
    if not start or not end:
        raise InputError(
            "the run's parameters interval_start and interval_end go together: give both or"
            " neither."
        )
    first = _form_time(start, "interval_start")
    last = _form_time(end, "interval_end")
    if first >= last:
        raise InputError(
            f"the run's parameter interval_end ({end}) must be after interval_start ({start})."
        )
    return _iso(first), _iso(last)


def _form_time(text: Any, name: str) -> datetime:
    try:
        return _in_utc(text)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"the run's parameter {name} is not a time: {text!r}. Write it like"
            " 2026-01-31T00:00:00+00:00."
        ) from None


# The Variable.


def _full_by_variable(
    settings: Mapping[str, Any], own_settings: Mapping[str, Any], pipeline: Pipeline
) -> FullRefresh:
    """Which tables the Variable wants in full. The pipeline's own settings, where it has any, have
    priority over those for all pipelines, but only for the tables they list."""
    is_full_everywhere = not settings["incremental"]
    is_full_here = is_full_everywhere
    if "incremental" in own_settings:
        is_full_here = not own_settings["incremental"]
    if "tables" not in own_settings:
        return "all" if is_full_here else frozenset()
    listed = frozenset(own_settings["tables"])
    if is_full_everywhere and is_full_here:
        return "all"
    if is_full_here:
        return listed
    if is_full_everywhere:
        return frozenset(table.name for table in pipeline.tables) - listed
    return frozenset()


def _variable_settings(text: str | None) -> dict[str, Any]:
    """The Variable's object, checked, with its defaults."""
    document: Any = {}
    if text and text.strip():
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(
                f"the Airflow Variable {VARIABLE!r} is not JSON (line {error.lineno}, column"
                f' {error.colno}: {error.msg}). Set it to an object such as {{"incremental": true,'
                ' "pipelines": {}}, or delete it.'
            ) from None
    settings = _DEFAULTS | _object(document, "", set(_DEFAULTS))
    for name, default in _DEFAULTS.items():
        _typed(settings[name], type(default), _variable_key(name))
    return settings


def _own_settings(pipelines: dict[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    """The pipeline's own settings, checked. Those of other pipelines are not checked: their
    mistakes must not stop this one."""
    path = f"pipelines.{pipeline.name}"
    settings = _object(pipelines.get(pipeline.name, {}), path, _PIPELINE_KEYS)
    for name in ("incremental", "accept_source"):
        _typed(settings.get(name, False), bool, _variable_key(f"{path}.{name}"))
    if "incremental" not in settings and "tables" in settings:
        raise InputError(
            f"{_variable_key(path)} lists tables but not what to do with them. Add"
            ' "incremental": false or true.'
        )
    if "tables" in settings:
        _table_names(settings["tables"], pipeline, _variable_key(f"{path}.tables"))
    return settings


def _object(value: Any, path: str, keys: set[str]) -> dict[str, Any]:
    """`value`, an object of the Variable. Raises InputError for another type or an unknown key."""
    settings: dict[str, Any] = _typed(value, dict, _variable_key(path))
    unknown = sorted(settings.keys() - keys)
    if unknown:
        raise InputError(
            f"{_variable_key(path)} has the unknown key {unknown[0]!r}. Known keys:"
            f" {', '.join(sorted(keys))}."
        )
    return settings


def _variable_key(path: str) -> str:
    """How messages name a key of the Variable; an empty `path` is the Variable itself."""
    name = f"the Airflow Variable {VARIABLE!r}"
    if not path:
        return name
    return f"{name}, key {path},"


# The options of the command line.


def _option_tables(pipeline: Pipeline, text: str) -> frozenset[str]:
    names = [table.name for table in pipeline.tables]
    return _option_names(pipeline, text, "--tables", "table", names)


def _option_names(
    pipeline: Pipeline, text: str, option: str, what: str, known: list[str]
) -> frozenset[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError(f"{option} names no {what}; {pipeline.name} has {', '.join(known)}")
    for name in names:
        if name not in known:
            raise InputError(
                f"{option}: {pipeline.name} has no {what} {name!r}{did_you_mean(name, known)}"
            )
    return frozenset(names)


def _option_sample(text: str) -> Sample:
    digits = text.removesuffix("%")
    is_share = text.endswith("%")
    # Not `float` alone: it also accepts nan, 1e3 and the digits of other scripts.
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", digits):
        number = float(digits)
        if is_share and 0 < number <= 100:
            return Sample(share=number / 100)
        if not is_share and number > 0 and number.is_integer():
            return Sample(rows=int(number))
    raise InputError(
        f"--sample {text} is neither a share, such as 1% or 0.1%, nor a number of rows per table"
    )


def _option_interval(start: str | None, end: str | None) -> Interval:
    if start is None and end is None:
        return None, None
    if start is None or end is None:
        raise InputError(
            "--from and --to go together: rows from the first are read, rows from the second"
            " are not"
        )
    first = _option_bound(start, "--from")
    last = _option_bound(end, "--to")
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


def _option_bound(text: str, option: str) -> datetime | Decimal:
    if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text):
        return Decimal(text)
    try:
        return _in_utc(text)
    except (ValueError, OverflowError):
        raise InputError(
            f"{option} {text} is neither a time such as 2026-01-31 or 2026-01-31T12:00:00+00:00 nor"
            " a number"
        ) from None


# For all of them.


def _table_names(value: Any, pipeline: Pipeline, where: str) -> list[str]:
    """`value` as a list of the pipeline's tables. Raises InputError that begins with `where`."""
    known = [table.name for table in pipeline.tables]

    def is_known(name: str) -> bool:
        # A table that a pattern matches is known only when the run begins.
        return name in known or pipeline.pattern_of(name) is not None

    return _names(value, where, "table", pipeline, known, is_known)


def _form_transforms(params: Mapping[str, Any], pipeline: Pipeline) -> frozenset[str]:
    known = [transform.name for transform in pipeline.transforms]
    where = "the run's parameter transforms"
    names = params.get("transforms") or []
    return frozenset(_names(names, where, "transform", pipeline, known, known.__contains__))


def _form_verify(params: Mapping[str, Any], pipeline: Pipeline) -> frozenset[str]:
    where = "the run's parameter verify"
    names: list[str] = _typed(params.get("verify") or [], list, where)
    known = [*(table.name for table in pipeline.tables), *verified_marts(pipeline)]
    for name in names:
        if name == EVERYTHING or name in known:
            continue
        if not (isinstance(name, str) and pipeline.pattern_of(name)):
            raise InputError(
                f"{where} names {name!r}, which pipeline {pipeline.name!r} does not compare. It"
                f" compares: {', '.join(known)}; {EVERYTHING} means all."
            )
    return frozenset(names)


def _names(
    value: Any,
    where: str,
    what: str,
    pipeline: Pipeline,
    known: list[str],
    is_known: Callable[[str], bool],
) -> list[str]:
    """`value` as a list of known names. Raises InputError that begins with `where`."""
    names: list[str] = _typed(value, list, where)
    for name in names:
        if not (isinstance(name, str) and is_known(name)):
            raise InputError(
                f"{where} names {name!r}, which is not a {what} of pipeline {pipeline.name!r}. "
                f"Its {what}s: {', '.join(known)}."
            )
    return names


def _typed(value: Any, kind: type, where: str) -> Any:
    """`value` when it is a `kind`. Raises InputError that begins with `where`."""
    if not isinstance(value, kind):
        shown = json.dumps(value, default=str)
        raise InputError(f"{where} must be {_TYPE_NAMES[kind]}, not {shown}.")
    return value


def _in_utc(text: str) -> datetime:
    """The time in UTC; one without a zone is in UTC. Raises ValueError, and OverflowError where it
    is before the year 1 or after 9999 there."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC)


def _iso(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat()
