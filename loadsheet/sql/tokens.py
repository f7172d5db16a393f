"""PostgreSQL text to tokens with offsets, and where the text is broken."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

from loadsheet.errors import InputError

MAX_TOKENS = 100_000
"""Words, values and signs of one text. Each costs the check some 30 microseconds and 2 kB."""
MAX_PARENTHESES = 1000
"""Parentheses inside parentheses. Together with the next limit it bounds the stack that the parser
needs: see loadsheet/sql/libpg_process.py."""
# Names, words and operators: operators, UNIONs and JOINs nest without parentheses. A stack of 8 MiB
# ends at some 64,000 operators.
_MAX_CHAIN = 50_000
# The parser copies the source of `SET (a, b) = (SELECT ...)` for each of its columns, also sources
# within sources, and its output ends the process at 1 GB: 20,000 columns do, or 22 levels of two.
# 300 columns of another table are 200,000 copied tokens, 18 levels of two 3 million (2 GB, 48 s).
_MAX_COPIED_TOKENS = 500_000
_SET = re.compile(r"\bset\b", re.IGNORECASE)
# Words that nest nothing. A list of many rows has many.
_VALUES = frozenset(("null", "true", "false", "default"))


class Unparsable(InputError):
    """SQL that cannot be read; `offset` is where. Callers who know the file turn it into a located
    problem."""

    def __init__(self, message: str, offset: int, hint: str = ""):
        self.offset, self.hint = offset, hint
        super().__init__(message)


def nested_too_deeply(offset: int) -> Unparsable:
    """The error for SQL that is past a limit of this module, or of the parser, at `offset`."""
    hint = "split it, for example by WITH or into several transforms"
    return Unparsable("nested too deeply to be read", offset, hint)


class Token(NamedTuple):
    """`kind` is word, name (in quotes), string, body (dollar-quoted), number, operator or sign;
    `text` is its value: a word in lower case, a name or a body without its quotes."""

    kind: str
    text: str
    start: int
    end: int


_LETTER = r"A-Za-z_\x80-\U0010ffff"
_TOKEN = rf"""
    (?:[ \t\n\r\f\v]++|--[^\n\r]*+)*+
    (?:(?P<string>(?:[bBnNxX]|[uU]&)?'(?:[^']|'')*+'|[eE]'(?:[^'\\]|\\.|'')*+')
    |(?:[uU]&)?"(?P<name>(?:[^"]|"")*+)"
    |(?P<open>/\*|(?:[bBeEnNxX]|[uU]&)?['"]|\$(?:[{_LETTER}][{_LETTER}0-9]*+)?\$)
    |(?P<word>[{_LETTER}][{_LETTER}0-9$]*+)
    |(?P<number>\.?\d[\w.]*+(?:(?<=[eE])[+-]\d++)?|\$\d++)
    |(?P<sign>::|:=|[][(),;:.{{}}\\])
    |(?P<operator>(?:(?!--|/\*)[-+*/<>=~!@\#%^&|`?])++)
    |(?P<other>[^ \t\n\r\f\v]))
"""
_COMMENT = re.compile(r"/\*|\*/")


@cache
def _token() -> re.Pattern[str]:
    # Compiled when it is needed: it takes 5 ms, and most steps of a run read no SQL.
    return re.compile(_TOKEN, re.DOTALL | re.VERBOSE)


# A transform's text is parsed and searched for parameters, one right after the other.
@lru_cache(maxsize=1)
def tokenize(sql: str) -> list[Token]:
    """The tokens of `sql`; their `start` and `end` (exclusive) are offsets into it. Only blanks and
    comments are between them. Raises Unparsable."""
    tokens: list[Token] = []
    at = 0
    token = _token()
    while match := token.match(sql, at):
        if len(tokens) > MAX_TOKENS:
            message = f"the file has more than {MAX_TOKENS:,} words, values and signs"
            hint = "split it into several transforms, and load long lists of values as a table"
            raise Unparsable(message, tokens[MAX_TOKENS].start, hint)
        kind = match.lastgroup or ""
        start, at = match.span(kind)
        text = match[kind]
        if kind == "open" and text == "/*":
            at = _end_of_comment(sql, start)
            continue
        if kind == "operator":
            for operator in _operators(text):
                tokens.append(Token(kind, operator, start, start + len(operator)))
                start += len(operator)
            continue
        if kind == "word":
            text = text.lower()
        elif kind == "name":
            start, at = start - 1, at + 1
            text = text.replace('""', '"')
        elif kind == "open":
            kind = "body"
            begin, at = at, _end_of_body(sql, text, start)
            text = sql[begin : at - len(text)]
        elif text == "\0":
            message = "a NUL character, which ends the text for PostgreSQL"
            raise Unparsable(message, start, "delete it")
        tokens.append(Token(kind, text, start, at))
    _refuse_depth(tokens)
    if _SET.search(sql):
        _refuse_copies(tokens)
    return tokens


def line_and_column(sql: str, offset: int) -> tuple[int, int]:
    """The 1-based line and column of `offset`."""
    return sql.count("\n", 0, offset) + 1, offset - sql.rfind("\n", 0, offset)


def _end_of_comment(sql: str, start: int) -> int:
    depth = 0
    for match in _COMMENT.finditer(sql, start):  # comments nest, unlike in C
        depth += 1 if match[0] == "/*" else -1
        if not depth:
            return match.end()
    raise _never_ends(start)


def _end_of_body(sql: str, opener: str, start: int) -> int:
    """Where the dollar-quoted body that opens at `start` ends. An `opener` that is a plain quote
    has no end, or it would have been a string or a name."""
    if opener.startswith("$"):
        end = sql.find(opener, start + len(opener))
        if end >= 0:
            return end + len(opener)
    raise _never_ends(start)


def _never_ends(start: int) -> Unparsable:
    return Unparsable("a quote or a comment opens here and never ends", start, "close it")


def _operators(signs: str) -> list[str]:
    """The operators in a row of signs. One ends in + or - only if it has a sign that SQL's own
    operators lack: `=-1` is `=` and `-1`, but `@-` is one operator."""
    if not set(signs).isdisjoint("~!@#%^&|`?"):
        return [signs]
    first = signs.rstrip("+-") or signs[0]
    return [first, *signs[len(first) :]]


def _refuse_depth(tokens: list[Token]) -> None:
    if len(tokens) <= MAX_PARENTHESES:
        return
    depth = chained = 0
    for token in tokens:
        if token.kind == "sign":
            depth += (token.text == "(") - (token.text == ")")
            chained += token.text == "::"
        elif token.kind in ("word", "name", "operator"):
            chained += token.text not in _VALUES
        if depth > MAX_PARENTHESES or chained > _MAX_CHAIN:
            raise nested_too_deeply(token.start)


@dataclass
class _Brackets:
    """An open bracket, and what the parser makes of the tokens in it."""

    may_be_targets: bool
    """Whether it may be the `(a, b)` of an assignment."""
    outer_copies: int
    """How many copies of the bracket there are."""
    copies: int
    """How many of the next token in it."""
    commas: int = 0


def _refuse_copies(tokens: list[Token]) -> None:
    """Counts each token as often as the parser copies it, or more often."""
    stack = [_Brackets(False, 1, 1)]
    copied = 0
    before = ""
    for index, token in enumerate(tokens):
        text = token.text if token.kind in ("sign", "word") else ""
        current = stack[-1]
        copied += current.copies - 1
        if copied > _MAX_COPIED_TOKENS:
            raise nested_too_deeply(token.start)
        if text in ("(", "["):
            stack.append(_Brackets(before in ("set", ","), current.copies, current.copies))
        elif text in (")", "]") and len(stack) > 1:
            stack.pop()
            following = tokens[index + 1].text if index + 1 < len(tokens) else ""
            if current.may_be_targets and following == "=":
                stack[-1].copies = stack[-1].outer_copies * (current.commas + 1)
        elif text in (",", ";"):  # the end of an assignment
            current.commas += 1
            current.copies = current.outer_copies
        before = text
