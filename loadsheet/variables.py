"""`${VAR}` in configuration values, written as in compose files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_REFERENCE = re.compile(r"\$\{(\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")


class MissingVariable(Exception):
    """`variable` has no value, and `key` needs it."""

    def __init__(self, variable: str, key: str, advice: str):
        self.variable, self.key = variable, key
        super().__init__(f"{variable} is not set" + (f" ({advice})" if advice else ""))


def fill(value: Any, variables: Mapping[str, str], key: str = "") -> Any:
    """`value` with `${VAR}`, `${VAR:-default}` and `${VAR:?advice}` in its texts, at any depth, replaced.

    A variable that is empty counts as not set: an `.env` copied from its example and not filled in. Where empty is
    meant, `${VAR:-}` says so. What a variable holds is never looked into. Raises MissingVariable.
    """
    if isinstance(value, Mapping):
        return {name: fill(item, variables, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [fill(item, variables, key) for item in value]
    return _fill_text(value, variables, key) if isinstance(value, str) else value


def _fill_text(text: str, variables: Mapping[str, str], key: str) -> str:
    def replace(reference: re.Match[str]) -> str:
        if found := variables.get(reference[1]):
            return found
        if reference["kind"] == "-":
            return reference["text"]
        raise MissingVariable(reference[1], key, reference["text"] or "")

    return _REFERENCE.sub(replace, text)
