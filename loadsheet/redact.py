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
_SECRET = r"""(?:password|passwd|pwd|secret|token|credential|signature|api[_-]?key|access[_-]?key)[\w-]*"""
_REST = re.compile(rf"""((?:{_SECRET}|\bpass)['"]?\s*[=:]\s*)(.+)""", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"""({_SECRET}['"]?\s*[=:]\s*)"""
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


def hidden(line: str) -> str:
    """A line of a file with secrets starred out, each character by one: positions in it stay what they are.

    After a word such as `password` all is hidden: in a file that is broken, nobody knows where the value ends.
    """
    for pattern in (_URL_LOGIN, _WEBHOOK, _REST):
        line = pattern.sub(lambda m: m[1] + MASK[0] * (len(m[0]) - len(m[1])), line)
    return line


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
