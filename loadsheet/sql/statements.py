"""SQL text to statements, and whether they are the one SELECT that a table, view or merge is made of."""

from __future__ import annotations

import logging

from sqlglot import exp
from sqlglot.errors import ParseError

from loadsheet.sql.tokens import POSTGRES, TOO_DEEP_HINT, Unparsable, tokenize

# sqlglot keeps a statement it does not know as a bare Command and warns of it; a DO block in a script is no news.
logging.getLogger("sqlglot").addFilter(lambda record: "Falling back to parsing" not in record.getMessage())

_HINT = (
    "if the server accepts it, sqlglot does not know this syntax yet: write it another way, "
    "or wrap the statement of a script in DO $$ ... $$"
)
_WRITES = (exp.Insert, exp.Update, exp.Delete, exp.Merge)


def parse(sql: str) -> list[exp.Expr]:
    """The statements of `sql`, empty ones left out. Raises Unparsable at the place that could not be read."""
    tokens = tokenize(sql)
    try:
        parsed = POSTGRES.parser().parse(tokens, sql)
    except ParseError as error:
        raise _unparsable(sql, error) from None
    except RecursionError:
        raise Unparsable("nested too deeply to be read", 0, TOO_DEEP_HINT) from None
    except Exception:  # on odd text the parser fails in its own code, too: an interval of `"a` is a TokenError inside
        raise Unparsable("cannot be read as PostgreSQL", 0, _HINT) from None
    return [statement for statement in parsed if statement and not isinstance(statement, exp.Semicolon)]


def why_not_one_select(statements: list[exp.Expr]) -> str | None:
    """What keeps `statements` from being exactly one SELECT (WITH, UNION and VALUES allowed); None when nothing."""
    if len(statements) != 1:
        return f"expected one SELECT, found {len(statements)} statements" if statements else "there is no SELECT"
    statement = statements[0]
    if not isinstance(statement, (exp.Query, exp.Values)):
        return f"expected one SELECT, found {statement.key.upper()}"
    if statement.find(exp.Into):
        return "expected one SELECT, found SELECT INTO"
    write = statement.find(*_WRITES)
    return f"expected one SELECT, found {write.key.upper()} inside it" if write else None


def why_not_in_our_transaction(statements: list[exp.Expr]) -> str | None:
    """Which of a script's `statements` would end the transaction it runs in, and its locks with it; None when none."""
    found = next(filter(None, map(_ending, statements)), None)
    return f"a script runs in one transaction, found {found}" if found else None


def _ending(statement: exp.Expr) -> str:
    """The statement in a word or two if it begins or ends a transaction, else nothing."""
    if isinstance(statement, exp.Command) and statement.text("expression").lstrip().upper().startswith("TRANSACTION"):
        return f"{statement.this} TRANSACTION".upper()
    if isinstance(statement, exp.Column):  # what sqlglot makes of a statement it does not know
        return "ABORT" if statement.name.upper() == "ABORT" else ""
    if isinstance(statement, exp.Rollback):
        return "" if statement.args.get("savepoint") else "ROLLBACK"
    return "BEGIN" if isinstance(statement, exp.Transaction) else "COMMIT" if isinstance(statement, exp.Commit) else ""


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
