"""A core failure as Airflow should see it: retried when a retry may help, told without row data or secrets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from loadsheet.errors import LoadsheetError
from operators.redact import clean, summary

# Data exceptions, syntax and access rules, unknown schemas: the same statement fails again in 30 seconds.
HOPELESS_SQLSTATES = ("22", "42", "3F")


@contextmanager
def explained() -> Iterator[None]:
    """Turns whatever the work raises into AirflowFailException (no retry) or AirflowException (retry).

    The original exception's text never reaches the log unread: a driver's message quotes the row it stumbled over.
    Its frames do, because they are code.
    """
    try:
        yield
    except (AirflowException, LoadsheetError) as error:
        if isinstance(error, AirflowException):
            raise
        kind = AirflowException if error.retryable else AirflowFailException
        raise kind(clean(str(error))).with_traceback(error.__traceback__) from None
    except Exception as error:
        hopeless = (getattr(error, "sqlstate", None) or "").startswith(HOPELESS_SQLSTATES)
        kind = AirflowFailException if hopeless else AirflowException
        raise kind(summary(error)).with_traceback(error.__traceback__) from None
