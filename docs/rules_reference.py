"""Every rule of `loadsheet check`: `python docs/rules_reference.py > docs/rules.md`. A test
compares."""

from __future__ import annotations

from pathlib import Path

from loadsheet.problem import Problem
from loadsheet.spec.pipeline_file import check_file
from loadsheet.spec.rule_catalog import RULES

SPECS = Path(__file__).parents[1] / "tests" / "specs"
HEAD = """\
# Every rule of loadsheet check

Generated from `loadsheet/spec/rule_catalog.py` by `docs/rules_reference.py`; the examples are tests
in `tests/specs`. A rule's name is the `code` in JSON and the rule's id in SARIF, and never changes.
`loadsheet check --explain NAME` prints a section. The keys themselves are in [spec.md](spec.md).
"""


def examples() -> dict[str, str]:
    """A problem of each rule that one file alone can break, the shortest there is."""
    found: dict[str, list[str]] = {}
    for file in sorted(SPECS.rglob("*.yml")):
        for problem in check_file(file)[1]:
            found.setdefault(problem.code, []).append(_without_folder(problem, file))
    return {code: min(texts, key=lambda text: (len(text), text)) for code, texts in found.items()}


def _without_folder(problem: Problem, file: Path) -> str:
    return str(problem).replace(str(file.parent) + "/", "").replace(file.name, "pipeline.yml")


def reference() -> str:
    """The whole page."""
    parts, shown = [HEAD], examples()
    for code, rule in RULES.items():
        example = f"\n```text\n{shown[code]}\n```\n" if code in shown else ""
        parts.append(
            f"## {code}\n\n{rule.why}\n\nFix: {rule.fix[0].lower()}{rule.fix[1:]}\n{example}"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    print(reference(), end="")
