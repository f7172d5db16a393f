"""What the exception of a driver or of the operating system means: its text without row data, its
code, and its cause.

`diagnose` is the entry; loadsheet/engine/causes.py, pooler_causes.py and lake_causes.py have the
tables of causes.
"""

from __future__ import annotations

import errno
import re
import sys
from dataclasses import dataclass, replace
from xml.etree.ElementTree import ParseError
from xml.parsers.expat import errors as xml_errors

import psycopg

from loadsheet.engine import causes, lake_causes, pooler_causes
from loadsheet.engine.causes import Cause
from loadsheet.lake.failure import ANSWER, LakeFailed, NotOfS3
from loadsheet.redact import clean, message, on_one_line, server_of, server_text

# Files that are missing or forbidden stay so; every other failure of the operating system may pass.
_LASTING = (
    FileNotFoundError,
    PermissionError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
)
_HINTS = re.compile(r"\n\t.*")  # libpq's guesses at the reason
# How libpq's messages begin when there was no connection yet.
_CONNECTING = re.compile(
    "connection (failed|is bad|timeout)|multiple connection|failed to resolve", re.IGNORECASE
)
# urllib3's message when a server kept answering with, for example, 503.
_STATUS = re.compile(r"too many (\d{3}) error responses")
# A document of S3 whose end is missing. A login page is whole, and has other faults.
_ENDED_EARLY = [
    xml_errors.codes[message]
    for message in (
        xml_errors.XML_ERROR_NO_ELEMENTS,
        xml_errors.XML_ERROR_UNCLOSED_TOKEN,
        xml_errors.XML_ERROR_PARTIAL_CHAR,
        xml_errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
    )
]
# Python's numbers and names of an error, which say nothing to a user.
_ERRNO = re.compile(r"\[Errno -?\d+\] ")
# The guesses of PostgreSQL's parser. They quote names; the hint of a trigger may quote rows.
_PARSER_HINTS = re.compile("Perhaps you meant|No (function|operator|procedure) matches|There is a ")
_TOO_MANY = "SQLSTATE 53300"


@dataclass(frozen=True)
class Diagnosis:
    """An error as it is shown: the server's message, the code, the cause."""

    text: str
    """The server's message, on one line, without row data and secrets."""
    code: str
    """`SQLSTATE 55P03`, `S3 NoSuchBucket`, `HTTP 503`, `ENOSPC` or empty."""
    cause: Cause

    def __str__(self) -> str:
        return f"{self.text_with_code}. {self.advice}"

    @property
    def text_with_code(self) -> str:
        """The server's message with its code."""
        if not self.code or self.code in self.text:
            return self.text
        return f"{self.text} ({self.code})"

    @property
    def advice(self) -> str:
        """Why it happened and what to do."""
        advice = f"{self.cause.why}. Next: {self.cause.next}"
        if self.cause.retryable:
            advice += "; a retry may succeed"
        return advice


def named(error: BaseException) -> str:
    """`orders: the source (connection 'x', role 'y'): `, as far as it is known; empty where nothing
    is."""
    if isinstance(error, LakeFailed) and error.conn_id:
        return server_text("lake", error.conn_id)
    return server_of(error)


def told(error: BaseException) -> str:
    """The error as it is told to users: which server, its message, why and what to do. Empty for
    one without a diagnosis, which is a bug."""
    diagnosis = diagnose(error)
    return f"{named(error)}{diagnosis}" if diagnosis else ""


def is_full(error: psycopg.OperationalError) -> bool:
    """Whether the server, the database or the role has as many sessions as it may have."""
    diagnosis = diagnose(error)
    return diagnosis is not None and diagnosis.code == _TOO_MANY


def connection_of(error: BaseException) -> str:
    """The connection that an error is about: the one noted on it, or the lake's; empty for any
    other error."""
    if isinstance(error, LakeFailed):
        return error.conn_id
    noted: str = getattr(error, "loadsheet_conn_id", "")
    return noted


def diagnose(error: BaseException) -> Diagnosis | None:
    """The diagnosis of a database's, the lake's or the operating system's error; None for any
    other, which is a bug."""
    if isinstance(error, psycopg.Error):
        return _database_error(error)
    if isinstance(error, LakeFailed):
        return _refused_request(error)
    diagnosis = _lake_error(error)
    if diagnosis:
        return diagnosis
    # Libraries derive exceptions of their own from OSError, for reasons that are not the machine's.
    is_pythons_own = type(error).__module__ in sys.stdlib_module_names
    if isinstance(error, OSError) and is_pythons_own:
        return _machine_error(error)
    return None


