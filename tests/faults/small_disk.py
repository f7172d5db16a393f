"""Disks that fill up: a tmpfs where we may mount one, and everywhere a limit on the size of a
process's files."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

Fill = Callable[[], AbstractContextManager[None]]


def can_mount() -> bool:
    """Whether this user may mount a tmpfs (root outside of most containers)."""
    if os.geteuid():
        return False
    with tempfile.TemporaryDirectory() as folder:
        mounted = _run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder)
        return mounted and _run("umount", folder)


@contextmanager
def tmpfs(folder: Path, megabytes: int) -> Iterator[Path]:
    """`folder` as a disk of that size; the folder is removed afterwards."""
    folder.mkdir(exist_ok=True)
    assert _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        _run("umount", "--lazy", str(folder))  # a server may still have its log open
        folder.rmdir()


@contextmanager
def filled(disk: Path, left: int) -> Iterator[None]:
    """Within, the disk has room for `left` more bytes."""
    room = os.statvfs(disk)
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - left)
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def small_files(pid: int, size: int) -> Iterator[None]:
    """Within, neither the process nor those it starts from now on can write a file past `size`
    bytes."""
    _limit(pid, str(size))
    try:
        yield
    finally:
        _limit(pid, "unlimited")


def _limit(pid: int, size: str) -> None:
    # As the process's own user: in a container even root may lack the right to do it to others.
    owner = Path(f"/proc/{pid}").stat()
    become: dict[str, Any] = (
        {} if os.geteuid() else {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    )
    subprocess.run(["prlimit", "--pid", str(pid), f"--fsize={size}:"], check=True, **become)


def parent_of(pid: int) -> int:
    """The process that started `pid`."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
