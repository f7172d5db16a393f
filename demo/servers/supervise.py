"""Runs one command and outlives neither it nor its owner. A script of its own, started by
`process.Supervised`.

    python -I -S supervise.py ORDER < pipe

where ORDER is JSON, for example
`{"command": [...], "signals": [[2, 10.0]], "user": null, "remove": null}`.

Standard input is a pipe whose other end only the owner holds; a word through it asks to stop.
However the owner ends, kill -9 included, the kernel closes that end. Either way the supervisor
sends the stop signals in turn and at last SIGKILL to everything the command left behind; without an
owner it also removes the folder `remove`.

A pipe rather than PR_SET_PDEATHSIG on the owner's side, because that signal follows the *thread*
that started the child and would stop a server when a short-lived thread ends. Between supervisor
(one thread) and command PDEATHSIG is used, set after the privilege drop that would clear it, so
that killing the supervisor is safe as well.

On Linux the supervisor is a child subreaper: processes the command forked and abandoned become its
own children.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LINUX = sys.platform == "linux"


def spawn(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own, as another user where the order names one."""
    drop = (
        {}
        if order["user"] is None
        else {"user": order["user"], "group": order["group"], "extra_groups": []}
    )
    return subprocess.Popen(
        order["command"],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_me(),
        **drop,
    )


def die_with_me() -> Callable[[], object] | None:
    """What the child calls just before exec: ask for SIGTERM when its parent ends (Linux only)."""
    if not LINUX:
        return None
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Family:
    """The command and everything it left behind."""

    def __init__(self, child: subprocess.Popen[bytes]):
        self.child = child
        self.empty = False

    def reap(self) -> None:
        """Collect every process that has ended, ours or inherited; note the command's own exit
        code."""
        try:
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                if ended[0] == self.child.pid:
                    self.child.returncode = os.waitstatus_to_exitcode(ended[1])
        except ChildProcessError:
            self.empty = True

    def members(self) -> list[int]:
        """Pids of all living descendants; without /proc the command alone."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        known = {os.getpid()}
        while grown := {pid for pid, parent in parents.items() if parent in known} - known:
            known |= grown
        return sorted(known - {os.getpid()}) if parents else [self.child.pid]

    def signal(self, pids: list[int], number: int) -> None:
        """Send `number` to each pid that is still there."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Reap until `done()` or time is up."""
        deadline = time.monotonic() + seconds
        while not done() and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.02)
        return done()

    def stop(self, signals: list[tuple[int, float]]) -> None:
        """Signal the command, then whatever is left of its family, and return when nobody is."""
        for number, grace in signals:
            if self.child.returncode is None:
                self.signal([self.child.pid], number)
                self.wait(grace, lambda: self.child.returncode is not None)
        if not self.wait(1.0, lambda: self.empty):
            self.signal(self.members(), signal.SIGTERM)
        while not self.wait(2.0, lambda: self.empty):
            self.signal(self.members(), signal.SIGKILL)


def wait_for_a_reason_to_stop(family: Family) -> bool:
    """Return when we are asked to stop, or the command has ended (False), or the owner is gone
    (True)."""
    wake_read, asked = listen_for_signals()
    family.reap()
    while family.child.returncode is None and not asked:
        ready, _, _ = select.select([0, wake_read.fileno()], [], [])
        if wake_read.fileno() in ready:
            wake_read.recv(4096)
            family.reap()
        if 0 in ready:
            return not os.read(0, 1)
    return False


def listen_for_signals() -> tuple[socket.socket, list[int]]:
    """A socket that becomes readable on any signal, and the list of those that ask us to stop."""
    wake_read, wake_write = socket.socketpair()
    wake_write.setblocking(False)
    asked: list[int] = []
    signal.set_wakeup_fd(wake_write.detach())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: asked.append(number))
    return wake_read, asked


def main() -> int:
    """Run the order in argv[1]. Returns the exit code: 128 + signal if one ended the command."""
    order = json.loads(sys.argv[1])
    family = Family(spawn(order))
    orphaned = wait_for_a_reason_to_stop(family)
    family.stop([(number, grace) for number, grace in order["signals"]])
    if orphaned and order["remove"]:
        shutil.rmtree(order["remove"], ignore_errors=True)
    code = family.child.returncode
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
