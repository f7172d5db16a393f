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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlglot.tokenizer_core import Token

PARAMS = ("since_load", "interval_start", "interval_end", "run_id")

# A colon before a letter, and no cast (`::`). Where there is none, the tokenizer is not needed: 75
# ms of imports.
MAY_BE_NAMED = re.compile(r"(?<!:)(?:::)*:[^\W\d]")

# Token types by name: importing sqlglot's own would cost every start 75 ms.
_OPERAND_ENDS = {"VAR", "IDENTIFIER", "NUMBER", "STRING", "R_PAREN", "R_BRACKET"}
_BEFORE_ARRAY_CONSTRUCTOR = {"ARRAY", "L_BRACKET", "COMMA"}


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


def uses_since_load(sql: str) -> bool:
    """Whether `sql` reads only what is new, by `:since_load`, and so can be built incrementally."""
    return any(name == "since_load" for name, _ in placeholders(sql))


def placeholders(sql: str) -> Iterator[tuple[str, int]]:
    """Every `:name` in `sql`, known or not, with the offset of its colon.

    Raises Unparsable when it is not clear where they are, because a quote or comment in `sql` never
    ends.
    """
    if not MAY_BE_NAMED.search(sql):
        return
    from loadsheet.sql.tokens import words

    brackets: list[bool] = []
    before: Token | None = None
    tokens = words(sql)
    for token, following in pairwise(tokens):
        _track(brackets, token, before)
        if _is_placeholder(sql, token, following) and not (
            brackets and brackets[-1] and _slices(before)
        ):
            yield sql[following.start : following.end + 1], token.start
        before = token


def _track(brackets: list[bool], token: Token, before: Token | None) -> None:
    """Keeps a stack of open brackets: True for a subscript `a[`, False for `(` and `ARRAY[`."""
    kind = token.token_type.name
    if kind == "L_BRACKET":
        is_subscript = (
            before is not None and before.token_type.name not in _BEFORE_ARRAY_CONSTRUCTOR
        )
        brackets.append(is_subscript)
    elif kind == "L_PAREN":
        brackets.append(False)
    elif kind in ("R_PAREN", "R_BRACKET") and brackets:
        brackets.pop()


def _is_placeholder(sql: str, token: Token, following: Token) -> bool:
    starts_name = sql[following.start].isalpha() or sql[following.start] == "_"
    return token.token_type.name == "COLON" and following.start == token.end + 1 and starts_name


def _slices(before: Token | None) -> bool:
    """Whether a colon directly inside a subscript parts its bounds: `a[1:n]` and `a[:n]`, but not
    `a[1 + :n]`."""
    return before is not None and before.token_type.name in _OPERAND_ENDS | {"L_BRACKET"}
