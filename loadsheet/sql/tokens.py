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
"""Parentheses inside parentheses. 30,000 of them take the compiled parser's stack and with it the
whole process, which in Airflow ends a parse without a word."""
TOO_DEEP_HINT = "part it, for example by WITH or into several transforms"

_COMMANDS = POSTGRES.tokenizer_class.COMMANDS
_CLOSED = re.compile(
    r"""--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$|"[^"]*"|\b[eE]'(?:[^'\\]|\\.|'')*+'|'(?:[^']|'')*+'""",
    re.DOTALL,
)
_ODD_BLANK = re.compile(
    "[\u0085\u00a0\u1680\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]"
)
"""Blanks and nothings that come with text from web pages: to PostgreSQL they are letters."""
_OPENER = re.compile(r"""/\*|\$\w*\$|"|'""")


class Unparsable(InputError):
    """SQL that cannot be read; `offset` is where. Callers who know the file turn it into a located
    problem."""

    def __init__(self, message: str, offset: int, hint: str = ""):
        self.offset, self.hint = offset, hint
        super().__init__(message)


# a transform's text is parsed and searched for parameters, one right after the other
@lru_cache(maxsize=1)
def tokenize(sql: str) -> list[Token]:
    """The tokens of `sql`; their `start` and `end` are offsets into it. Raises Unparsable."""
    try:
        tokens = POSTGRES.tokenize(sql)
    except TokenError:
        raise Unparsable(
            "a quote or a comment opens here and never ends", _broken_at(sql), "close it"
        ) from None
    _refuse_depth(tokens)
    return tokens


def _refuse_depth(tokens: list[Token]) -> None:
    if len(tokens) <= DEEPEST:
        return
    depth = 0
    for token in tokens:
        depth += (token.token_type == TokenType.L_PAREN) - (token.token_type == TokenType.R_PAREN)
        if depth > DEEPEST:
            raise Unparsable("nested too deeply to be read", token.start, TOO_DEEP_HINT)


def words(sql: str) -> list[Token]:
    """The tokens of `sql`, also of what sqlglot keeps as one text because it does not parse it:
    `CALL f(:run_id)`.

    That text comes as a string whose offsets are no use, so it is read again. Raises Unparsable.
    """
    tokens, found = tokenize(sql), []
    if not any(token.token_type in _COMMANDS for token in tokens):
        return tokens
    ends = [token.start for token in tokens[2:]] + [len(sql)] * 2
    for index, token in enumerate(tokens):
        before = tokens[index - 1] if index else None
        if before and before.token_type in _COMMANDS and token.token_type is TokenType.STRING:
            start = before.end + 1
            found += [_moved(inner, start) for inner in words(sql[start : ends[index - 1]])]
        else:
            found.append(token)
    return found


def _moved(token: Token, by: int) -> Token:
    return Token(
        token.token_type, token.text, token.line, token.col, token.start + by, token.end + by
    )


def odd_blank(sql: str) -> int | None:
    """Where a blank stands that PostgreSQL takes for a letter, outside of quotes and comments;
    None: nowhere."""
    if not _ODD_BLANK.search(sql):
        return None
    found = _ODD_BLANK.search(_CLOSED.sub(lambda match: " " * len(match[0]), sql))
    return found.start() if found else None


def line_and_column(sql: str, offset: int) -> tuple[int, int]:
    """The 1-based line and column of `offset`."""
    return sql.count("\n", 0, offset) + 1, offset - sql.rfind("\n", 0, offset)


def _broken_at(sql: str) -> int:
    """Where the unclosed quote or comment opens: the tokenizer only knows where the text ended."""
    only_unclosed = _CLOSED.sub(lambda match: " " * len(match[0]), sql)
    opener = _OPENER.search(only_unclosed)
    return opener.start() if opener else 0
