"""What a verdict says of the rows that differ: how many there are, and the first of them by
name."""

from __future__ import annotations

from collections.abc import Sequence

from loadsheet.answers import key_texts
from loadsheet.comparison import compare
from loadsheet.comparison.compare import Found, Sides
from loadsheet.verify.models import MOST_NAMED, ChangedValue, Difference, TableVerdict


def count_rows(verdict: TableVerdict, sides: Sides, buckets: Sequence[int]) -> int:
    """Count the rows that differ in these buckets and name the first of them, with the columns in
    which they differ. Returns the number of extra rows whose key the source has, and the target
    more than once."""
    names = [value.name for value in sides.source.values]
    different: list[Found] = []
    doubled = 0
    for found in compare.differing_rows(sides, buckets):
        if found.kind == "newer":
            verdict.newer += found.rows
            continue
        verdict.counts[found.kind] += found.rows
        if found.kind == "extra" and found.is_in_source:
            doubled += found.rows
        named = verdict.named[found.kind]
        if found.key is None or len(named) == MOST_NAMED:
            continue
        parts = [names[place] for place in sides.source.key]
        told_by = sides.source_session if found.is_in_source else sides.warehouse_session
        texts = key_texts(told_by, found.key[1], len(parts))
        named.append(Difference(key=dict(zip(parts, texts, strict=True))))
        if found.kind == "different":
            different.append(found)
    _name_changes(verdict, sides, different)
    return doubled


def _name_changes(verdict: TableVerdict, sides: Sides, different: Sequence[Found]) -> None:
    """Add to each different row the columns in which it differs."""
    keys = [(one.key, one.key_in_target or one.key) for one in different if one.key]
    before = compare.texts_of(sides.source_session, sides.source, [key for key, _ in keys])
    after = compare.texts_of(sides.warehouse_session, sides.target, [key for _, key in keys])
    for row, ((_, key), (_, mine)) in zip(verdict.named["different"], keys, strict=True):
        for value, theirs, ours in zip(sides.target.values, before[key], after[mine], strict=True):
            if theirs != ours:
                row.changes.append(ChangedValue(column=value.name, source=theirs, target=ours))
