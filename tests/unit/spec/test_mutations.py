"""A randomly broken spec never causes a traceback: it is valid, or each problem has a position."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadsheet.cli.formats import as_text
from loadsheet.spec.pipeline_file import check_file
from loadsheet.spec.rule_catalog import RULES

VALID = Path(__file__).parents[2] / "specs" / "valid"
TEXT = (VALID / "design_sample" / "pipeline.yml").read_text(encoding="utf-8")
DATA = yaml.safe_load((VALID / "every_key" / "pipeline.yml").read_text(encoding="utf-8"))
SQL = {**{file.stem: "select 1 as one" for file in VALID.rglob("sql/*.sql")}}
FLIGHTS = VALID.parents[2] / "pipelines" / "flights"
FLIGHTS_TEXT = (FLIGHTS / "pipeline.yml").read_text(encoding="utf-8")
FLIGHTS_SQL = {file.stem: file.read_text(encoding="utf-8") for file in FLIGHTS.glob("sql/*.sql")}
ROUNDS = range(200)
LONG = bool(os.environ.get("LOADSHEET_LONG"))
MEASURED = 10_000 if LONG else 80
MOST_SECONDS, MOST_MB = 0.2, 100
ODD: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        10**30,
        0.5,
        float("nan"),
        float("inf"),
        "",
        " ",
        "x",
        "no",
        "1h",
        "a,b",
        "é" * 70,
    ),
    *(
        "\0",
        "../x",
        "a\nb",
        "@daily",
        "* * * * *",
        "'",
        [],
        [None],
        [[]],
        ["x", "x"],
        {},
        {"x": None},
        {"": {}},
    ),
]
SNIPPETS = [
    *(
        ": ",
        "- ",
        "\t",
        "\n",
        "  ",
        "'",
        '"',
        "{",
        "}",
        "[",
        "]",
        "#",
        "&a ",
        "*a",
        "!!x ",
        "|",
        ">",
        "%",
        "@",
        ",",
    ),
    *(
        "---\n",
        "...\n",
        "? ",
        "<<: ",
        "\r",
        "\0",
        "\x85",
        "\ufeff",
        "é",
        "\\",
        "~",
        "on",
        "1:30",
        "2026-01-01",
    ),
]


SQL_SNIPPETS = [
    *(
        "(",
        ")",
        "'",
        '"',
        "$$",
        "/*",
        "--",
        ";",
        ",",
        ".",
        "::",
        ":x",
        "[",
        "]",
        " FROM ",
        " SELECT ",
        " WITH x AS (",
    ),
    *(
        " JOIN staging.nowhere ",
        "((((" * 500,
        "NOT " * 2000,
        " UNION SELECT 1 " * 200,
        "\0",
        "\x85",
        "é",
        "\\",
        "DELETE ",
    ),
]


def _write(folder: Path, text: str, sqls: dict[str, str] = SQL) -> Path:
    (folder / "sql").mkdir(parents=True, exist_ok=True)
    for name, sql in sqls.items():
        (folder / "sql" / f"{name}.sql").write_text(sql, encoding="utf-8", errors="surrogatepass")
    file = folder / "pipeline.yml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    return file


def _assert_sane(file: Path) -> bool:
    """Whether the spec is broken; what its check finds is sound in any case."""
    pipeline, problems = check_file(file)
    assert (pipeline is None) == any(problem.severity == "error" for problem in problems)
    for problem in problems:
        assert problem.message
        assert problem.code in RULES
        assert problem.file == str(file) or Path(problem.file).parent == file.parent / "sql"
        data = Path(problem.file).read_bytes()
        assert 1 <= problem.line <= data.count(b"\n") + data.count(b"\r") + 1
        assert 1 <= problem.column <= len(data) + 1
        assert str(problem).count("\n") == (1 if problem.hint else 0)
    assert all("\n" not in line for line in as_text(problems))
    return pipeline is None


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


def _broken_text(chance: random.Random, text: str = TEXT, snippets: list[str] = SNIPPETS) -> str:
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(text))
        end = chance.choice([at, at, at + 1, at + chance.randint(1, 30)])
        text = text[:at] + chance.choice([*snippets, ""]) + text[end:]
    return text


def _broken_sql(chance: random.Random) -> dict[str, str]:
    return {
        name: _broken_text(chance, sql, SQL_SNIPPETS) if chance.random() < 0.3 else sql
        for name, sql in FLIGHTS_SQL.items()
    }


def _mutant(folder: Path, seed: int) -> Path:
    """The spec number `seed`, broken in one of four ways."""
    chance = random.Random(seed)
    if seed % 4 == 0:
        return _write(folder, json.dumps(_broken_data(chance), ensure_ascii=False))
    if seed % 4 == 1:
        return _write(folder, yaml.safe_dump(_broken_data(chance), allow_unicode=True))
    if seed % 4 == 2:
        return _write(
            folder,
            _broken_text(chance, chance.choice([TEXT, FLIGHTS_TEXT])),
            {**SQL, **FLIGHTS_SQL},
        )
    return _write(folder, FLIGHTS_TEXT, _broken_sql(chance))


@pytest.mark.parametrize("seed", ROUNDS)
def test_a_spec_with_odd_values_and_keys_is_never_a_traceback(tmp_path: Path, seed: int) -> None:
    data = _broken_data(random.Random(seed))
    text = (
        json.dumps(data, ensure_ascii=False)
        if seed % 2
        else yaml.safe_dump(data, allow_unicode=True)
    )
    _assert_sane(_write(tmp_path / "shop", text))


@pytest.mark.parametrize("seed", ROUNDS)
def test_a_spec_with_characters_put_in_and_taken_out_is_never_a_traceback(
    tmp_path: Path, seed: int
) -> None:
    _assert_sane(_write(tmp_path / "shop", _broken_text(random.Random(seed))))


@pytest.mark.parametrize("seed", range(30))
def test_random_bytes_are_never_a_traceback(tmp_path: Path, seed: int) -> None:
    file = _write(tmp_path / "shop", "")
    file.write_bytes(random.Random(seed).randbytes(200))
    _assert_sane(file)


@pytest.mark.parametrize("seed", range(40))
def test_broken_sql_is_never_a_traceback(tmp_path: Path, seed: int) -> None:
    _assert_sane(_write(tmp_path / "flights", FLIGHTS_TEXT, _broken_sql(random.Random(seed))))


def measure(folder: Path, count: int) -> None:
    """Check `count` mutants; print the most CPU time one took, the most memory ever taken, and how
    many had errors.

    One that is slow is timed again and the best counts: what else the machine does is not the
    check's.
    """
    _assert_sane(_write(folder / "first", FLIGHTS_TEXT, FLIGHTS_SQL))  # imports are not a spec's
    slowest, broken = 0.0, 0
    for seed in range(count):
        file = _mutant(folder / "flights", seed)
        seconds = _timed(file)
        if seconds > MOST_SECONDS / 2:
            seconds = min(_timed(file) for _ in range(5))
        slowest = max(slowest, seconds)
        broken += _assert_sane(file)
    peak = max(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if "VmHWM" in line
    )
    print(json.dumps({"mutants": count, "broken": broken, "slowest": slowest, "mb": peak / 1024}))


def _timed(file: Path) -> float:
    started = time.process_time()
    check_file(file)
    return time.process_time() - started


@pytest.mark.timeout(3600)
def test_no_mutant_takes_long_or_much(tmp_path: Path) -> None:
    code = (
        f"from tests.unit.spec.test_mutations import *; measure(Path({str(tmp_path)!r}),"
        f" {MEASURED})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=VALID.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert found["slowest"] < MOST_SECONDS
    assert found["mb"] < MOST_MB
    assert found["broken"] > MEASURED / 2
