"""SQL whose tables are looked up in other schemas, without touching anything else in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlglot.tokenizer_core import Token, TokenType

from loadsheet.sql.text import ident
from loadsheet.sql.tokens import words

Moves = Mapping[str, tuple[str, Collection[str]]]
"""By schema: the schema to name instead, and the tables in it that this is true of."""


def in_schemas(sql: str, moves: Moves) -> str:
    """`sql` with `schema.table` named as `moves` say. Text in quotes stays as it is. Raises Unparsable."""
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
