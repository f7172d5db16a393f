"""Git repositories of tests, whatever the settings of this machine's user are."""

from __future__ import annotations

import subprocess
from pathlib import Path

_SETTINGS = ("user.name=test", "user.email=test@example.org", "commit.gpgsign=false")


def git(folder: Path, *arguments: str) -> str:
    """Run Git in a folder; what it prints."""
    command = ["git", *(word for setting in _SETTINGS for word in ("-c", setting)), *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def new_repository(folder: Path) -> None:
    """Make a repository of the folder, with the branch `main`; nothing is committed."""
    git(folder, "init", "--quiet", "--initial-branch", "main")


def commit_all(folder: Path, message: str = "changed") -> str:
    """Commit whatever is in the folder; the new commit."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    return git(folder, "rev-parse", "HEAD")
