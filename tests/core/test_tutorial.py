"""The tutorial is run as it is written: its files are written, its commands run, its outputs
compared."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.project import ROOT

PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"\n]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
# What differs from run to run, and from machine to machine.
VARIES = re.compile(
    r"\d{4}-\d\d-\d\d[T ][\d:.]+(?:Z|\+00| UTC)?|\d+\.\d s\b|[\d,]+ bytes|\b\d+[sm]\b|(?<="
    r" )\d+\.\d(?=\s|$)"
)
# progress, which a terminal does not keep
LIVE = re.compile(r"^\S+ (started|done|skipped)(:| |$)(?!  )")
REWRITE = "REWRITE_TUTORIAL"  # set it to write what the commands print now into the page


@dataclass(frozen=True)
class Block:
    """A fenced block of the page."""

    language: str
    title: str
    text: str
    start: int
    end: int


def blocks() -> list[Block]:
    """The page's blocks in order, but for the last section, which is for other readers."""
    text = PAGE.read_text("utf-8").partition("## With servers of your own")[0]
    return [Block(m[1], m[2] or "", m[3], m.start(3), m.end(3)) for m in BLOCK.finditer(text)]


@contextmanager
def reader(home: Path) -> Iterator[Path]:
    """The folder `~/shop` of somebody whose first terminal runs the tutorial's servers."""
    folder = home / "shop"
    folder.mkdir()
    command = next(block.text for block in blocks() if block.title.startswith("Terminal 1"))
    servers = subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env=environment(home),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert servers.stdout is not None
        assert "The servers are up" in servers.stdout.readline()
        yield folder
    finally:
        os.killpg(servers.pid, signal.SIGINT)
        servers.communicate(timeout=60)


def environment(home: Path) -> dict[str, str]:
    """What activating the environment does, for the interpreter that runs the tests."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {
        name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_CONN_")
    }
    return {**own, "HOME": str(home), "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def answer(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command, run by a shell in the reader's folder; standard error is part of the output."""
    return subprocess.run(
        ["bash", "-e", "-c", command],
        cwd=folder,
        env=environment(folder.parent),
        text=True,
        timeout=120,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


def kept(output: str) -> list[str]:
    """The lines that stay on a terminal."""
    return [line.rstrip() for line in output.rstrip().splitlines() if not LIVE.match(line)]


def same(lines: list[str]) -> list[str]:
    """The lines without what varies, and with columns one blank apart."""
    return [re.sub(r" +", " ", VARIES.sub("?", line)) for line in lines]


def follow(block: Block, folder: Path) -> str:
    """Do what the block says; what its output is, for one that shows it."""
    if block.language in ("yaml", "sql"):
        file = folder / block.title
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text)
    elif block.language == "bash" and not block.title:
        done = answer(block.text, folder)
        assert done.returncode == 0, f"{block.text}\n{done.stdout}"
    elif block.language == "console":
        command, _, _ = block.text.removeprefix("$ ").partition("\n")
        return "\n".join([f"$ {command}", *kept(answer(command, folder).stdout)]) + "\n"
    return block.text


def test_the_tutorial_works_as_it_is_written(tmp_path: Path) -> None:
    with reader(tmp_path) as folder:
        found = [(block, follow(block, folder)) for block in blocks()]
    if os.environ.get(REWRITE):
        text = PAGE.read_text("utf-8")
        for block, shown in reversed(found):
            text = text[: block.start] + shown + text[block.end :]
        PAGE.write_text(text, "utf-8")
        return
    for block, output in found:
        assert same(block.text.splitlines()) == same(output.splitlines()), (
            f"{REWRITE}=1 writes the page anew"
        )
    assert not (folder / ".env").exists()


def test_every_command_of_the_tutorial_is_run_but_those_that_make_the_environment() -> None:
    left_out = [block.title for block in blocks() if block.language == "bash" and block.title]
    assert left_out == ["Once", "In each terminal", "Terminal 1: leave it running"]
    assert {block.language for block in blocks()} == {"bash", "console", "sql", "yaml"}
    assert sum(block.language == "console" for block in blocks()) >= 10


def test_a_wrong_line_of_output_would_be_seen() -> None:
    """The negative control: seconds and bytes may differ, counts and words may not."""
    line = "done  extract.extract_orders  99 rows  0.1 s  99 rows, 451 bytes of binary"
    assert same([line]) == same([line.replace("0.1", "3.2").replace("451", "1,452")])
    assert same([line]) != same([line.replace("99", "98")])
    assert same([line]) != same([line.replace("done", "skipped")])
