"""The Airflow Variable `loadsheet`: incremental loading switched off without a deploy. Pure.

    {"incremental": true, "pipelines": {"flights": {"incremental": false, "tables": ["bookings"]}}}

`incremental: false` means a full extract and load: everywhere, in one pipeline, or only in the tables listed there.
`accept_source: true`, everywhere or in one pipeline, lets runs go on although the source was failed over; it is to be
taken out again, because as long as it stands nobody is told of the next time.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from loadsheet.errors import InputError
from loadsheet.spec.models import Pipeline

VARIABLE = "loadsheet"
Full = frozenset[str] | Literal["all"]

_NAMES = {bool: "true or false", dict: "an object", list: "a list"}


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


def accepted_by_variable(pipeline: Pipeline, text: str | None) -> bool:
    """Whether the Variable's JSON `text` accepts a source that was failed over."""
    settings = _switches(text)
    return bool(_own_entry(settings["pipelines"], pipeline).get("accept_source", settings["accept_source"]))


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
            f"the Airflow Variable {VARIABLE!r} is not JSON (line {error.lineno}, column {error.colno}: {error.msg}). "
            'Set it to an object such as {"incremental": true, "pipelines": {}}, or delete it.'
        ) from None
    settings = {"incremental": True, "accept_source": False, "pipelines": {}} | _object(
        found, "", {"incremental", "accept_source", "pipelines"}
    )
    for name, kind in (("incremental", bool), ("accept_source", bool), ("pipelines", dict)):
        typed(settings[name], kind, _key(name))
    return settings


def _own_entry(pipelines: dict[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    """The pipeline's own settings, checked. Those of others are not looked at: their mistakes are not ours."""
    path = f"pipelines.{pipeline.name}"
    entry = _object(pipelines.get(pipeline.name, {}), path, {"incremental", "tables", "accept_source"})
    for name in ("incremental", "accept_source"):
        typed(entry.get(name, False), bool, _key(f"{path}.{name}"))
    if "incremental" not in entry and "tables" in entry:
        raise InputError(f'{_key(path)} lists tables but not what to do with them. Add "incremental": false or true.')
    if "tables" in entry:
        table_names(entry["tables"], pipeline, _key(f"{path}.tables"))
    return entry


def _object(value: Any, path: str, keys: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = typed(value, dict, _key(path))
    unknown = sorted(found.keys() - keys)
    if unknown:
        raise InputError(f"{_key(path)} has the unknown key {unknown[0]!r}. Known keys: {', '.join(sorted(keys))}.")
    return found


def _key(path: str) -> str:
    return f"the Airflow Variable {VARIABLE!r}" + (f", key {path}," if path else "")
