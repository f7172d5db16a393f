"""Which load of a target a restore chooses (`loadsheet restore --as-of`)."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from unittest.mock import patch

import pytest

from loadsheet.errors import InputError
from loadsheet.lake.history import History, Missing
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


@pytest.mark.parametrize("seed", range(30))
def test_what_a_restore_to_each_load_lacks_is_what_is_missing_of_its_chain(seed: int) -> None:
    """Whatever was replaced, restored and restored again between them."""
    chance = random.Random(seed)
    loads: list[LoggedLoad] = []
    for number in range(1, 80):
        one = replace(load(number, "run", 4), whole=chance.random() < 0.1)
        if loads and chance.random() < 0.2:
            one = replace(one, restored=chance.choice(loads).load_no)
        loads.append(one)
    gone = set(chance.sample(range(1, 80), 30))
    history = History(loads)
    missing = history.missing(lambda one: one.load_no not in gone)
    for one in loads:
        needed = [of_chain.load_no for of_chain in history.chain(one.load_no)]
        lacking = tuple(number for number in needed if number in gone)
        assert missing[one.load_no] == Missing(len(lacking), lacking[:10])


def test_it_is_found_from_the_load_before_not_from_every_chain_again() -> None:
    """A year of a run every five minutes. Chain by chain, a tenth of them took 7.5 s and 230 MB."""
    loads = [replace(load(number, "run", 4), whole=number == 1) for number in range(1, 10_001)]
    history = History(loads)
    with patch.object(history, "_before", wraps=history._before) as before:
        missing = history.missing(lambda one: False)
        assert before.call_count == len(loads)
        history.chain(100)
        history.chain(100)
        assert before.call_count == len(loads) + 200  # what each chain costs
    assert missing[10_000] == Missing(10_000, tuple(range(1, 11)))
