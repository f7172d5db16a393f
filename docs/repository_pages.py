"""A hook of MkDocs (see mkdocs.yml): files outside docs/ that pages link to become pages of the
site.

So the same links work in the repository and on the site. Markdown and plain text are published
unchanged; any other file is a page that shows its text. llms.txt is published with links to pages
of the site. The hook also refuses pages that would fetch something from another host.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s#]+)(?=[)#\s])")
FETCHED = re.compile(
    r"<(?:script|img|iframe|link (?!rel=.canonical))[^>]*?\b(?:src|href)=.?(?:https?:)?//[^>]*>"
)
LANGUAGES = {".yml": "yaml", ".json": "json", ".py": "python", ".sql": "sql", ".toml": "toml"}
LIST = "llms.txt"  # the list of pages for readers that are programs (llmstxt.org)
log = logging.getLogger("mkdocs.hooks.repository_pages")


def on_files(files: Files, config: Any) -> Files:
    """Add llms.txt, and a page for every file outside docs/ that can be reached from a page."""
    waiting = {f"docs/{file.src_uri}" for file in files.documentation_pages()} | {"README.md", LIST}
    done: set[str] = set()
    while waiting:
        path = waiting.pop()
        done.add(path)
        if path.endswith(".md") or path == LIST:
            waiting |= set(targets(path, (ROOT / path).read_text(encoding="utf-8")).values()) - done
    for path in sorted(done):
        if not path.startswith("docs/") and path != LIST:
            files.append(page_for(path, config))
    files.append(File.generated(config, LIST, content=list_of_pages(files)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with its links to files of the repository turned into links to pages of the site."""
    if page.file.abs_src_path is None:
        return markdown  # a page that only shows a file
    found = targets(Path(page.file.abs_src_path).relative_to(ROOT).as_posix(), markdown)
    folder = posixpath.dirname(page.file.src_uri) or "."
    return LINK.sub(
        lambda m: posixpath.relpath(uri(found[m[1]]), folder) if m[1] in found else m[1], markdown
    )


def on_post_page(output: str, page: Any, **_: Any) -> None:
    """Warn, which ends a strict build, when a page would fetch something from another host."""
    for element in FETCHED.findall(output):
        log.warning("%s would fetch something from elsewhere: %s", page.file.src_uri, element)


def list_of_pages(files: Files) -> str:
    """The text of llms.txt, its links turned into addresses relative to the site's root."""
    text = (ROOT / LIST).read_text(encoding="utf-8")
    found = targets(LIST, text)

    def address(link: re.Match[str]) -> str:
        file = files.get_file_from_path(uri(found[link[1]])) if link[1] in found else None
        if file is None:
            log.warning("%s links to %s, which is not a page", LIST, link[1])
            return link[1]
        return file.url

    return LINK.sub(address, text)


def targets(path: str, markdown: str) -> dict[str, str]:
    """The links in `markdown`, the text of the repository's file `path`, and the files that they
    lead to."""
    folder = posixpath.dirname(path)
    found = {
        link: posixpath.normpath(posixpath.join(folder, link)) for link in LINK.findall(markdown)
    }
    return {link: target for link, target in found.items() if (ROOT / target).is_file()}


def uri(path: str) -> str:
    """The name of a file of the repository among the site's sources."""
    if path == LIST:
        return LIST
    if path == "README.md":
        return "overview.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"repository/{path.lstrip('.')}" + ("" if path.endswith((".md", ".txt")) else ".md")


def page_for(path: str, config: Any) -> File:
    """The page for a file outside docs/: Markdown and text unchanged, else its text as code."""
    file = ROOT / path
    if path.endswith((".md", ".txt")):
        return File.generated(config, uri(path), abs_src_path=str(file))
    language, text = LANGUAGES.get(file.suffix, "text"), file.read_text(encoding="utf-8")
    head = f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n"
    return File.generated(config, uri(path), content=f"{head}~~~~~~{language}\n{text}~~~~~~\n")
