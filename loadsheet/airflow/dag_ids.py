"""Which DAG id a pipeline file has, even if it is broken, and which file owns an id that two files
use."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from loadsheet.errors import SpecError
from loadsheet.names import slug
from loadsheet.spec.files import MAX_BYTES, is_there, read_text
from loadsheet.spec.pipeline_file import find_specs, load_pipeline, refuse_link_outwards
from loadsheet.spec.routes import CONNECTION_KEYS, EVENTS, Route, route_of

_DEEPEST = 4  # notify: [{to: [here]}]
_DAG_ID = re.compile(r"[A-Za-z0-9_.-]{1,200}")


def owner_of(name: str, spec: Path, root: Path) -> Path | None:
    """The file that owns the pipeline name `name`; None if that is `spec`, which uses it.

    A broken file keeps the name that its text gives it.
    """
    # The folder of that name owns it in any case.
    if spec.parent.name == name:
        return None
    for other in candidates(root, name):
        if other == spec:
            return None
        try:
            other_name = load_pipeline(other).name
        except Exception:  # any error: the parse of that file reports it
            other_name = broken_file_id(other)
        if other_name == name:
            return other
    return None


def name_taken(name: str, owner: str) -> str:
    """The problem of a file that uses the pipeline name of the file `owner`."""
    return (
        f"the pipeline name {name!r} is taken by {owner}. Give one of the two files another"
        " `pipeline:`."
    )


def candidates(root: Path, dag_id: str) -> Iterator[Path]:
    """The files that may have the id: the one in the folder of that name, which wins over any
    other; then those whose text does not rule it out."""
    same_name = root / "pipelines" / dag_id / "pipeline.yml"
    if not dag_id.startswith(".") and "/" not in dag_id and is_there(same_name):
        yield same_name
    for spec in find_specs(root):
        text = quick_text(spec)
        # Text with escaped letters, and the name of a linked folder, may hide the id.
        if dag_id in text or "\\" in text or os.path.islink(spec.parent):
            yield spec


def broken_file_id(spec: Path) -> str:
    """The DAG id of a file with problems: its `pipeline`, if that can be read, or its folder."""
    name = texts_in(spec).get("pipeline")
    if name is not None and _DAG_ID.fullmatch(name):
        return name
    return folder_id(spec)


def folder_id(spec: Path) -> str:
    """The DAG id of a file that gives none."""
    folder = spec.parent.name
    if _DAG_ID.fullmatch(folder):
        return folder
    return slug(folder.encode(errors="replace").decode())


def texts_in(spec: Path) -> dict[str, str]:
    """The plain texts at the top of a broken file by their keys (`schedule`), up to where it cannot
    be read."""
    return {str(path[0]): text for path, text in _plain_texts(spec) if len(path) == 1}


def routes_in(spec: Path) -> list[Route]:
    """The routes of alerts that a broken file names, up to where it cannot be read. What is wrong
    in a route itself is left out: people are to hear of it."""
    # By their place in the list: the keys of each.
    routes: dict[str | int, dict[str, Any]] = {}
    for path, text in _plain_texts(spec):
        if path[0] != "notify" or len(path) < 2:
            continue
        place, *keys = path[1:] if isinstance(path[1], int) else ("", *path[1:])
        route = routes.setdefault(place, {})
        match keys:
            case [key] if key in (*CONNECTION_KEYS, "channel", "digest_at"):
                route[str(key)] = text
            case ["events", int()] if text in EVENTS:
                route.setdefault("events", []).append(text)
            case ["to", int()]:
                route.setdefault("to", []).append(text)
    found = []
    for keys_of_route in routes.values():
        with contextlib.suppress(ValueError):  # without a connection
            found.append(route_of(keys_of_route))
    return found


def _plain_texts(spec: Path) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Each plain text of a broken file with its path, four levels deep, up to where it cannot be
    read.

    This reads the parser's events, whose number the length of the file limits. Building the values
    would follow aliases and merge keys: 30 lines of those need more than a machine's memory.
    """
    import yaml

    from loadsheet.spec.yaml_text import LOADER, MAX_NODES

    # Of each collection around the event: its key that waits for a value, or the place in a list.
    path: list[str | int | None] = []
    try:
        # A checked file has at most two events for each of its keys and values.
        for event in islice(yaml.parse(_safe_text(spec), LOADER), 2 * MAX_NODES):
            if isinstance(event, yaml.CollectionStartEvent):
                path.append(None if isinstance(event, yaml.MappingStartEvent) else 0)
                continue
            if isinstance(event, yaml.CollectionEndEvent):
                path.pop()
            elif not path or not isinstance(event, yaml.NodeEvent):
                continue
            elif isinstance(event, yaml.ScalarEvent):
                if path[-1] is None:
                    path[-1] = event.value
                    continue
                keys = tuple(key for key in path if key is not None)
                if not event.tag and len(keys) == len(path) <= _DEEPEST:
                    yield keys, event.value
            if path:
                path[-1] = _after(path[-1])
    # What is above the broken place is enough.
    except (yaml.YAMLError, ValueError):
        pass


def _after(last: str | int | None) -> str | int | None:
    """What follows a node: the next place of a list, the next key of a mapping (None) or, after a
    key that is no text, its value."""
    if isinstance(last, int):
        return last + 1
    return "" if last is None else None


def quick_text(spec: Path) -> str:
    """The same as `_safe_text`, in a third of the time if the file is a regular one: a worker may
    look at a thousand files."""
    try:
        status = os.lstat(spec)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            return _safe_text(spec)
        with open(spec, "rb", buffering=0) as file:
            return file.read(status.st_size).decode(errors="replace")
    except OSError:
        return ""


def _safe_text(spec: Path) -> str:
    """The file's text; empty for what a check would not read either: a pipe, a device, a link out
    of the project.

    It is also empty for a file that was removed meanwhile or may not be read: that must not fail
    the DAG of another file.
    """
    try:
        refuse_link_outwards(spec)
        return read_text(spec)
    except SpecError:
        return ""
