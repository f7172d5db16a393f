"""Rewrites valid PostgreSQL that sqlglot does not know into SQL that it does.

Only to find out what a statement reads: the server gets the SQL as it was written. So an operator
may become `=`, and a clause that reads nothing may go, as long as every token that stays keeps its
place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sqlglot.tokenizer_core import Token, TokenType

Tokens = Sequence[Token]
Ease = Callable[[str, list[Token], int], tuple[int, list[Token]] | None]
"""Of the text, its tokens and an index: how many tokens to take, and what stands for them; None:
nothing to do."""

_OPERATOR = frozenset("+-*/<>=~!@#%^&|`?")
_KNOWN = frozenset(
    "+ - * / < > = % ^ <= >= <> != || -> ->> #> #>> @> <@ && ? ?| ?& @? @@ ~ ~* !~ !~* << >> & | #".split()
)
_NEVER_BEFORE_ITS_OPERAND = frozenset("* / % ^ < > = <= >= <> != + - ~".split())
"""And three that sqlglot knows there."""
_NO_OPERATOR = frozenset(("=>", "=<", "><", "==", "=!", "//", ":="))
"""What people of other languages write. PostgreSQL's grammar takes some of it; its servers have no
such operator."""
_BEFORE_OPERAND = frozenset(
    "SELECT DISTINCT WHERE HAVING ON AND OR NOT CASE WHEN THEN ELSE BETWEEN LIKE ILIKE IN RETURNING"
    " GROUP_BY ORDER_BY PARTITION_BY LIMIT VALUES SET L_PAREN L_BRACKET COMMA DCOLON".split()
)
_TYPES = frozenset(
    "box cidr circle citext geography geometry hstore inet line lseg ltree macaddr macaddr8 money"
    " path pg_lsn pg_snapshot point polygon tsquery tsvector txid_snapshot varbit xml".split()
)
_OWN_GRAMMAR = frozenset(
    "json json_array json_arrayagg json_exists json_object json_object_agg json_objectagg"
    " json_query json_serialize json_table json_value jsonb_object_agg xmlelement xmlexists"
    " xmlforest xmlparse xmlpi xmlroot xmlserialize xmltable".split()
)
"""Functions whose arguments are parted by words, and those that sqlglot takes for one of them."""


def eased(sql: str, tokens: Tokens) -> list[Token]:
    """`tokens` of `sql` without what sqlglot is known not to understand."""
    left, out, at = list(tokens), [], 0
    while at < len(left):
        taken, instead = next(
            filter(None, (ease(sql, left, at) for ease in _EASES)), (1, [left[at]])
        )
        out += instead
        at += taken
    return out


def _operator(sql: str, tokens: list[Token], at: int) -> tuple[int, list[Token]] | None:
    """`a ~= b`, `a <<= b`, `@ a`: any operator that is none of the usual ones. It ends where
    PostgreSQL says."""
    first = tokens[at]
    if not _is_sign(sql, first) or first.token_type is TokenType.IDENTIFIER:
        return None
    end, taken = first.end, 1
    while (
        at + taken < len(tokens)
        and tokens[at + taken].start == end + 1
        and _is_sign(sql, tokens[at + taken])
    ):
        end, taken = tokens[at + taken].end, taken + 1
    text = sql[first.start : end + 1]
    while text[1:] and text[-1] in "+-" and not set(text) & set("~!@#%^&|`?"):
        text, taken = text[:-1], taken - 1
    if _type(tokens, at - 1) in _BEFORE_OPERAND or _is_sign(sql, tokens[at - 1]):
        return None if text in _NEVER_BEFORE_ITS_OPERAND else (taken, [])
    return None if text in _KNOWN | _NO_OPERATOR else (taken, [_token(TokenType.EQ, "=", first)])


def _typed_literal(_: str, tokens: list[Token], at: int) -> tuple[int, list[Token]] | None:
    """`box '(1,2),(3,4)'`."""
    is_type = tokens[at].token_type is TokenType.VAR and tokens[at].text.lower() in _TYPES
    return (1, []) if is_type and _type(tokens, at + 1) == "STRING" else None


def _array_type(_: str, tokens: list[Token], at: int) -> tuple[int, list[Token]] | None:
    """`a::mood[]`, an array of a type of one's own."""
    is_empty = _type(tokens, at) == "L_BRACKET" and _type(tokens, at + 1) == "R_BRACKET"
    return (2, []) if is_empty and _type(tokens, at - 1) in ("VAR", "IDENTIFIER") else None


def _ordering_operator(sql: str, tokens: list[Token], at: int) -> tuple[int, list[Token]] | None:
    """`ORDER BY a USING <`."""
    if _type(tokens, at) != "USING" or at + 1 == len(tokens) or not _is_sign(sql, tokens[at + 1]):
        return None
    return 2, []


