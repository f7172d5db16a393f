"""What pyproject.toml promises to those who install the package."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from loadsheet import __version__

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PINNED = (
    "requirements/core.txt",
    "requirements/core-test.txt",
    "requirements.txt",
    "requirements/dev.txt",
    "requirements/airflow-3.4.txt",
    "requirements/celery.txt",
    "requirements/openlineage.txt",
    "requirements/parquet.txt",
)
# Where a module's name is not the name of its distribution.
DISTRIBUTIONS = {
    "dagfactory": "dag-factory",
    "dotenv": "python-dotenv",
    "openlineage": "openlineage-python",
    "yaml": "pyyaml",
}


def requirements(*extras: str) -> dict[str, Requirement]:
    """What `pip install loadsheet[extras]` asks for, by canonical name; no extras of our own."""
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]
    found = {canonicalize_name(r.name): r for r in map(Requirement, texts)}
    return {name: requirement for name, requirement in found.items() if name != "loadsheet"}


def pins(file: str) -> dict[str, str]:
    """The versions that a requirement file pins, by canonical name."""
    text = (ROOT / file).read_text()
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def out_of_range(declared: dict[str, Requirement]) -> list[str]:
    """Pinned versions that the declared ranges exclude, and declared packages that nothing pins."""
    wrong, seen = [], set()
    for file in PINNED:
        for name, version in pins(file).items():
            if name in declared:
                seen.add(name)
                if not declared[name].specifier.contains(version):
                    wrong.append(f"{file}: {name} {version} is not {declared[name].specifier}")
    return wrong + [f"{name} is pinned nowhere" for name in declared if name not in seen]


def test_every_pinned_version_is_within_its_declared_range() -> None:
    assert out_of_range(requirements(*EXTRAS)) == []


@pytest.mark.parametrize("mistaken", ["minio>=8", "psycopg<3", "not-a-package-of-ours"])
def test_a_range_that_excludes_what_we_test_with_is_found(mistaken: str) -> None:
    requirement = Requirement(mistaken)
    assert out_of_range({canonicalize_name(requirement.name): requirement})


def test_every_range_has_a_lower_bound() -> None:
    unbounded = [
        name
        for name, requirement in requirements(*EXTRAS).items()
        if not any(bound.operator in (">=", "==") for bound in requirement.specifier)
    ]
    assert unbounded == []


def test_an_extra_that_extends_another_names_it() -> None:
    ours = {Requirement(text) for texts in EXTRAS.values() for text in texts}
    named = {extra for r in ours if r.name == "loadsheet" for extra in r.extras}
    assert named <= EXTRAS.keys()


@pytest.mark.parametrize(
    ("file", "declared"),
    [("core.in", PROJECT["dependencies"]), ("parquet.in", EXTRAS["parquet"])],
)
def test_the_files_behind_the_pins_name_what_is_declared(file: str, declared: list[str]) -> None:
    lines = (ROOT / "requirements" / file).read_text().splitlines()
    named = [line.partition("#")[0].strip() for line in lines]
    found = {canonicalize_name(Requirement(name).name) for name in named if name}
    wanted = {canonicalize_name(Requirement(text).name) for text in declared}
    assert found - {"setuptools"} == wanted


def imported(files: Iterable[Path]) -> set[str]:
    """The modules of other distributions that `files` import anywhere, lazily too."""
    modules: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module)
    ours = {*sys.stdlib_module_names, "loadsheet"}
    return {module for module in modules if module.partition(".")[0] not in ours}


def distribution(module: str) -> str:
    """The distribution that brings a module."""
    top, *rest = module.split(".")
    if top == "airflow" and rest[:1] == ["providers"]:
        # All providers are airflow.providers.<name>, except those in airflow.providers.common.
        parts = rest[1:3] if rest[1] == "common" else rest[1:2]
        return f"apache-airflow-providers-{'-'.join(parts)}"
    return "apache-airflow" if top == "airflow" else DISTRIBUTIONS.get(top, canonicalize_name(top))


def undeclared(files: Iterable[Path], *extras: str) -> set[str]:
    """Distributions that `files` need and `loadsheet[extras]` does not name."""
    return {distribution(module) for module in imported(files)} - requirements(*extras).keys()


def code(*, of_airflow: bool) -> list[Path]:
    """The package's modules: the part for Airflow, or all others. Templates are not our code."""
    package = ROOT / "loadsheet"
    files = [file for file in package.rglob("*.py") if "template" not in file.parts]
    return [file for file in files if (file.is_relative_to(package / "airflow")) == of_airflow]


def test_every_import_of_the_core_is_declared() -> None:
    """With the extras that the core imports lazily."""
    assert undeclared(code(of_airflow=False), "parquet", "test") == set()
    assert undeclared(code(of_airflow=False)) == {"pyarrow"}


def test_the_core_installs_nothing_of_airflow() -> None:
    assert not [name for name in requirements() if "airflow" in name or name == "dag-factory"]


def test_every_import_of_the_airflow_part_is_declared() -> None:
    assert undeclared(code(of_airflow=True), "airflow", "git", "openlineage") == set()
    assert "apache-airflow" in undeclared(code(of_airflow=True))


@pytest.mark.parametrize("name", ["pipeline.schema.json", "tests.schema.json"])
def test_the_public_schemas_are_those_of_the_package(name: str) -> None:
    public, packaged = ROOT / "schemas" / name, ROOT / "loadsheet" / "schemas" / name
    assert public.read_bytes() == packaged.read_bytes(), "run: cp loadsheet/schemas/*.json schemas/"


def test_the_version_is_written_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert f'version = "{__version__}"' not in (ROOT / "pyproject.toml").read_text()
