"""The values of a test file, each checked. A problem is noted, and reading continues."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from loadsheet.names import closest
from loadsheet.problem import Finding, KeyPath
from loadsheet.spec.strict_yaml import Document
from loadsheet.spec.suggest import describe_value
from loadsheet.sql.type_names import UnknownType, declared_type

CODE = "test-file"


class Fields:
    """Checks the values of one file. A problem goes to `findings`, and a harmless value takes its
    place."""

    def __init__(self, document: Document):
        self.document = document
        self.findings = list(document.findings)

    def wrong(self, path: KeyPath, message: str, hint: str = "", key: bool = False) -> None:
        """Note a problem at `path`, in its value or its `key`."""
        at: Any = "key" if key else "value"
        self.findings.append(Finding(CODE, path=path, message=message, hint=hint, at=at))

    def unexpected(self, path: KeyPath, value: Any, expected: str, hint: str = "") -> None:
        """Note that `value`, at `path`, is not what was `expected`."""
        self.wrong(path, f"expected {expected}, found {describe_value(value)}", hint)

    def where(self, path: KeyPath) -> str:
        """`file:line:column` of the value at `path`."""
        # A row of a list has no key, only a value.
        line, column = self.document.keys.get(path) or self.document.values.get(path) or (1, 1)
        return f"{self.document.file}:{line}:{column}"

    def mapping(self, value: Any, path: KeyPath, allowed: Collection[str] = ()) -> dict[str, Any]:
        """The mapping `value`, with only the `allowed` keys (none: any); empty if there is none."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.unexpected(path, value, "a mapping")
            return {}
        if not allowed:
            return value
        mapping = {}
        for key, item in value.items():
            if key in allowed:
                mapping[key] = item
                continue
            meant = closest(key, allowed)
            hint = f"allowed here: {', '.join(allowed)}"
            if meant:
                hint = f"did you mean {meant!r}? {hint}"
            self.wrong((*path, key), f"unknown key {key!r}", hint, key=True)
        return mapping

    def text(self, value: Any, path: KeyPath) -> str | None:
        """The text `value`; None if it is not text."""
        if value is None or isinstance(value, str):
            return value
        self.unexpected(path, value, "text")
        return None

    def flag(self, value: Any, path: KeyPath) -> bool:
        """Whether `value` is true; anything but true and false is a problem."""
        if not isinstance(value, bool):
            self.unexpected(path, value, "true or false")
        return value is True

    def moment(self, value: Any, path: KeyPath) -> str | None:
        """The time `value` in ISO 8601; None if it is not a time."""
        text = self.text(value, path)
        if not text:
            return text
        try:
            return str(datetime.fromisoformat(text))
        except ValueError:
            self.unexpected(path, text, "a time", 'for example "2026-01-31 12:00:00+00:00"')
            return None

    def interval(self, value: Any, path: KeyPath) -> tuple[str, str] | None:
        """The list `value` of two times, or of two numbers as for `loadsheet run --from`; None if
        there is none."""
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2:
            hint = 'for example ["2026-01-01", "2026-02-01"]'
            self.unexpected(path, value, "a list of two times", hint)
            return None
        for number, bound in enumerate(value):
            if bound is None:
                self.wrong((*path, number), "expected a time, found nothing")
                continue
            is_number = isinstance(bound, int | float) and not isinstance(bound, bool)
            if not is_number:
                self.moment(bound, (*path, number))
        return str(value[0]), str(value[1])

    def type_name(self, value: Any, path: KeyPath) -> str:
        """The name `value` of a type; `text` if there is none."""
        kind = self.text(value, path) or "text"
        try:
            return declared_type(kind)
        except UnknownType:
            self.unexpected(path, kind, "a type of PostgreSQL", "for example integer or char(3)")
        return "text"

    def column_names(self, value: Any, path: KeyPath) -> tuple[str, ...]:
        """The columns in `value`, which is one column or a list of them."""
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.unexpected(path, names, "a column, or a list of columns")
            return ()
        return tuple(names)
