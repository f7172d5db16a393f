"""The page's own files, and the headers that every answer has."""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

INDEX = "index.html"
_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# The page has no inline script and no inline style, and loads nothing from elsewhere: markup that
# came in with a name or a comment could do nothing.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors {}"
)


class StaticFile(NamedTuple):
    """One file of the page."""

    content_type: str
    content: bytes


def static_files() -> dict[str, StaticFile]:
    """The page's files by name: nothing else is ever served."""
    found = {}
    for file in resources.files(__package__).joinpath("static").iterdir():
        content_type = _TYPES[file.name.rpartition(".")[2]]
        found[file.name] = StaticFile(content_type, file.read_bytes())
    return found


def security_headers(frame_ancestors: str = "'none'") -> dict[str, str]:
    """The headers of every answer. `frame_ancestors` may show the page in a frame, in the terms of
    a Content-Security-Policy."""
    return {
        "Content-Security-Policy": _POLICY.format(frame_ancestors),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
