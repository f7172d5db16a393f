"""Processes of servers. They end when their owner ends, even if it is killed.

`Watched` is as much as `loadsheet test` needs: a shell that starts in a millisecond. It cannot end
processes that the command has left behind, simulate a crash, or survive being killed. The demo and
the tests need all of that and start their servers with demo/servers/process.py.
"""

from __future__ import annotations

import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loadsheet.errors import WorkError

_PATIENCE = 30.0
# Standard input is a pipe that only the owner holds. However the owner ends, the kernel closes the
# pipe, and the command ends as well. A shell starts a command in the background with SIGQUIT
# ignored, and PostgreSQL needs a moment until it handles it: SIGTERM ends it in that moment.
_UNTIL_THE_OWNER_ENDS = '"$@" & read _; kill -TERM $!; kill -QUIT $!; wait $!; rm -rf "$SCRATCH"'


class ServerFailed(WorkError):
    """A server ended, or did not answer in time; the message holds the end of its log."""


class Managed(ABC):
    """Something that runs: a context manager over `start` and `stop`."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> Self:
        """Return when it is ready to be used."""

    @abstractmethod
    def stop(self) -> None:
        """Leave nothing behind. A second call does nothing."""


class Process(ABC):
    """A running command that writes to the file `log`."""

    log: Path

    @property
    @abstractmethod
    def exit_code(self) -> int | None:
        """The exit code of the command, or None while it runs."""

    @abstractmethod
    def stop(self) -> int:
        """End the command and return its exit code. A second call does nothing."""

    def wait_until(self, ready: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
        """Poll `ready` until it is true. Raises ServerFailed with the log's end if the command ends
        or time is up."""
        deadline = time.monotonic() + timeout
        while not ready():
            if self.exit_code is not None:
                raise ServerFailed(f"{what} ended with exit code {self.exit_code}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{what} did not answer within {timeout:.0f} s:\n{self.tail()}")
            time.sleep(0.02)

    def tail(self, lines: int = 25) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Watched(Process):
    """A command under a watching shell, which ends it with SIGQUIT and then removes `scratch`.

    `user` holds the arguments of `subprocess` that choose the user of both.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str],
        scratch: Path,
        user: Mapping[str, Any],
    ):
        self.log = log
        with log.open("wb") as out:
            # A new session, so that Ctrl-C reaches only us, and we stop the command.
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _UNTIL_THE_OWNER_ENDS, "sh", *command],
                cwd=scratch,
                env={**env, "SCRATCH": str(scratch)},
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,
                **user,
            )

    @property
    def exit_code(self) -> int | None:
        """The shell's exit code, or None until `stop`: the shell waits for its owner, even if the
        command has ended."""
        return self._shell.poll()

    def stop(self) -> int:
        """End the command and remove `scratch`. Raises subprocess.TimeoutExpired if the command
        does not end."""
        assert self._shell.stdin
        self._shell.stdin.close()
        return self._shell.wait(_PATIENCE)
