"""Problems as SARIF 2.1.0, which code scanning (GitHub, GitLab, Azure, editors) reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loadsheet import __version__
from loadsheet.cli.excerpt import end_column, source_lines
from loadsheet.spec.codes import RULES, links
from loadsheet.spec.problem import Problem

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def as_sarif(problems: Sequence[Problem]) -> dict[str, Any]:
    """The whole document: one run, all rules, one result per problem. Links are relative, as in the docs.

    All that GitHub's code scanning calls required is there, but for the fingerprints, which its upload adds.
    """
    source_lines.cache_clear()
    driver = {"name": "loadsheet", "version": __version__, "rules": [_rule(code) for code in RULES]}
    results = [_result(problem) for problem in problems]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(code: str) -> dict[str, Any]:
    rule, (link,) = RULES[code], links(code, "")
    return {
        "id": code,
        "name": "".join(word.capitalize() for word in code.split("-")),
        "shortDescription": {"text": rule.why},
        "fullDescription": {"text": f"{rule.why} {rule.fix}"},
        "help": {"text": f"{rule.fix}\nSee {link}", "markdown": f"{rule.fix}\n\nSee `{link}`."},
    }


def _result(problem: Problem) -> dict[str, Any]:
    hint = f"\n{problem.hint}" if problem.hint else ""
    place = {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(problem.file)},
            "region": {
                "startLine": problem.line,
                "startColumn": problem.column,
                "endLine": problem.line,
                "endColumn": end_column(problem),
            },
        },
        **({"logicalLocations": [{"fullyQualifiedName": problem.path}]} if problem.path else {}),
    }
    return {
        **({"ruleId": problem.code, "ruleIndex": list(RULES).index(problem.code)} if problem.code in RULES else {}),
        "level": problem.severity,
        "message": {"text": f"{problem.message}{hint}"},
        "locations": [place],
    }


def _uri(file: str) -> str:
    path = Path(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())
