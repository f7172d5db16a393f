"""Which keys of one side the other one's database can store at all.

A statement with a letter that the server's encoding lacks is refused as a whole, also where the
letter is only compared with. A key with such a letter is in no row there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import psycopg

from loadsheet.postgres import Session
from loadsheet.sql.text import literal

_Key = TypeVar("_Key", bound=Sequence[str | None])


def storable(session: Session, keys: Sequence[_Key]) -> list[_Key]:
    """Those of the `keys`, each the texts of its columns, that the server has all letters of.

    The server itself says which: tables of other libraries differ from its own. All are asked for
    at once, then halves of those that are refused.
    """
    # A database in SQL_ASCII takes any byte.
    if session.info.parameter_status("server_encoding") in ("UTF8", "SQL_ASCII"):
        return list(keys)
    text = "".join(part for key in keys for part in key if part is not None)
    if text.isascii():
        return list(keys)
    try:
        with session.transaction():
            session.execute(f"SELECT {literal(text)}".encode())
        return list(keys)
    except psycopg.errors.UntranslatableCharacter:
        half = len(keys) // 2
        if half == 0:
            return []
        return storable(session, keys[:half]) + storable(session, keys[half:])
