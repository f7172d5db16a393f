"""Problems as text for people, JSON for scripts, and GitHub annotations. SARIF is in `sarif.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from loadsheet.cli.excerpt import excerpt, source_lines
from loadsheet.errors import InputError
from loadsheet.spec.codes import RULES, links
from loadsheet.spec.problem import Problem
from loadsheet.spec.words import close
from loadsheet.visible import visible


def as_text(problems: Sequence[Problem]) -> Iterator[str]:
    """Each problem: `file:line:col path: message`, its line with a caret, what to do, why, where to read on.

    The reason of a rule is told once; with the tenth problem of a kind it would only be in the way.
    """
    secret = {(p.file, p.line) for p in problems if p.code == "connection-in-spec"}
    told: set[str] = set()
    source_lines.cache_clear()
    for problem in problems:
        head, _, hint = str(problem).partition("\n")
        lines = excerpt(problem, secret)
        yield _styled(head, bold=True)
        yield from lines[:1]
        yield from (_styled(line, fg="yellow" if problem.severity == "warning" else "red") for line in lines[1:])
        yield from [hint] if hint else []
        if problem.code in RULES and problem.code not in told:
            told.add(problem.code)
            yield f"  why: {RULES[problem.code].why}"
        yield f"  see: {', '.join(links(problem.code, problem.path))}"


def as_json(problem: Problem) -> dict[str, Any]:
    """The problem as plain values, with its links."""
    return {**problem.as_dict(), "see": links(problem.code, problem.path)}


def as_annotation(problem: Problem) -> str:
    """A GitHub Actions workflow command; its properties and its text are escaped differently."""
    text = f"{problem.message}\nhint: {problem.hint}" if problem.hint else problem.message
    text += f"\nsee: {', '.join(links(problem.code, problem.path))}"
    place = {"file": problem.file, "line": problem.line, "col": problem.column, "title": problem.path or "pipeline"}
    properties = ",".join(f"{key}={_escaped(str(value), more=True)}" for key, value in place.items())
    return f"::{problem.severity} {properties}::{_escaped(text)}"


def explanation(code: str) -> str:
    """The rule `code` in words. Raises InputError naming the known ones."""
    if code not in RULES:
        meant = close(code, RULES)
        raise InputError(
            f"there is no rule {code!r}{f' (did you mean {meant!r}?)' if meant else ''}: {', '.join(RULES)}"
        )
    rule = RULES[code]
    return "\n".join([f"{code}: {rule.why}", f"  fix: {rule.fix}", f"  see: {', '.join(links(code, ''))}"])


def _escaped(text: str, more: bool = False) -> str:
    text = visible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if more else text


def _styled(text: str, **style: Any) -> str:
    # Left out by `typer.echo` where the output is no terminal.
    return text if os.environ.get("NO_COLOR") else typer.style(text, **style)
