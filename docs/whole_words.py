"""A hook of MkDocs (see mkdocs.yml): a short word with a hyphen in inline code is not broken.

A browser breaks a line after any hyphen, so an option such as `--full-refresh` may end as `-` on
one line and begin as `-full-refresh` on the next. The class `whole` is in site.css.
"""

from __future__ import annotations

import re
from typing import Any

CODE = re.compile(r"<code>([^<]*)</code>")
HYPHENATED = re.compile(r"(?<!\S)(?=\S{1,26}(?!\S))\S*-\S*")
"""Longer words may be wider than a column, and stay breakable."""


def on_page_content(html: str, **_: Any) -> str:
    """The page with each such word in an element that keeps it on one line."""
    return CODE.sub(_kept, html)


def _kept(code: re.Match[str]) -> str:
    text = HYPHENATED.sub(r'<span class="whole">\g<0></span>', code[1])
    return f"<code>{text}</code>"
