"""The site as one HTML file in a folder: it opens from a disk, from any web server, or from a CI
job's artifacts."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from loadsheet.errors import InputError
from loadsheet.page.documents import Document
from loadsheet.page.files import INDEX, static_files
from loadsheet.redact import json_safe
from loadsheet.site.script import one_script
from loadsheet.wording import listed

_UNFINISHED = f"{INDEX}.new"
_MARK = '<meta name="generator" content="loadsheet docs">'
_BYTES_WITH_MARK = 2_000
# Nothing is loaded from anywhere. The page's own script and style run by their hashes: markup that
# came in with a name or a comment could do nothing.
_POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data:;"
    " base-uri 'none'; form-action 'none'"
)


def write_site(folder: Path, documents: Document) -> Path:
    """Write the site of `documents` into `folder`, which is created, and return its file. The file
    is replaced as a whole, so a reader never meets a part of it.

    Raises InputError for a folder with anything but an earlier site in it, or one that cannot be
    written.
    """
    refuse_others(folder)
    file = folder / INDEX
    unfinished = folder / _UNFINISHED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(folder):
            unfinished.unlink(missing_ok=True)
            with unfinished.open("xb") as opened:
                opened.write(html(documents).encode("utf-8", "replace"))
                opened.flush()
                os.fsync(opened.fileno())
            unfinished.replace(file)
    except OSError as error:
        raise InputError(f"--out: {folder} cannot be written: {error.strerror}") from None
    return file


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Waits until no other process writes a site there: it would take this one's unfinished file
    for one that was left behind, or move it into place."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def refuse_others(folder: Path) -> None:
    """Raises InputError where `folder` is no folder, or has anything but an earlier site in it."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"--out: {folder} cannot be read: {error.strerror}") from None
    others = [name for name in names if name not in (INDEX, _UNFINISHED)]
    if INDEX in names and not _is_ours(folder / INDEX):
        others.append(INDEX)
    if others:
        raise InputError(
            f"--out: {folder} has other files in it ({listed(others)}): name an empty or a"
            " new folder"
        )


def _is_ours(file: Path) -> bool:
    if not file.is_file():  # opening a pipe would wait for its other end
        return False
    try:
        with file.open("rb") as opened:
            return _MARK.encode() in opened.read(_BYTES_WITH_MARK)
    except OSError:
        return False


def html(documents: Document) -> str:
    """The site as HTML: the same page as that of `loadsheet ui`, with its files and the documents
    in it."""
    files = {name: file.content.decode() for name, file in static_files().items()}
    modules = {name[:-3]: text for name, text in files.items() if name.endswith(".js")}
    modules["api"] = resources.files(__package__).joinpath("recorded.js").read_text("utf-8")
    script = "\n" + one_script(modules, "app")
    style = "\n" + files["app.css"]
    policy = _POLICY.format(script=_hash(script), style=_hash(style))
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n{_MARK}\n'
    icon = f"data:image/svg+xml,{quote(files['icon.svg'])}"
    parts = {
        '<meta charset="utf-8">\n': f'<meta charset="utf-8">\n{head}',
        'href="icon.svg"': f'href="{icon}"',
        '<link rel="stylesheet" href="app.css">': f"<style>{style}</style>",
        '<script type="module" src="app.js"></script>\n': "",
        "</body>": (
            f'<script type="application/json" id="documents">{_as_json(documents)}</script>\n'
            f"<script>{script}</script>\n</body>"
        ),
    }
    page = files[INDEX]
    for old, new in parts.items():
        before, found, after = page.partition(old)
        assert found, f"{INDEX} has no {old}"
        page = before + new + after
    return page


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _as_json(documents: Document) -> str:
    text = json.dumps(documents, ensure_ascii=False, allow_nan=False, sort_keys=True)
    # No text in it may end its element, or begin a comment.
    return json_safe(text).replace("<", "\\u003c")
