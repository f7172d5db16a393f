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
from loadsheet.cli.output import fitted
from loadsheet.errors import InputError
from loadsheet.names import closest
from loadsheet.problem import Problem
from loadsheet.redact import mask_line, visible
from loadsheet.spec.files import MAX_BYTES
from loadsheet.spec.rule_catalog import RULES, links

HAS_PAGES = (Path(__file__).parents[2] / "docs" / "rules.md").is_file()
"""Whether this is a checkout, whose pages the links of problems name."""
WIDTH = 80
"""Cells of an excerpt: what a terminal has at least."""
_TAB = "    "
# Cells kept before the place in a line that has to be cut.
_BEFORE = 30
# Characters of a line that are looked at, before and after the place: more than fit the screen. A
# file may be one line, and cutting all of it for each of its problems took minutes.
_NEAR = 4 * WIDTH
# What a problem points at: a quoted text, a word, a path, or one character.
_TOKEN = re.compile(r"""(['"]).*?\1|[\w@.:/-]*\w|.""")
_LINE_END = re.compile(r"\r\n|\n|\r")
_SARIF_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


def as_text(problems: Sequence[Problem], width: int | None = None) -> Iterator[str]:
    """Each problem: `file:line:col path: message`, the line with a caret, the hint, the reason, and
    links, for a terminal of `width` columns.

    The reason of a rule is printed once: repeated with every problem, it would hide them.
    """
    # Such a line holds a password, and nothing in its text may show that.
    secret = {(p.file, p.line) for p in problems if p.code == "connection-in-spec"}
    explained: set[str] = set()
    forget_files()
    for problem in problems:
        head, _, hint = str(problem).partition("\n")
        lines = excerpt(problem, secret, min(width or WIDTH, WIDTH))
        yield _styled(fitted(head, width), bold=True)
        yield from lines[:1]
        colour = "yellow" if problem.severity == "warning" else "red"
        for line in lines[1:]:
            yield _styled(line, fg=colour)
        if hint:
            yield fitted(hint, width)
        if problem.code in RULES and problem.code not in explained:
            explained.add(problem.code)
            yield fitted(f"  why: {RULES[problem.code].why}", width)
        yield fitted(f"  see: {', '.join(_see(problem))}", width)


def _see(problem: Problem) -> Sequence[str]:
    """Where to read more: the pages of a checkout; an installed package has none, but explains."""
    if not HAS_PAGES and problem.code in RULES:
        return [f"loadsheet check --explain {problem.code}"]
    return links(problem.code, problem.path)


def as_json(problem: Problem) -> dict[str, Any]:
    """The problem for `--format json`, with its links."""
    return {**problem.as_dict(), "see": links(problem.code, problem.path)}


def as_annotation(problem: Problem) -> str:
    """The problem as a GitHub Actions workflow command."""
    # An annotation shows its message only, so the hint and the links are part of it.
    text = problem.message
    if problem.hint:
        text += f"\nhint: {problem.hint}"
    text += f"\nsee: {', '.join(links(problem.code, problem.path))}"
    properties = (
        f"file={_escaped_property(problem.file)}",
        f"line={problem.line}",
        f"col={problem.column}",
        f"title={_escaped_property(problem.path or 'pipeline')}",
    )
    return f"::{problem.severity} {','.join(properties)}::{_escaped(text)}"


def explanation(code: str) -> str:
    """The reason of the rule `code`, its fix and links. Raises InputError with the rules there
    are."""
    if code not in RULES:
        meant = closest(code, RULES)
        suggestion = f" (did you mean {meant!r}?)" if meant else ""
        raise InputError(f"there is no rule {code!r}{suggestion}: {', '.join(RULES)}")
    rule = RULES[code]
    text = f"{code}: {rule.why}\n  fix: {rule.fix}"
    if HAS_PAGES:
        text += f"\n  see: {', '.join(links(code, ''))}"
    return text


def _escaped(text: str) -> str:
    return visible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escaped_property(text: str) -> str:
    # In a property, these two would end the value.
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def _styled(text: str, **style: Any) -> str:
    # `typer.echo` removes the style where the output is not a terminal, but ignores NO_COLOR.
    if os.environ.get("NO_COLOR"):
        return text
    return typer.style(text, **style)


