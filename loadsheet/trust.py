"""Which users could have written what is in a folder outside the project.

What is read there decides what runs: Airflow runs the bundle's DAG files, and a check is not
repeated whose result is in the cache. So nothing is believed that another user could have planted.
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
    """Why somebody else than `users` could have put something into `folder`, or another folder in
    its place; empty where nobody could. Raises OSError.

    Members of the folders' groups are trusted: in many images, the group may write.
    """
    # From the root on. What lies in a folder that everybody may write to, such as /tmp, may be
    # anybody's.
    place = Path(folder.anchor)
    anybody_may_create = False
    for part in folder.absolute().parts[1:]:
        place = place / part
        info = os.lstat(place)
        if anybody_may_create and info.st_uid not in users:
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
        anybody_may_create = is_open
    info = os.stat(folder)
    if info.st_uid not in users:
        return f"{folder} belongs to another user"
    # Nobody can remove our files from such a folder, but anybody can add one.
    return f"every user may write to {folder}" if info.st_mode & stat.S_IWOTH else ""
