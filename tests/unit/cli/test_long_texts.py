"""What comes from outside may be of any length; what is printed is not. `loadsheet check` of 64 KB
of bad YAML on one line took four minutes, and of 1 MiB on many lines it printed 20 MB."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadsheet.cli import formats
from loadsheet.cli.check import first_problems
from loadsheet.cli.errors import MOST_PROBLEMS
from loadsheet.cli.formats import as_text
from loadsheet.errors import Refused
from loadsheet.problem import Problem
from loadsheet.redact import clean, register_secrets
from loadsheet.spec.pipeline_file import check_file
from loadsheet.wording import LONGEST_MESSAGE, LONGEST_TEXT, counted, listed, shortened
from tests.unit.cli.conftest import SPEC, Cli
from tests.unit.cli.test_run import Engine, pretending

HEAD = SPEC.partition("tables:")[0]


def write(project: Path, count: int, end: str = "\n") -> Path:
    """A pipeline file with `count` unknown keys, each before `end`."""
    file = project / "pipelines/shop/pipeline.yml"
    entries = "".join(f"t{number}: {{moder: merge}},{end}" for number in range(count))
    file.write_text(f"{HEAD}tables: {{{entries}}}\n")
    return file


def test_of_many_problems_some_are_printed(cli: Cli, project: Path) -> None:
    write(project, 1_000)
    result = cli("check")
    assert result.code == 2 and len(result.out) < 1_000 * MOST_PROBLEMS
    more, counts = result.out.splitlines()[-2:]
    # 1,000 keys, and two warnings of the transforms, whose tables are not loaded.
    assert more == f"{1_002 - MOST_PROBLEMS:,} more problems not shown: --all shows them"
    assert counts.startswith("1 file checked: 1,000 errors, 2 warnings")
    everything = cli("check", "--all").out
    assert everything.count("unknown key 'moder'") == 1_000 and "not shown" not in everything
    assert len(cli("check", "--format", "json").json["problems"]) == 1_002


def test_a_run_of_such_a_file_prints_no_more(cli: Cli, project: Path, engine: Engine) -> None:
    write(project, 1_000)
    result = cli("run", "shop")
    assert (result.code, result.out) == (2, "")
    assert result.err.count("unknown key 'moder'") <= MOST_PROBLEMS
    assert "more problems not shown: `loadsheet check --all` shows them" in result.err


def test_an_installed_package_names_no_page_that_it_does_not_have(
    cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, 1)
    assert "see: docs/rules.md#unknown-key" in cli("check").out
    monkeypatch.setattr(formats, "HAS_PAGES", False)
    out = cli("check").out
    assert "see: loadsheet check --explain unknown-key" in out and "docs/" not in out
    explained = cli("check", "--explain", "unknown-key").out
    assert "fix: " in explained and "docs/" not in explained


def test_a_warning_takes_no_place_of_an_error() -> None:
    def problem(line: int, severity: str) -> Problem:
        return Problem(file="f", line=line, column=1, path="", message="m", severity=severity)

    warnings = [problem(line, "warning") for line in range(1, 100)]
    error = problem(100, "error")
    assert first_problems([*warnings, error]) == [*warnings[: MOST_PROBLEMS - 1], error]


@pytest.mark.parametrize("end", ["\n", " "])
def test_twice_the_text_is_twice_the_work(
    project: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in characters that the excerpts look at, not in seconds."""
    looked_at = 0
    printable, mask = formats._printable, formats.mask_line

    def count_printable(text: str) -> str:
        nonlocal looked_at
        looked_at += len(text)
        return printable(text)

    def count_masked(line: str) -> str:
        nonlocal looked_at
        looked_at += len(line)
        return mask(line)

    monkeypatch.setattr(formats, "_printable", count_printable)
    monkeypatch.setattr(formats, "mask_line", count_masked)
    work: list[int] = []
    for count in (1_000, 2_000):
        looked_at = 0
        _, problems = check_file(write(project, count, end))
        assert len(problems) >= count
        for _line in as_text(problems):
            pass
        work.append(looked_at)
    assert work[1] / work[0] < 2.6


def test_an_error_of_a_server_is_cut_wherever_it_is_printed(
    cli: Cli, project: Path, engine: Engine
) -> None:
    error = Refused("x" * 3_000_000)
    engine(pretending({"extract.extract_orders": error}))
    for arguments in (("run", "shop"), ("run", "shop", "-v"), ("run", "shop", "--json")):
        result = cli(*arguments)
        assert result.code == 1
        assert len(result.out + result.err) < 2 * LONGEST_MESSAGE
    assert f"… ({3_000_000 - LONGEST_MESSAGE:,} more characters)" in cli("run", "shop").out


def test_what_is_cut_holds_no_half_of_a_secret() -> None:
    register_secrets("0123456789abcdef")
    text = clean("x" * (LONGEST_TEXT - 8) + " 0123456789abcdef" + "y" * 100)
    assert "0123" not in text and text.startswith("xxx") and text.endswith(" more characters)")


def test_counts_and_lists() -> None:
    assert (counted(1, "row"), counted(0, "row")) == ("1 row", "0 rows")
    assert counted(12_000, "row has", "rows have") == "12,000 rows have"
    assert listed(["a", "b", "c"], 2) == "a, b, c"  # `and 1 more` would not be shorter
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert (shortened("abc", 3), shortened("abcd", 3)) == ("abc", "abc… (1 more character)")
