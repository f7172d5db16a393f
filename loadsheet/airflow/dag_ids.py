"""Which DAG id a pipeline file has, even if it is broken, and which file owns an id that two files
use."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from loadsheet.errors import SpecError
from loadsheet.names import slug
from loadsheet.spec.files import MAX_BYTES, is_there, read_text
from loadsheet.spec.pipeline_file import find_specs, load_pipeline, refuse_link_outwards


def raw_values(spec: Path) -> dict[str, str]:
    """The texts at the top level of a broken file, as far as it can be read.

    By its events, of which there are as many as the file is long: building its values would follow
    aliases and merge keys, and 30 lines of these are more than a machine's memory.
    """
    import yaml

    from loadsheet.spec.strict_yaml import LOADER

    found: dict[str, str] = {}
    depth, key = 0, None
    try:
        for event in yaml.parse(raw_text(spec), LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(
                event, yaml.CollectionEndEvent
            )
            if depth != 1 or isinstance(event, yaml.CollectionStartEvent):
                continue
            if key is None and isinstance(event, yaml.ScalarEvent):
                key = event.value
            else:
                if key is not None and isinstance(event, yaml.ScalarEvent) and not event.tag:
                    found[key] = event.value
                key = None
    except (yaml.YAMLError, ValueError):
        pass
    return found


def raw_text(spec: Path) -> str:
    """The file's text; empty for what a check would not read either: a pipe, a device, a link that
    leads away.

    Also for one that is gone since it was found, or that may not be read: no reason to fail
    another DAG.
    """
    try:
        refuse_link_outwards(spec)
        return read_text(spec)
    except SpecError:
        return ""


_DAG_ID = re.compile(r"[A-Za-z0-9_.-]{1,200}")


def taken_by(spec: Path, name: str, root: Path) -> Path | None:
    """The file that has the pipeline name `name`, when that is not `spec`; a broken file keeps the
    name it claims."""
    if spec.parent.name == name:
        return None
    for other in claimants(root, name):
        if other == spec:
            return None
        if _name_of(other) == name:
            return other
    return None


def taken(name: str, owner: str) -> str:
    """What to do about a name that `owner` has."""
    return (
        f"the pipeline name {name!r} is taken by {owner}. Give one of the two files another"
        " `pipeline:`."
    )


def claimants(root: Path, dag_id: str) -> Iterator[Path]:
    """The files that may have it: the one in the folder of that name, which wins over any other;
    then those whose text does not rule it out."""
    same_name = root / "pipelines" / dag_id / "pipeline.yml"
    if not dag_id.startswith(".") and "/" not in dag_id and is_there(same_name):
        yield same_name
    for spec in find_specs(root):
        text = _text(spec)
        # Escaped letters, and a linked folder's own name, are not in the text.
        if dag_id in text or "\\" in text or os.path.islink(spec.parent):
            yield spec


def readable_name(spec: Path) -> str:
    """The DAG id of a broken file."""
    name = raw_values(spec).get("pipeline")
    return name if isinstance(name, str) and _DAG_ID.fullmatch(name) else folder_id(spec)


def folder_id(spec: Path) -> str:
    """The DAG id of a file that gives none."""
    folder = spec.parent.name
    return folder if _DAG_ID.fullmatch(folder) else slug(folder.encode(errors="replace").decode())


def _text(spec: Path) -> str:
    """As `raw_text`, in a third of the time where the file is a plain one: a worker may look at a
    thousand."""
    try:
        found = os.lstat(spec)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
            return raw_text(spec)
        with open(spec, "rb", buffering=0) as file:
            return file.read(found.st_size).decode(errors="replace")
    except OSError:
        return ""


def _name_of(spec: Path) -> str:
    try:
        return load_pipeline(spec).name
    except Exception:  # whatever it is, the file's own parse says it
        return readable_name(spec)
