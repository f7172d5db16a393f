"""PostgreSQL refuses to run as root: whom to become instead, and a place that user can reach."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

NOBODY = (65534, 65534)


def server_user() -> tuple[int, int] | None:
    """(uid, gid) to run a server as: nobody when we are root, None (ourselves) otherwise."""
    return NOBODY if os.geteuid() == 0 else None


def reachable(path: Path) -> bool:
    """Whether any user may walk down to the folder `path` and read what is in it."""
    path = path.resolve()
    return all(_mode(folder) & stat.S_IXOTH for folder in (path, *path.parents)) and bool(_mode(path) & stat.S_IROTH)


def _mode(path: Path) -> int:
    return path.stat().st_mode


def own(path: Path, user: tuple[int, int] | None) -> None:
    """Give `path` to the server's user, when that is not us."""
    if user:
        os.chown(path, *user)


def scratch(prefix: str, within: Path | None = None) -> Path:
    """A new temporary folder that every user may walk through, `within` a folder where that is possible."""
    # Root's TMPDIR may point into a private home.
    places = (*([str(within)] if within else []), tempfile.gettempdir(), "/tmp", "/var/tmp")
    parent = next((p for p in places if Path(p).is_dir() and reachable(Path(p))), places[0])
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    folder.chmod(0o755)
    return folder


def public_copy(source: Path, target: Path) -> None:
    """Copy a tree so that every user may read and run it, whatever the umask it was installed with."""
    target.parent.mkdir(exist_ok=True)
    target.parent.chmod(0o755)
    shutil.copytree(source, target, symlinks=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
