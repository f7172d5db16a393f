"""The parts that a test file is made of, each checked; what is wrong is noted, and reading goes on."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from typing import Any

from loadsheet.names import closest
from loadsheet.problem import Finding, KeyPath
from loadsheet.spec.strict_yaml import Document
from loadsheet.spec.suggest import describe_value

CODE = "test-file"
# Names, a modifier, brackets: nothing that could end a statement or begin another.
_TYPE = re.compile(r"[A-Za-z_][\w .]*(\(\d+( *, *\d+)?\))?[A-Za-z ]*(\[\d*\])*")


class Fields:
    """Takes values out of one file. What is wrong goes to `findings`, and something harmless takes
    its place."""

    def __init__(self, document: Document):
        self.document = document
        self.findings = list(document.findings)

    def wrong(self, path: KeyPath, message: str, hint: str = "", key: bool = False) -> None:
        """Note that something is wrong at `path`, in its value or its `key`."""
        at: Any = "key" if key else "value"
        self.findings.append(Finding(CODE, path=path, message=message, hint=hint, at=at))

    def where(self, path: KeyPath) -> str:
        """`file:line:column` of what is at `path`."""
        line, column = self.document.keys.get(path) or self.document.values.get(path) or (1, 1)
        return f"{self.document.file}:{line}:{column}"

    def mapping(self, value: Any, path: KeyPath, allowed: Collection[str] = ()) -> dict[str, Any]:
        """`value` where it is a mapping (nothing is an empty one) without keys but those `allowed`
        (none: any)."""
        if not isinstance(value, dict):
            if value is not None:
                self.wrong(path, f"expected a mapping, found {describe_value(value)}")
            return {}
        for key in value.keys() - set(allowed) if allowed else ():
            meant = closest(key, allowed)
            choice = f"allowed here: {', '.join(allowed)}"
            hint = f"did you mean {meant!r}? {choice}" if meant else choice
            self.wrong((*path, key), f"unknown key {key!r}", hint, key=True)
        return {key: item for key, item in value.items() if not allowed or key in allowed}

    def text(self, value: Any, path: KeyPath) -> str | None:
        """`value` where it is text."""
        if value is None or isinstance(value, str):
            return value
        self.wrong(path, f"expected text, found {describe_value(value)}")
        return None

    def flag(self, value: Any, path: KeyPath) -> bool:
        """`value` where it is true or false."""
        if not isinstance(value, bool):
            self.wrong(path, f"expected true or false, found {describe_value(value)}")
        return value is True

    def moment(self, value: Any, path: KeyPath) -> str | None:
        """`value` where it is a time."""
        text = self.text(value, path)
        try:
            return text and str(datetime.fromisoformat(text))
        except ValueError:
            self.wrong(
                path,
                f"expected a time, found {describe_value(text)}",
                'for example "2026-01-31 12:00:00+00:00"',
            )
            return None

    def interval(self, value: Any, path: KeyPath) -> tuple[str, str] | None:
        """`value` where it is a list of two times, or of two numbers as `loadsheet run --from`
        takes them."""
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2:
            hint = 'for example ["2026-01-01", "2026-02-01"]'
            self.wrong(path, f"expected a list of two times, found {describe_value(value)}", hint)
            return None
        for number, bound in enumerate(value):
            if bound is None:
                self.wrong((*path, number), "expected a time, found nothing")
            elif isinstance(bound, bool) or not isinstance(bound, int | float):
                self.moment(bound, (*path, number))
        return str(value[0]), str(value[1])

    def type_name(self, value: Any, path: KeyPath) -> str:
        """`value` where it can be the name of a type; `text` where it is none."""
        kind = self.text(value, path)
        if kind is not None and not _TYPE.fullmatch(kind):
            self.wrong(
                path,
                f"expected a type of PostgreSQL, found {describe_value(kind)}",
                "for example integer or char(3)",
            )
        return kind or "text"

    def column_names(self, value: Any, path: KeyPath) -> tuple[str, ...]:
        """`value` where it is a column, or a list of columns."""
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.wrong(
                path, f"expected a column, or a list of columns, found {describe_value(names)}"
            )
            return ()
        return tuple(names)
