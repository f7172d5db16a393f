"""The one place where an exception becomes a message on stderr and an exit code."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from typer.exceptions import TyperException

from loadsheet.cli.output import show
from loadsheet.errors import InputError, LoadsheetError, SpecError
from loadsheet.installed import unusable
from loadsheet.project.folder import relative_problem
from loadsheet.redact import hanging, masked, summary, visible
from loadsheet.wording import LONGEST_MESSAGE, counted, shortened

FAILED = 1
WRONG_INPUT = 2
BUG = 3
INTERRUPTED = 130
MOST_PROBLEMS = 50
"""Problems of pipeline files that are printed unless all are asked for."""

_BUG = "this is a bug in Loadsheet: please report it and attach this file"
_BUG_UNWRITTEN = "this is a bug in Loadsheet: please report it with the lines above"


@contextmanager
def reported() -> Iterator[None]:
    """Within, an exception ends the command: wrong input with exit code 2, failed work with 1, a
    bug with 3 and a traceback, Ctrl-C with 130."""
    try:
        yield
    except (TyperException, typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except SpecError as error:
        # Without `error:` in front: a line begins with its file, as editors and scripts read it.
        for problem in error.problems[:MOST_PROBLEMS]:
            say(str(relative_problem(problem)))
        if len(error.problems) > MOST_PROBLEMS:
            left_out = counted(len(error.problems) - MOST_PROBLEMS, "more problem")
            say(f"{left_out} not shown: `loadsheet check --all` shows them")
        raise typer.Exit(WRONG_INPUT) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # the reader of our output has closed the pipe: Typer ends quietly
        if not is_expected(error):
            report_bug(error)
            raise typer.Exit(BUG) from None
        say(hanging(f"error: {describe_error(error)}"))
        raise typer.Exit(WRONG_INPUT if isinstance(error, InputError) else FAILED) from None


def is_expected(error: BaseException) -> bool:
    """Whether `error` is no bug: one of ours, a server's, the network's or the disk's, or of a
    package that cannot be used here."""
    # A driver is asked about last: to ask needs the drivers.
    return isinstance(error, LoadsheetError) or unusable(error) is not None or bool(_told(error))


def describe_error(error: BaseException) -> str:
    """What happened and what to do about it, without secrets. Of a bug only class and message."""
    if isinstance(error, LoadsheetError):
        return visible(shortened(masked(str(error)), LONGEST_MESSAGE))
    missing = unusable(error)
    if missing:
        return missing
    return _told(error) or summary(error)


def _told(error: BaseException) -> str:
    # Imported here: it brings the drivers, which are needed only when something went wrong.
    from loadsheet.engine.diagnosis import told

    return told(error)


def report_bug(error: BaseException) -> None:
    """Print the traceback of `error` and of what led to it, without row data, and write it to a
    file that can be attached to a report."""
    from loadsheet.cli.logs import write_bug_report  # only a bug needs it

    tracebacks: list[str] = []
    for link in _chain(error):
        # Not `traceback.format_exception`: a driver's message may quote the row; `summary` does
        # not.
        frames = "".join(traceback.format_tb(link.__traceback__))
        lines = [f"Traceback (most recent call last):\n{frames}{summary(link)}"]
        lines += getattr(link, "__notes__", ())
        tracebacks.append("\n".join(lines))
    # Python prints the cause first, and the error that ended the command last.
    report = "\n\n".join(reversed(tracebacks))
    file = write_bug_report(report)
    last_line = f"{_BUG}: {file}" if file else _BUG_UNWRITTEN
    say(f"{report}\n\n{last_line}", wrap=False)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and what led to it, as Python prints them, but the last one first."""
    while error:
        yield error
        led_to_it = error.__context__
        if error.__cause__ or error.__suppress_context__:
            led_to_it = error.__cause__
        error = led_to_it


def say(text: str, wrap: bool = True) -> None:
    """Print `text` to stderr, without secrets and without what would control the terminal."""
    show(visible(masked(text)), err=True, wrap=wrap)
