"""SQL that takes a given moment for now, so that a test of it says the same tomorrow."""

from __future__ import annotations

from sqlglot.tokenizer_core import TokenType

from loadsheet.sql.text import literal
from loadsheet.sql.tokens import words

_FUNCTIONS = frozenset({"now", "transaction_timestamp", "statement_timestamp", "clock_timestamp"})
_WORDS = {
    "current_timestamp": "timestamptz", "current_date": "date", "current_time": "timetz", "localtimestamp": "timestamp",
    "localtime": "time",
}  # fmt: skip


def at(sql: str, moment: str) -> str:
    """`sql` with `now()`, `current_date` and their like as at `moment`. Raises Unparsable."""
    now = f"CAST({literal(moment)} AS timestamptz)"
    pieces, end, tokens = [], 0, words(sql)
    for index, token in enumerate(tokens):
        name = "" if token.token_type in (TokenType.STRING, TokenType.IDENTIFIER) else token.text.lower()
        called = [t.token_type for t in tokens[index + 1 : index + 3]] == [TokenType.L_PAREN, TokenType.R_PAREN]
        if tokens[index - 1].token_type is TokenType.DOT and index:
            continue  # a column, or somebody's own function
        if name in _FUNCTIONS and called:
            pieces += [sql[end : token.start], now]
            end = tokens[index + 2].end + 1
        elif name in _WORDS:
            pieces += [sql[end : token.start], f"CAST({now} AS {_WORDS[name]})"]
            end = token.end + 1
    return "".join([*pieces, sql[end:]])
