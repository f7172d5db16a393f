"""Real servers, a seed that is printed and can be reused, and the table of faults at the end."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

import pytest

from demo.servers import PostgresServer
from tests.faults.tally import TALLIES, Tally, as_table
from tests.services import *  # noqa: F403


def pytest_configure(config: pytest.Config) -> None:
    """An empty table."""
    config.stash[TALLIES] = {}


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[[str], Tally]:
    """`tally("kill -9 of the worker")` is that fault's line in the table, the same for every test
    that asks for it."""
    lines = request.config.stash[TALLIES]
    return lambda fault: lines.setdefault(fault, Tally(fault))


@pytest.fixture
def chance() -> random.Random:
    """Random numbers from a seed that is shown if the test fails; LOADSHEET_SEED sets it."""
    seed = int(os.environ.get("LOADSHEET_SEED") or random.SystemRandom().randrange(10**6))
    print(f"LOADSHEET_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def newer() -> Iterator[PostgresServer]:
    """A server two versions ahead of the others, to be a source."""
    with PostgresServer(version=18) as server:
        yield server


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table of faults tried, rows lost and rows duplicated."""
    if tallies := list(config.stash[TALLIES].values()):
        terminalreporter.section("faults tried, rows lost, rows duplicated")
        for line in as_table(tallies):
            terminalreporter.write_line(line)
