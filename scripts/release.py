"""The checks of a release, as `make build`, `make release` and the release workflow run them.

    release.py check             check that this commit may be released: clean tree, changelog, tag
    release.py check --tag TAG   check that TAG fits this commit (in the workflow that TAG starts)
    release.py artefacts         check the wheel and the sdist in dist/
    release.py notes             print the changelog's section, for the release's page
    release.py commands          check again, then print the commands that remain

It needs no packages, because the workflow runs it before anything is installed. If it finds
problems it prints one line for each and exits with 1.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION_FILE = "loadsheet/__init__.py"
LICENCE_FILES = ("LICENSE", "NOTICE")


class ReleaseError(Exception):
    """A check could not be made, for example because a file is missing. The message names it."""


def version(root: Path) -> str:
    """The version that the code declares.

    Raises ReleaseError when there is none, or when it is not a release's: three numbers.
    """
    text = _read(root / VERSION_FILE)
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if not found:
        raise ReleaseError(f'{VERSION_FILE}: no line __version__ = "..."')
    if not re.fullmatch(r"\d+\.\d+\.\d+", found[1]):
        raise ReleaseError(f"{VERSION_FILE}: version {found[1]!r} is not of the form 1.2.3")
    return found[1]


def changelog_problems(text: str, released: str) -> list[str]:
    """The problems of the changelog `text`. The section of `released` must be the first one."""
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    if not headings:
        return ["CHANGELOG.md: no section; a section begins with '## 1.2.3 (2026-01-31)'"]
    if not re.fullmatch(re.escape(released) + r" \(\d{4}-\d\d-\d\d\)", headings[0]):
        expected = f"'## {released} (YYYY-MM-DD)'"
        return [f"CHANGELOG.md: the first section is '## {headings[0]}'; it must be {expected}"]
    if not notes(text, released):
        return [f"CHANGELOG.md: the section {released} is empty"]
    return []


def notes(text: str, released: str) -> str:
    """The body of the changelog's section for `released`; empty when there is no such section."""
    heading = rf"^## {re.escape(released)} \([^\n]*\)\n"
    found = re.search(heading + r"(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def tag_problems(released: str, tags: list[str]) -> list[str]:
    """Why `released` cannot be tagged in a repository that has `tags`."""
    if f"v{released}" in tags:
        return [f"the tag v{released} exists already: raise the version in {VERSION_FILE}"]
    versions = [_numbers(tag) for tag in tags if re.fullmatch(r"v\d+\.\d+\.\d+", tag)]
    newest = max(versions, default=None)
    if newest and _numbers(f"v{released}") < newest:
        shown = ".".join(map(str, newest))
        return [f"version {released} is older than the newest tag, v{shown}"]
    return []


def commit_problems(root: Path, tag: str | None) -> list[str]:
    """Why the checked-out commit of `root` cannot be released, or does not fit `tag`."""
    released = version(root)
    problems = changelog_problems(_read(root / "CHANGELOG.md"), released)
    changed = _git(root, "status", "--porcelain")
    if changed:
        problems.append("the working tree has changes that are not committed:\n" + changed)
    if tag is None:
        return problems + tag_problems(released, _git(root, "tag", "--list").split())
    if tag != f"v{released}":
        return [*problems, f"the tag is {tag}, but the version is {released} ({VERSION_FILE})"]
    if _git(root, "rev-parse", f"{tag}^{{commit}}") != _git(root, "rev-parse", "HEAD"):
        problems.append(f"the tag {tag} is not the commit that is checked out")
    return problems


def artefact_problems(folder: Path, released: str) -> list[str]:
    """The problems of `folder`, which must hold the wheel and sdist of `released` and no more."""
    wheel = f"loadsheet-{released}-py3-none-any.whl"
    sdist = f"loadsheet-{released}.tar.gz"
    found = {path.name for path in folder.glob("*")}
    problems = [f"{folder.name}/{name} is missing" for name in (wheel, sdist) if name not in found]
    problems += [f"{folder.name}/{name} does not belong there" for name in found - {wheel, sdist}]
    if not problems:
        problems = wheel_problems(folder / wheel, released)
        problems += sdist_problems(folder / sdist, released)
    return problems


def wheel_problems(file: Path, released: str) -> list[str]:
    """The problems of the wheel `file`: its metadata, command, licence and packages."""
    info = f"loadsheet-{released}.dist-info"
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
            metadata = _entry(archive, f"{info}/METADATA")
            commands = _entry(archive, f"{info}/entry_points.txt")
    except zipfile.BadZipFile:
        return [f"{file.name}: not a zip archive"]
    if damaged:
        return [f"{file.name}: {damaged} is damaged"]
    problems = metadata_problems(metadata, released)
    if not re.search(r"^loadsheet ?= ?loadsheet\.", commands, re.MULTILINE):
        problems.append("no command loadsheet")
    for name in LICENCE_FILES:
        if f"{info}/licenses/{name}" not in names:
            problems.append(f"no {name}")
    # Many Airflow projects have packages named `dags` and `operators`. If the wheel installed
    # packages of these names, they could hide the user's own.
    others = {name.split("/")[0] for name in names} - {"loadsheet", info}
    problems += [f"unexpected top-level entry {name}" for name in sorted(others)]
    return [f"{file.name}: {problem}" for problem in problems]


def metadata_problems(text: str, released: str) -> list[str]:
    """Fields of the metadata `text` that are missing or differ from what we declare."""
    metadata: Message = Parser().parsestr(text)
    expected = {"Name": "loadsheet", "Version": released, "License-Expression": "Apache-2.0"}
    problems = [
        f"{field} is {metadata[field]!r}, not {value!r}"
        for field, value in expected.items()
        if metadata[field] != value
    ]
    for field in ("Summary", "Requires-Python", "Classifier"):
        if not metadata[field]:
            problems.append(f"no {field}")
    return problems


def sdist_problems(file: Path, released: str) -> list[str]:
    """The problems of the sdist `file`: one folder with all that a build needs, nothing hidden."""
    top = f"loadsheet-{released}"
    try:
        with tarfile.open(file) as archive:
            names = archive.getnames()
    except (tarfile.TarError, EOFError, OSError) as error:
        return [f"{file.name}: cannot be read: {error}"]
    needed = ["PKG-INFO", "pyproject.toml", VERSION_FILE, *LICENCE_FILES]
    problems = [f"no {name}" for name in needed if f"{top}/{name}" not in names]
    problems += [f"{name} is outside {top}/" for name in names if name.split("/")[0] != top]
    problems += [f"{name} is a hidden file" for name in names if "/." in name]
    return [f"{file.name}: {problem}" for problem in problems]


def remaining_commands(released: str) -> str:
    """The commands that only a maintainer may run; the second one starts the release workflow."""
    return f'git tag -a v{released} -m "Loadsheet {released}"\ngit push origin v{released}'


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run a command on the repository at `root`. Returns the exit code: 0, or 1 for problems."""
    parser = argparse.ArgumentParser(prog="release.py", description="Checks of a release")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="check that this commit may be released")
    check.add_argument("--tag", help="the tag that this commit already has")
    commands.add_parser("artefacts", help="check the wheel and the sdist in dist/")
    commands.add_parser("notes", help="print the changelog's section of this version")
    commands.add_parser("commands", help="check, then print the commands that remain")
    options = parser.parse_args(arguments)
    try:
        released = version(root)
        if options.command == "notes":
            print(notes(_read(root / "CHANGELOG.md"), released))
            return 0
        if options.command == "artefacts":
            problems = artefact_problems(root / "dist", released)
        else:
            problems = commit_problems(root, getattr(options, "tag", None))
    except ReleaseError as error:
        problems = [str(error)]
    for problem in problems:
        print(f"release: {problem}", file=sys.stderr)
    if problems:
        return 1
    if options.command == "commands":
        print(f"Everything is ready for {released}. These commands remain:\n")
        print(remaining_commands(released))
    else:
        print(f"release: {options.command} of {released}: no problems found")
    return 0


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ReleaseError(f"{file.name} cannot be read: {error.strerror}") from None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise ReleaseError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.rstrip()


def _numbers(tag: str) -> tuple[int, ...]:
    return tuple(int(number) for number in tag.removeprefix("v").split("."))


def _entry(archive: zipfile.ZipFile, name: str) -> str:
    """The text of a file in `archive`. Empty if it is missing; the checks then report that."""
    return archive.read(name).decode() if name in archive.namelist() else ""


if __name__ == "__main__":
    sys.exit(main())
