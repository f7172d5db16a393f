"""Slips that newcomers make in YAML: the message says the likely slip, where it is, and the fix.
Several were accepted (a list without dashes was one long name), or told about the next line."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadsheet.problem import Problem
from loadsheet.spec.pipeline_file import check_text
from loadsheet.spec.schema import pipeline_schema

FILE = Path("/nowhere/pipelines/shop/pipeline.yml")
TOP = (
    "version: 1\nsource: {conn_id: s}\nlake: {conn_id: l, bucket: lake}\nwarehouse: {conn_id: w}\n"
)
TABLES = f"{TOP}tables:\n"  # the first table is in line 6
NO_SPACE = "there is no space after the ':'"
CURLY = "curly quotes are not quotes in YAML"

# The end of the file, line and column, a part of the message, the hint.
SLIPS = {
    "no space, first line": (
        f"pipeline:shop\n{TABLES}  a:\n",
        (1, 1, NO_SPACE, "write `pipeline: shop`"),
    ),
    "no space, @": (
        f"{TABLES}  a:\nschedule:@daily\n",
        (7, 1, NO_SPACE, 'write `schedule: "@daily"`'),
    ),
    "no space, a table": (
        f"{TABLES}  a:\n  orders:append\n",
        (7, 3, NO_SPACE, "write `orders: append`"),
    ),
    "no space, of two keys": (
        f"{TABLES}  a:\n    incremental:at\n    mode: merge\n",
        (7, 5, NO_SPACE, "write `incremental: at`"),
    ),
    "no space, an only key": (
        f"{TABLES}  a:\n    mode:merge\n",
        (7, 5, "found 'mode:merge'", "put a space after the ':', `mode: merge`"),
    ),
    "no space, in braces": (
        f"{TABLES}  a: {{mode:merge}}\n",
        (6, 7, "unknown key 'mode:merge'", "put a space after the ':', `mode: merge`; allowed"),
    ),
    "no space, before braces": (
        f"{TABLES}  a:{{mode: merge}}\n",
        (6, 12, "expected a mapping", "put a space after the first ':', `a: {mode`"),
    ),
    "a tab": (f"{TABLES}\ta:\n", (6, 1, "tabs are not allowed", "use spaces")),
    "a no-break space": (
        f"{TABLES}\u00a0 a:\n",
        (6, 1, "the space U+00A0 is not allowed", "replace it with usual spaces"),
    ),
    "no dashes": (
        f"{TABLES}  a:\n    primary_key:\n      x\n      y\n",
        (8, 7, "unquoted text goes on in the next line", "put '- ' before each entry"),
    ),
    "one dash is missing": (
        f"{TABLES}  a:\n    primary_key:\n      - x\n      y\n",
        (9, 7, "", "put '- ' before it if it is an entry of the list above"),
    ),
    "no space after a dash": (
        f"{TABLES}  a:\n    primary_key:\n      -x\n",
        (8, 7, "-x is text, not an entry of a list", "put a space after the '-'"),
    ),
    "a list of tables": (
        f"{TABLES}  - orders\n",
        (6, 3, "expected a mapping with one key per table", "write each table as a key, `orders:`"),
    ),
    "a list of transforms": (
        f"{TABLES}  a:\ntransforms:\n  - sales\n",
        (8, 3, "found a list", "write each transform as a key, `sales:`"),
    ),
    "not indented": (
        f"{TABLES}a:\n",
        (6, 1, "unknown key 'a'", "if it belongs to `tables`, indent it by two more spaces"),
    ),
    "a key next to its table": (
        f"{TABLES}  a:\n  mode: merge\n",
        (7, 9, "found 'merge'", "`mode` is a key of an entry of `tables`: indent it"),
    ),
    "too far right": (
        f"{TABLES}  a:\n   mode: merge\n    incremental: at\n",
        (8, 5, "does not fit the line above it", "begins further right than the one above"),
    ),
    "curly quotes": (
        f"{TABLES}  a: {{mode: “merge”}}\n",
        (6, 13, CURLY, 'write "merge", with straight quotes'),
    ),
    "a key in curly quotes": (f"{TABLES}  ‘a’:\n", (6, 3, CURLY, 'write "a"')),
    "curly quotes and a colon": (
        f"description: “a: b”\n{TABLES}  a:\n",
        (1, 14, CURLY, "write straight quotes"),
    ),
    "an open quote, and quotes below": (
        f'schedule: "@daily\n{TABLES}  a: {{mode: "merge"}}\n',
        (1, 11, "this quote is never closed", "add the closing quote on the same line"),
    ),
    "a colon in text": (
        f"description: Orders: all\n{TABLES}  a:\n",
        (1, 20, "a ':' is not allowed here", '`description: "Orders: all"`'),
    ),
    "yes": (
        f"catchup: yes\n{TABLES}  a:\n",
        (1, 10, "unquoted yes is true", 'write true; if it is text, quote it: "yes"'),
    ),
    "yes, a key": (f"{TABLES}  yes:\n", (6, 3, "unquoted yes is true", 'quote it: "yes"')),
    "a quoted truth value": (
        f'catchup: "true"\n{TABLES}  a:\n',
        (1, 10, "expected true or false", "write it without quotes: true"),
    ),
    "a date": (
        f"start_date: 2026-01-01\n{TABLES}  a:\n",
        (1, 13, "is a date to some YAML parsers", 'quote it: "2026-01-01"'),
    ),
    "cron": (
        f"schedule: * * * * *\n{TABLES}  a:\n",
        (1, 11, "text that starts with '*' must be quoted", 'quote it: "* * * * *"'),
    ),
    "a pattern": (
        f"{TABLES}  *_log:\n",
        (6, 3, "aliases are not allowed", "quote it if it is text"),
    ),
    "columns as a list": (
        f"{TABLES}  a: {{columns: [x, y]}}\n",
        (6, 16, "found a list", "to load only these, {include: [x, y]}; to load all but these,"),
    ),
    "a mode for a table": (
        f"{TABLES}  a: upsert\n",
        (6, 6, "found 'upsert'", "write {mode: merge}"),
    ),
    "an id for a source": (
        f"{TABLES.replace('{conn_id: s}', 's')}  a:\n",
        (2, 9, "expected a mapping with conn_id", "write {conn_id: s}"),
    ),
    "a percentage": (
        f"{TABLES}  a: {{max_shrink: 10%}}\n",
        (6, 19, "found '10%'", "write it as a share: 0.1"),
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_the_slip_is_named_where_it_is_with_its_fix(slip: str) -> None:
    text, (line, column, message, hint) = SLIPS[slip]
    pipeline, problems = check_text(FILE, text)
    assert pipeline is None
    places = [(problem.line, problem.column) for problem in problems]
    assert (line, column) in places, problems
    (problem,) = [one for one in problems if (one.line, one.column) == (line, column)]
    assert message in problem.message
    assert hint in problem.hint


@pytest.mark.parametrize(
    "text",
    [
        f"description: Orders of the shop,\n  and their customers\n{TABLES}  a:\n",
        f"description: \"Orders: all\"\n{TABLES}  a: {{mode: 'replace'}}\n",
        f"{TABLES}  a: {{incremental: {{cursor: n, initial_value: -5}}, primary_key: [n]}}\n",
        f'{TABLES}  "“a”":\n  "-b":\n',
        f"{TABLES}  größe:\n  a:\n    primary_key:\n    - x\n    - y\n",
    ],
)
def test_what_only_looks_like_a_slip_is_accepted(text: str) -> None:
    pipeline, problems = check_text(FILE, text)
    assert pipeline, problems


@pytest.mark.parametrize(
    "text",
    [
        f"password:hunter22x\n{TABLES}  a:\n",
        f"password: @hunter22x\n{TABLES}  a:\n",
        f"password: “hunter22x”\n{TABLES}  a:\n",
        f"password: hunter22x: y\n{TABLES}  a:\n",
        f"password: hunter22x\n  more\n{TABLES}  a:\n",
        f"x: postgres://u:hunter22x@h/d: y\n{TABLES}  a:\n",
        f"{TABLES}  a: {{password:hunter22x}}\n",
        f"{TABLES}  a:\n    password:hunter22x\n",
        f"{TABLES}  a:\n    password:hunter22x\n    mode: merge\n",
        f"{TABLES}  a: {{columns: ['postgres://u:hunter22x@h/d']}}\n",
    ],
)
def test_no_hint_and_no_path_shows_a_secret(text: str) -> None:
    _, problems = check_text(FILE, text)
    assert problems
    assert "hunter22x" not in "\n".join(map(str, problems))


KINDS: dict[str, Any] = {
    "text": "some text",
    "number": 7.25,
    "truth value": True,
    "list": [["nested"]],
    "mapping": {"some key": {"x": 1}},
    "null": None,
}
_TYPES = {
    "text": "string",
    "number": "number",
    "truth value": "boolean",
    "list": "array",
    "mapping": "object",
    "null": "null",
}
WHOLE: dict[str, Any] = yaml.safe_load(f"{TABLES}  orders:\ntransforms:\n  sales:\n")


def _keys(node: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every key of the schema with its own schema; a table and a transform stand for all."""
    definitions = pipeline_schema()["$defs"]
    if "$ref" in node:
        node = {**definitions[node["$ref"].rpartition("/")[2]], **node}
    found = [(path, node)] if path else []
    for name, child in node.get("properties", {}).items():
        found += _keys(child, (*path, name))
    child = node.get("additionalProperties")
    if isinstance(child, dict):
        found += _keys(child, (*path, "orders" if path == ("tables",) else "sales"))
    return found


