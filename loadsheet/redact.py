"""Text that is fit to be shown: without secrets, row data, or characters that steer a terminal.

A table may be called `\x1b[2K\nall fine`, and a role's name may turn the rest of the line around.
What steers a screen is written as its escape, so that it is seen and does nothing. Pure.

PostgreSQL puts the row into DETAIL, CONTEXT and, for values it cannot read, between quotes in the
message itself. Secrets are known in two ways: by what stands before them, and by value. Every
connection tells this module its own, so that a server which repeats one in words of its own does
not give it away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f"
"""Of C0 and C1 all but tab and newline: cursor movements, colours, titles, bells, the carriage
return."""
TURNS = "\u202a-\u202e\u2066-\u2069"
"""What makes text read otherwise than it is stored: bidirectional embeddings, overrides and
isolates."""
_STEERING = re.compile(f"[{CONTROLS}{TURNS}\u2028\u2029]")
_BREAKING = re.compile(f"[{CONTROLS}{TURNS}\u2028\u2029\t\n]")


def visible(text: str) -> str:
    """`text` with every steering character as `\\x1b` or `\\u202e`; its lines and tabs stay."""
    return _STEERING.sub(_escape, text)


def on_one_line(text: str) -> str:
    """`visible` with newlines as `\\n`: a name must not look like a line of its own."""
    return _BREAKING.sub(_escape, text)


def json_safe(document: str) -> str:
    """The text of a JSON document with what JSON itself leaves as it is (DEL, C1, turns) written as
    JSON escapes."""
    return _STEERING.sub(lambda found: f"\\u{ord(found.group()):04x}", document)


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")


MASK = "***"
_ROW_DATA = re.compile(r"^[ \t]*(DETAIL|CONTEXT|QUERY|STATEMENT):.*", re.MULTILINE | re.DOTALL)
# Nothing here may look at a character many times: the owner of a view decides what a server says,
# and how much of it.
_BAD_VALUE = re.compile(r'((?:invalid|malformed|out of range)[^"\n]{0,200}: )".*"', re.DOTALL)
_OUT_OF_RANGE = 'value "', '" is out of range'
_URL_LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://)[^\s/:]*:[^\s/]*@", re.IGNORECASE)
_WEBHOOK = re.compile(r"(/services/)[\w/-]+")
_SECRET = (
    r"(?:password|passwd|pwd|secret|token|credential|signature|api[_-]?key|access[_-]?key)"
    r"[\w-]{0,40}"
)
_REST = re.compile(rf"""((?:{_SECRET}|\bpass)['"]?\s*[=:]\s*)(.+)""", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"""({_SECRET}['"]?\s*[=:]\s*)""" r"""('[^']*'|"[^"]*"|[^\s,;&)}\]]+)""",
    re.IGNORECASE,
)


_SECRET_KEY = re.compile(
    "pass|pwd|secret|token|credential|api_?key|access_?key|private_?key|^options$", re.IGNORECASE
)
_LEAST = 6  # characters: a password such as `x` would take every x out of every message
_WORDS = (
    "password passphrase passwd secret_key token credential signature api_key access_key"
    " private_key"
)
_known: set[str] = set()


def hide(*secrets: str) -> None:
    """From now on no text of this process shows these values, as they are, percent-encoded, in JSON
    or as Python does.

    Not those that are too short, nor one such as `secret`: `secret_key=...` could no longer be told
    for what it is.
    """
    long = [secret for secret in secrets if len(secret) >= _LEAST and secret.lower() not in _WORDS]
    for secret in long:
        _known.update(
            (
                secret,
                quote(secret, safe=""),
                quote(secret),
                json.dumps(secret)[1:-1],
                repr(secret)[1:-1],
            )
        )


def secrets_in(extra: Mapping[str, Any]) -> Iterable[str]:
    """The values of a connection's extras whose keys say that they are secret, at any depth, and
    libpq's `options`."""
    for key, value in extra.items():
        if isinstance(value, Mapping):
            yield from secrets_in(value)
        elif isinstance(value, list):
            for item in value:
                yield from secrets_in({key: item})
        elif isinstance(value, str) and _SECRET_KEY.search(str(key)):
            yield value
            if key == "options":
                # Settings: each value alone, for the server quotes them one by one.
                for setting in value.split():
                    yield setting.partition("=")[2]


def clean(text: str) -> str:
    """`text` without DETAIL and what follows it, without values PostgreSQL could not read, without
    secrets, and with nothing in it that steers a screen."""
    text = _ROW_DATA.sub("", text).rstrip()
    text = _without_out_of_range(_BAD_VALUE.sub(rf'\1"{MASK}"', text))
    return visible(without_secrets(text))


def _without_out_of_range(text: str) -> str:
    """PostgreSQL's `value "..." is out of range for type ...`; the value may hold anything, these
    words too."""
    begin, end = text.find(_OUT_OF_RANGE[0]), text.rfind(_OUT_OF_RANGE[1])
    return f'{text[:begin]}value "{MASK}{text[end:]}' if 0 <= begin < end else text


def without_secrets(text: str) -> str:
    """`text` without what is a secret by its value or by what stands before it."""
    return _ASSIGNED.sub(rf"\1{MASK}", masked(text))


def masked(text: str) -> str:
    """`text` without what is certainly a secret: known values, the logins of URLs, webhooks."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _URL_LOGIN.sub(rf"\1{MASK}@", text)
    return _WEBHOOK.sub(rf"\1{MASK}", text)


def hidden(line: str) -> str:
    """A line of a file with secrets starred out, each character by one: positions in it stay what
    they are.

    After a word such as `password` all is hidden: in a broken file there is no telling where the
    value ends.
    """
    for pattern in (_URL_LOGIN, _WEBHOOK, _REST):
        line = pattern.sub(lambda m: m[1] + MASK[0] * (len(m[0]) - len(m[1])), line)
    return line


def message(error: BaseException) -> str:
    """The cleaned message of an exception.

    For a driver's error that is the primary message; in a data exception (SQLSTATE 22) whatever
    stands between quotes is a value of the row.
    """
    text = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    if (getattr(error, "sqlstate", None) or "").startswith("22"):
        text = re.sub(r'".*"', f'"{MASK}"', text, flags=re.DOTALL)
    return clean(text)


def summary(error: BaseException) -> str:
    """One exception in a line or two: its class and its cleaned message."""
    return f"{type(error).__name__}: {message(error)}".rstrip(": ")
