"""A dag-factory configuration as the text of its file."""

from __future__ import annotations

from typing import Any

import yaml


def dump(config: dict[str, Any]) -> str:
    """YAML that comes back as `config` when dag-factory reads it.

    It expands `$NAME` in a file's text before it parses that, so no dollar is written: `\\x24`
    stands for it.
    """
    text = yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text.replace("$", r"\x24")


class _Dumper(yaml.SafeDumper):
    """Lines as they are for SQL and docs; quotes around whatever holds a `$`, so that it may stand
    as an escape."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    style = '"' if "$" in value else "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
