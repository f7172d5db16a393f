"""Servers of the demo and the tests start side by side, and never meet on a port."""

from __future__ import annotations

import subprocess
import sys

import pytest

from demo.servers import process
from demo.servers.process import ServerFailed, free_port, on_free_ports

TAKEN = ServerFailed("the S3 server ended with exit code 1:\nlisten: Address already in use")


@pytest.mark.skipif(sys.platform != "linux", reason="reservations need Linux")
def test_a_port_is_given_to_one_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(process, "_PORTS", range(port, port + 1))
    with pytest.raises(ServerFailed, match="no free port"):
        free_port()
    other = (
        "from demo.servers import process;"
        f" process._PORTS = range({port}, {port + 1}); print(process.free_port())"
    )
    done = subprocess.run(
        [sys.executable, "-c", other], text=True, capture_output=True, check=False
    )
    assert "no free port" in done.stderr, "nobody listens on it, yet it is somebody's"


def test_a_server_that_meets_another_on_its_port_starts_again() -> None:
    answers = [TAKEN, TAKEN, None]

    def serve() -> None:
        if answer := answers.pop(0):
            raise answer

    on_free_ports(serve)
    assert answers == []


@pytest.mark.parametrize("refusals", [[TAKEN] * 5, [ServerFailed("no such file")]])
def test_it_does_not_start_again_for_ever_or_after_another_failure(
    refusals: list[ServerFailed],
) -> None:
    left = list(refusals)

    def serve() -> None:
        raise left.pop(0)

    with pytest.raises(ServerFailed):
        on_free_ports(serve)
    assert left == []
