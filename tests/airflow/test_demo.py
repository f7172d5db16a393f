"""`python -m demo`, as a stranger runs it: it tells its story, checks itself, and leaves no process
behind."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.airflow.server import COMPONENTS

REPOSITORY = Path(__file__).parents[2]
MARK = f"LOADSHEET_TEST_MARK={secrets.token_hex(8)}"


def living() -> list[str]:
    """Command lines of processes that were started, however indirectly, by a demo of this test."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if MARK.encode() in (process / "environ").read_bytes():
                found.append(
                    (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
        except OSError:
            continue
    return found


def until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def all_of_airflow_lives() -> bool:
    commands = living()
    return all(any(f"airflow {name}" in command for command in commands) for name in COMPONENTS)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    name, _, value = MARK.partition("=")
    return os.environ | {name: value, "TMPDIR": str(tmp_path)}


def demo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "demo", "--exit", "--scale", "300", *arguments]


def test_it_ends_with_0_when_every_check_has_passed(environment: dict[str, str]) -> None:
    done = subprocess.run(
        demo(), cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checks passed" in done.stdout and "✗" not in done.stdout
    assert "✓ staging.boarding_passes equals the source" in done.stdout
    assert "flights failed at extract.extract_boarding_passes" in done.stdout  # Slack's message
    assert living() == []


@pytest.fixture
def starting(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A demo whose servers run and whose Airflow is just starting."""
    with subprocess.Popen(
        demo(),
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any("Airflow: metadata database" in line for line in process.stdout)
        assert until(all_of_airflow_lives, 30), living()
        yield process
        process.kill()


def test_ctrl_c_stops_everything_in_order(starting: subprocess.Popen[str]) -> None:
    starting.send_signal(signal.SIGINT)
    output, _ = starting.communicate(timeout=60)
    assert (starting.returncode, living()) == (130, [])
    assert "nothing is left running" in output and "Traceback" not in output


def test_kill_9_of_the_demo_leaves_no_process(starting: subprocess.Popen[str]) -> None:
    starting.kill()
    assert until(lambda: living() == [], 30), living()


def test_a_taken_port_is_named_and_nothing_is_left(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = demo("--port", port)
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 1 and f"port {port} is taken" in done.stdout
    assert living() == []
