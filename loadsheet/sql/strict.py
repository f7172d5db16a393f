"""What PostgreSQL's grammar refuses, explained: the slips of every day, and what other databases
write. And the few that it takes, though no server has them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from loadsheet.sql.tokens import Token

Slip = tuple[int, str, str]
"""Offset, message, hint."""
Tokens = Sequence[Token]
_END = Token("", "", 0, 0)

_ODD_BLANK = re.compile(
    "[\u0085\u00a0\u1680\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]"
)
"""Blanks and nothings that come with text from web pages: to PostgreSQL they are letters."""
_ENDS = frozenset("from where group having order limit union except intersect ) ] , ;".split())
_RESERVED = frozenset(
    "analyse analyze and asc asymmetric both cast check collate column constraint create desc"
    " distinct do else end except fetch for foreign from grant group having in initially intersect"
    " into lateral leading limit not offset on only or order placing primary references returning"
    " select symmetric table then to trailing union unique using variadic when where window with".split()
)
"""PostgreSQL's reserved words, without those that are a value (`user`, `current_date`, `null`)."""
_CLAUSES = frozenset(
    "and as else end except from having intersect limit on or then union using when where".split()
)
"""Where one of these is unexpected, something before it is missing."""
_BEFORE_NAMES = frozenset("select from join update into where and or on by , ( .".split())
_OPERATORS = {"==": ("PostgreSQL has no ==", "write ="), "=<": ("PostgreSQL has no =<", "write <=")}
_TYPOGRAPHIC = ("a typographic quote, which is a letter to PostgreSQL", "write 'text' and \"name\"")
_SIGNS = {
    "{": (
        "PostgreSQL has no {",
        "nothing is rendered here: write the SQL as the server is to get it",
    ),
    "\\": ("PostgreSQL has no \\", "commands of psql are no SQL: leave the line out"),
    "`": ("PostgreSQL has no `", 'a name that needs quotes is written "name"'),
}


def always_wrong(tokens: Tokens) -> Iterator[Slip]:
    """What the grammar takes and every server refuses."""
    for token in tokens:
        if token.kind == "operator" and token.text in _OPERATORS:
            yield token.start, *_OPERATORS[token.text]
        elif token.kind == "word" and not token.text.isascii():
            if found := _ODD_BLANK.search(token.text):
                message = f"the blank U+{ord(found[0]):04X} is part of a name to PostgreSQL"
                yield token.start + found.start(), message, "write a plain space, or nothing"
            elif token.text[0] in "‘’“”" or token.text[-1] in "‘’“”":
                yield token.start, *_TYPOGRAPHIC


def explained(tokens: Tokens, offset: int) -> Slip | None:
    """The slip that made the parser give up at `offset`; None: unknown."""
    culprit = sum(token.start < offset for token in tokens)
    begin = max((at + 1 for at in range(culprit) if tokens[at].text == ";"), default=0)
    for token in tokens[begin : culprit + 1]:
        if token.kind in ("sign", "operator") and token.text in _SIGNS:
            return token.start, *_SIGNS[token.text]
    padded = [*tokens, _END, _END, _END]
    for at in range(culprit, max(culprit - 3, begin - 1), -1):
        look = _LOOK.get(_text(padded, at))
        if look and (slip := look(padded, at)):
            return slip
    statement = padded[begin:]
    culprit -= begin
    return (
        _try_cast(statement, culprit) or _join(statement, culprit) or _reserved(statement, culprit)
    )


def _text(tokens: Tokens, at: int) -> str:
    """A word or a sign, else nothing."""
    return tokens[at].text if tokens[at].kind in ("word", "sign", "operator") else ""


def _dangling(tokens: Tokens, at: int) -> Slip | None:
    is_comma = tokens[at].text == ","
    after = at + 1 if is_comma else at + 2
    if not is_comma and _text(tokens, at + 1) != "by":
        return None
    if tokens[after].kind and _text(tokens, after) not in _ENDS:
        return None
    what = "a comma" if is_comma else f"{tokens[at].text.upper()} BY"
    return tokens[at].start, f"{what} with nothing after it", "drop it, or write what is missing"


