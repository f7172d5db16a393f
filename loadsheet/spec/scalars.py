"""Plain YAML scalars -> values, refusing those that YAML 1.1 and YAML 1.2 readers understand differently.

`no`, `1:30`, `010` or `2026-01-01` without quotes are text to an editor and a truth value, a number or a date to
many a parser. Whatever both versions agree on is taken, everything else must be quoted.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_YAML_1_2 = (
    ("null", re.compile(r"null|Null|NULL|~|")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")),
    ("float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")),
)
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_LONGEST = 100
"""Digits of a number; Python refuses to read or print one with more than 4300."""
_TRUE = frozenset({"true", "yes", "on"})


class Ambiguous(ValueError):
    """A plain scalar that must be quoted; the message says what readers make of it, `hint` what to write."""

    def __init__(self, message: str, hint: str):
        super().__init__(message)
        self.hint = hint


def scalar_value(node: yaml.ScalarNode) -> Any:
    """The value of a scalar node as composed by PyYAML: None, a bool, a number or text.

    Raises Ambiguous for plain text that not every YAML reader understands alike.
    """
    if node.style:  # quoted or block text
        return node.value
    old, new = node.tag.removeprefix(_TAG), _kind_1_2(node.value)
    if old != new or _LEADING_ZERO.fullmatch(node.value):
        message = f"without quotes {_old_reading(old, node.value)} to some YAML readers, but not to all"
        number = "write a number with plain digits, 10 or 0.1; if it is text, " if {old, new} & {"int", "float"} else ""
        raise Ambiguous(message, f'{number}quote it: "{_short(node.value)}"')
    return _convert(old, node.value)


def _kind_1_2(text: str) -> str:
    return next((kind for kind, pattern in _YAML_1_2 if pattern.fullmatch(text)), "str")


def _convert(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind not in ("int", "float"):
        return text
    value: int | float = 0 if len(text) > _LONGEST else int(text, 0) if kind == "int" else float(text)
    if len(text) > _LONGEST or math.isinf(value):
        raise Ambiguous("this number is too large", "quote it if it is text")
    if kind == "float" and Decimal(text) != Decimal(repr(value)):
        raise Ambiguous(f"readers keep only {value!r} of this number", f'quote it: "{text}"')
    return value


def _old_reading(kind: str, text: str) -> str:
    shown = _short(text)
    if kind == "bool":
        return f"{shown} is {'true' if text.lower() in _TRUE else 'false'}"
    if kind == "timestamp":
        return f"{shown} is a date"
    if kind == "int" and ":" not in text and _LEADING_ZERO.fullmatch(text):
        return f"{shown} is the number {int(text.replace('_', ''), 8)}"
    return f"{shown} is a number"


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
