"""What goes on beside a test: writers, loaders, sessions that take locks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Work = Callable[[threading.Event], object]
"""Goes on until the event is set."""


@contextmanager
def at_once(*works: Work) -> Iterator[None]:
    """All of these in threads of their own until the end of the block; raises what one raises, and
    stops the others then."""
    over = threading.Event()
    failures: list[BaseException] = []

    def guarded(work: Work) -> None:
        try:
            work(over)
        except BaseException as error:
            failures.append(error)
            over.set()

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
