"""SQL in which schemas, or the current time, are replaced. Everything else stays byte for byte."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlglot.tokenizer_core import Token, TokenType

from loadsheet.sql.text import ident, literal
from loadsheet.sql.tokens import words

Moves = Mapping[str, tuple[str, Collection[str]]]
"""By schema: the schema to name instead, and the tables in it that this is true of."""


def in_schemas(sql: str, moves: Moves) -> str:
    """`sql` with `schema.table` named as `moves` say. Text in quotes stays as it is. Raises
    Unparsable."""
    pieces, end = [], 0
    tokens = words(sql)
    for schema, dot, table in zip(tokens, tokens[1:], tokens[2:], strict=False):
        moved, names = moves.get(_name(schema), ("", ()))
        if moved and dot.token_type is TokenType.DOT and _name(table) in names:
            pieces += [sql[end : schema.start], ident(moved)]
            end = schema.end + 1
    return "".join([*pieces, sql[end:]])


def _name(token: Token) -> str:
    return token.text if token.token_type is TokenType.IDENTIFIER else token.text.lower()


_FUNCTIONS = frozenset({"now", "transaction_timestamp", "statement_timestamp", "clock_timestamp"})
_WORDS = {
    "current_timestamp": "timestamptz",
    "current_date": "date",
    "current_time": "timetz",
    "localtimestamp": "timestamp",
    "localtime": "time",
}


def at(sql: str, moment: str) -> str:
    """`sql` with `now()`, `current_date` and their like as at `moment`. Raises Unparsable."""
    now = f"CAST({literal(moment)} AS timestamptz)"
    pieces, end, tokens = [], 0, words(sql)
    for index, token in enumerate(tokens):
        name = (
            ""
            if token.token_type in (TokenType.STRING, TokenType.IDENTIFIER)
            else token.text.lower()
        )
        called = [t.token_type for t in tokens[index + 1 : index + 3]] == [
            TokenType.L_PAREN,
            TokenType.R_PAREN,
        ]
        if tokens[index - 1].token_type is TokenType.DOT and index:
            continue  # a column, or a function of the user's
        if name in _FUNCTIONS and called:
            pieces += [sql[end : token.start], now]
            end = tokens[index + 2].end + 1
        elif name in _WORDS:
            pieces += [sql[end : token.start], f"CAST({now} AS {_WORDS[name]})"]
            end = token.end + 1
    return "".join([*pieces, sql[end:]])
