"""Rows that are gone from the source leave the target, by the keys that a load brings.

The keys come with the manifest of an increment, and go in the transaction that merges its rows: the
fence, the hashes and the ledger hold for both.
"""

from __future__ import annotations

from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.sql import merging
from loadsheet.sql.text import Relation, ident
from loadsheet.warehouse import apply, ledger, side_effects, tables


def refuse_shared_target(session: Session, target: Relation, pipeline: str) -> None:
    """Raises Refused where another pipeline has loaded the target: what is gone from one source may
    be a row of the other."""
    if ledger.has_loads_of_others(session, target, pipeline):
        raise Refused(
            f"{target}: another pipeline has loaded it, too: what is gone from one source may be"
            " a row of the other; nothing was written. Set `deletes: null` for this table, or"
            " give one pipeline another warehouse.schema"
        )


def create(session: Session, keys: Relation, target: Relation, key: tuple[str, ...]) -> None:
    """Create the temporary table `keys` with the target's `key` columns."""
    types = tables.columns_of(session, target)
    columns = ", ".join(f"{ident(name)} {types[name]}" for name in key)
    session.execute(f"CREATE TEMPORARY TABLE {keys.sql} ({columns}) ON COMMIT DROP")


def delete(session: Session, keys: Relation, target: Relation, key: tuple[str, ...]) -> int:
    """Delete the target's rows with these keys, and return how many it had.

    Raises Refused where a trigger has kept some of them.
    """
    with apply.lookup_of(session, keys, target, key):
        deleted = session.execute(merging.delete_same(target.sql, keys.sql, key)).rowcount
        triggers = side_effects.suppressing_triggers(session, target)
        if triggers:
            left = session.execute(merging.count_same(target.sql, keys.sql, key)).fetchone()
            side_effects.refuse_suppressed(target, triggers, left[0] if left else 0)
    return deleted