def as_sarif(problems: Sequence[Problem]) -> dict[str, Any]:
    """The document: one run, all rules, one result per problem. Links are relative, as in the docs.

    It has everything that GitHub's code scanning requires, except the fingerprints, which its
    upload adds.
    """
    forget_files()
    rules: list[dict[str, Any]] = []
    for code, rule in RULES.items():
        (link,) = links(code, "")
        # Code scanning shows the Markdown where it can, and the text elsewhere.
        help_text = {
            "text": f"{rule.fix}\nSee {link}",
            "markdown": f"{rule.fix}\n\nSee `{link}`.",
        }
        sarif_rule = {
            "id": code,
            "name": code.title().replace("-", ""),
            "shortDescription": {"text": rule.why},
            "fullDescription": {"text": f"{rule.why} {rule.fix}"},
            "help": help_text,
        }
        rules.append(sarif_rule)
    driver = {"name": "loadsheet", "version": __version__, "rules": rules}
    results = [_result(problem) for problem in problems]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(problem: Problem) -> dict[str, Any]:
    path = Path(problem.file)
    uri = path.as_uri() if path.is_absolute() else quote(path.as_posix())
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": uri},
            "region": {
                "startLine": problem.line,
                "startColumn": problem.column,
                "endLine": problem.line,
                "endColumn": end_column(problem),
            },
        },
    }
    if problem.path:
        location["logicalLocations"] = [{"fullyQualifiedName": problem.path}]
    result: dict[str, Any] = {}
    if problem.code in RULES:
        result["ruleId"] = problem.code
        result["ruleIndex"] = list(RULES).index(problem.code)
    text = problem.message
    if problem.hint:
        text += f"\n{problem.hint}"
    return {
        **result,
        "level": problem.severity,
        "message": {"text": text},
        "locations": [location],
    }


def excerpt(
    problem: Problem, secret_lines: Collection[tuple[str, int]] = (), width: int = WIDTH
) -> list[str]:
    """The line of the source and the line of the caret, each of at most `width` cells; none where
    the file has no such line or cannot be read.

    Values that look like secrets are masked; on `secret_lines` (file, line) everything is, but the
    key itself.
    """
    lines = source_lines(problem.file)
    if problem.line > len(lines):
        return []
    line = _masked_line(problem.file, problem.line)
    start = min(problem.column - 1, len(line))
    end = _token_end(line, start)
    if (problem.file, problem.line) in secret_lines:
        if not line[end:].lstrip().startswith(":"):
            return []  # not a key, so it may be the secret
        line = line[start:end]
        end -= start
        start = 0
    before = _printable(line[max(0, start - _NEAR) : start])
    token = _printable(line[start:end])
    after = _printable(line[end : end + _NEAR])
    number = f"{problem.line:>4} | "
    before, token, after = _cut(before, token, after, width - len(number))
    carets = "^" * max(1, _cells(token))
    return [f"{number}{before}{token}{after}".rstrip(), f"     | {' ' * _cells(before)}{carets}"]


def end_column(problem: Problem) -> int:
    """The column after the word that the problem is about, or after one character where the line
    cannot be read."""
    lines = source_lines(problem.file)
    start = problem.column - 1
    end = start
    if problem.line <= len(lines):
        end = _token_end(lines[problem.line - 1], start)
    return max(end, start + 1) + 1


def _token_end(line: str, start: int) -> int:
    """Where the word ends that begins at `start`; `start` where none does."""
    match = _TOKEN.match(line, start, start + _NEAR)
    return match.end() if match else start


def forget_files() -> None:
    """Read files again: they may have changed since their problems were last printed."""
    source_lines.cache_clear()
    _masked_line.cache_clear()


@cache
def _masked_line(file: str, number: int) -> str:
    return mask_line(source_lines(file)[number - 1])


@cache
def source_lines(file: str) -> list[str]:
    """The lines of `file` as problems count them; kept until `forget_files`."""
    path = Path(file)
    try:
        # A link may lead out of the project, to a file that must not be shown.
        if path.is_symlink() or not path.is_file():
            return []
        with path.open("rb") as source:
            text = source.read(MAX_BYTES).decode("utf-8-sig", errors="replace")
    except (OSError, ValueError):
        return []
    if path.suffix == ".sql":  # in SQL, problems count lines by newlines alone
        return text.split("\n")
    return _LINE_END.split(text)


def _printable(text: str) -> str:
    """`text` without what would move the cursor, colour the terminal or turn the reading
    direction."""
    printable = ""
    for char in text:
        if char == "\t":
            printable += _TAB
        elif char.isprintable():
            printable += char
        else:
            printable += "\N{REPLACEMENT CHARACTER}"
    return printable


def _cut(before: str, token: str, after: str, room: int) -> tuple[str, str, str]:
    """The three parts of a line cut to `room` cells, first far from the token."""
    if _cells(before + token + after) <= room:
        return before, token, after
    if _cells(before) > _BEFORE:
        # A character takes up to two cells, so cutting by characters takes more than one turn.
        while _cells(before) > _BEFORE - 1:
            before = before[max(1, len(before) - _BEFORE) :]
        before = "…" + before
    token = _fitting(token, room - _cells(before))
    return before, token, _fitting(after, room - _cells(before + token))


def _fitting(text: str, room: int) -> str:
    if _cells(text) <= room:
        return text
    if room <= 0:
        return ""
    text = text[:room]
    while text and _cells(text) > room - 1:
        text = text[:-1]
    return text + "…"


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
