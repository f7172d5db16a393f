"""One question to the servers, and what is remarked when it is answered by a refusal, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from loadsheet.errors import LoadsheetError
from loadsheet.plan.preview import StepPreview
from loadsheet.preview.sessions import NOT_KNOWN, UNANSWERED


def asked(found: StepPreview, code: str, question: Callable[[], Any]) -> Any:
    """The answer; None, and a remark, when it is a refusal or takes too long."""
    try:
        return question()
    except LoadsheetError as error:
        found.error(code, str(error))
    except UNANSWERED:
        found.tell("note", code, NOT_KNOWN)
    except psycopg.errors.InsufficientPrivilege as error:
        found.error("privilege", error.diag.message_primary or str(error))
    return None
