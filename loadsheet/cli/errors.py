"""The one place where an exception becomes a message on stderr and an exit code."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from typer.exceptions import TyperException

from loadsheet.errors import InputError, LoadsheetError, SpecError
from loadsheet.project.folder import relative_problem
from loadsheet.redact import masked, summary, visible

if TYPE_CHECKING:
    from loadsheet.engine.diagnosis import Diagnosis

FAILED, WRONG_INPUT, BUG, INTERRUPTED = 1, 2, 3, 130

_BUG = "this is a bug in Loadsheet: please report it and attach this file"
_BUG_UNWRITTEN = "this is a bug in Loadsheet: please report it with the lines above"


@contextmanager
def reported() -> Iterator[None]:
    """Wrong input exits with 2, failed work with 1, anything unforeseen with 3 and a traceback,
    Ctrl-C with 130."""
    try:
        yield
    except (TyperException, typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # The reader of our output has gone; Typer handles that.
        raise typer.Exit(_report(error)) from None


def is_expected(error: BaseException) -> bool:
    """Whether `error` is one that users meet: ours, a server's, the disk's. Everything else is a
    bug."""
    return isinstance(error, LoadsheetError) or _diagnosis(error) is not None


def describe(error: BaseException) -> str:
    """What happened and what to do; only the class and the message of a bug."""
    if isinstance(error, LoadsheetError):
        return visible(masked(str(error)))
    return str(_diagnosis(error) or summary(error))


def _diagnosis(error: BaseException) -> Diagnosis | None:
    # Here, so that no command imports the drivers until something went wrong.
    from loadsheet.engine.diagnosis import diagnose

    return diagnose(error)


def _report(error: Exception) -> int:
    if isinstance(error, SpecError):
        for problem in error.problems:
            say(str(relative_problem(problem)))
        return WRONG_INPUT
    if not is_expected(error):
        report_bug(error)
        return BUG
    say(f"error: {describe(error)}")
    return WRONG_INPUT if isinstance(error, InputError) else FAILED


def report_bug(error: BaseException) -> None:
    """Print the traceback of `error` and of what led to it, without row data, and write it to a
    file that can be attached to a report."""
    from loadsheet.cli.logs import write_bug_report  # only a bug needs it

    report = "\n\n".join(_traceback(link) for link in reversed(list(_chain(error))))
    file = write_bug_report(report)
    say(f"{report}\n\n{_BUG}: {file}" if file else f"{report}\n\n{_BUG_UNWRITTEN}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _traceback(error: BaseException) -> str:
    frames = "".join(traceback.format_tb(error.__traceback__))
    return "\n".join(
        [
            f"Traceback (most recent call last):\n{frames}{summary(error)}",
            *getattr(error, "__notes__", ()),
        ]
    )


def say(text: str) -> None:
    """`text` on stderr, without secrets and without what would steer the terminal."""
    typer.echo(visible(masked(text)), err=True)
