"""PostgreSQL text to tokens with offsets, and where the text is broken."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from loadsheet.errors import InputError

DEEPEST = 1000
"""Parentheses inside parentheses. The parser builds its tree on the C stack."""
_LONGEST = 50_000
"""Names, words and operators: operators, UNIONs and JOINs nest without parentheses, and from
100,000 on they end the process (SIGSEGV)."""
_VALUES = frozenset(("null", "true", "false", "default"))
TOO_DEEP_HINT = "split it, for example by WITH or into several transforms"


class Unparsable(InputError):
    """SQL that cannot be read; `offset` is where. Callers who know the file turn it into a located
    problem."""

    def __init__(self, message: str, offset: int, hint: str = ""):
        self.offset, self.hint = offset, hint
        super().__init__(message)


class Token(NamedTuple):
    """`kind` is word, name (in quotes), string, body (dollar-quoted), number, operator or sign;
    `text` is its value: a word in lower case, a name or a body without its quotes."""

    kind: str
    text: str
    start: int
    end: int


_LETTER = r"A-Za-z_\x80-\U0010ffff"
_TOKEN = re.compile(
    rf"""
    (?:[ \t\n\r\f\v]++|--[^\n\r]*+)*+
    (?:(?P<string>(?:[bBnNxX]|[uU]&)?'(?:[^']|'')*+'|[eE]'(?:[^'\\]|\\.|'')*+')
    |(?:[uU]&)?"(?P<name>(?:[^"]|"")*+)"
    |(?P<open>/\*|(?:[bBeEnNxX]|[uU]&)?['"]|\$(?:[{_LETTER}][{_LETTER}0-9]*+)?\$)
    |(?P<word>[{_LETTER}][{_LETTER}0-9$]*+)
    |(?P<number>\.?\d[\w.]*+(?:(?<=[eE])[+-]\d++)?|\$\d++)
    |(?P<sign>::|:=|[][(),;:.{{}}\\])
    |(?P<operator>(?:(?!--|/\*)[-+*/<>=~!@\#%^&|`?])++)
    |(?P<other>[^ \t\n\r\f\v]))
    """,
    re.DOTALL | re.VERBOSE,
)
_COMMENT = re.compile(r"/\*|\*/")


@lru_cache(
    maxsize=1
)  # a transform's text is parsed and searched for parameters, one right after the other
def tokenize(sql: str) -> list[Token]:
    """The tokens of `sql`; their `start` and `end` (exclusive) are offsets into it. Raises
    Unparsable."""
    tokens: list[Token] = []
    at = 0
    while match := _TOKEN.match(sql, at):
        kind = match.lastgroup or ""
        start, at = match.span(kind)
        text = match[kind]
        if kind == "open":
            at = _after(sql, text, start, tokens)
            continue
        if kind == "word":
            text = text.lower()
        elif kind == "name":
            start, at = start - 1, at + 1
            text = text.replace('""', '"')
        elif kind == "operator" and len(text) > 1:
            text = _operator(text)
            at = start + len(text)
        elif text == "\0":
            raise Unparsable(
                "a NUL character, which ends the text for PostgreSQL", start, "delete it"
            )
        tokens.append(Token(kind, text, start, at))
    _refuse_depth(tokens)
    return tokens


def line_and_column(sql: str, offset: int) -> tuple[int, int]:
    """The 1-based line and column of `offset`."""
    return sql.count("\n", 0, offset) + 1, offset - sql.rfind("\n", 0, offset)


def _after(sql: str, opener: str, start: int, tokens: list[Token]) -> int:
    """Where the comment or body that opens at `start` ends; a body is added to `tokens`."""
    if opener == "/*":
        depth = 0
        for match in _COMMENT.finditer(sql, start):
            depth += 1 if match[0] == "/*" else -1
            if not depth:
                return match.end()
    elif opener[0] == "$":
        begin = start + len(opener)
        end = sql.find(opener, begin)
        if end >= 0:
            tokens.append(Token("body", sql[begin:end], start, end + len(opener)))
            return end + len(opener)
    raise Unparsable("a quote or a comment opens here and never ends", start, "close it")


def _operator(text: str) -> str:
    """Where several signs stand together, an operator ends in + or - only if it has one of these
    others."""
    while text[1:] and text[-1] in "+-" and not set(text) & set("~!@#%^&|`?"):
        text = text[:-1]
    return text


def _refuse_depth(tokens: list[Token]) -> None:
    if len(tokens) <= DEEPEST:
        return
    depth = chained = 0
    for token in tokens:
        if token.kind == "sign":
            depth += (token.text == "(") - (token.text == ")")
            chained += token.text == "::"
        elif token.kind in ("word", "name", "operator"):
            chained += token.text not in _VALUES
        if depth > DEEPEST or chained > _LONGEST:
            raise Unparsable("nested too deeply to be read", token.start, TOO_DEEP_HINT)
