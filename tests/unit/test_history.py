"""Which load of a target a restore chooses (`loadsheet restore --as-of`)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from loadsheet.errors import InputError
from loadsheet.lake.history import History
from loadsheet.sql.text import Relation
from loadsheet.warehouse.history import LoggedLoad, choose

ORDERS = Relation("staging", "orders")


def load(number: int, run_id: str, hour: int, pipeline: str = "shop") -> LoggedLoad:
    return LoggedLoad(
        load_no=number,
        load_id=f"load-{number}",
        pipeline=pipeline,
        table="orders",
        run_id=run_id,
        fence=number,
        action="merge",
        whole=number == 1,
        restored=None,
        manifest="",
        sha256=None,
        extracted=0,
        duplicates=0,
        inserted=0,
        updated=0,
        deleted=0,
        counted=None,
        bytes=0,
        lower=None,
        committed_at=datetime(2026, 6, 2, hour, 0, 9, 600_000, tzinfo=UTC),
    )


LOADS = History(
    [
        load(1, "first", 4),
        load(20260602, "2026-06-02", 5),
        load(20260603, "of others", 6, "other"),
        load(20260604, "last", 7),
    ]
)


@pytest.mark.parametrize(
    ("as_of", "number"),
    [
        (None, 20260604),
        ("1", 1),
        ("last", 20260604),
        # A number or a run first.
        ("20260602", 20260602),
        ("2026-06-02", 20260602),
        ("2026-06-02 05:30", 20260602),
        ("2026-06-02T06:59:59+00:00", 20260602),
        ("2026-06-02 09:30+05", 1),
        ("2026-06-03", 20260604),
        # As a list of the loads shows it: without the fraction of the second.
        ("2026-06-02 05:00:09Z", 20260602),
        ("2026-06-02 05:00:09.500000Z", 1),
    ],
)
def test_a_load_is_chosen_by_its_number_its_run_or_a_time(as_of: str | None, number: int) -> None:
    assert choose(LOADS, "shop", ORDERS, as_of).load_no == number


@pytest.mark.parametrize(
    ("as_of", "what"),
    [
        ("20260601", "has no load '20260601', nor one of a run"),
        ("2026-13-01", "has no load '2026-13-01', nor one of a run"),
        ("2026-06-02 03:00", "has no load that was committed by 2026-06-02 03:00:00Z: "),
    ],
)
def test_what_is_none_is_refused(as_of: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        choose(LOADS, "shop", ORDERS, as_of)
