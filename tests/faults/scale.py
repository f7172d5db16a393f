"""How much of a suite is run: a little of everything in `make test`, the published numbers in `make
test-long`."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")
LONG = bool(os.environ.get("LOADSHEET_LONG"))


def scaled(short: T, long: T) -> T:
    """`long` when LOADSHEET_LONG is set, else `short`."""
    return long if LONG else short
