"""SQL in which schemas, or the current time, are replaced. Everything else stays byte for byte."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from loadsheet.sql.text import ident, literal
from loadsheet.sql.tokens import tokenize

Moves = Mapping[str, tuple[str, Collection[str]]]
"""By schema: the schema to name instead, and the tables in it that this is true of."""

_NAMES = ("word", "name")


def in_schemas(sql: str, moves: Moves) -> str:
    """`sql` with `schema.table` named as `moves` say. Text in quotes stays as it is. Raises
    Unparsable."""
    pieces, end = [], 0
    tokens = tokenize(sql)
    for schema, dot, table in zip(tokens, tokens[1:], tokens[2:], strict=False):
        moved, names = moves.get(schema.text if schema.kind in _NAMES else "", ("", ()))
        if moved and dot.text == "." and table.text in names:
            pieces += [sql[end : schema.start], ident(moved)]
            end = schema.end
    return "".join([*pieces, sql[end:]])


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
    pieces, end, tokens = [], 0, tokenize(sql)
    for index, token in enumerate(tokens):
        if token.kind != "word" or (index and tokens[index - 1].text == "."):
            continue  # text, a column, or a user's function
        called = [following.text for following in tokens[index + 1 : index + 3]] == ["(", ")"]
        if token.text in _FUNCTIONS and called:
            pieces += [sql[end : token.start], now]
            end = tokens[index + 2].end
        elif token.text in _WORDS:
            pieces += [sql[end : token.start], f"CAST({now} AS {_WORDS[token.text]})"]
            end = token.end
    return "".join([*pieces, sql[end:]])
