"""One way for all commands to break lines: on a terminal between words and at its width, in a pipe
never, so that `grep` finds a message. `check`, `doctor` and errors let the terminal cut words."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from loadsheet.cli.output import fitted
from tests.forked import FORKS, command_line, run_here
from tests.unit.cli.conftest import SPEC, Cli, write_pipeline

COMMANDS = {
    "check": ["check", "broken"],
    "explain": ["check", "--explain", "unknown-key"],
    "error": ["plan", "nope"],
    "spec error": ["run", "broken"],
    "doctor": ["doctor", "shop"],
    "test": ["test", "broken"],
}
ROOT = str(Path(__file__).parents[3])
BROKEN = SPEC.replace("pipeline: shop", "pipeline: broken").replace(
    "customers:\n", 'customers: {moed: "a value so long that the line has to be cut somewhere"}\n'
)


def on_screen(arguments: list[str], columns: int) -> list[str]:
    """The lines that a terminal of so many columns would be sent, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    screen = os.ttyname(theirs)
    given = (arguments, {**inherited, "TERM": "xterm"}, os.getcwd(), screen, screen)
    process = FORKS.Process(target=run_here, args=given)
    process.start()
    shown = b""
    while ours in wait([ours, process.sentinel]):
        shown += os.read(ours, 65536)
    process.join()
    os.close(theirs)
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "")
    return text.splitlines()


def piped(arguments: list[str]) -> list[str]:
    done = command_line(arguments, {**os.environ, "COLUMNS": "40"})
    return (done.stdout + done.stderr).splitlines()


def words(lines: list[str]) -> list[str]:
    """Without figures: a latency is another in each run."""
    return [re.sub(r"\d", "0", word) for line in lines for word in line.split()]


@pytest.mark.parametrize("command", COMMANDS)
def test_lines_fit_the_terminal_and_words_stay_whole(project: Path, command: str) -> None:
    write_pipeline(project, "broken", BROKEN)
    whole = piped(COMMANDS[command])
    for columns in (60, 80, 140):
        shown = on_screen(COMMANDS[command], columns)
        too_long = [line for line in shown if len(line) > columns and " " in line.strip()]
        assert too_long == [], columns
        # An excerpt of a file is cut to the screen; all other words are there, and in one piece.
        excerpts = re.compile(r" *\d* \| ")
        assert words([line for line in shown if not excerpts.match(line)]) == words(
            [line for line in whole if not excerpts.match(line)]
        ), columns


def test_in_a_pipe_a_message_is_one_line(project: Path) -> None:
    write_pipeline(project, "broken", BROKEN)
    lines = piped(["check", "broken"])
    assert any("did you mean 'mode'?" in line and line.endswith("granularity") for line in lines)


@pytest.mark.parametrize("command", ["check", "plan shop", "plan nope", "test shop", "doctor shop"])
def test_without_an_output_a_command_ends_by_itself(project: Path, command: str) -> None:
    line = f"{sys.executable} -m loadsheet {command} >&- 2>err"
    done = subprocess.run(["sh", "-c", line], env={**os.environ, "PYTHONPATH": ROOT})
    assert done.returncode in (0, 1, 2)
    assert "Traceback" not in Path("err").read_text()


def test_what_has_no_room_for_a_break_stays(cli: Cli) -> None:
    assert fitted("a" * 100, 80) == "a" * 100
    assert fitted("  hint: " + "b" * 100, 80) == "  hint:\n    " + "b" * 100
    assert fitted(f"   7 | {'c ' * 60}", 80) == f"   7 | {'c ' * 60}"
    assert fitted("", 80) == "" and fitted("a\n\nb", 80) == "a\n\nb"
