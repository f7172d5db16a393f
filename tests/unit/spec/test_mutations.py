"""A spec broken at random is never a traceback: it is still valid, or every problem has a position."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadsheet.spec.load import check_file

VALID = Path(__file__).parents[2] / "specs" / "valid"
TEXT = (VALID / "design_sample" / "pipeline.yml").read_text(encoding="utf-8")
DATA = yaml.safe_load((VALID / "every_key" / "pipeline.yml").read_text(encoding="utf-8"))
SQL = {**{file.stem: "select 1 as one" for file in VALID.rglob("sql/*.sql")}}
ROUNDS = range(300)
ODD: list[Any] = [
    *(None, True, False, 0, -1, 10**30, 0.5, float("nan"), float("inf"), "", " ", "x", "no", "1h", "a,b", "é" * 70),
    *("\0", "../x", "a\nb", "@daily", "* * * * *", "'", [], [None], [[]], ["x", "x"], {}, {"x": None}, {"": {}}),
]
SNIPPETS = [
    *(": ", "- ", "\t", "\n", "  ", "'", '"', "{", "}", "[", "]", "#", "&a ", "*a", "!!x ", "|", ">", "%", "@", ","),
    *("---\n", "...\n", "? ", "<<: ", "\r", "\0", "\x85", "\ufeff", "é", "\\", "~", "on", "1:30", "2026-01-01"),
]


def _write(folder: Path, text: str) -> Path:
    (folder / "sql").mkdir(parents=True)
    for name, sql in SQL.items():
        (folder / "sql" / f"{name}.sql").write_text(sql)
    file = folder / "pipeline.yml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    return file


def _assert_sane(file: Path) -> None:
    pipeline, problems = check_file(file)
    lines = file.read_bytes().count(b"\n") + file.read_bytes().count(b"\r") + 1
    assert (pipeline is None) == any(problem.severity == "error" for problem in problems)
    for problem in problems:
        assert problem.message
        assert problem.column >= 1
        assert problem.file != str(file) or 1 <= problem.line <= lines
        assert str(problem).count("\n") == (1 if problem.hint else 0)


def _places(node: Any) -> list[tuple[Any, Any]]:
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place for key in keys for place in ((node, key), *_places(node[key]))]


def _broken_data(chance: random.Random) -> Any:
    data = copy.deepcopy(DATA)
    for _ in range(chance.randint(1, 4)):
        holder, key = chance.choice(_places(data))
        change = chance.choice(["replace", "delete", "rename", "add"])
        if change == "replace":
            holder[key] = copy.deepcopy(chance.choice(ODD))
        elif change == "delete":
            del holder[key]
        elif isinstance(holder, dict):
            value = holder[key] if change == "add" else holder.pop(key)
            holder[f"{key}{chance.choice(['s', '_', ' ', '.', 'é'])}"] = value
        if not _places(data):
            break
    return data


def _broken_text(chance: random.Random) -> str:
    text = TEXT
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(text))
        end = chance.choice([at, at, at + 1, at + chance.randint(1, 30)])
        text = text[:at] + chance.choice([*SNIPPETS, ""]) + text[end:]
    return text


@pytest.mark.parametrize("seed", ROUNDS)
def test_a_spec_with_odd_values_and_keys_is_never_a_traceback(tmp_path: Path, seed: int) -> None:
    data = _broken_data(random.Random(seed))
    text = json.dumps(data, ensure_ascii=False) if seed % 2 else yaml.safe_dump(data, allow_unicode=True)
    _assert_sane(_write(tmp_path / "shop", text))


@pytest.mark.parametrize("seed", ROUNDS)
def test_a_spec_with_characters_put_in_and_taken_out_is_never_a_traceback(tmp_path: Path, seed: int) -> None:
    _assert_sane(_write(tmp_path / "shop", _broken_text(random.Random(seed))))


@pytest.mark.parametrize("seed", range(30))
def test_random_bytes_are_never_a_traceback(tmp_path: Path, seed: int) -> None:
    file = _write(tmp_path / "shop", "")
    file.write_bytes(random.Random(seed).randbytes(200))
    _assert_sane(file)
