"""Rows that a test has in a csv file beside it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from loadsheet.spec.text import read_text
from loadsheet.testing.models import Row

# With a leading zero it is a code, such as a postcode, and stays text.
_KINDS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"0|-?[1-9][0-9]*"), int),
    (re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?"), Decimal),
    (re.compile(r"true|false"), lambda text: text == "true"),
)


def csv_rows(file: Path) -> list[Row]:
    """The rows of the file, whose first line names the columns. An empty field is NULL; a column with nothing but
    numbers, or true and false, holds such values, as they would be in YAML.

    Raises SpecError when it cannot be read, ValueError that says which line is wrong.
    """
    reader = csv.reader(io.StringIO(read_text(file)), strict=True)
    try:
        heads = next(reader, [])
        if not heads or not all(heads) or len(set(heads)) < len(heads):
            raise ValueError("line 1 must name each column once")
        lines = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not csv: {error}") from None
    if wrong := next((number for number, fields in lines if len(fields) != len(heads)), None):
        raise ValueError(f"line {wrong} has other columns than the first")
    columns = [_values([fields[place] for _, fields in lines]) for place in range(len(heads))]
    return [
        Row(dict(zip(heads, values, strict=True)), f"{file}:{number}:1")
        for (number, _), values in zip(lines, zip(*columns, strict=True), strict=True)
    ]


def _values(texts: list[str]) -> list[Any]:
    given = [text for text in texts if text]
    read = next((read for kind, read in _KINDS if given and all(map(kind.fullmatch, given))), str)
    return [read(text) if text else None for text in texts]
