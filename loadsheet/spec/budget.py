"""How long the check of one pipeline may take.

The check is linear in the size of the files, and limits what a file may hold. This is for what is
left: many large SQL files of one pipeline, or an unforeseen case. Without it, the
pipeline of one author could keep those of all others from being read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

MOST_SECONDS = 10
"""CPU seconds: a busy machine must not refuse what a quiet one accepts. A pipeline of 1,000 steps
takes less than one."""

_end: ContextVar[float | None] = ContextVar("end", default=None)


@contextmanager
def limited_check() -> Iterator[None]:
    """In this context, `is_spent` tells whether the check has had its time."""
    token = _end.set(time.thread_time() + MOST_SECONDS)
    try:
        yield
    finally:
        _end.reset(token)


def is_spent() -> bool:
    """Whether the check that runs in this thread has had its time."""
    end = _end.get()
    return end is not None and time.thread_time() > end
