"""The one place where an exception becomes a message on stderr and an exit code."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from typer.exceptions import TyperException

from loadsheet.cli.places import relative_problem
from loadsheet.errors import InputError, LoadsheetError, SpecError

FAILED, WRONG_INPUT, BUG, INTERRUPTED = 1, 2, 3, 130

# By name, so that no command imports a driver only to recognize its errors.
_SERVERS = frozenset({"psycopg", "minio", "urllib3"})
INTERRUPTED_MESSAGE = "interrupted: what was loaded stays, unfinished steps are rolled back; the same command goes on"
_BUG = "this is a bug in Loadsheet: please report it with the lines above"


@contextmanager
def reported() -> Iterator[None]:
    """Wrong input exits with 2, failed work with 1, anything unforeseen with 3 and a traceback, Ctrl-C with 130."""
    try:
        yield
    except (TyperException, typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        say(INTERRUPTED_MESSAGE)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # whoever read our output has gone; Typer knows what to do
        raise typer.Exit(_report(error)) from None


def is_expected(error: BaseException) -> bool:
    """Whether `error` is one that users meet: ours, a server's, the disk's. Everything else is a bug."""
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, (LoadsheetError, OSError)) or bool(modules & _SERVERS)


def describe(error: BaseException) -> str:
    """The message of `error`, with its class where the message alone would not be understood."""
    text = str(error).strip()
    if isinstance(error, LoadsheetError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _report(error: Exception) -> int:
    if isinstance(error, SpecError):
        for problem in error.problems:
            typer.echo(str(relative_problem(problem)), err=True)
        return WRONG_INPUT
    if not is_expected(error):
        report_bug(error)
        return BUG
    say(f"error: {describe(error)}")
    return WRONG_INPUT if isinstance(error, InputError) else FAILED


def report_bug(error: BaseException) -> None:
    """Print where `error` came from and that it should not have happened."""
    say("".join(traceback.format_exception(error)) + _BUG)


def say(text: str) -> None:
    """`text` on stderr."""
    typer.echo(text, err=True)
