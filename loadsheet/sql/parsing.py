"""SQL text to parsed statements, or the position of what PostgreSQL would refuse."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress

from sqlglot import exp
from sqlglot.errors import ParseError
from sqlglot.tokenizer_core import Token, TokenType

from loadsheet.sql.rewrites import eased
from loadsheet.sql.strict import slips_in_statement, slips_in_tokens
from loadsheet.sql.tokens import POSTGRES, TOO_DEEP_HINT, Unparsable, odd_blank, tokenize

# sqlglot keeps a statement it does not know as a bare Command and warns of it; a DO block in a
# script is no news.
logging.getLogger("sqlglot").addFilter(
    lambda record: "Falling back to parsing" not in record.getMessage()
)

_HINT = (
    "if the server accepts it, sqlglot does not know this syntax yet: write it another way, "
    "or wrap the statement of a script in DO $$ ... $$"
)
_NAMING = frozenset(
    "ABORT ALTER ANALYZE CALL CHECKPOINT CLOSE CLUSTER COMMENT COPY CREATE DEALLOCATE DECLARE"
    " DISCARD DROP EXECUTE FETCH GRANT IMPORT LISTEN LOAD LOCK MOVE NOTIFY PREPARE REASSIGN REFRESH"
    " REINDEX RELEASE RESET REVOKE SAVEPOINT SECURITY SET SHOW START TRUNCATE UNLISTEN VACUUM".split()
)
"""Statements that say what they do by names alone; a query inside one has to be readable
nevertheless."""
_QUERIES = (
    TokenType.SELECT,
    TokenType.INSERT,
    TokenType.UPDATE,
    TokenType.DELETE,
    TokenType.MERGE,
    TokenType.VALUES,
)


def parse(sql: str) -> list[exp.Expr]:
    """The statements of `sql`, empty ones left out. Raises Unparsable at the place that could not
    be read.

    A statement that only names what it does (DROP, COMMENT, SAVEPOINT) may be one that sqlglot does
    not know: it comes out as a Command.
    """
    if (offset := odd_blank(sql)) is not None:
        message = f"the blank U+{ord(sql[offset]):04X} is not a space to PostgreSQL: it becomes part of a name"
        raise Unparsable(message, offset, "write a plain space, or nothing")
    return [statement for part in _parts(tokenize(sql)) if (statement := _statement(sql, part))]


def _parts(tokens: list[Token]) -> Iterator[list[Token]]:
    """The tokens between semicolons; those in BEGIN ATOMIC ... END, a function's body, part
    nothing."""
    part: list[Token] = []
    bodies = 0
    if TokenType.SEMICOLON not in {token.token_type for token in tokens}:
        yield tokens
        return
    for before, token in zip([None, *tokens], tokens, strict=False):
        word = token.text.upper()
        bodies += word == "ATOMIC" and before is not None and before.text.upper() == "BEGIN"
        bodies += (word == "CASE") - (word == "END") if bodies else 0
        if token.token_type is TokenType.SEMICOLON and not bodies:
            yield part
            part = []
        else:
            part.append(token)
    yield part


def _statement(sql: str, tokens: list[Token]) -> exp.Expr | None:
    if any(token.token_type is TokenType.SEMICOLON for token in tokens):
        return _command(sql, tokens)  # a function's body
    for offset, message, hint in slips_in_tokens(tokens):
        raise Unparsable(message, offset, hint)
    try:
        parsed = _parsed(sql, tokens)
    except Unparsable as error:
        parsed = _parsed_otherwise(sql, tokens, error)
    if isinstance(parsed, exp.Command) and parsed.this.upper() == "CREATE":
        parsed = _parsed_otherwise(sql, tokens, None)
    for offset, message, hint in slips_in_statement(parsed, tokens) if parsed else ():
        raise Unparsable(message, offset, hint)
    return parsed


def _parsed(sql: str, tokens: list[Token]) -> exp.Expr | None:
    try:
        (parsed,) = POSTGRES.parser().parse(tokens, sql) or [None]
    except ParseError as error:
        raise _unparsable(sql, error) from None
    except RecursionError:
        raise Unparsable("nested too deeply to be read", 0, TOO_DEEP_HINT) from None
    # on odd text the parser fails in its own code, too: an interval of `"a` is a TokenError inside
    except Exception:
        raise Unparsable("cannot be read as PostgreSQL", 0, _HINT) from None
    if isinstance(parsed, (exp.Condition, exp.Alias)) and not isinstance(parsed, exp.Query):
        raise Unparsable(
            f"no statement of PostgreSQL begins with {tokens[0].text!r}", tokens[0].start, _HINT
        )
    return None if isinstance(parsed, exp.Semicolon) else parsed


def _parsed_otherwise(sql: str, tokens: list[Token], error: Unparsable | None) -> exp.Expr | None:
    """What comes of it once it is eased; else a Command where it only names what it does. Raises
    `error`, if any."""
    with suppress(Unparsable):
        parsed = _parsed(sql, eased(sql, tokens))
        if not isinstance(parsed, exp.Command):
            return parsed
    word = tokens[0].text.upper() if tokens else ""
    if error and (word not in _NAMING or any(token.token_type in _QUERIES for token in tokens)):
        raise error
    return _command(sql, tokens)


def _command(sql: str, tokens: list[Token]) -> exp.Command:
    text = sql[tokens[0].end + 1 : tokens[-1].end + 1]
    return exp.Command(this=tokens[0].text.upper(), expression=exp.Literal.string(text))


def _unparsable(sql: str, error: ParseError) -> Unparsable:
    detail = error.errors[0]
    before, culprit = detail["start_context"], detail["highlight"]
    # The parser gives the line and the column where its culprit ends, not where it starts.
    lines = sql.splitlines(keepends=True)
    end = sum(len(line) for line in lines[: detail["line"] - 1]) + detail["col"]
    offset = min(max(end - len(culprit), 0), len(sql))
    return Unparsable(_explain(detail["description"], before, culprit), offset, _HINT)


def _explain(description: str, before: str, culprit: str) -> str:
    place = f"at {culprit!r}" if culprit else "at its end"
    after = " ".join(before.split()[-3:])
    # Only these descriptions say something in SQL's words; others name Python classes and tokens.
    why = f" ({description})" if description.startswith("Expect") and "<" not in description else ""
    return f"cannot be read as PostgreSQL {place}" + (f" after {after!r}" if after else "") + why


_WRITES = (exp.Insert, exp.Update, exp.Delete, exp.Merge)


def why_not_one_select(statements: list[exp.Expr]) -> str | None:
    """What keeps `statements` from being exactly one SELECT (WITH, UNION and VALUES allowed); None
    when nothing."""
    if len(statements) != 1:
        return (
            f"expected one SELECT, found {len(statements)} statements"
            if statements
            else "there is no SELECT"
        )
    statement = statements[0]
    if not isinstance(statement, (exp.Query, exp.Values)):
        return f"expected one SELECT, found {statement.key.upper()}"
    if statement.find(exp.Into):
        return "expected one SELECT, found SELECT INTO"
    write = statement.find(*_WRITES)
    return f"expected one SELECT, found {write.key.upper()} inside it" if write else None


def why_not_in_our_transaction(statements: list[exp.Expr]) -> str | None:
    """Which of a script's `statements` would end the transaction it runs in, and its locks with it;
    None when none."""
    found = next(filter(None, map(_ending, statements)), None)
    return f"a script runs in one transaction, found {found}" if found else None


def _ending(statement: exp.Expr) -> str:
    """The statement in a word or two if it begins or ends a transaction or cannot run in one, else
    nothing."""
    if isinstance(statement, exp.Command):
        word = statement.this.upper()
        is_transaction = statement.text("expression").lstrip().upper().startswith("TRANSACTION")
        return (
            f"{word} TRANSACTION" if is_transaction else word if word in ("ABORT", "VACUUM") else ""
        )
    if isinstance(statement, (exp.Create, exp.Drop)) and statement.args.get("concurrently"):
        return f"{statement.key.upper()} INDEX CONCURRENTLY"
    if isinstance(statement, exp.Rollback):
        return "" if statement.args.get("savepoint") else "ROLLBACK"
    return (
        "BEGIN"
        if isinstance(statement, exp.Transaction)
        else "COMMIT"
        if isinstance(statement, exp.Commit)
        else ""
    )