def _join_alias(_: str, tokens: list[Token], at: int) -> tuple[int, list[Token]] | None:
    """`JOIN b USING (id) AS both`."""
    if _type(tokens, at) != "USING" or _type(tokens, at + 1) != "L_PAREN":
        return None
    close = _closing(tokens, at + 1)
    return (close + 3 - at, tokens[at : close + 1]) if _type(tokens, close + 1) == "ALIAS" else None


def _function(_: str, tokens: list[Token], at: int) -> tuple[int, list[Token]] | None:
    """`JSON_VALUE(doc, '$.a' RETURNING int DEFAULT 0 ON EMPTY)`: what it reads are subqueries, if
    any."""
    if tokens[at].text.lower() not in _OWN_GRAMMAR or _type(tokens, at + 1) != "L_PAREN":
        return None
    close = _closing(tokens, at + 1)
    inside = [
        token
        for part in _subqueries(tokens[at + 2 : close])
        for token in (_token(TokenType.COMMA, ",", tokens[at]), *part)
    ]
    return close + 1 - at, [
        _token(TokenType.VAR, "f", tokens[at]),
        tokens[at + 1],
        *inside[1:],
        *tokens[close : close + 1],
    ]


def _search_or_cycle(_: str, tokens: list[Token], at: int) -> tuple[int, list[Token]] | None:
    """`WITH RECURSIVE t AS (...) SEARCH DEPTH FIRST BY a, b SET ord CYCLE a, b SET is_cycle USING
    path`."""
    words = [token.text.lower() for token in tokens[at : at + 2]]
    if words[0] == "search" and words[1:] in (["depth"], ["breadth"]):
        last = _find(tokens, at, TokenType.SET)
    elif words[0] == "cycle" and at and _type(tokens, at - 1) in ("R_PAREN", "VAR", "IDENTIFIER"):
        last = _find(tokens, at, TokenType.USING) if _find(tokens, at, TokenType.SET) else None
    else:
        return None
    return (last + 2 - at, []) if last else None


def _overriding(_: str, tokens: list[Token], at: int) -> tuple[int, list[Token]] | None:
    """`INSERT INTO t OVERRIDING SYSTEM VALUE ...`."""
    words = [token.text.lower() for token in tokens[at : at + 3]]
    return (
        (3, [])
        if words in (["overriding", "system", "value"], ["overriding", "user", "value"])
        else None
    )


def _create_options(_: str, tokens: list[Token], at: int) -> tuple[int, list[Token]] | None:
    """`CREATE VIEW v WITH (security_barrier) AS`, `CREATE LOCAL TEMP TABLE t ON COMMIT DROP AS`."""
    if not at or _type(tokens, 0) != "CREATE":
        return None
    words = [token.text.lower() for token in tokens[at : at + 4]]
    if words[:2] == ["with", "("]:
        return _closing(tokens, at + 1) + 1 - at, []
    if words[:2] == ["on", "commit"]:
        return (3 if words[2:3] == ["drop"] else 4), []
    return (
        (1, [])
        if words[0] in ("local", "global") and words[1:2] in (["temp"], ["temporary"])
        else None
    )


_EASES: tuple[Ease, ...] = (
    _function,
    _typed_literal,
    _array_type,
    _ordering_operator,
    _join_alias,
    _search_or_cycle,
    _overriding,
    _create_options,
    _operator,
)


def _subqueries(tokens: list[Token]) -> Iterator[list[Token]]:
    at = 0
    while at < len(tokens):
        if _type(tokens, at) == "L_PAREN" and _type(tokens, at + 1) in ("SELECT", "WITH"):
            close = _closing(tokens, at)
            yield tokens[at : close + 1]
            at = close
        at += 1


def _closing(tokens: list[Token], at: int) -> int:
    """The index of the bracket that closes the one at `at`; behind the last token where none does."""
    depth = 0
    for index in range(at, len(tokens)):
        depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(tokens[index].token_type, 0)
        if not depth:
            return index
    return len(tokens)


def _is_sign(sql: str, token: Token) -> bool:
    """Whether an operator begins there. The text that sqlglot keeps of a command has no place of
    its own."""
    return token.start < len(sql) and sql[token.start] in _OPERATOR


def _find(tokens: list[Token], at: int, wanted: TokenType) -> int | None:
    return next(
        (index for index in range(at, len(tokens)) if tokens[index].token_type is wanted), None
    )


def _type(tokens: Tokens, at: int) -> str:
    return tokens[at].token_type.name if 0 <= at < len(tokens) else ""


def _token(kind: TokenType, text: str, place: Token) -> Token:
    return Token(kind, text, place.line, place.col, place.start, place.end)