def _empty_list(tokens: Tokens, at: int) -> Slip | None:
    if _text(tokens, at + 1) != "(" or _text(tokens, at + 2) != ")":
        return None
    return tokens[at].start, "IN with an empty list", "name values, or drop the condition"


def _bare_interval(tokens: Tokens, at: int) -> Slip | None:
    number = tokens[at + 1]
    if number.kind != "number":
        return None
    return (
        tokens[at].start,
        "an interval is text in PostgreSQL",
        f"write interval '{number.text} day'",
    )


def _two_limits(tokens: Tokens, at: int) -> Slip | None:
    if tokens[at + 1].kind != "number" or _text(tokens, at + 2) != ",":
        return None
    return tokens[at].start, "PostgreSQL has no LIMIT with two numbers", "write LIMIT 10 OFFSET 5"


def _text_for_a_name(tokens: Tokens, at: int) -> Slip | None:
    string = tokens[at + 1]
    if string.kind != "string":
        return None
    return string.start, "a name in quotes for text", f'write "{string.text[1:-1]}"'


def _matching(tokens: Tokens, at: int) -> Slip | None:
    word = tokens[at].text.upper()
    return (
        tokens[at].start,
        f"PostgreSQL has no {word}",
        "write ~, or ~* where case does not matter",
    )


def _at_least(tokens: Tokens, at: int) -> Slip | None:
    return tokens[at].start, "PostgreSQL has no =>", "write >="


def _qualify(tokens: Tokens, at: int) -> Slip | None:
    hint = "filter by WHERE, around a subquery with the window function"
    return tokens[at + 1].start, "PostgreSQL has no QUALIFY", hint


def _star(tokens: Tokens, at: int) -> Slip | None:
    if _text(tokens, at + 1) not in ("exclude", "except", "replace", "rename"):
        return None
    return tokens[at].start, "PostgreSQL has no * with exceptions", "name the columns"


_LOOK: dict[str, Callable[[Tokens, int], Slip | None]] = {
    ",": _dangling,
    "group": _dangling,
    "order": _dangling,
    "partition": _dangling,
    "in": _empty_list,
    "interval": _bare_interval,
    "limit": _two_limits,
    "as": _text_for_a_name,
    "rlike": _matching,
    "regexp": _matching,
    "qualify": _qualify,
    "=>": _at_least,
    "*": _star,
}


def _try_cast(tokens: Tokens, culprit: int) -> Slip | None:
    """The parser takes it for a function, and gives up at its AS."""
    for at in range(culprit - 2, -1, -1) if _text(tokens, culprit) == "as" else ():
        if _text(tokens, at) == "try_cast":
            hint = "write CAST, in a CASE that leaves out what does not fit"
            return tokens[at + 2].start, "PostgreSQL has no TRY_CAST", hint
    return None


def _join(tokens: Tokens, culprit: int) -> Slip | None:
    """The last JOIN of the query that broke which does not say which rows meet."""
    open_joins: list[list[int]] = [[]]
    for at, token in enumerate(tokens[:culprit]):
        if token.text == "(":
            open_joins.append([])
        elif token.text == ")" and open_joins[1:]:
            open_joins.pop()
        elif token.text == "join" and not _needs_no_condition(tokens, at):
            open_joins[-1].append(at)
        elif token.text in ("on", "using") and open_joins[-1]:
            open_joins[-1].pop()
    if not open_joins[-1]:
        return None
    place = open_joins[-1][-1] + 1
    while _text(tokens, place) in ("(", "lateral", "only", "select", "with"):
        place += 1
    return tokens[place].start, "JOIN without ON or USING", "say how rows meet, or write CROSS JOIN"


def _needs_no_condition(tokens: Tokens, at: int) -> bool:
    return any(token.text in ("cross", "natural") for token in tokens[max(at - 3, 0) : at])


def _reserved(tokens: Tokens, culprit: int) -> Slip | None:
    """A word of SQL where the grammar wants a name: where it gave up, or right before."""
    for at in (culprit, culprit - 1):
        word = _text(tokens, at)
        if at < 1 or word not in _RESERVED or _text(tokens, at - 1) not in _BEFORE_NAMES:
            continue
        if at < culprit or word not in _CLAUSES:
            return (
                tokens[at].start,
                f"{word} is a word of SQL, not a name",
                f'write "{word}" if it is a name',
            )
    return None
