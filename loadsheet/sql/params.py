"""The named parameters of a transform's SQL: found by the tokenizer, bound by the caller, never pasted as text.

A driver's own placeholder syntax would trip over `'10:30'`, `::text`, `a[1:2]` and `LIKE '5%'`; a tokenizer does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from sqlglot.tokenizer_core import Token, TokenType

from loadsheet.sql.tokens import words

PARAMS = ("since_load", "interval_start", "interval_end", "run_id")

_OPERAND_ENDS = frozenset(
    {TokenType.VAR, TokenType.IDENTIFIER, TokenType.NUMBER, TokenType.STRING, TokenType.R_PAREN, TokenType.R_BRACKET}
)
_BEFORE_ARRAY_CONSTRUCTOR = frozenset({TokenType.ARRAY, TokenType.L_BRACKET, TokenType.COMMA})


@dataclass(frozen=True)
class Param:
    """A named parameter where its value belongs: bind it, quoted by the driver."""

    name: str


def split_params(sql: str) -> list[str | Param]:
    """`sql` cut at its known named parameters: text and `Param`s in turn, so that the texts and `:name`s joined
    give `sql` again. Strings, comments, dollar quotes, casts and array slices are text.

    Raises Unparsable when a quote or comment in `sql` never ends.
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
    """Every `:name` in `sql`, known or not, with the offset of its colon. Raises Unparsable like `split_params`."""
    brackets: list[bool] = []
    before: Token | None = None
    tokens = words(sql)
    for token, following in pairwise(tokens):
        _track(brackets, token, before)
        if _is_placeholder(sql, token, following) and not (brackets and brackets[-1] and _slices(before)):
            yield sql[following.start : following.end + 1], token.start
        before = token


def _track(brackets: list[bool], token: Token, before: Token | None) -> None:
    """Keeps a stack of open brackets: True for a subscript `a[`, False for `(` and `ARRAY[`."""
    if token.token_type is TokenType.L_BRACKET:
        brackets.append(before is not None and before.token_type not in _BEFORE_ARRAY_CONSTRUCTOR)
    elif token.token_type is TokenType.L_PAREN:
        brackets.append(False)
    elif token.token_type in (TokenType.R_PAREN, TokenType.R_BRACKET) and brackets:
        brackets.pop()


def _is_placeholder(sql: str, token: Token, following: Token) -> bool:
    starts_name = sql[following.start].isalpha() or sql[following.start] == "_"
    return token.token_type is TokenType.COLON and following.start == token.end + 1 and starts_name


def _slices(before: Token | None) -> bool:
    """Whether a colon directly inside a subscript parts its bounds: `a[1:n]` and `a[:n]`, but not `a[1 + :n]`."""
    return before is not None and before.token_type in _OPERAND_ENDS | {TokenType.L_BRACKET}
