"""What statements are: the one SELECT that a table, view or merge is made of, or fit for our transaction."""

from __future__ import annotations

from sqlglot import exp

_WRITES = (exp.Insert, exp.Update, exp.Delete, exp.Merge)


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
    """The statement in a word or two if it begins or ends a transaction or cannot run in one, else nothing."""
    if isinstance(statement, exp.Command):
        word = statement.this.upper()
        is_transaction = statement.text("expression").lstrip().upper().startswith("TRANSACTION")
        return f"{word} TRANSACTION" if is_transaction else word if word in ("ABORT", "VACUUM") else ""
    if isinstance(statement, (exp.Create, exp.Drop)) and statement.args.get("concurrently"):
        return f"{statement.key.upper()} INDEX CONCURRENTLY"
    if isinstance(statement, exp.Rollback):
        return "" if statement.args.get("savepoint") else "ROLLBACK"
    return "BEGIN" if isinstance(statement, exp.Transaction) else "COMMIT" if isinstance(statement, exp.Commit) else ""