ALL_KEYS = dict(_keys(pipeline_schema()))


def _problems_of(path: tuple[str, ...], value: Any) -> list[Problem]:
    document = deepcopy(WHOLE)
    place = document
    for key in path[:-1]:
        if not isinstance(place.get(key), dict):
            place[key] = {}
        place = place[key]
    place[path[-1]] = value
    _, problems = check_text(FILE, yaml.safe_dump(document, sort_keys=False))
    return [p for p in problems if p.path.startswith(".".join(path)) and p.severity == "error"]


@pytest.mark.parametrize("path", ALL_KEYS, ids=".".join)
def test_every_key_given_another_kind_of_value_says_what_is_expected(path: tuple[str, ...]) -> None:
    schema = ALL_KEYS[path]
    types = schema.get("type", ())
    allowed = {types} if isinstance(types, str) else set(types)
    if not allowed:
        pytest.skip("any kind; a rule of its own")
    for kind, value in KINDS.items():
        if _TYPES[kind] in allowed:
            continue
        problems = _problems_of(path, value)
        assert problems, f"{kind} is accepted"
        for problem in problems:
            assert problem.line > 0 and problem.column > 0 and problem.code, problem
        first = problems[0]
        assert "expected" in first.message or "is not one of" in first.message, (kind, first)
        assert first.hint or "is not one of" in first.message, (kind, first)


def test_the_sweep_is_of_all_keys() -> None:
    assert len(ALL_KEYS) > 60
    assert ("tables", "orders", "columns", "include") in ALL_KEYS
