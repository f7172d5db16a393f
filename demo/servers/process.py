"""Child processes that never outlive the process that started them (see `supervise`)."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from loadsheet.sqltest.process import Process, ServerFailed

LOOPBACK = "127.0.0.1"
_PORTS = range(20_000, 32_000)
_RESERVATIONS: list[socket.socket] = []
_SUPERVISOR = Path(__file__).with_name("supervise.py")
_STOP = ((signal.SIGTERM, 10.0),)


class Supervised(Process):
    """A command with its own session, log file and guaranteed end.

    `signals` are sent to the command in turn, each with the seconds to wait; then SIGKILL to all
    its descendants. `user` is a (uid, gid) to drop to; None keeps ours. `remove` is a folder to
    remove should we end without `stop`.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: tuple[int, int] | None = None,
        signals: Sequence[tuple[signal.Signals, float]] = _STOP,
        remove: Path | None = None,
    ):
        self.log = log
        self._grace = sum(grace for _, grace in signals) + 10
        with log.open("ab") as out:
            self._supervisor = _start(_order(command, signals, user, remove), out, env, cwd)

    @property
    def exit_code(self) -> int | None:
        """The command's exit code, or None while it runs."""
        return self._supervisor.poll()

    def kill(self) -> None:
        """SIGKILL to the command itself, as a crash would end it (Linux only); returns when it is
        gone."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        self.stop()

    @property
    def pids(self) -> list[int]:
        """The command's own process, and what it has left to the supervisor (Linux only)."""
        children = Path(f"/proc/{self._supervisor.pid}/task/{self._supervisor.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def terminate(self) -> None:
        """SIGTERM to the command and what it has forked, as systemd and the init process of a
        container send it (Linux only). Returns at once."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)

    def ask_to_stop(self) -> None:
        """Begin what `stop` does without waiting for its end: several commands then end side by
        side."""
        assert self._supervisor.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it may have ended, or been asked before
            self._supervisor.stdin.write(b".")
            self._supervisor.stdin.flush()
        with contextlib.suppress(OSError):
            self._supervisor.stdin.close()

    def stop(self) -> int:
        """End the command and all it left behind; returns its exit code. A second call does
        nothing."""
        self.ask_to_stop()
        try:
            return self._supervisor.wait(self._grace)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            return self._supervisor.wait()


def run_supervised(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with nothing on its standard input. It ends when we do, kill -9
    included."""
    theirs, ours = os.pipe()  # only we have `ours`: no other process gets it
    try:
        return subprocess.run(
            _order(command, _STOP, None, None),
            stdin=theirs,
            env=env,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(theirs)
        os.close(ours)


def _order(
    command: Sequence[str],
    signals: Sequence[tuple[signal.Signals, float]],
    user: tuple[int, int] | None,
    remove: Path | None,
) -> list[str]:
    """The command of a supervisor for `command`."""
    uid, gid = user or (None, None)
    order = {
        "command": list(command),
        "signals": [(int(number), grace) for number, grace in signals],
        "user": uid,
        "group": gid,
        "remove": str(remove) if remove else None,
    }
    return [sys.executable, "-I", "-S", str(_SUPERVISOR), json.dumps(order)]


def _start(
    command: list[str], out: IO[bytes], env: Mapping[str, str] | None, cwd: Path | None
) -> subprocess.Popen[bytes]:
    # A new session keeps the terminal's Ctrl-C away: the owner decides in which order things stop.
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=out,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )


def free_port(attempts: int = 100) -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now, and that no other process
    gets from here while we run. A stranger may still take it first: see `on_free_ports`.

    Not one of the kernel's own choice: those are handed out to outgoing connections as well, at any
    moment.
    """
    for _ in range(attempts):
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            _reserve(port)
            return port
    raise ServerFailed(f"no free port on {LOOPBACK} between {_PORTS.start} and {_PORTS.stop}")


def _reserve(port: int) -> None:
    """Keep the port for this process until it ends. Raises OSError if another one has it.

    A server takes a second from the choice of its ports until it listens: suites that start
    hundreds side by side met on one. A socket in Linux's abstract namespace leaves no file, and
    ports and these names are shared by the same processes. Elsewhere `on_free_ports` has to do.
    """
    if sys.platform == "linux":
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0loadsheet-port-{port}")
        except OSError:
            reservation.close()
            raise
        _RESERVATIONS.append(reservation)


def on_free_ports(serve: Callable[[], None], attempts: int = 5) -> None:
    """Call `serve`, which starts a server on ports of `free_port`; again if somebody else was
    faster to take one of them. Raises ServerFailed as `serve` does."""
    for attempt in range(1, attempts + 1):
        try:
            return serve()
        except ServerFailed as failure:
            if attempt == attempts or "address already in use" not in str(failure).lower():
                raise


def listens(port: int) -> bool:
    """Whether somebody accepts connections on 127.0.0.1:`port`."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True
