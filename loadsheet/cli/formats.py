"""Problems as text with source lines, as JSON, as GitHub annotations and as SARIF 2.1.0."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import typer

from loadsheet import __version__
from loadsheet.errors import InputError
from loadsheet.names import closest
from loadsheet.problem import Problem
from loadsheet.redact import mask_line, visible
from loadsheet.spec.files import MAX_BYTES
from loadsheet.spec.rule_catalog import RULES, links


def as_text(problems: Sequence[Problem]) -> Iterator[str]:
    """Each problem: `file:line:col path: message`, its line with a caret, what to do, why, where to
    read on.

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
        colour = "yellow" if problem.severity == "warning" else "red"
        for line in lines[1:]:
            yield _styled(line, fg=colour)
        if hint:
            yield hint
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
    place = {
        "file": problem.file,
        "line": problem.line,
        "col": problem.column,
        "title": problem.path or "pipeline",
    }
    properties = ",".join(
        f"{key}={_escaped(str(value), more=True)}" for key, value in place.items()
    )
    return f"::{problem.severity} {properties}::{_escaped(text)}"


def explanation(code: str) -> str:
    """The rule `code` in words. Raises InputError naming the known ones."""
    if code not in RULES:
        meant = closest(code, RULES)
        raise InputError(
            f"there is no rule {code!r}{f' (did you mean {meant!r}?)' if meant else ''}:"
            f" {', '.join(RULES)}"
        )
    rule = RULES[code]
    return "\n".join(
        [f"{code}: {rule.why}", f"  fix: {rule.fix}", f"  see: {', '.join(links(code, ''))}"]
    )


def _escaped(text: str, more: bool = False) -> str:
    text = visible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if more else text


def _styled(text: str, **style: Any) -> str:
    # Left out by `typer.echo` where the output is no terminal.
    return text if os.environ.get("NO_COLOR") else typer.style(text, **style)


_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


def as_sarif(problems: Sequence[Problem]) -> dict[str, Any]:
    """The whole document: one run, all rules, one result per problem. Links are relative, as in the
    docs.

    All that GitHub's code scanning calls required is there, but for the fingerprints, which its
    upload adds.
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
        **(
            {"ruleId": problem.code, "ruleIndex": list(RULES).index(problem.code)}
            if problem.code in RULES
            else {}
        ),
        "level": problem.severity,
        "message": {"text": f"{problem.message}{hint}"},
        "locations": [place],
    }


def _uri(file: str) -> str:
    path = Path(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


WIDTH = 80
_TAB = "    "
_BEFORE = 30
"""Cells kept before the place in a line that has to be cut."""
_TOKEN = re.compile(r"""(['"]).*?\1|[\w@.:/-]*\w|.""")
_LINE_END = re.compile(r"\r\n|\n|\r")


def excerpt(problem: Problem, secret_lines: Collection[tuple[str, int]] = ()) -> list[str]:
    """Two lines, the source's and the caret's; none where the file has no such line or cannot be
    read.

    Values that look like secrets are masked; on `secret_lines` (file, line) everything is, but the
    key itself.
    """
    lines = source_lines(problem.file)
    if problem.line > len(lines):
        return []
    line = mask_line(lines[problem.line - 1])
    start = min(problem.column - 1, len(line))
    match = _TOKEN.match(line, start)
    end = match.end() if match else start
    if (problem.file, problem.line) in secret_lines:
        if not line[end:].lstrip().startswith(":"):
            return []  # not a key, so it may be the secret
        line, start, end = line[start:end], 0, end - start
    before, token, after = (
        _printable(part) for part in (line[:start], line[start:end], line[end:])
    )
    number = f"{problem.line:>4} | "
    before, token, after = _cut(before, token, after, WIDTH - len(number))
    caret = "^" * max(1, _cells(token))
    return [f"{number}{before}{token}{after}".rstrip(), f"     | {' ' * _cells(before)}{caret}"]


def end_column(problem: Problem) -> int:
    """The column behind the word that the problem is about; behind its first character where there
    is none to see."""
    lines = source_lines(problem.file)
    line = lines[problem.line - 1] if problem.line <= len(lines) else ""
    match = _TOKEN.match(line, problem.column - 1)
    return match.end() + 1 if match else problem.column + 1


@cache
def source_lines(file: str) -> list[str]:
    """The lines of `file` as problems count them; kept until `source_lines.cache_clear()`."""
    path = Path(file)
    try:
        # A link may lead out of the project: what it leads to is not to be shown.
        if path.is_symlink() or not path.is_file():
            return []
        with path.open("rb") as source:
            text = source.read(MAX_BYTES).decode("utf-8-sig", errors="replace")
    except (OSError, ValueError):
        return []
    return text.split("\n") if path.suffix == ".sql" else _LINE_END.split(text)


def _printable(text: str) -> str:
    """`text` without what would move the cursor, colour the terminal or turn the reading direction."""
    return "".join(map(_printable_character, text))


def _printable_character(char: str) -> str:
    if char == "\t":
        return _TAB
    if char.isprintable():
        return char
    return "\N{REPLACEMENT CHARACTER}"


def _cut(before: str, token: str, after: str, room: int) -> tuple[str, str, str]:
    if _cells(before + token + after) <= room:
        return before, token, after
    if _cells(before) > _BEFORE:
        while _cells(before) > _BEFORE - 1:
            before = before[max(1, len(before) - _BEFORE) :]
        before = "…" + before
    token = _fitting(token, room - _cells(before))
    return before, token, _fitting(after, room - _cells(before + token))


def _fitting(text: str, room: int) -> str:
    if _cells(text) <= room:
        return text
    text = text[:room]
    while text and _cells(text) > room - 1:
        text = text[:-1]
    return text + "…" if room > 0 else ""


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
