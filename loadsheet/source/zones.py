"""The time zones in which a cursor without a time zone is stamped.

A `timestamp` or `date` column takes the writer's clock as its session shows it. A session in
another zone stamps hours below the watermark, and no increment would read its rows. So such a
cursor is trusted where the catalogs show that all sessions begin in UTC, or where the spec names
the one zone that it is written in (`time_zone`). A zone that a session sets for itself shows
nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg

from loadsheet.errors import Refused
from loadsheet.source.holdback import way_on
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Incremental
from loadsheet.sql.types import TIME_TYPES, without_modifier

TIMESTAMPTZ = "timestamp with time zone"
UTC = "UTC"
# PostgreSQL knows these other names for it. 'GMT' is its own default.
_UTC_NAMES = {
    *("utc", "etc/utc", "uct", "etc/uct", "universal", "etc/universal", "zulu", "etc/zulu"),
    *("gmt", "etc/gmt", "gmt0", "etc/gmt0", "gmt+0", "etc/gmt+0", "gmt-0", "etc/gmt-0"),
    *("greenwich", "etc/greenwich"),
}
# A setting of the database, or of all roles, is stronger than the server's. A session shows the
# server's only where nothing else has set its own: NULL stands for a zone that cannot be seen.
_VISIBLE = """
WITH setting AS (
    SELECT setdatabase, setrole, substr(item, strpos(item, '=') + 1) AS zone
    FROM pg_db_role_setting, unnest(setconfig) item
    WHERE item ILIKE 'timezone=%%'
        AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
)
SELECT CASE WHEN setrole <> 0 THEN format('role %%I', pg_get_userbyid(setrole))
    WHEN setdatabase <> 0 THEN format('database %%I', current_database())
    ELSE 'every role' END AS who, zone FROM setting
UNION
SELECT 'the server', CASE WHEN NOT %(is_chosen)s AND NOT EXISTS (
        SELECT FROM setting WHERE setrole = (SELECT oid FROM pg_roles WHERE rolname = session_user))
    THEN reset_val END
FROM pg_settings WHERE name = 'TimeZone' AND NOT EXISTS (SELECT FROM setting WHERE setrole = 0)
ORDER BY who
"""
# Per zone, the lowest value that can be stamped from `since` on and the highest that can have been
# stamped until now. Both are the clock's reading at these moments, except when summer time ends and
# one hour is repeated. Zones change at quarters of an hour, so every quarter of the next and of the
# previous day is tried.
_SPANS = """
WITH moment AS (
    SELECT now, coalesce(%(since)s, now) AS since FROM (SELECT clock_timestamp() AS now) clock
), quarter AS (
    SELECT to_timestamp(floor(extract(epoch FROM since) / 900) * 900) AS since,
           to_timestamp(floor(extract(epoch FROM now) / 900) * 900) AS now FROM moment
)
SELECT (min(later AT TIME ZONE zone) - %(margin)s)::text,
    (max(earlier AT TIME ZONE zone) + %(margin)s)::text FROM (
    SELECT since AS later, now AS earlier FROM moment
    UNION ALL
    SELECT since + n * interval '15 minutes',
        now - (n - 1) * interval '15 minutes' - interval '1 microsecond'
    FROM quarter, generate_series(1, 100) n
) moments, unnest(%(zones)s::text[]) zone GROUP BY zone
"""


class _Setting(NamedTuple):
    who: str
    zone: str | None


def is_zoneless(type_name: str) -> bool:
    """Whether values of the type are times without a time zone."""
    return type_name in TIME_TYPES and type_name != TIMESTAMPTZ


def is_utc(zone: str) -> bool:
    """Whether the zone is UTC under one of its names."""
    return zone.lower() in _UTC_NAMES


def is_same(one: str, other: str) -> bool:
    """Whether two names are of the same zone, as far as the names tell."""
    return one.lower() == other.lower() or (is_utc(one) and is_utc(other))


def are_all_utc(session: psycopg.Connection[Any]) -> bool:
    """Whether the catalogs show that every session begins in UTC."""
    return not _not_utc(_visible(session))


def of_writers(
    session: psycopg.Connection[Any], source: SourceTable, spec: Incremental
) -> list[str]:
    """The zones in which rows are stamped, for a cursor without one: the spec's, else UTC, and with
    a lookback all that can be seen.

    Raises Refused, with the way on, where they are not known and no lookback makes up for that.
    """
    if spec.time_zone is not None:
        _refuse_unknown(session, source, spec.time_zone)
        return [spec.time_zone]
    settings = _visible(session)
    foreign = _not_utc(settings)
    if not foreign:
        return [UTC]
    if not spec.makes_up_for_late_rows:
        raise Refused(f"{source.relation}: {_why_untrusted(spec.cursor, foreign)} {way_on(spec)}")
    return sorted({UTC, *(setting.zone for setting in settings if setting.zone)})


def facts(source: SourceTable, spec: Incremental) -> dict[str, str]:
    """What manifests keep of the zone that the cursor is stamped in: in another one, its values
    mean other moments. Empty where each value has its zone, or where no zone is trusted."""
    if not is_zoneless(without_modifier(source.column(spec.cursor).type)):
        return {}
    if spec.time_zone is not None:
        return {"time_zone": spec.time_zone}
    return {} if spec.makes_up_for_late_rows else {"time_zone": UTC}


def spans(
    session: psycopg.Connection[Any], zones: Sequence[str], since: str | None, margin: float
) -> list[tuple[str, str]]:
    """Per zone, the lowest and the highest of the values that transactions since `since` (a time
    with time zone; None: now) can still write. `margin`, in seconds, widens the span."""
    values = {"since": since, "margin": timedelta(seconds=margin), "zones": list(zones)}
    return session.execute(_SPANS, values).fetchall()


def _not_utc(settings: list[_Setting]) -> list[_Setting]:
    return [setting for setting in settings if not is_utc(setting.zone or "")]


def _visible(session: psycopg.Connection[Any]) -> list[_Setting]:
    # libpq sends PGTZ, and a connection's options, as the session's own choice.
    options = session.info.get_parameters().get("options", "")
    is_chosen = "PGTZ" in os.environ or "timezone" in options.lower()
    rows = session.execute(_VISIBLE, {"is_chosen": is_chosen}).fetchall()
    return [_Setting(*row) for row in rows]


def _why_untrusted(cursor: str, foreign: list[_Setting]) -> str:
    found = foreign[0]
    where = f"{found.who} is in {found.zone}"
    example = found.zone
    if found.zone is None:
        where = f"the zone of {found.who} cannot be seen, because this session has another"
        example = UTC
    return (
        f"{cursor} has no time zone, so without more it is trusted only where every session is in"
        f" UTC, and {where}: if all writers stamp it in one zone, name it"
        f" (incremental.time_zone: {example})"
    )


def _refuse_unknown(session: psycopg.Connection[Any], source: SourceTable, zone: str) -> None:
    try:
        with session.transaction():
            session.execute("SELECT clock_timestamp() AT TIME ZONE %s", (zone,))
    except psycopg.DataError as error:
        raise Refused(
            f"{source.relation}: incremental.time_zone {zone!r} is no time zone that the source"
            " knows: write a name such as Europe/Berlin"
        ) from error
