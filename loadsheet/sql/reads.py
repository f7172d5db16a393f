"""Which tables statements read. Names are folded as PostgreSQL folds them; what they mean is decided elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from loadsheet.sql.tokens import Unparsable, tokenize

_TARGET_OWNERS = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Into)
_NOT_READING = (exp.Drop, exp.Alter, exp.TruncateTable, exp.Comment, exp.Analyze, exp.Grant, exp.Copy, exp.Set)
_READING_COMMANDS = frozenset({"CALL", "COPY", "CREATE", "DECLARE", "DO", "EXECUTE", "EXPLAIN", "PREPARE"})
# A foreign key's table and the `t` of FOR UPDATE OF t are named, not read.
_ONLY_NAMED = (exp.Reference, exp.Lock)
_NAMES = frozenset({TokenType.VAR, TokenType.IDENTIFIER})


@dataclass(frozen=True, kw_only=True)
class Read:
    """A table named where rows are read from. `schema` is None when the SQL leaves it out."""

    schema: str | None
    name: str
    offset: int = 0
    certain: bool = True
    """False for a name found in text that is not parsed: a DO block, a function's body."""


def reads(statements: Sequence[exp.Expr]) -> list[Read]:
    """Every table read, in order of appearance; not CTEs, write targets, or what an earlier statement created."""
    created: set[tuple[str | None, str]] = set()
    found: list[Read] = []
    for place, statement in enumerate(statements, start=1):
        found += [read for read in _reads_of(statement) if (read.schema, read.name) not in created]
        if place < len(statements):  # looked for only where somebody may read it: it is one more walk of the tree
            created |= {(target.schema, target.name) for target in _created_by(statement)}
    return found


def fold(identifier: exp.Expr) -> str:
    """The name PostgreSQL sees: as written in quotes, else in lower case."""
    return identifier.name if identifier.args.get("quoted") else identifier.name.lower()


def begins(node: exp.Expr) -> int:
    """The offset at which `node` begins, by the first name in it; 0 where it names nothing."""
    return min((found.meta["start"] for found in node.walk() if "start" in found.meta), default=0)


def _reads_of(statement: exp.Expr) -> Iterator[Read]:
    if isinstance(statement, exp.Command):
        if statement.this.upper() in _READING_COMMANDS:
            yield from _names_in(statement.text("expression"))
    elif isinstance(statement, exp.Create) and statement.kind not in ("TABLE", "VIEW"):
        for body in statement.find_all(exp.Heredoc):
            yield from _names_in(body.name)
    elif not isinstance(statement, _NOT_READING):
        targets = {id(target) for target in _targets(statement)}
        tables = [table for table in _tables(statement) if id(table) not in targets]
        yield from sorted((_read(t) for t in tables if not _is_cte(t)), key=lambda read: read.offset)


def _tables(statement: exp.Expr) -> Iterator[exp.Table]:
    for table in statement.find_all(exp.Table):
        is_function = not isinstance(table.this, exp.Identifier)
        if not is_function and not table.find_ancestor(*_ONLY_NAMED):
            yield table


def _targets(statement: exp.Expr) -> Iterator[exp.Table]:
    for owner in statement.find_all(*_TARGET_OWNERS):
        target = owner.this.this if isinstance(owner.this, exp.Schema) else owner.this
        if isinstance(target, exp.Table) and isinstance(target.this, exp.Identifier):
            yield target


def _created_by(statement: exp.Expr) -> Iterator[Read]:
    yield from (_read(t) for t in _targets(statement) if isinstance(t.find_ancestor(*_TARGET_OWNERS), _NEW))
    if isinstance(statement, exp.Alter) and isinstance(statement.this, exp.Table):
        renamed = (action.this for action in statement.args["actions"] if isinstance(action, exp.AlterRename))
        yield from (replace(_read(statement.this), name=fold(new.this)) for new in renamed)


_NEW = (exp.Create, exp.Into)


def _read(table: exp.Table) -> Read:
    schema = table.args.get("db")
    return Read(schema=fold(schema) if schema else None, name=fold(table.this), offset=table.this.meta.get("start", 0))


def _is_cte(table: exp.Table) -> bool:
    """Whether a WITH in whose reach `table` stands gives its name. `WITH a AS (SELECT * FROM a)` reads a real `a`:
    without RECURSIVE, a CTE sees only those before it."""
    name, inside, node = fold(table.this), None, table.parent
    while node and not table.args.get("db"):
        inside = node if isinstance(node, exp.CTE) else inside
        if (with_ := node.args.get("with_")) and name in _visible(with_, inside):
            return True
        node = node.parent
    return False


def _visible(with_: exp.With, inside: exp.CTE | None) -> set[str]:
    names = [(cte, fold(cte.args["alias"].this)) for cte in with_.expressions]
    index = next((i for i, (cte, _) in enumerate(names) if cte is inside), len(names))
    return {name for _, name in (names if with_.args.get("recursive") else names[:index])}


def _names_in(text: str) -> Iterator[Read]:
    """Every `schema.name` in text that no parser reads, dollar-quoted bodies included."""
    try:
        tokens = tokenize(text)
    except Unparsable:
        return
    for token in tokens:
        if token.token_type is TokenType.HEREDOC_STRING:
            yield from _names_in(token.text)
    for schema, dot, name in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if dot.token_type is TokenType.DOT and {schema.token_type, name.token_type} <= _NAMES:
            yield Read(schema=_fold_token(schema), name=_fold_token(name), certain=False)


def _fold_token(token: Token) -> str:
    return token.text if token.token_type is TokenType.IDENTIFIER else token.text.lower()
