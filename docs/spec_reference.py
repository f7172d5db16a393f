"""Every key of a pipeline file, from its schema: `python docs/spec_reference.py > docs/spec.md`. A
test compares."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "schemas" / "pipeline.schema.json").read_text()
)
HEAD = """\
# Every key of a pipeline file

Generated from [schemas/pipeline.schema.json](../schemas/pipeline.schema.json) by
`python docs/spec_reference.py`.
[Pipeline file](pipeline-file.md) shows the keys at work. Examples are written as JSON, which is
YAML too.
"""
TABLE = "| key | value | meaning | default | examples |\n|---|---|---|---|---|"


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """`node` with the definition it refers to filled in; its own keys win."""
    return {**SCHEMA["$defs"].get(node.get("$ref", "").rpartition("/")[2], {}), **node}


def mappings(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping that has keys, under its path; `defaults` has those of a table."""
    node = resolved(node)
    if "properties" in node:
        yield path, node
    for name, child in node.get("properties", {}).items():
        if name != "defaults":
            yield from mappings(child, f"{path}.{name}".lstrip("."))
    if isinstance(node.get("additionalProperties"), dict):
        yield from mappings(node["additionalProperties"], f"{path}.<name>")


def row(name: str, node: dict[str, Any], required: bool) -> str:
    """One key as a line of a table."""
    default = "required" if required else code(node["default"]) if "default" in node else ""
    cells = [
        f"`{name}`",
        resolved(node)["title"],
        node["description"],
        default,
        ", ".join(map(code, node["examples"])),
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def code(value: Any) -> str:
    """`value` as inline code."""
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for path, node in mappings(SCHEMA):
        rows = [
            row(name, child, name in node.get("required", ()))
            for name, child in node["properties"].items()
        ]
        parts.append(
            "\n".join([f"## {f'`{path}`' if path else 'Top level'}\n", TABLE, *rows]) + "\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    print(reference(), end="")
