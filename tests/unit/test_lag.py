"""The lag that a manifest tells: how far its watermark is below the source's clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from loadsheet.lake.manifest import Manifest

MOMENT = "2026-03-01 12:00:00+00"


@pytest.mark.parametrize(
    ("kind", "upper", "clock", "seconds"),
    [
        ("timestamp with time zone", "2026-03-01 11:59:00.5+00", None, 59.5),
        ("timestamp without time zone", "2026-03-01 13:00:00", "2026-03-01 13:00:30", 30),
        ("timestamp without time zone", "2026-03-01 13:00:00", "2026-03-01 12:00:00", 0),
        ("date", "2026-02-28", "2026-03-01 12:00:00", 36 * 3600),
        ("timestamp without time zone", "2026-03-01 13:00:00", None, None),
        ("timestamp with time zone", "infinity", None, None),
        ("timestamp with time zone", "0044-03-15 00:00:00+00 BC", None, None),
        ("timestamp with time zone", None, None, None),
        ("integer", "20260301", None, None),  # Python reads it as a day
    ],
)
def test_the_lag_is_that_of_a_time_cursor(
    kind: str, upper: str | None, clock: str | None, seconds: float | None
) -> None:
    facts: Any = SimpleNamespace(
        moves_watermark=True, cursor_type=kind, upper=upper, clock=clock, read_at=MOMENT
    )
    assert Manifest.lag_seconds.fget(facts) == seconds  # type: ignore[attr-defined]
    facts.moves_watermark = False
    assert Manifest.lag_seconds.fget(facts) is None  # type: ignore[attr-defined]
