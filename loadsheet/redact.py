r"""Text that is safe to show: without secrets, row data, or characters that control a terminal.

A table may be called `\x1b[2K\nall fine`, and a role's name may reverse the rest of a line. Such
characters are written as their escapes: visible and harmless.

PostgreSQL puts row data into DETAIL and CONTEXT and, for values it cannot read, between quotes into
the message itself. Secrets are recognised by the word before them, and by value: every connection
registers its own, so that a server cannot reveal one in a sentence this module does not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from loadsheet.wording import shortened

CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f"
"""C0 and C1 except tab and newline: cursor movements, colours, titles, bells, the carriage
return."""
BIDI_CONTROLS = "\u202a-\u202e\u2066-\u2069"
"""Bidirectional embeddings, overrides and isolates: text with them reads otherwise than it is
stored."""
_STEERING = re.compile(f"[{CONTROLS}{BIDI_CONTROLS}\u2028\u2029]")
_BREAKING = re.compile(f"[{CONTROLS}{BIDI_CONTROLS}\u2028\u2029\t\n]")

MASK = "***"
_ROW_DATA = re.compile(r"^[ \t]*(DETAIL|CONTEXT|QUERY|STATEMENT):.*", re.MULTILINE | re.DOTALL)
# Every pattern takes linear time: the owner of a view decides what text a server sends, and how
# much of it.
# What is masked already is left alone: a report may quote the cleaned errors of many tables, and
# from the first quote to the last are all lines between them.
_BAD_VALUE = re.compile(
    r'((?:invalid|malformed|out of range)[^"\n]{0,200}: )"(?!\*\*\*").*"', re.DOTALL
)
_MASKED_VALUE = f'value "{MASK}" is out of range'
_OUT_OF_RANGE = 'value "', '" is out of range'
_URL_LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://)[^\s/:]*:[^\s/]*@", re.IGNORECASE)
_WEBHOOK = re.compile(r"(/services/)[\w/-]+")
# Passwords as SQL writes them: in libpq's `host=db user=me password=...`, next to another of its
# parameters, so that `WHERE password = x` stays; and in `PASSWORD '...'`, as of a role.
_PARAMETER = r"[a-z_]{1,40}=[^\s'\"=]{1,200}"
_SERVER = r"\b(?:host|hostaddr|port|dbname|user|service|sslmode)="
_CONNINFO = re.compile(
    rf"({_SERVER}[^\s'\"=]{{1,200}}\s+(?:{_PARAMETER}\s+){{0,12}}?password=)(?:''[^']*''|[^\s'\"]+)",
    re.IGNORECASE,
)
_CONNINFO_FIRST = re.compile(
    # Bounds, because what follows is looked for at each place.
    rf"(\bpassword=)(?:''[^']{{0,300}}''|[^\s'\"]{{1,300}}+)"
    rf"(?=\s+(?:{_PARAMETER}\s+){{0,12}}?{_SERVER})",
    re.IGNORECASE,
)
_PASSWORD_CLAUSE = re.compile(r"(\bpassword\s{1,9})(?:'[^']*')+", re.IGNORECASE)
_SECRET = (
    "(?:password|passwd|pwd|secret|token|credential|signature|api[_-]?key|access[_-]?key)"
    r"[\w-]{0,40}"
)
_REST = re.compile(rf"""((?:{_SECRET}|\bpass)['"]?\s*[=:]\s*)(.+)""", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"""({_SECRET}['"]?\s*[=:]\s*)""" r"""('[^']*'|"[^"]*"|[^\s,;&)}\]]+)""",
    re.IGNORECASE,
)
_SECRET_KEY = re.compile(
    "pass|pwd|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key|^options$"
    "|authorization|^x-auth|cookie",
    re.IGNORECASE,
)
# Characters: a password such as `x` would mask every x in every message.
_SHORTEST = 6
# A secret that is (a part of) one of these would mask the word by which others are recognised.
_WORDS = (
    "password passphrase passwd secret_key token credential signature api_key access_key"
    " private_key"
)
_secrets: set[str] = set()


def visible(text: str) -> str:
    """`text` with control characters as escapes, `\\x1b` or `\\u202e`; its lines and tabs stay."""
    return _STEERING.sub(_escape, text)


def on_one_line(text: str) -> str:
    """`visible`, and a newline is `\\n`: for names, which must not look like a line of output."""
    return _BREAKING.sub(_escape, text)


def hanging(message: str) -> str:
    """The message with its further lines indented where one is not: a name in it may hold a line
    break, and what follows must not look like a line of output."""
    first, *further = message.split("\n")
    if all(line[:1] in ("", " ") for line in further):
        return message
    return "\n  ".join([first, *further])


def json_safe(document: str) -> str:
    """The text of a JSON document, in which the control characters that JSON permits (DEL, C1,
    bidirectional controls) become JSON escapes."""
    return _STEERING.sub(lambda match: f"\\u{ord(match.group()):04x}", document)


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")


def register_secrets(*secrets: str) -> None:
    """From now on, `masked` hides these values in every text of this process: unchanged,
    percent-encoded, in JSON, or as Python's repr.

    Values that are too short are left out, and so are words such as `secret`: masking them would
    hide the `secret_key=` by which other secrets are recognised.
    """
    for secret in secrets:
        if len(secret) < _SHORTEST or secret.lower() in _WORDS:
            continue
        _secrets.update((secret, quote(secret, safe=""), quote(secret)))
        _secrets.update((json.dumps(secret)[1:-1], repr(secret)[1:-1]))


def secrets_in(extra: Mapping[str, Any]) -> Iterable[str]:
    """The values in a connection's extras whose keys mark them as secret, at any depth, and those
    in libpq's `options`."""
    for key, value in extra.items():
        if isinstance(value, Mapping):
            yield from secrets_in(value)
        elif isinstance(value, list):
            for item in value:
                yield from secrets_in({key: item})
        elif isinstance(value, str) and _SECRET_KEY.search(str(key)):
            yield value
            if key == "options":
                # Each setting's value separately: that is how the server quotes them.
                for setting in value.split():
                    yield setting.partition("=")[2]


def clean(text: str) -> str:
    """The beginning of what `clean_whole` returns: a text from outside may be of any length."""
    return shortened(clean_whole(text))


def clean_whole(text: str) -> str:
    """`text` without DETAIL and what follows it, without values PostgreSQL could not read, without
    secrets and without control characters."""
    text = _ROW_DATA.sub("", text).rstrip()
    text = _BAD_VALUE.sub(rf'\1"{MASK}"', text)
    parts = map(_without_value_out_of_range, text.split(_MASKED_VALUE))
    return visible(without_secrets(_MASKED_VALUE.join(parts)))


def _without_value_out_of_range(text: str) -> str:
    # PostgreSQL's `value "..." is out of range for type ...`: the value may contain these words
    # too, so it reaches from the first quote to the last.
    start = text.find(_OUT_OF_RANGE[0])
    end = text.rfind(_OUT_OF_RANGE[1])
    if 0 <= start < end:
        return f'{text[:start]}value "{MASK}{text[end:]}'
    return text


def without_secrets(text: str) -> str:
    """`masked`, and without the values after words such as `password=`."""
    return _ASSIGNED.sub(rf"\1{MASK}", masked(text))


def masked(text: str) -> str:
    """`text` without what is certainly a secret: registered values, logins in URLs, webhooks,
    passwords of libpq's parameters and of SQL's PASSWORD clause."""
    # Longest first: a secret may contain another one.
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _URL_LOGIN.sub(rf"\1{MASK}@", text)
    for pattern in (_CONNINFO, _CONNINFO_FIRST, _PASSWORD_CLAUSE, _WEBHOOK):
        text = pattern.sub(rf"\1{MASK}", text)
    return text


def mask_line(line: str) -> str:
    """A line of a file with each character of its secrets replaced by `*`, so that columns stay
    right.

    All text after a word such as `password` is masked: in a broken file it is not clear where the
    value ends.
    """
    for pattern in (_URL_LOGIN, _WEBHOOK, _REST):
        line = pattern.sub(_mask_value, line)
    return line


def _mask_value(match: re.Match[str]) -> str:
    return match[1] + MASK[0] * (len(match[0]) - len(match[1]))


def message(error: BaseException) -> str:
    """The cleaned message of an exception.

    For a driver's error this is the primary message. In a data exception (SQLSTATE 22) any quoted
    text is a value of the row, so it is masked.
    """
    text = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    sqlstate = getattr(error, "sqlstate", None) or ""
    if sqlstate.startswith("22"):
        text = re.sub(r'".*"', f'"{MASK}"', text, flags=re.DOTALL)
    return clean(text)


def server_of(error: BaseException) -> str:
    """`orders: the source (connection 'x', role 'y'): ` for an error of a database's server, as far
    as it is noted there (`pinned.name_connection`); empty for others."""
    about = getattr(error, "loadsheet_about", "")
    server = server_text(
        getattr(error, "loadsheet_end", ""),
        getattr(error, "loadsheet_conn_id", ""),
        getattr(error, "loadsheet_role", ""),
    )
    return f"{on_one_line(about)}: {server}" if about else server


def server_text(end: str, conn_id: str, role: str = "") -> str:
    """`the source (connection 'x', role 'y'): ` as far as it is given; empty without a
    connection."""
    if not conn_id:
        return ""
    names = f"connection {conn_id!r}"
    if role:
        names += f", role {on_one_line(role)!r}"
    return f"the {end} ({names}): " if end else f"{names}: "


def summary(error: BaseException) -> str:
    """An exception in a line or two: its class, the server that it is from, and its cleaned
    message."""
    return f"{type(error).__name__}: {server_of(error)}{message(error)}".rstrip(": ")
