"""The pages of the site say what is so: generated references are fresh, and specs pass the check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from docs import cli_reference
from loadsheet.spec.pipeline_file import check_file
from loadsheet.spec.schema import schema
from tests.unit.test_readme import FRAME, blocks, write

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
OTHERS = {"testing.md"}  # pages whose YAML has the same words and is that of other files
YAML = [
    (name, text)
    for name, page in PAGES.items()
    if name not in OTHERS
    for text in blocks(page, "yaml")
]
KEYS = set(schema()["properties"])
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
