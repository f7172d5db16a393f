"""A core failure as Airflow should see it: retried when a retry may help, told without row data or secrets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from loadsheet.errors import LoadsheetError
from loadsheet.redact import clean, summary
from loadsheet.visible import visible


@contextmanager
def explained() -> Iterator[None]:
    """Turns whatever the work raises into AirflowFailException (no retry) or AirflowException (retry).

    What Airflow itself raises passes. An original exception's text never reaches the log unread: a driver's message
    quotes the row it stumbled over. Its frames do, because they are code.
    """
    try:
        yield
    except LoadsheetError as error:
        kind = AirflowException if error.retryable else AirflowFailException
        raise kind(clean(str(error))).with_traceback(error.__traceback__) from None
    except Exception as error:
        if isinstance(error, AirflowException) or type(error).__module__.startswith("airflow."):
            raise
        kind, text = _outside_the_core(error)
        raise kind(text).with_traceback(error.__traceback__) from None


def _outside_the_core(error: Exception) -> tuple[type[AirflowException], str]:
    """How the task ends with an error that the core did not explain: trouble on the way to it, or a bug."""
    from loadsheet.steps.diagnosis import diagnose  # needs the drivers, which parsing a DAG file does not

    if found := diagnose(error):
        return AirflowException if found.cause.retryable else AirflowFailException, str(found)
    notes = map(visible, getattr(error, "__notes__", ()))  # the core has noted where it happened
    return AirflowFailException, "\n".join([summary(error), *notes, "This is a bug in Loadsheet: please report it"])
