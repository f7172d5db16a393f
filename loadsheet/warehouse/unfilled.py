"""The columns that drift has added to a target, and of which its older rows have no values yet:
`scope.unfilled` in the ledger.

The load that adds a column writes them down, each range that is filled moves `through` on, and a
load of the whole table forgets them: all in the load's own transaction. They are kept where the
spec does not ask for a fill, too, so that it can be asked for later.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from loadsheet import answers
from loadsheet.lake.manifest import Manifest
from loadsheet.postgres import Session
from loadsheet.spec.models import Table
from loadsheet.sql.text import Relation

SELECTED = "to_jsonb(scope) -> 'unfilled' AS unfilled_columns"
"""SQL for what the ledger has recorded, which ledgers before version 7 do not have."""
_FORGET = """
UPDATE loadsheet.scope SET unfilled = NULL
WHERE pipeline = %s AND table_name = %s AND target = %s AND unfilled = %s
"""


@dataclass(frozen=True, kw_only=True)
class Unfilled:
    """Columns that the target's older rows have no values of."""

    source_oid: int
    attnums: tuple[int, ...]
    """The columns' numbers in the source's table, which a rename keeps."""
    through: tuple[str, ...] | None = None
    """The last key of the ranges that are filled, in the key's order in the source; None: none
    is."""
    order: tuple[str, ...] = ()
    """What the source ordered the keys by then, per column."""

    def names(self, columns: Collection[Mapping[str, Any]]) -> list[str]:
        """The columns as the ledger's record of the last load (`scope.columns`) calls them."""
        return [
            column["name"]
            for column in columns
            if column["attnum"] in self.attnums and "dropped" not in column
        ]

    def to_json(self) -> str:
        """As the ledger keeps it."""
        return json.dumps(asdict(self))


def checked(session: Session, recorded: Any) -> dict[str, Any] | None:
    """What the ledger has answered as SELECTED. Raises Unreadable where it is nothing that is ever
    recorded."""
    if recorded is None:
        return None
    found = recorded if isinstance(recorded, dict) else {}
    is_right = (
        type(found.get("source_oid")) is int
        and _are(found.get("attnums"), int)
        and "through" in found
        and (found["through"] is None or _are(found["through"], str))
        and _are(found.get("order", []), str)
    )
    if not is_right:
        raise answers.unreadable(session, "something else where columns were asked for")
    return found


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(one) is kind for one in values)


def read(recorded: dict[str, Any] | None) -> Unfilled | None:
    """What the ledger has recorded."""
    if recorded is None:
        return None
    through = recorded["through"]
    return Unfilled(
        source_oid=recorded["source_oid"],
        attnums=tuple(recorded["attnums"]),
        through=None if through is None else tuple(through),
        order=tuple(recorded.get("order", ())),
    )


def after_load(
    before: Unfilled | None, manifest: Manifest, added: Collection[int], *, is_whole: bool
) -> Unfilled | None:
    """What older rows lack after a load.

    `added` are the numbers of the columns that the load has added to the target. Where it
    `is_whole`, every row of the source has arrived.
    """
    if is_whole or manifest.action not in ("merge", "fill"):
        return None
    if manifest.action == "fill":
        if before is None or manifest.fills_through is None:
            return None
        return replace(before, through=manifest.fills_through, order=manifest.fills_in_order)
    arriving = {column.attnum for column in manifest.columns}
    lacking = set(added)
    # The numbers are those of one table. Another one of its name needs a person's decision.
    if before and before.source_oid == manifest.source_oid:
        lacking |= arriving.intersection(before.attnums)
    elif before and not added:
        return before
    if not lacking:
        return None
    attnums = tuple(sorted(lacking))
    # Another column: the ranges that are filled lack it, so they are read again.
    if added or before is None:
        return Unfilled(source_oid=manifest.source_oid, attnums=attnums)
    return replace(before, attnums=attnums)


def will_be_filled(table: Table, manifest: Manifest) -> bool:
    """Whether a load's step goes on to fill the columns that the load adds."""
    is_increment = manifest.action == "merge" and not manifest.is_whole
    return table.fill == "auto" and is_increment and manifest.key_is_enforced


def forget(session: Session, pipeline: str, target: Relation, unfilled: Unfilled) -> None:
    """Give `unfilled` up: the columns stay NULL in older rows until a full refresh. Does nothing
    where a load has changed it meanwhile."""
    session.execute(_FORGET, (pipeline, target.name, str(target), unfilled.to_json()))
