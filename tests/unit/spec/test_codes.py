"""Every problem has a code, every code has its section in the docs, and every link works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.rules_reference import examples, reference
from docs.spec_reference import mappings
from loadsheet.spec.pipeline_file import check_file
from loadsheet.spec.rule_catalog import RULES, links
from loadsheet.spec.schema import pipeline_schema

ROOT = Path(__file__).resolve().parents[3]
SPECS = sorted((ROOT / "tests" / "specs").rglob("*.yml"))
PROBLEMS = [problem for file in SPECS for problem in check_file(file)[1]]
# These show only beside other files, and are in tests/unit/cli/test_check_project.py.
OF_A_PROJECT = {
    "duplicate-pipeline",
    "duplicate-target",
    "unknown-connection",
    "unknown-pool",
    "test-file",
}


def anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_problem_has_a_code_and_every_code_a_problem() -> None:
    assert {problem.code for problem in PROBLEMS} == RULES.keys() - OF_A_PROJECT


def test_the_reference_of_rules_is_that_of_the_code() -> None:
    assert (ROOT / "docs" / "rules.md").read_text(encoding="utf-8") == reference()


def test_every_code_has_its_section() -> None:
    assert RULES.keys() <= anchors("docs/rules.md")
    assert examples().keys() == RULES.keys() - OF_A_PROJECT


def test_every_link_of_every_problem_leads_somewhere() -> None:
    pages = {page: anchors(page) for page in ("docs/rules.md", "docs/spec.md")}
    for problem in PROBLEMS:
        for link in links(problem.code, problem.path):
            page, _, anchor = link.partition("#")
            assert anchor in pages[page], link


@pytest.mark.parametrize("path", [path for path, _ in mappings(pipeline_schema())])
def test_a_key_leads_to_the_section_that_explains_it(path: str) -> None:
    section = path.replace(".", "").replace("<name>", "name") or "top-level"
    for name in ("orders", '"odd \\" name.x"'):
        _, keys = links("unknown-key", f"{path.replace('<name>', name)}.key".lstrip("."))
        assert keys == f"docs/spec.md#{section}"
    assert links("unknown-key", "") == ("docs/rules.md#unknown-key",)
    assert (
        links("unknown-key", "defaults.incremental.by")[1] == "docs/spec.md#tablesnameincremental"
    )
