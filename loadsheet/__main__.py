"""The `loadsheet` command, and `python -m loadsheet`.

The command line takes a fifth of a second to import, and Ctrl-C may come within it: only what is
imported here is imported without its guard.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys

_INTERRUPTED = 130  # as `loadsheet.cli.errors` has it, which may not be imported yet
_code: int | None = None
"""The exit code, once it is known."""


def main() -> None:
    """Run the command line of this process and exit with its code, 130 after Ctrl-C."""
    global _code
    # Imports create objects that stay, 70,000 of them for a run: searching them for garbage after
    # every 700 new ones, which is Python's default, was an eighth of a run's start.
    gc.set_threshold(200_000)
    # What is registered first is called last. What somebody has registered before, such as a
    # measurement of coverage, would not be called at all.
    if not atexit._ncallbacks():
        atexit.register(_leave)
    try:
        _run()
    except SystemExit as end:
        if isinstance(end.code, int):
            _code = end.code
        raise


def _run() -> None:
    try:
        from loadsheet.cli.main import main as command_line

        command_line()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(_INTERRUPTED)


def _leave() -> None:
    """End the process without taking every module apart, which takes 10 ms. The threads have ended,
    and everything else that waits for the end has been called."""
    if _code is None:
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # Python tells of what cannot be written, and exits with its own code for it
    os._exit(_code)


if __name__ == "__main__":
    main()
