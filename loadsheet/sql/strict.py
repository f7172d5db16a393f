"""What sqlglot lets pass and PostgreSQL refuses: the slips of every day, and what other databases
write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from loadsheet.sql.reads import begins

Slip = tuple[int, str, str]
"""Offset, message, hint."""

_T = TokenType
_ENDS = frozenset(
    (
        _T.FROM,
        _T.WHERE,
        _T.GROUP_BY,
        _T.HAVING,
        _T.ORDER_BY,
        _T.LIMIT,
        _T.UNION,
        _T.EXCEPT,
        _T.INTERSECT,
        _T.R_PAREN,
        _T.R_BRACKET,
        _T.COMMA,
        _T.SEMICOLON,
    )
)
_RESERVED = frozenset(
    "analyse analyze and asc asymmetric both cast check collate column constraint create desc"
    " distinct do else end except fetch for foreign from grant group having in initially intersect"
    " into lateral leading limit not offset on only or order placing primary references returning"
    " select symmetric table then to trailing union unique using variadic when where window with".split()
)
"""PostgreSQL's reserved words, without those that are a value of their own (`user`, `current_date`,
`null`)."""


def slips_in_tokens(tokens: Sequence[Token]) -> Iterator[Slip]:
    """Slips that show in the words themselves; `tokens` are those of one statement."""
    types = [token.token_type for token in tokens] + [_T.SEMICOLON] * 2
    for at, kind in enumerate(types[:-2]):
        if kind in _LOOK and (slip := _LOOK[kind](tokens, types, at)):
            yield slip


def _dangling(tokens: Sequence[Token], types: Sequence[TokenType], at: int) -> Slip | None:
    if types[at + 1] not in _ENDS:
        return None
    what = "a comma" if types[at] is _T.COMMA else tokens[at].text.upper()
    return tokens[at].start, f"{what} with nothing after it", "drop it, or write what is missing"


def _empty_list(tokens: Sequence[Token], types: Sequence[TokenType], at: int) -> Slip | None:
    if types[at + 1 : at + 3] != [_T.L_PAREN, _T.R_PAREN]:
        return None
    return tokens[at].start, "IN with an empty list", "name values, or drop the condition"


def _bare_interval(tokens: Sequence[Token], types: Sequence[TokenType], at: int) -> Slip | None:
    if types[at + 1] is not _T.NUMBER:
        return None
    return (
        tokens[at].start,
        "an interval is text in PostgreSQL",
        f"write interval '{tokens[at + 1].text} day'",
    )


def _two_limits(tokens: Sequence[Token], types: Sequence[TokenType], at: int) -> Slip | None:
    if types[at + 1 : at + 3] != [_T.NUMBER, _T.COMMA]:
        return None
    return tokens[at].start, "PostgreSQL has no LIMIT with two numbers", "write LIMIT 10 OFFSET 5"


def _text_for_a_name(tokens: Sequence[Token], types: Sequence[TokenType], at: int) -> Slip | None:
    if types[at + 1] is not _T.STRING or types[0] is _T.CREATE:  # CREATE FUNCTION ... AS 'body'
        return None
    return tokens[at + 1].start, "a name in quotes for text", f'write "{tokens[at + 1].text}"'


def _equal(tokens: Sequence[Token], types: Sequence[TokenType], at: int) -> Slip | None:
    place = tokens[at].start
    if tokens[at].text == "==":
        return place, "PostgreSQL has no ==", "write ="
    if types[at + 1] in (_T.LT, _T.GT) and tokens[at + 1].start == tokens[at].end + 1:
        sign = tokens[at + 1].text
        return place, f"PostgreSQL has no ={sign}", f"write {sign}="
    return None


def _matching(tokens: Sequence[Token], _: Sequence[TokenType], at: int) -> Slip | None:
    word = tokens[at].text.upper()
    hint = "write ~, or ~* where case does not matter"
    return None if word.startswith("~") else (tokens[at].start, f"PostgreSQL has no {word}", hint)


def _foreign_sign(tokens: Sequence[Token], _: Sequence[TokenType], at: int) -> Slip | None:
    token = tokens[at]
    if token.token_type is _T.VAR:
        return (
            (token.start, *_TYPOGRAPHIC)
            if token.text[0] in "‘’“”" or token.text[-1] in "‘’“”"
            else None
        )
    return (token.start, *_SIGNS[token.text]) if token.text in _SIGNS else None


_TYPOGRAPHIC = ("a typographic quote, which is a letter to PostgreSQL", "write 'text' and \"name\"")
_SIGNS = {
    "{": (
        "PostgreSQL has no {",
        "nothing is rendered here: write the SQL as the server is to get it",
    ),
    "\\": ("PostgreSQL has no \\", "commands of psql are no SQL: leave the line out"),
    "`": ("PostgreSQL has no `", 'a name that needs quotes is written "name"'),
}


_LOOK: dict[TokenType, Callable[[Sequence[Token], Sequence[TokenType], int], Slip | None]] = {
    _T.COMMA: _dangling,
    _T.GROUP_BY: _dangling,
    _T.ORDER_BY: _dangling,
    _T.PARTITION_BY: _dangling,
    _T.IN: _empty_list,
    _T.INTERVAL: _bare_interval,
    _T.LIMIT: _two_limits,
    _T.ALIAS: _text_for_a_name,
    _T.EQ: _equal,
    _T.RLIKE: _matching,
    _T.L_BRACE: _foreign_sign,
    _T.BACKSLASH: _foreign_sign,
    _T.UNKNOWN: _foreign_sign,
    _T.VAR: _foreign_sign,
}


def slips_in_statement(statement: exp.Expr, tokens: Sequence[Token]) -> Iterator[Slip]:
    """Slips that only the parsed statement shows; `tokens` are those it was parsed from."""
    if isinstance(statement, exp.Create) and statement.kind not in ("TABLE", "VIEW"):
        return  # sqlglot takes words of a function's head for names
    for node in statement.walk():
        if (look := _LOOK_AT.get(type(node))) and (slip := look(node, tokens)):
            yield slip


def _qualify(node: exp.Expr, _: Sequence[Token]) -> Slip | None:
    if not (qualify := node.args.get("qualify")):
        return None
    return (
        begins(qualify),
        "PostgreSQL has no QUALIFY",
        "filter by WHERE, around a subquery with the window function",
    )


def _star(node: exp.Expr, _: Sequence[Token]) -> Slip | None:
    if not any(node.args.get(key) for key in ("except_", "replace", "rename")):
        return None
    return begins(node), "PostgreSQL has no * with exceptions", "name the columns"


def _try_cast(node: exp.Expr, _: Sequence[Token]) -> Slip | None:
    return (
        begins(node),
        "PostgreSQL has no TRY_CAST",
        "write CAST, in a CASE that leaves out what does not fit",
    )


def _join(node: exp.Expr, tokens: Sequence[Token]) -> Slip | None:
    """A JOIN, not a comma, that says nothing about which rows meet."""
    if (
        any(node.args.get(key) for key in ("on", "using", "method"))
        or node.args.get("kind") == "CROSS"
    ):
        return None
    place = begins(node)
    before = [token.token_type for token in tokens if token.start < place]
    while before and before[-1] in (_T.L_PAREN, _T.LATERAL, _T.ONLY, _T.SELECT, _T.WITH):
        before.pop()
    return (
        (place, "JOIN without ON or USING", "say how rows meet, or write CROSS JOIN")
        if before[-1:] == [_T.JOIN]
        else None
    )


def _column(node: exp.Expr, _: Sequence[Token]) -> Slip | None:
    return None if node.args.get("table") else _reserved(node.this)


def _table(node: exp.Expr, _: Sequence[Token]) -> Slip | None:
    return None if node.args.get("db") else _reserved(node.this)


def _reserved(name: exp.Expr) -> Slip | None:
    if (
        not isinstance(name, exp.Identifier)
        or name.args.get("quoted")
        or name.name.lower() not in _RESERVED
    ):
        return None
    return (
        begins(name),
        f"{name.name} is a word of SQL, not a name",
        f'write "{name.name}" if it is a name',
    )


_LOOK_AT: dict[type[exp.Expr], Callable[[Any, Sequence[Token]], Slip | None]] = {
    exp.Select: _qualify,
    exp.Star: _star,
    exp.TryCast: _try_cast,
    exp.Join: _join,
    exp.Column: _column,
    exp.Table: _table,
}
