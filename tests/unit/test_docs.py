"""The pages are right and found: references are fresh, specs pass, every page is listed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from docs import cli_reference
from loadsheet.spec.pipeline_file import check_file
from loadsheet.spec.schema import pipeline_schema
from tests.unit.test_readme import FRAME, LINKS, README, ROOT, blocks, write

DOCS = ROOT / "docs"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
OTHERS = {"testing.md"}  # pages whose YAML has the same words and is that of other files
YAML = [
    (name, text)
    for name, page in PAGES.items()
    if name not in OTHERS
    for text in blocks(page, "yaml")
]
KEYS = set(pipeline_schema()["properties"])
OURS = [
    (name, text)
    for name, text in YAML
    if isinstance(found := yaml.safe_load(text), dict) and set(found) <= KEYS
]


def test_the_reference_of_commands_is_that_of_the_command_line() -> None:
    assert PAGES["cli.md"] == cli_reference.reference(), (
        "python docs/cli_reference.py > docs/cli.md"
    )


@pytest.mark.parametrize(
    ("page", "text"), OURS, ids=[f"{page}-{i}" for i, (page, _) in enumerate(OURS)]
)
def test_a_spec_on_a_page_has_no_problem(tmp_path: Path, page: str, text: str) -> None:
    document = yaml.safe_load(text)
    whole = (
        text
        if "version" in document
        else yaml.safe_dump(yaml.safe_load(FRAME) | document, sort_keys=False)
    )
    wrong = page == "tutorial.md" and "mode: upsert" in text  # the mistake that it shows
    file = write(tmp_path, whole)
    for name, keys in (document.get("transforms") or {}).items():
        column = (keys or {}).get("unique_key", "one")
        (file.parent / "sql" / f"{name}.sql").write_text(f"SELECT 1 AS {column}\n")
    assert bool(check_file(file)[1]) == wrong


def test_there_are_specs_to_check() -> None:
    assert len(OURS) >= 10


def test_a_page_begins_with_its_title() -> None:
    assert [name for name, text in PAGES.items() if not re.match(r"#{1,2} \S", text)] == []


SITE = (ROOT / "mkdocs.yml").read_text("utf-8")
NAV = re.findall(r"^  - (.+):$|^      - .+: (\S+)\.md$", SITE, re.MULTILINE)
LIST = (ROOT / "llms.txt").read_text("utf-8")
LISTED = re.findall(r"^- \[(.+)\]\((.+)\): (.+)$", LIST, re.MULTILINE)
LONG_SECTIONS = {"Coming from", "Performance"}
"""Sections of the navigation of which the README links some pages only: those link the others."""


def sections() -> dict[str, list[str]]:
    """The files in docs/ by the section of the navigation they are in."""
    found: dict[str, list[str]] = {}
    section = ""
    for title, page in NAV:
        if title:
            section = title
        elif f"{page}.md" in PAGES:
            found.setdefault(section, []).append(f"docs/{page}.md")
    return found


def test_the_navigation_has_every_page_once() -> None:
    pages = [page for found in sections().values() for page in found]
    assert sorted(pages) == sorted(f"docs/{name}" for name in PAGES)


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1200


def test_the_readme_links_every_section_and_its_pages() -> None:
    linked = {link.partition("#")[0] for name, link in LINKS if name == "README.md"}
    for section, pages in sections().items():
        missing = set(pages) - linked
        assert not missing or (section in LONG_SECTIONS and linked & set(pages)), (section, missing)


def test_the_list_for_programs_begins_with_a_title_and_a_summary() -> None:
    assert re.match(r"# Loadsheet\n\n> \S.+\n\n", LIST)


def test_the_list_for_programs_has_every_page_once_with_a_line_about_it() -> None:
    targets = [target for _, target, _ in LISTED]
    pages = sorted(target for target in targets if target.startswith("docs/"))
    assert pages == sorted(f"docs/{name}" for name in PAGES)
    assert all((ROOT / target).is_file() for target in targets)
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"} <= set(targets)


def test_the_list_for_programs_has_the_sections_of_the_navigation() -> None:
    titles = [title for title, _ in NAV if title]
    assert re.findall(r"^## (.+)$", LIST, re.MULTILINE) == titles
    for title, pages in sections().items():
        part = LIST.partition(f"## {title}\n")[2].partition("\n## ")[0]
        assert sorted(re.findall(r"\]\((docs/.+?)\):", part)) == sorted(pages)
