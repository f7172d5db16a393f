"""Takes row data and secrets out of text that users, logs and Slack see. Pure.

PostgreSQL puts the row into DETAIL, CONTEXT and, for values it cannot read, between quotes in the message itself.
"""

from __future__ import annotations

import re

MASK = "***"
_ROW_DATA = re.compile(r"^[ \t]*(DETAIL|CONTEXT|QUERY|STATEMENT):.*", re.MULTILINE | re.DOTALL)
_BAD_VALUE = re.compile(
    r'((?:invalid|malformed|out of range)[^"\n]*: )".*"|(value )".*"(?= is out of range)', re.DOTALL
)
_URL_LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@]*:[^\s/]*@", re.IGNORECASE)
_WEBHOOK = re.compile(r"(/services/)[\w/-]+")
_ASSIGNED = re.compile(
    r"""((?:password|passwd|pwd|secret|token|credential|signature|api[_-]?key|access[_-]?key)[\w-]*['"]?\s*[=:]\s*)"""
    r"""('[^']*'|"[^"]*"|[^\s,;&)}\]]+)""",
    re.IGNORECASE,
)


def clean(text: str) -> str:
    """`text` without DETAIL and what follows it, without values PostgreSQL could not read, without secrets."""
    text = _ROW_DATA.sub("", text).rstrip()
    text = _BAD_VALUE.sub(lambda m: f'{m[1] or m[2]}"{MASK}"', text)
    text = _URL_LOGIN.sub(rf"\1{MASK}@", text)
    text = _WEBHOOK.sub(rf"\1{MASK}", text)
    return _ASSIGNED.sub(rf"\1{MASK}", text)


def message(error: BaseException) -> str:
    """The cleaned message of an exception.

    For a driver's error that is the primary message; in a data exception (SQLSTATE 22) whatever stands between
    quotes is a value of the row.
    """
    text = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    if (getattr(error, "sqlstate", None) or "").startswith("22"):
        text = re.sub(r'".*"', f'"{MASK}"', text, flags=re.DOTALL)
    return clean(text)


def summary(error: BaseException) -> str:
    """One exception in a line or two: its class and its cleaned message."""
    return f"{type(error).__name__}: {message(error)}".rstrip(": ")