def _database_error(error: psycopg.Error) -> Diagnosis | None:
    text = _on_one_line(_once_each(_ERRNO.sub("", _HINTS.sub("", message(error)))))
    code = error.sqlstate
    # Of a failed login or a lost connection, libpq passes on only the message.
    is_known_by_text = code is None and isinstance(error, psycopg.OperationalError)
    if is_known_by_text:
        code = causes.NOT_CONNECTED if _CONNECTING.match(text) else causes.DISCONNECTED
    if code is None:  # psycopg refused a call of ours
        return None
    of_pooler = pooler_causes.of_message(code, text)
    if of_pooler:
        return Diagnosis(text, f"SQLSTATE {code}", of_pooler)
    if is_known_by_text:
        for login_code, pattern in causes.LOGIN_MESSAGES.items():
            if pattern.search(text):
                code = login_code
                break
    cause = causes.of_sqlstate(code, text)
    is_check = isinstance(error, psycopg.errors.CheckViolation)
    if is_check and error.diag.constraint_name is None:
        cause = causes.NO_ROOM_IN_PARTITION
    hint = _on_one_line(clean(error.diag.message_hint or ""))
    if code.startswith("42") and _PARSER_HINTS.match(hint):
        cause = replace(cause, why=f"{cause.why}. {hint}")
    return Diagnosis(text, f"SQLSTATE {code}", cause)


def _once_each(text: str) -> str:
    """The lines of libpq's message: it adds one for each way to connect that it has tried."""
    first, colon, lines = text.partition("connection failed: ")
    if not colon or first:
        return text
    return first + colon + "\n".join(dict.fromkeys(lines.splitlines()))


def _refused_request(error: LakeFailed) -> Diagnosis | None:
    """The diagnosis of the error behind it. An answer of the lake is shown with its request; where
    there was no answer, the request does not matter."""
    answer = error.__cause__
    diagnosis = _lake_error(answer) if answer else None
    if isinstance(answer, ParseError) and answer.code in _ENDED_EARLY:
        return Diagnosis(f"{on_one_line(error.request)}: {answer}", "", lake_causes.DAMAGED)
    if diagnosis is None:
        text = "the answer is not an S3 answer"
        if isinstance(answer, NotOfS3):
            text = str(answer)
        return Diagnosis(text, "", lake_causes.NOT_S3)
    if not diagnosis.code:
        return diagnosis
    return replace(diagnosis, text=f"{on_one_line(error.request)}: {diagnosis.text}")


def _lake_error(error: BaseException) -> Diagnosis | None:
    # Imported here, because a transform's process never needs the S3 client.
    from minio.error import InvalidResponseError, S3Error, ServerError
    from urllib3.exceptions import HTTPError

    if isinstance(error, S3Error):
        return _lake_answer(error.code or "", error.response.status, error.message or str(error))
    if isinstance(error, InvalidResponseError):
        # rclone labels its errors text/xml, which the SDK takes for no S3 answer at all.
        s3_error = ANSWER.search(error._body or "")
        if s3_error:
            return _lake_answer(s3_error[1], error._code, s3_error[2] or s3_error[1])
        text = f"the lake's answer of type {error._content_type} is not an S3 answer"
        return _lake_answer("", error._code, text)
    if isinstance(error, ServerError):
        return _lake_answer("", error.status_code, str(error))
    if not isinstance(error, HTTPError):
        return None
    # No answer, or only answers that made the client give up. urllib3 wraps what happened in an
    # error about the number of its retries.
    reason = getattr(error, "reason", None) or error
    text = _on_one_line(clean(_said(reason)))
    status = _STATUS.search(text)
    if status:
        return _lake_answer("", int(status[1]), text)
    address = _address(error)
    if address:
        text = f"{address}: {text}"
    if "WRONG_VERSION_NUMBER" in str(reason):
        return Diagnosis(text, "", lake_causes.NO_TLS)
    if "certificate" in text.lower():
        return Diagnosis(text, "", lake_causes.UNTRUSTED)
    return Diagnosis(text, "", lake_causes.UNREACHABLE)


def _said(reason: BaseException) -> str:
    """What happened, in the operating system's words: urllib3's contain the names of classes."""
    from urllib3.exceptions import NameResolutionError, NewConnectionError

    if isinstance(reason, NameResolutionError):
        return "the name of the host is not known here"
    if "WRONG_VERSION_NUMBER" in str(reason):
        return "the answer is not one of TLS"
    behind = reason.args[-1] if reason.args else None
    if isinstance(reason, NewConnectionError):
        behind = reason.__cause__
    if isinstance(behind, OSError) and behind.strerror:
        return behind.strerror
    # The first argument may be the connection, as an object.
    return str(behind or reason)


def _address(error: object) -> str:
    """Scheme, host and port of the lake; empty where the error does not tell them."""
    pool = getattr(error, "pool", None)
    if pool is None or not pool.host:
        return ""
    address = f"{pool.scheme}://{pool.host}"
    if pool.port:
        address += f":{pool.port}"
    return address


def _lake_answer(code: str, status: int | None, text: str) -> Diagnosis:
    shown_code = f"S3 {code}" if code else f"HTTP {status}"
    return Diagnosis(_on_one_line(clean(text)), shown_code, lake_causes.of_s3(code, status))


def _machine_error(error: OSError) -> Diagnosis:
    code = errno.errorcode.get(error.errno or 0, "")
    if isinstance(error, _LASTING):
        cause = causes.LOCAL_REFUSED
    elif code in ("ENOSPC", "EDQUOT"):
        cause = causes.LOCAL_FULL
    else:
        cause = causes.LOCAL
    text = _on_one_line(clean(str(error) or type(error).__name__))
    return Diagnosis(text, code, cause)


def _on_one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
