"""Another user of the machine, whom only root can play."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
NOBODY = 65534


@contextmanager
def nobody() -> Iterator[None]:
    """Within, files belong to `nobody`, and are read and written with its rights."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
