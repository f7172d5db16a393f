"""Where `:name` stands in SQL: found by the tokenizer, so that strings, comments, casts and array slices are text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from sqlglot.tokenizer_core import Token, TokenType

from loadsheet.sql.params import MAY_BE_NAMED
from loadsheet.sql.tokens import words

_OPERAND_ENDS = frozenset(
    {TokenType.VAR, TokenType.IDENTIFIER, TokenType.NUMBER, TokenType.STRING, TokenType.R_PAREN, TokenType.R_BRACKET}
)
_BEFORE_ARRAY_CONSTRUCTOR = frozenset({TokenType.ARRAY, TokenType.L_BRACKET, TokenType.COMMA})


def placeholders(sql: str) -> Iterator[tuple[str, int]]:
    """Every `:name` in `sql`, known or not, with the offset of its colon.

    Raises Unparsable when it is not clear where they are, because a quote or comment in `sql` never ends.
    """
    if not MAY_BE_NAMED.search(sql):
        return
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
