"""Explains what PostgreSQL's grammar refuses: everyday mistakes, and the syntax of other databases.
And refuses the little that the grammar takes although no server does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from loadsheet.sql.tokens import Token


class Mistake(NamedTuple):
    """Something wrong in SQL: where, what, and what to do."""

    offset: int
    message: str
    hint: str


Tokens = Sequence[Token]
_END = Token("", "", 0, 0)

# Blanks and invisible characters that come with text from web pages: to PostgreSQL they are
# letters.
_ODD_BLANK = re.compile(
    "[\u0085\u00a0\u1680\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]"
)
_ENDS = frozenset("from where group having order limit union except intersect ) ] , ;".split())
# PostgreSQL's reserved words, without those that are a value (`user`, `current_date`, `null`).
_RESERVED = frozenset(
    "analyse analyze and asc asymmetric both cast check collate column constraint create desc"
    " distinct do else end except fetch for foreign from grant group having in initially intersect"
    " into lateral leading limit not offset on only or order placing primary references returning"
    " select symmetric table then to trailing union unique using variadic when where window"
    " with".split()
)
# Where one of these is unexpected, something before it is missing.
_CLAUSES = frozenset(
    "and as else end except from having intersect limit on or then union using when where".split()
)
_BEFORE_NAMES = frozenset("select from join update into where and or on by , ( .".split())
_OPERATORS = {"==": ("PostgreSQL has no ==", "write ="), "=<": ("PostgreSQL has no =<", "write <=")}
_TYPOGRAPHIC_QUOTES = "‘’“”"
_SIGNS = {
    "{": (
        "PostgreSQL has no {",
        "nothing is rendered here: write the SQL that the server should get",
    ),
    "\\": ("PostgreSQL has no \\", "psql commands are not SQL: remove the line"),
    "`": ("PostgreSQL has no `", 'a name that needs quotes is written "name"'),
}


def find_never_valid(tokens: Tokens) -> Iterator[Mistake]:
    """What the grammar takes and every server refuses."""
    for token in tokens:
        if token.kind == "operator" and token.text in _OPERATORS:
            message, hint = _OPERATORS[token.text]
            yield Mistake(token.start, message, hint)
        if token.kind != "word" or token.text.isascii():
            continue
        blank = _ODD_BLANK.search(token.text)
        if blank:
            message = f"the blank U+{ord(blank[0]):04X} is part of a name to PostgreSQL"
            hint = "write a plain space, or nothing"
            yield Mistake(token.start + blank.start(), message, hint)
        elif token.text[0] in _TYPOGRAPHIC_QUOTES or token.text[-1] in _TYPOGRAPHIC_QUOTES:
            message = "a typographic quote, which is a letter to PostgreSQL"
            yield Mistake(token.start, message, "write 'text' and \"name\"")


def explain(tokens: Tokens, offset: int) -> Mistake | None:
    """The mistake that made the parser give up at `offset`; None where it is none of those known
    here."""
    culprit = sum(token.start < offset for token in tokens)
    begin = 0
    for at in range(culprit):
        if tokens[at].text == ";":
            begin = at + 1
    for token in tokens[begin : culprit + 1]:
        if token.kind in ("sign", "operator") and token.text in _SIGNS:
            message, hint = _SIGNS[token.text]
            return Mistake(token.start, message, hint)
    # So that a look at the tokens that follow needs no check whether there are any.
    padded = [*tokens, _END, _END, _END]
    # The parser gives up up to three tokens behind the mistake.
    for at in range(culprit, max(culprit - 3, begin - 1), -1):
        look = _LOOK.get(_symbol(padded, at))
        mistake = look(padded, at) if look else None
        if mistake:
            return mistake
    statement = padded[begin:]
    culprit -= begin
    return (
        _try_cast(statement, culprit)
        or _join_without_condition(statement, culprit)
        or _reserved_word(statement, culprit)
    )


def _symbol(tokens: Tokens, at: int) -> str:
    """The text of a word or a sign, else nothing."""
    if tokens[at].kind in ("word", "sign", "operator"):
        return tokens[at].text
    return ""


def _nothing_after(tokens: Tokens, at: int) -> Mistake | None:
    is_comma = tokens[at].text == ","
    after = at + 1 if is_comma else at + 2
    if not is_comma and _symbol(tokens, at + 1) != "by":
        return None
    if tokens[after].kind and _symbol(tokens, after) not in _ENDS:
        return None
    what = "a comma" if is_comma else f"{tokens[at].text.upper()} BY"
    message = f"{what} with nothing after it"
    return Mistake(tokens[at].start, message, "remove it, or write what is missing")


def _empty_list(tokens: Tokens, at: int) -> Mistake | None:
    # SQLite accepts an empty list, and programs that write SQL produce one.
    if _symbol(tokens, at + 1) != "(" or _symbol(tokens, at + 2) != ")":
        return None
    hint = "list values, or remove the condition"
    return Mistake(tokens[at].start, "IN with an empty list", hint)


def _bare_interval(tokens: Tokens, at: int) -> Mistake | None:
    # MySQL and BigQuery write `interval 1 day`.
    number = tokens[at + 1]
    if number.kind != "number":
        return None
    message = "an interval is text in PostgreSQL"
    return Mistake(tokens[at].start, message, f"write interval '{number.text} day'")


def _two_limits(tokens: Tokens, at: int) -> Mistake | None:
    # MySQL and SQLite write `LIMIT 5, 10`, the offset first.
    if tokens[at + 1].kind != "number" or _symbol(tokens, at + 2) != ",":
        return None
    message = "PostgreSQL has no LIMIT with two numbers"
    return Mistake(tokens[at].start, message, "write LIMIT 10 OFFSET 5")


def _text_for_a_name(tokens: Tokens, at: int) -> Mistake | None:
    # MySQL and SQLite accept `AS 'name'`.
    string = tokens[at + 1]
    if string.kind != "string":
        return None
    name = string.text[1:-1]
    return Mistake(string.start, "a name in quotes for text", f'write "{name}"')


def _other_regexp_operator(tokens: Tokens, at: int) -> Mistake | None:
    # MySQL's RLIKE and REGEXP.
    message = f"PostgreSQL has no {tokens[at].text.upper()}"
    return Mistake(tokens[at].start, message, "write ~, or ~* where case does not matter")


def _arrow_for_at_least(tokens: Tokens, at: int) -> Mistake | None:
    return Mistake(tokens[at].start, "PostgreSQL has no =>", "write >=")


def _qualify(tokens: Tokens, at: int) -> Mistake | None:
    # Snowflake, BigQuery and DuckDB filter by QUALIFY.
    hint = "filter by WHERE, around a subquery with the window function"
    return Mistake(tokens[at + 1].start, "PostgreSQL has no QUALIFY", hint)


def _star_with_exceptions(tokens: Tokens, at: int) -> Mistake | None:
    # BigQuery has EXCEPT and REPLACE, Snowflake and DuckDB EXCLUDE.
    if _symbol(tokens, at + 1) not in ("exclude", "except", "replace", "rename"):
        return None
    message = "PostgreSQL has no * with exceptions"
    return Mistake(tokens[at].start, message, "name the columns")


# By the word or sign at which the mistake begins.
_LOOK: dict[str, Callable[[Tokens, int], Mistake | None]] = {
    ",": _nothing_after,
    "group": _nothing_after,
    "order": _nothing_after,
    "partition": _nothing_after,
    "in": _empty_list,
    "interval": _bare_interval,
    "limit": _two_limits,
    "as": _text_for_a_name,
    "rlike": _other_regexp_operator,
    "regexp": _other_regexp_operator,
    "qualify": _qualify,
    "=>": _arrow_for_at_least,
    "*": _star_with_exceptions,
}


def _try_cast(tokens: Tokens, culprit: int) -> Mistake | None:
    """The parser takes it for a function, and gives up at its AS."""
    if _symbol(tokens, culprit) != "as":
        return None
    for at in range(culprit - 2, -1, -1):
        if _symbol(tokens, at) == "try_cast":
            hint = "write CAST, in a CASE that leaves out what does not fit"
            return Mistake(tokens[at + 2].start, "PostgreSQL has no TRY_CAST", hint)
    return None


def _join_without_condition(tokens: Tokens, culprit: int) -> Mistake | None:
    """The last JOIN of the broken query without a condition for its rows."""
    # One list for each open parenthesis: a condition belongs to the last JOIN of its own level.
    open_joins: list[list[int]] = [[]]
    for at, token in enumerate(tokens[:culprit]):
        if token.text == "(":
            open_joins.append([])
        elif token.text == ")" and open_joins[1:]:
            open_joins.pop()
        elif token.text == "join":
            # A CROSS or NATURAL join needs no condition; the longest is NATURAL LEFT OUTER JOIN.
            before = {word.text for word in tokens[max(at - 3, 0) : at]}
            if before.isdisjoint(("cross", "natural")):
                open_joins[-1].append(at)
        elif token.text in ("on", "using") and open_joins[-1]:
            open_joins[-1].pop()
    if not open_joins[-1]:
        return None
    place = open_joins[-1][-1] + 1
    while _symbol(tokens, place) in ("(", "lateral", "only", "select", "with"):
        place += 1
    hint = "state which rows match, or write CROSS JOIN"
    return Mistake(tokens[place].start, "JOIN without ON or USING", hint)


def _reserved_word(tokens: Tokens, culprit: int) -> Mistake | None:
    """A word of SQL where the grammar wants a name: where it gave up, or right before."""
    for at in (culprit, culprit - 1):
        word = _symbol(tokens, at)
        if at < 1 or word not in _RESERVED or _symbol(tokens, at - 1) not in _BEFORE_NAMES:
            continue
        if at < culprit or word not in _CLAUSES:
            message = f"{word} is a word of SQL, not a name"
            return Mistake(tokens[at].start, message, f'write "{word}" if it is a name')
    return None
