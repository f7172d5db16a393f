"""docker-compose.yml as parsed for the checks: anchors and merges resolved, `${VAR}` as written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Stack = dict[str, Any]
SECRET = re.compile(r"(PASSWORD|SECRET|KEY|TOKEN|AUTH)$")
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[?-])([^}]*))?\}")
ROOT = Path(__file__).parents[2]


class UniqueKeyLoader(yaml.SafeLoader):
    """Compose refuses a key given twice in one mapping; PyYAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise yaml.constructor.ConstructorError(
                None, None, f"twice: {sorted(doubled)}", node.start_mark
            )
        self.flatten_mapping(node)
        return yaml.constructor.SafeConstructor.construct_mapping(self, node, deep=deep)


def parse(text: str) -> Stack:
    """The file with anchors and merges resolved and `${VAR}` as written."""
    stack = yaml.load(text, UniqueKeyLoader)
    assert isinstance(stack, dict)
    return stack


def strings(node: Any) -> Iterator[str]:
    """Every string value below a node."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)


STACK = parse((ROOT / "docker-compose.yml").read_text())
