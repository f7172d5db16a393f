"""What a driver's exception means: its text without row data, its code, its cause. None for an
unexpected exception."""

from __future__ import annotations

import errno
import re
import sys
from dataclasses import dataclass

import psycopg

from loadsheet.engine import causes
from loadsheet.engine.causes import Cause
from loadsheet.redact import clean, message

# Files that are missing or forbidden stay so; every other failure of the operating system may pass.
_LASTING = (
    FileNotFoundError,
    PermissionError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
)
_S3_CODE = re.compile(r"<Code>(\w+)</Code>(?:.*<Message>(.*?)</Message>)?", re.DOTALL)
_HINTS = re.compile(r"\n\t.*")  # libpq's guesses at the reason
_CONNECTING = re.compile(
    "connection (failed|is bad|timeout)|multiple connection|failed to resolve", re.IGNORECASE
)
_STATUS = re.compile(r"too many (\d{3}) error responses")


@dataclass(frozen=True)
class Diagnosis:
    """`text` are the server's words, `code` is `SQLSTATE 55P03`, `S3 NoSuchBucket`, `HTTP 503`,
    `ENOSPC` or empty."""

    text: str
    code: str
    cause: Cause

    def __str__(self) -> str:
        known = f" ({self.code})" if self.code and self.code not in self.text else ""
        return f"{self.text}{known}. {self.advice}"

    @property
    def advice(self) -> str:
        """Why it happened and what to do."""
        retry = "; a retry may succeed" if self.cause.retryable else ""
        return f"{self.cause.why}. Next: {self.cause.next}{retry}"


def diagnose(error: BaseException) -> Diagnosis | None:
    """The diagnosis of a database's, the lake's or the operating system's error; None for any
    other."""
    if isinstance(error, psycopg.Error):
        return _database(error)
    found = _lake(error)
    if found is None and isinstance(error, OSError) and _is_pythons(error):
        return _machine(error)
    return found


def _database(error: psycopg.Error) -> Diagnosis | None:
    text = _one_line(_HINTS.sub("", message(error)))
    code = error.sqlstate
    if code is None and isinstance(error, psycopg.OperationalError):
        code = _guessed(text)
    if code is None:
        return None
    return Diagnosis(text, f"SQLSTATE {code}", causes.of_sqlstate(code))


def _guessed(text: str) -> str:
    """The SQLSTATE that the server's words stand for, else that of a client that cannot connect or
    is cut off."""
    for code, words in causes.LOGIN_WORDS.items():
        if words.search(text):
            return code
    if _CONNECTING.match(text):
        return causes.NOT_CONNECTED
    return causes.DISCONNECTED


def _lake(error: BaseException) -> Diagnosis | None:
    # Here, because a transform's process never needs the S3 client.
    from minio.error import InvalidResponseError, S3Error, ServerError
    from urllib3.exceptions import HTTPError

    if isinstance(error, S3Error):
        return _answered(error.code or "", error.response.status, error.message or str(error))
    if isinstance(error, InvalidResponseError):
        # rclone labels its errors text/xml, which the SDK takes for no S3 answer at all.
        found = _S3_CODE.search(error._body or "")
        if found:
            return _answered(found[1], error._code, found[2] or found[1])
        text = f"the lake's answer of type {error._content_type} is not an S3 answer"
        return _answered("", error._code, text)
    if isinstance(error, ServerError):
        return _answered("", error.status_code, str(error))
    if isinstance(error, HTTPError):
        return _unanswered(error)
    return None


def _answered(code: str, status: int | None, text: str) -> Diagnosis:
    named = f"S3 {code}" if code else f"HTTP {status}"
    return Diagnosis(_one_line(clean(text)), named, causes.of_s3(code, status))


def _unanswered(error: BaseException) -> Diagnosis:
    """No answer, or only such that the client has given up after its own tries."""
    text = _one_line(clean(str(getattr(error, "reason", None) or error)))
    status = _STATUS.search(text)
    if status:
        return _answered("", int(status[1]), text)
    if "certificate" in text.lower():
        return Diagnosis(text, "", causes.UNTRUSTED)
    return Diagnosis(text, "", causes.UNREACHABLE)


def _is_pythons(error: OSError) -> bool:
    """Not one of the many that others derive from OSError for reasons of their own."""
    return type(error).__module__ in sys.stdlib_module_names


def _machine(error: OSError) -> Diagnosis:
    code = errno.errorcode.get(error.errno or 0, "")
    if isinstance(error, _LASTING):
        cause = causes.LOCAL_REFUSED
    elif code in ("ENOSPC", "EDQUOT"):
        cause = causes.LOCAL_FULL
    else:
        cause = causes.LOCAL
    return Diagnosis(_one_line(clean(str(error) or type(error).__name__)), code, cause)


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
