"""SQL in which schemas, or the current time, are replaced. Everything else stays byte for byte."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from loadsheet.sql.text import ident, literal
from loadsheet.sql.tokens import tokenize

Moves = Mapping[str, tuple[str, Collection[str]]]
"""By schema: the schema to name instead, and the tables in it that move there."""

_NAMES = ("word", "name")
_FUNCTIONS = frozenset({"now", "transaction_timestamp", "statement_timestamp", "clock_timestamp"})
# Calls without parentheses, and the types of their results.
_WORDS = {
    "current_timestamp": "timestamptz",
    "current_date": "date",
    "current_time": "timetz",
    "localtimestamp": "timestamp",
    "localtime": "time",
}


def in_schemas(sql: str, moves: Moves) -> str:
    """`sql` with each `schema.table` moved as `moves` tell. Text in quotes does not change. Raises
    Unparsable."""
    pieces = []
    end = 0
    tokens = tokenize(sql)
    for schema, dot, table in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if schema.kind not in _NAMES or schema.text not in moves or dot.text != ".":
            continue
        new_schema, tables = moves[schema.text]
        if table.text in tables:
            pieces += [sql[end : schema.start], ident(new_schema)]
            end = schema.end
    return "".join([*pieces, sql[end:]])


def at(sql: str, moment: str) -> str:
    """`sql` with `moment` in place of `now()`, `current_date` and the like. Raises Unparsable."""
    now = f"CAST({literal(moment)} AS timestamptz)"
    pieces = []
    end = 0
    tokens = tokenize(sql)
    for index, token in enumerate(tokens):
        if token.kind != "word" or (index and tokens[index - 1].text == "."):
            continue  # text, a column, or a user's function
        parentheses = [following.text for following in tokens[index + 1 : index + 3]]
        if token.text in _FUNCTIONS and parentheses == ["(", ")"]:
            pieces += [sql[end : token.start], now]
            end = tokens[index + 2].end
        elif token.text in _WORDS:
            pieces += [sql[end : token.start], f"CAST({now} AS {_WORDS[token.text]})"]
            end = token.end
    return "".join([*pieces, sql[end:]])
