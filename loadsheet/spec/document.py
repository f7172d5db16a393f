"""A YAML file -> plain data in which every key and value remembers its line and column."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Literal

import yaml

from loadsheet.errors import SpecError
from loadsheet.spec.finding import Finding, Mark, Path, dotted, one_line
from loadsheet.spec.problem import Problem
from loadsheet.spec.scalars import Ambiguous, scalar_value
from loadsheet.spec.syntax import compose, mark_of
from loadsheet.spec.text import UNPRINTABLE, read_text
from loadsheet.spec.words import found

_SHARE = "write the keys out, or put what tables share under `defaults`"


@dataclass(kw_only=True)
class Document:
    """The data of a file, the positions of its keys and values, and what is odd about them as YAML."""

    file: str
    data: Any = None
    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def problem(self, finding: Finding) -> Problem:
        """`finding` with its position: that of the nearest existing parent when the path itself is not in the file."""
        line, column = self._where(finding)
        return Problem(
            file=self.file,
            line=line,
            column=column,
            path=dotted(finding.path),
            message=one_line(finding.message),
            hint=one_line(finding.hint),
            code=finding.code,
            severity=finding.severity,
        )

    def _where(self, finding: Finding) -> Mark:
        if isinstance(finding.at, tuple):
            return finding.at
        first, second = (self.keys, self.values) if finding.at == "key" else (self.values, self.keys)
        if mark := first.get(finding.path) or second.get(finding.path):
            return mark
        parents = (finding.path[:n] for n in range(len(finding.path) - 1, -1, -1))
        return next((mark for path in parents if (mark := self.keys.get(path) or self.values.get(path))), (1, 1))


def read_document(path: FilePath, text: str | None = None) -> Document:
    """The file as located data, with `findings` for YAML that not every reader would understand alike.

    `text` is what to read in its place. Raises SpecError when there is nothing to go on with: no readable file, no
    YAML, or nothing in it.
    """
    node, refused = compose(read_text(path) if text is None else text)
    document = Document(file=str(path), findings=refused)
    if not refused and (node is None or _is_nothing(node)):
        hint = "a pipeline has the keys version, source, lake, warehouse and tables"
        refused = [Finding("missing-key", path=(), message="the file is empty", hint=hint, at=(1, 1))]
    if node is None or refused:
        raise SpecError([document.problem(finding) for finding in refused])
    document.data = _value(document, node, ())
    return document


def _is_nothing(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.style and node.value == ""


def _value(document: Document, node: yaml.Node, path: Path) -> Any:
    document.values[path] = mark_of(node.start_mark)
    if isinstance(node, yaml.MappingNode):
        return _mapping(document, node, path)
    if isinstance(node, yaml.SequenceNode):
        return [_value(document, item, (*path, index)) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(document, node, path, "value")


def _mapping(document: Document, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        at = mark_of(key_node.start_mark)
        if not isinstance(key_node, yaml.ScalarNode):
            document.findings.append(
                Finding("wrong-value", path=path, message="a key must be one piece of text", at=at)
            )
            continue
        key = key_node.value
        if key == "<<" and not key_node.style:
            document.findings.append(
                Finding("yaml-feature", path=path, message="merge keys (<<) are not allowed", hint=_SHARE, at=at)
            )
            continue
        here = (*path, key)
        if key in data:
            message = f"this key stands twice, first on line {document.keys[here][0]}"
            document.findings.append(
                Finding("duplicate-key", path=here, message=message, hint="keep one of the two", at=at)
            )
            continue
        document.keys[here] = at
        _check_key(document, key_node, here)
        data[key] = _value(document, value_node, here)
    return data


def _check_key(document: Document, node: yaml.ScalarNode, path: Path) -> None:
    before = len(document.findings)
    value = _scalar(document, node, path, "key")
    if len(document.findings) == before and not isinstance(value, str):
        message, hint = f"a key must be text, found {found(value)}", f'quote it: "{node.value}"'
        document.findings.append(Finding("wrong-value", path=path, message=message, hint=hint, at="key"))


def _scalar(document: Document, node: yaml.ScalarNode, path: Path, at: Literal["key", "value"]) -> Any:
    try:
        value = scalar_value(node)
    except Ambiguous as error:
        document.findings.append(Finding("ambiguous-value", path=path, message=str(error), hint=error.hint, at=at))
        return node.value
    if isinstance(value, str) and (odd := UNPRINTABLE.search(value)):
        message = f"the character U+{ord(odd.group()):04X} is not allowed here"
        document.findings.append(Finding("unreadable-file", path=path, message=message, hint="delete it", at=at))
    return value
