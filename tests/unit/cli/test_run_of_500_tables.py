"""What `loadsheet run` prints of 500 tables, in a pipe and on a terminal of 80 columns: counts,
what changed, and the failures last. It printed 3,004 lines of an idle run, the failure 750 lines
above the prompt, and cut words at the edge of the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from loadsheet.cli.summary import MOST_LINES
from loadsheet.errors import Refused
from loadsheet.outcome import Outcome, skipped
from tests.unit.cli.conftest import SPEC, Cli
from tests.unit.cli.test_run import Engine, pretending

HEAD = SPEC.partition("tables:")[0]
NAMES = [f"table_{number:03}" for number in range(500)]
IDLE = skipped("nothing new since 2026-01-01 00:00:00+00", reason="nothing new")
LOADED = Outcome(status="done", message="1 row, rebuilt", counts={"extracted": 1})
WIDENED = Outcome(
    status="done",
    message="1 inserted, 0 updated, 0 deleted; widened a to bigint",
    remarks=("widened a to bigint",),
)
ADVICE = "the server refused it for a reason that takes more words than a line has. Next: ask"


@pytest.fixture
def many(project: Path) -> Path:
    """The project's pipeline, with 500 tables in place of its own."""
    file = project / "pipelines/shop/pipeline.yml"
    file.write_text(f"{HEAD}tables:\n" + "".join(f"  {name}:\n" for name in NAMES))
    return file


def outcomes(result: Outcome) -> dict[str, Outcome | Exception]:
    return {f"{kind}.{kind}_{name}": result for kind in ("extract", "load") for name in NAMES}


def failing(name: str, reason: str) -> Refused:
    """The error of an extract step, as the engine raises it."""
    place = f"shop.{name}: extract failed in run r1: "
    error = Refused(f"{place}{reason}")
    error.place = place
    return error


def test_an_idle_run_is_two_lines(cli: Cli, many: Path, engine: Engine) -> None:
    engine(pretending(outcomes(IDLE)))
    first, last = cli("run", "shop").out.splitlines()
    assert first == "skipped   500 tables  nothing new"
    assert last.startswith("shop: 1,001 skipped in ")


def test_what_changed_is_named_and_a_long_list_is_cut(cli: Cli, many: Path, engine: Engine) -> None:
    changed = {**outcomes(LOADED), "load.load_table_444": WIDENED}
    engine(pretending(changed))
    lines = cli("run", "shop").out.splitlines()
    assert len(lines) == MOST_LINES + 2
    assert lines[0].startswith("loaded    table_000  1 row, rebuilt (")
    # What is unusual is not among those that are cut off.
    assert lines[MOST_LINES - 1].startswith("loaded    table_444  1 inserted,")
    assert lines[-2] == f"loaded    {500 - MOST_LINES} more: loadsheet run shop -v lists all"
    assert len(cli("run", "shop", "-v").out.splitlines()) > 3 * 500


def test_a_table_with_a_remark_is_not_counted_among_the_others(
    cli: Cli, many: Path, engine: Engine
) -> None:
    held = skipped("nothing new; held back by session 5", ("held back by session 5",))
    engine(pretending({**outcomes(IDLE), "extract.extract_table_007": held}))
    lines = cli("run", "shop").out.splitlines()
    assert lines[:2] == [
        "skipped   499 tables  nothing new",
        "skipped   table_007   nothing new; held back by session 5",
    ]


def test_one_failure_is_at_the_end(cli: Cli, many: Path, engine: Engine) -> None:
    engine(pretending({**outcomes(LOADED), "extract.extract_table_003": failing(NAMES[3], ADVICE)}))
    lines = cli("run", "shop").out.splitlines()
    assert lines[-4].startswith("failed    extract.extract_table_003 (")
    assert lines[-3] == f"  {ADVICE}"
    assert lines[-2] == "not run   load.load_table_003 (an earlier step failed)"
    assert lines[-1].startswith("shop: ")


def test_500_failures_for_one_reason_are_one(cli: Cli, many: Path, engine: Engine) -> None:
    engine(
        pretending({f"extract.extract_{name}": failing(name, "no route to host") for name in NAMES})
    )
    out = cli("run", "shop").out
    summary = out[out.index("\nfailed  ") + 1 :].splitlines()
    assert summary[0].startswith(
        "failed    extract.extract_table_000, extract.extract_table_001, extract.extract_table_002"
        " and 497 more ("
    )
    assert summary[1] == "  no route to host"
    assert summary[2].startswith("not run   load.load_table_000, ") and len(summary) == 4
    assert len(out.splitlines()) < 30


def test_500_failures_for_500_reasons_are_bounded(cli: Cli, many: Path, engine: Engine) -> None:
    engine(pretending({f"extract.extract_{name}": failing(name, f"no {name}") for name in NAMES}))
    out = cli("run", "shop").out
    assert len(out.splitlines()) < 4 * MOST_LINES
    assert f"failed    {500 - MOST_LINES} more steps: loadsheet run shop -v lists all\n" in out
    assert "\n  no table_499\n" in cli("run", "shop", "-v").out


ON_A_TERMINAL = """
import sys, types
from tests.unit.cli import test_run_of_500_tables as this
outcomes = this.outcomes(this.LOADED)
outcomes["extract.extract_table_003"] = this.failing("table_003", this.ADVICE)
runner = sys.modules["loadsheet.engine.runner"] = types.ModuleType("loadsheet.engine.runner")
runner.run_pipeline = this.pretending(outcomes)
preflight = types.ModuleType("loadsheet.engine.preflight")
preflight.preflight = lambda *given: None
sys.modules[preflight.__name__] = preflight
from loadsheet.cli.main import app
app(["run", "shop"])
"""


def test_on_a_terminal_words_stay_whole(many: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {
        **{name: value for name, value in os.environ.items() if name != "COLUMNS"},
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "TERM": "xterm",
    }
    with subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL], stdout=theirs, stderr=theirs, env=environment
    ):
        os.close(theirs)
        shown = b""
        while True:
            try:
                block = os.read(ours, 1 << 16)
            except OSError:  # the other side is closed
                break
            shown += block
    os.close(ours)
    # The bars are erased line by line; what stays comes after the last of them.
    text = shown.decode().rpartition("\x1b[2K")[2]
    lines = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text).replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) < MOST_LINES + 8
    failure = next(index for index, line in enumerate(lines) if line.startswith("failed"))
    assert " ".join(line.strip() for line in lines[failure + 1 : failure + 3]) == ADVICE
    assert not lines[failure + 1].startswith("   ") and len(lines[failure + 1]) > 60
