"""Text from elsewhere (names, comments, a server's words) as terminals, logs and channels may show it.

A table may be called `\\x1b[2K\\nall fine`, and a role's name may turn the rest of the line around. What steers a
screen is written as its escape, so that it is seen and does nothing. Pure.
"""

from __future__ import annotations

import re

CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f"
"""Of C0 and C1 all but tab and newline: cursor movements, colours, titles, bells, the carriage return."""
TURNS = "\u202a-\u202e\u2066-\u2069"
"""What makes text read otherwise than it is stored: bidirectional embeddings, overrides and isolates."""
_STEERING = re.compile(f"[{CONTROLS}{TURNS}\u2028\u2029]")
_BREAKING = re.compile(f"[{CONTROLS}{TURNS}\u2028\u2029\t\n]")


def visible(text: str) -> str:
    """`text` with every steering character as `\\x1b` or `\\u202e`; its lines and tabs stay."""
    return _STEERING.sub(_escape, text)


def on_one_line(text: str) -> str:
    """`visible`, and a newline is `\\n`: for names, which must not look like a line of their own."""
    return _BREAKING.sub(_escape, text)


def json_safe(document: str) -> str:
    """The text of a JSON document with what JSON itself leaves as it is (DEL, C1, turns) written as JSON escapes."""
    return _STEERING.sub(lambda found: f"\\u{ord(found.group()):04x}", document)


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")
