"""PostgreSQL text to tokens with offsets, and where the text is broken."""

from __future__ import annotations

import re
from functools import lru_cache

from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import TokenError
from sqlglot.tokenizer_core import Token, TokenType

from loadsheet.errors import InputError

POSTGRES = Dialect.get_or_raise("postgres")
DEEPEST = 1000
"""Parentheses inside parentheses. 30,000 of them take the compiled parser's stack and with it the whole process, which
in Airflow ends a parse without a word."""
TOO_DEEP_HINT = "part it, for example by WITH or into several transforms"

_CLOSED = re.compile(
    r"""--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$|"[^"]*"|\b[eE]'(?:[^'\\]|\\.|'')*+'|'(?:[^']|'')*+'""", re.DOTALL
)
_OPENER = re.compile(r"""/\*|\$\w*\$|"|'""")


class Unparsable(InputError):
    """SQL that cannot be read; `offset` is where. Callers who know the file turn it into a located problem."""

    def __init__(self, message: str, offset: int, hint: str = ""):
        self.offset, self.hint = offset, hint
        super().__init__(message)


@lru_cache(maxsize=1)  # a transform's text is parsed and searched for parameters, one right after the other
def tokenize(sql: str) -> list[Token]:
    """The tokens of `sql`; their `start` and `end` are offsets into it. Raises Unparsable."""
    try:
        tokens = POSTGRES.tokenize(sql)
    except TokenError:
        raise Unparsable("a quote or a comment opens here and never ends", _broken_at(sql), "close it") from None
    _refuse_depth(tokens)
    return tokens


def _refuse_depth(tokens: list[Token]) -> None:
    depth = 0
    for token in tokens:
        depth += (token.token_type == TokenType.L_PAREN) - (token.token_type == TokenType.R_PAREN)
        if depth > DEEPEST:
            raise Unparsable("nested too deeply to be read", token.start, TOO_DEEP_HINT)


def line_and_column(sql: str, offset: int) -> tuple[int, int]:
    """The 1-based line and column of `offset`."""
    return sql.count("\n", 0, offset) + 1, offset - sql.rfind("\n", 0, offset)


def _broken_at(sql: str) -> int:
    """Where the unclosed quote or comment opens: the tokenizer only knows where the text ended."""
    only_unclosed = _CLOSED.sub(lambda match: " " * len(match[0]), sql)
    opener = _OPENER.search(only_unclosed)
    return opener.start() if opener else 0
