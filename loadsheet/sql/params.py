"""The named parameters of a transform's SQL: found by the tokenizer, bound by the caller, never
pasted as text.

A driver's own placeholder syntax would trip over `'10:30'`, `::text`, `a[1:2]` and `LIKE '5%'`; a
tokenizer does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from loadsheet.sql.tokens import Token, tokenize

PARAMS = ("since_load", "until_load", "interval_start", "interval_end", "run_id")

# A colon before a letter, and no cast (`::`): where there is none, the tokens need not be looked
# at.
_MAY_BE_NAMED = re.compile(r"(?<!:)(?:::)*:[^\W\d]")
_OPERAND_ENDS = frozenset(("word", "name", "number", "string", "body"))


@dataclass(frozen=True)
class Param:
    """A named parameter where its value belongs: bind it, quoted by the driver."""

    name: str


def split_params(sql: str) -> list[str | Param]:
    """`sql` cut at its known named parameters: text and `Param`s in turn, so that the texts and
    `:name`s joined give `sql` again. Strings, comments, dollar quotes, casts and array slices are
    text.

    Raises Unparsable when it is not clear where they are, because a quote or comment in `sql` never
    ends.
    """
    pieces: list[str | Param] = []
    end = 0
    for name, offset in placeholders(sql):
        if name in PARAMS:
            pieces += [sql[end:offset], Param(name)]
            end = offset + 1 + len(name)
    return [piece for piece in [*pieces, sql[end:]] if piece != ""]


def has_params(sql: str) -> bool:
    """Whether `sql` has a named parameter, so that its rows are not always the same."""
    return any(name in PARAMS for name, _ in placeholders(sql))


def uses_since_load(sql: str) -> bool:
    """Whether `sql` reads only what is new, by `:since_load`, and so can be built incrementally."""
    return any(name == "since_load" for name, _ in placeholders(sql))


def uses_interval(sql: str) -> bool:
    """Whether what `sql` reads depends on the run's interval."""
    return any(name in ("interval_start", "interval_end") for name, _ in placeholders(sql))


def uses_until_load(sql: str) -> bool:
    """Whether `sql` leaves out what is loaded while it runs, by `:until_load`."""
    return any(name == "until_load" for name, _ in placeholders(sql))


def placeholders(sql: str) -> Iterator[tuple[str, int]]:
    """Every `:name` in `sql`, known or not, with the offset of its colon.

    Raises Unparsable when it is not clear where they are, because a quote or comment in `sql` never
    ends.
    """
    if not _MAY_BE_NAMED.search(sql):
        return
    brackets: list[bool] = []
    before: Token | None = None
    for token, following in pairwise(tokenize(sql)):
        _track_brackets(brackets, token, before)
        is_colon = token.text == ":" and token.kind == "sign"
        # A name follows at once: in `a[1 : n]`, the colon is a separator.
        is_name = following.kind == "word" and following.start == token.end
        if is_colon and is_name:
            in_subscript = bool(brackets) and brackets[-1]
            if not (in_subscript and _separates_bounds(before)):
                yield sql[following.start : following.end], token.start
        before = token


def _track_brackets(brackets: list[bool], token: Token, before: Token | None) -> None:
    """Keeps a stack of open brackets: True for a subscript `a[`, False for `(` and `ARRAY[`."""
    if token.kind != "sign":
        return
    if token.text == "[":
        brackets.append(before is not None and before.text not in ("array", "[", ","))
    elif token.text == "(":
        brackets.append(False)
    elif token.text in (")", "]") and brackets:
        brackets.pop()


def _separates_bounds(before: Token | None) -> bool:
    """Whether a colon directly inside a subscript separates its bounds: `a[1:n]` and `a[:n]`, but
    not `a[1 + :n]`."""
    return before is not None and (before.kind in _OPERAND_ENDS or before.text in (")", "]", "["))
