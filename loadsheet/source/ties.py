"""Values that later rows can still share: a cursor column that holds whole seconds, minutes, hours or days.

`date_trunc('minute', now())` in a timestamptz column stamps all rows of a minute alike. A watermark on the running
minute would hide the rest of it, and nothing in the catalogs says so: the values themselves must tell.
"""

from __future__ import annotations

import re
from typing import Any

from psycopg import Connection, sql

# A value may be a whole hour or day in some zone when it is a quarter of an hour in UTC. Its neighbour below tells how
# coarse the column can be at most: days are 23 hours long at least.
_SHARED = """
SELECT coalesce(bool_or(low > v AND low < v + length), false)
FROM {pair}, unnest(ARRAY[{lows}]) low,
     (VALUES (interval '1 millisecond', interval '1 millisecond', 'milliseconds', 1),
             ('1 second', '1 second', 'second', 1), ('1 minute', '1 minute', 'minute', 1),
             ('1 hour', '1 hour', 'minute', 15), ('1 day', '23 hours', 'minute', 15)
     ) unit (length, shortest, name, minutes)
WHERE v = date_trunc(name, v) AND CAST(extract(minute FROM v) AS int) % minutes = 0
  AND (below IS NULL OR below <= v - shortest)
"""


def is_coarse(value: str) -> bool:
    """Whether `value`, a time as the server writes it, is a whole millisecond or more."""
    return not re.search(r"\.\d{4}", value)


def is_shared(session: Connection[Any], type_name: str, value: str, below: str | None, lows: list[str]) -> bool:
    """Whether rows stamped from one of the `lows` on can have `value` as well; `below` is the next lower value.

    True only for values that are a whole unit which has not ended yet.
    """
    kind = sql.SQL(f"CAST({{}} AS {type_name})")
    pair = sql.SQL("(SELECT {} AS v, {} AS below) pair").format(kind.format(value), kind.format(below))
    times = sql.SQL(", ").join(kind.format(low) for low in lows)
    found = session.execute(sql.SQL(_SHARED).format(pair=pair, lows=times)).fetchone()
    return found == (True,)
