"""What a pipeline file says, as far as it can be read: a broken one still has a name and a schedule."""

from __future__ import annotations

from pathlib import Path

from loadsheet.errors import SpecError
from loadsheet.spec.load import refuse_link_outwards
from loadsheet.spec.text import read_text


def raw_values(spec: Path) -> dict[str, str]:
    """The texts at the top level of a broken file, as far as it can be read.

    By its events, of which there are as many as the file is long: building its values would follow aliases and merge
    keys, and 30 lines of these are more than a machine's memory.
    """
    import yaml

    from loadsheet.spec.syntax import LOADER

    found: dict[str, str] = {}
    depth, key = 0, None
    try:
        for event in yaml.parse(raw_text(spec), LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
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
    """The file's text; empty for what a check would not read either: a pipe, a device, a link that leads away.

    Also for one that is gone since it was found, or that nobody may read: no reason to fail somebody else's DAG.
    """
    try:
        refuse_link_outwards(spec)
        return read_text(spec)
    except SpecError:
        return ""
