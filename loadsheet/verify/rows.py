"""What a verdict says of the rows that differ: how many there are, and the first of them by
name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from loadsheet.comparison import compare
from loadsheet.comparison.compare import Sides
from loadsheet.verify.models import MOST_NAMED, ChangedValue, Difference, TableVerdict


class Counted(NamedTuple):
    """What the counts of a verdict do not tell."""

    unpaired: int = 0
    """Newer rows whose key the target has not."""
    doubled: int = 0
    """Extra rows whose key the source has, and the target more than once."""


def count_rows(verdict: TableVerdict, sides: Sides, buckets: Sequence[int]) -> Counted:
    """Count the rows that differ in these buckets and name the first of them, with the columns in
    which they differ."""
    names = [value.name for value in sides.source.values]
    different: list[tuple[int, str]] = []
    unpaired = 0
    doubled = 0
    for found in compare.differing_rows(sides, buckets):
        if found.kind == "newer":
            verdict.newer += found.rows
            unpaired += found.rows * (not found.is_in_target)
            continue
        verdict.counts[found.kind] += found.rows
        if found.kind == "extra" and found.is_in_source:
            doubled += found.rows
        named = verdict.named[found.kind]
        if found.key is None or len(named) == MOST_NAMED:
            continue
        parts = [names[place] for place in sides.source.key]
        named.append(Difference(key=dict(zip(parts, json.loads(found.key[1]), strict=True))))
        if found.kind == "different":
            different.append(found.key)
    _name_changes(verdict, sides, different)
    return Counted(unpaired, doubled)


def _name_changes(verdict: TableVerdict, sides: Sides, keys: list[tuple[int, str]]) -> None:
    """Add to each different row the columns in which it differs."""
    before = compare.texts_of(sides.source_session, sides.source, keys)
    after = compare.texts_of(sides.warehouse_session, sides.target, keys)
    for row, (_, key) in zip(verdict.named["different"], keys, strict=True):
        for value, theirs, ours in zip(sides.target.values, before[key], after[key], strict=True):
            if theirs != ours:
                row.changes.append(ChangedValue(column=value.name, source=theirs, target=ours))
