"""Which DAG id a pipeline file has, even if it is broken, and which file owns an id that two files
use."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from loadsheet.errors import SpecError
from loadsheet.names import slug
from loadsheet.spec.files import MAX_BYTES, is_there, read_text
from loadsheet.spec.pipeline_file import find_specs, load_pipeline, refuse_link_outwards

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
    """The plain texts of a broken file by their keys (`schedule`, `notify.slack_conn_id`), two
    levels deep, up to where it cannot be read.

    This reads the parser's events, whose number the length of the file limits. Building the values
    would follow aliases and merge keys: 30 lines of those need more than a machine's memory.
    """
    import yaml

    from loadsheet.spec.yaml_text import LOADER, MAX_NODES

    texts: dict[str, str] = {}
    # Of each collection around the event: whether it is a mapping, and its key that waits for a
    # value.
    mappings: list[bool] = []
    keys: list[str | None] = []
    try:
        # A checked file has at most two events for each of its keys and values.
        for event in islice(yaml.parse(_safe_text(spec), LOADER), 2 * MAX_NODES):
            if isinstance(event, yaml.CollectionStartEvent):
                mappings.append(isinstance(event, yaml.MappingStartEvent))
                keys.append(None)
                continue
            if isinstance(event, yaml.CollectionEndEvent):
                mappings.pop()
                keys.pop()
                if keys:
                    keys[-1] = None
                continue
            if not 1 <= len(keys) <= 2 or not all(mappings):
                continue
            scalar = event if isinstance(event, yaml.ScalarEvent) else None
            if keys[-1] is None and scalar:
                keys[-1] = scalar.value
                continue
            path = [key for key in keys if key is not None]
            if scalar and not scalar.tag and len(path) == len(keys):
                texts[".".join(path)] = scalar.value
            keys[-1] = None
    # The keys above the broken place are enough.
    except (yaml.YAMLError, ValueError):
        pass
    return texts


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
