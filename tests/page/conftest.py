"""One browser for all tests of the page, and the rules of accessibility."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.npm import install
from tests.page.chromium import Chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    with Chromium() as started:
        yield started


@pytest.fixture(scope="session")
def axe() -> str:
    """The script that has the rules."""
    modules = install(Path(__file__).parent)
    return (modules / "axe-core" / "axe.min.js").read_text(encoding="utf-8") + "; 0"
