"""What the user has hung on a target and what then happens to other rows, or to ours, when rows are
written: foreign keys that follow a deleted row, triggers that suppress a statement."""

from __future__ import annotations

from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.sql.text import Relation
from loadsheet.wording import counted

NO_KEY = "it has no key"
_REFERRING = """
SELECT conname, format('%%I.%%I', nspname, relname) FROM pg_constraint
JOIN pg_class ON pg_class.oid = conrelid JOIN pg_namespace n ON n.oid = relnamespace
WHERE confrelid = to_regclass(%s) AND contype = 'f' AND conparentid = 0 ORDER BY 2, 1 LIMIT 1
"""
# Bits of tgtype: for each row, before the statement's effect. Such a trigger may return NULL.
_SUPPRESSING = """
SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND NOT tgisinternal
    AND tgenabled <> 'D' AND tgtype & 3 = 3 ORDER BY 1
"""
# What a deleted row does elsewhere. Foreign keys that follow it, or stop it; triggers (bit 3 of
# tgtype: DELETE) and rules (ev_type 4: DELETE) that somebody has made for it.
_ON_DELETE = """
SELECT format(CASE confdeltype
        WHEN 'c' THEN 'rows of %%I.%%I are deleted with them'
        WHEN 'n' THEN 'rows of %%I.%%I get NULL'
        WHEN 'd' THEN 'rows of %%I.%%I get a default'
        ELSE 'a row of %%I.%%I that refers to one stops the load' END, nspname, relname)
    || format(' (foreign key %%I)', conname)
FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
JOIN pg_namespace n ON n.oid = relnamespace
WHERE confrelid = to_regclass(%(target)s) AND contype = 'f' AND conparentid = 0
UNION ALL
SELECT format('trigger %%I runs', tgname) FROM pg_trigger
WHERE tgrelid = to_regclass(%(target)s) AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 8 = 8
UNION ALL
SELECT format('rule %%I runs', rulename) FROM pg_rewrite
WHERE ev_class = to_regclass(%(target)s) AND ev_type = '4' AND ev_enabled <> 'D'
ORDER BY 1
"""


def of_deletes(session: Session, target: Relation) -> list[str]:
    """What happens elsewhere when rows of the target are deleted, for messages: users hang foreign
    keys, triggers and rules on a target for that. `refuse_unsafe` has refused what keeps a row."""
    rows = session.execute(_ON_DELETE, {"target": target.sql}).fetchall()
    return [row[0] for row in rows]


def refuse_referring(session: Session, target: Relation, why: str) -> None:
    """Raises Refused, with `why`, when a foreign key refers to the target, whose rows would have to
    be deleted and inserted again: rows of the other table would be deleted or changed with them."""
    row = session.execute(_REFERRING, (target.sql,)).fetchone()
    if row is None:
        return
    constraint, table = row
    raise Refused(
        f"{target}: {why}, so all of its rows would be deleted and inserted again. But the foreign"
        f" key {constraint} of {table} refers to it, and would act as if they were gone: drop the"
        " foreign key, or set a primary_key (a transform: unique_key)"
    )


def suppressing_triggers(session: Session, target: Relation) -> list[str]:
    """The target's triggers that can keep a row from being written or deleted."""
    return [row[0] for row in session.execute(_SUPPRESSING, (target.sql,)).fetchall()]


def refuse_suppressed(target: Relation, triggers: list[str], missing: int) -> None:
    """Raises Refused when one of the `triggers` has kept rows from being written: `missing` is how
    many rows are not as they should be."""
    if missing and triggers:
        raise Refused(
            f"{target}: {counted(abs(missing), 'row was', 'rows were')} not written or deleted,"
            " because a trigger"
            f" ({', '.join(triggers)}) has suppressed it: let it return the row, or drop it"
        )
