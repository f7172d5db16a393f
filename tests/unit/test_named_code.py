"""The files, modules and functions that the documents name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.test_readme import ROOT, TEXTS

ROOMS = "|".join(
    folder.name for folder in (ROOT / "loadsheet").iterdir() if (folder / "__init__.py").is_file()
)
FILE = re.compile(
    rf"\b((?:loadsheet|tests|bench|demo|scripts|operators|{ROOMS})/[\w/]*\w\.py"
    r"|test_\w+\.py)(?:: ([\w.]+))?"
)
"""A file, or a file and what it defines: `engine/load.py: load`."""
MODULE = re.compile(r"(?<!airflow\.)\b(?:loadsheet|dags|operators|bench|demo|tests)(?:\.\w+){2,}")
"""A module, or a module and what it defines: `loadsheet.lake.frame.read_load`. What has `airflow.`
in front is a metric."""
NOT_MODULES = ("tests.schema.json",)


def defines(file: Path, names: str) -> bool:
    """Whether `file` defines each of the dotted `names`."""
    text = file.read_text(encoding="utf-8")
    return all(
        re.search(rf"^ *(?:class|def|async def) {name}\b|^{name}\b.*=", text, re.MULTILINE)
        for name in names.split(".")
    )


def file_exists(path: str, names: str = "") -> bool:
    """Whether `path` is a file of the repository, or of the package, or the name of a test."""
    found = [ROOT / path, ROOT / "loadsheet" / path]
    if "/" not in path:
        found = list((ROOT / "tests").rglob(path))
    return any(file.is_file() and (not names or defines(file, names)) for file in found)


def module_exists(dotted: str) -> bool:
    """Whether `dotted` is a package, a module, or one name that a module defines."""
    path = ROOT / dotted.replace(".", "/")
    module = path.parent.with_suffix(".py")
    return (
        (path / "__init__.py").is_file()
        or path.with_suffix(".py").is_file()
        or (module.is_file() and defines(module, path.name))
    )


@pytest.mark.parametrize("page", TEXTS)
def test_a_file_and_a_module_that_a_page_names_exist(page: str) -> None:
    text = TEXTS[page]
    missing = [match[0] for match in FILE.finditer(text) if not file_exists(*match.groups(""))]
    modules = {match[0] for match in MODULE.finditer(text)} - set(NOT_MODULES)
    missing += [dotted for dotted in sorted(modules) if not module_exists(dotted)]
    assert missing == []


def test_names_that_are_gone_are_found() -> None:
    assert file_exists("engine/load.py", "load")
    assert file_exists("test_named_code.py")
    assert not file_exists("engine/load.py", "unload")
    assert not file_exists("loadsheet/load.py")
    assert not file_exists("test_gone.py")
    assert module_exists("loadsheet.lake.frame.read_load")
    assert not module_exists("loadsheet.frame.read_load")
    assert not module_exists("loadsheet.lake.frame.read_loads")


def test_there_are_names_to_check() -> None:
    assert sum(len(FILE.findall(text)) for text in TEXTS.values()) >= 60
