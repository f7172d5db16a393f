"""A dag-factory configuration as the text of a YAML file."""

from __future__ import annotations

from typing import Any

import yaml


def dump(config: dict[str, Any]) -> str:
    """YAML from which dag-factory reads exactly `config`.

    dag-factory expands `$NAME` in a file's text before it parses it. So the text contains no
    dollar, but its escape, `\\x24`.
    """
    text = yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text.replace("$", r"\x24")


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks (SQL, docs), and texts with a `$` in double quotes,
    because only these may contain an escape."""

    def ignore_aliases(self, data: Any) -> bool:
        return True  # repeated values are written out, for people who edit the file


def _represent_text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    style = None
    if "$" in value:
        style = '"'
    elif "\n" in value:
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _represent_text)
