"""The named parameters of a transform's SQL: found by the tokenizer, bound by the caller, never pasted as text.

A driver's own placeholder syntax would trip over `'10:30'`, `::text`, `a[1:2]` and `LIKE '5%'`; a tokenizer does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

PARAMS = ("since_load", "interval_start", "interval_end", "run_id")

# A colon before a letter, and no cast (`::`). Where there is none, nobody needs the tokenizer: 75 ms of imports.
MAY_BE_NAMED = re.compile(r"(?<!:)(?:::)*:[^\W\d]")


@dataclass(frozen=True)
class Param:
    """A named parameter where its value belongs: bind it, quoted by the driver."""

    name: str


def split_params(sql: str) -> list[str | Param]:
    """`sql` cut at its known named parameters: text and `Param`s in turn, so that the texts and `:name`s joined
    give `sql` again. Strings, comments, dollar quotes, casts and array slices are text.

    Raises Unparsable when it is not clear where they are, because a quote or comment in `sql` never ends.
    """
    pieces: list[str | Param] = []
    end = 0
    for name, offset in _placeholders(sql):
        if name in PARAMS:
            pieces += [sql[end:offset], Param(name)]
            end = offset + 1 + len(name)
    return [piece for piece in [*pieces, sql[end:]] if piece != ""]


def uses_since_load(sql: str) -> bool:
    """Whether `sql` reads only what is new, by `:since_load`, and so can be built incrementally."""
    return any(name == "since_load" for name, _ in _placeholders(sql))


def _placeholders(sql: str) -> Iterator[tuple[str, int]]:
    if not MAY_BE_NAMED.search(sql):
        return iter(())
    from loadsheet.sql.placeholders import placeholders

    return placeholders(sql)
