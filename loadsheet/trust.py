"""Which users could have written what is in a folder outside the project.

What is read there decides what runs: Airflow runs the bundle's DAG files, and a check is not
repeated whose result is in the cache. So nothing that another user could have planted is trusted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path


def only_we_may_write(folder: Path) -> bool:
    """Whether `folder` is ours, and no other user may write to it. Raises OSError."""
    info = folder.stat()
    return info.st_uid == os.geteuid() and not info.st_mode & 0o022


def why_not_trusted(folder: Path, users: Collection[int]) -> str:
    """Why a user other than `users` could have written to `folder`, or put another folder in its
    place; empty where no other user could. Raises OSError.

    Members of the folders' groups are trusted: in many images, the group may write.
    """
    # From the root on. What is in a folder to which every user may write, such as /tmp, may belong
    # to any of them.
    place = Path(folder.anchor)
    others_may_create = False
    for part in folder.absolute().parts[1:]:
        place = place / part
        info = os.lstat(place)
        if others_may_create and info.st_uid not in users:
            return f"{place} belongs to another user"
        if stat.S_ISLNK(info.st_mode):
            target = Path(os.path.realpath(place))
            reason = why_not_trusted(target, users)
            if reason:
                return reason
            info = os.stat(target)
        is_open = bool(info.st_mode & stat.S_IWOTH)
        if is_open and not info.st_mode & stat.S_ISVTX:
            return f"every user may write to {place}"
        others_may_create = is_open
    info = os.stat(folder)
    if info.st_uid not in users:
        return f"{folder} belongs to another user"
    # Other users cannot remove our files from such a folder, but they can add files.
    return f"every user may write to {folder}" if info.st_mode & stat.S_IWOTH else ""
