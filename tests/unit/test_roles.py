"""The tests' pipelines log in with the roles of `loadsheet grants`. Those that log in as a
superuser are listed here, each with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
ADMINISTRATORS = {
    "core/test_grants.py::world": "the roles of the test take the place of this login",
    "core/test_grants.py::test_an_administrator_who_is_no_superuser_may_run_each_statement": (
        "the roles of the test take the place of this login"
    ),
    "core/test_grants.py::test_two_loaders_share_one_ledger_by_the_printed_lines": (
        "the test runs what is printed, for roles of its own"
    ),
}
"""File and function -> why its pipeline is a superuser, as `use_administrator` says it there."""
SUPERUSERS = {
    "hostile_spec.py": "SQL of an attacker",
    "core/test_confined_tests.py": "SQL of an attacker",
    "core/test_compose_roles.py": "the superuser that the image of PostgreSQL makes",
}
"""File -> why it names the attribute SUPERUSER."""


def administrators(text: str) -> Iterator[tuple[str, str]]:
    """The functions that call `use_administrator`, and the reason each gives; "" where it is not
    written out."""
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for call in ast.walk(function):
            named = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
            if named and call.func.attr == "use_administrator":
                reason = call.args[0] if call.args else None
                is_text = isinstance(reason, ast.Constant) and isinstance(reason.value, str)
                yield function.name, reason.value if is_text else ""


def test_only_the_pipelines_listed_here_log_in_as_a_superuser() -> None:
    found = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        for function, reason in administrators(file.read_text()):
            found[f"{file.relative_to(TESTS)}::{function}"] = reason
    assert found == ADMINISTRATORS
    assert all(len(reason.split()) > 3 for reason in found.values())


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("p.use_administrator('its owner runs it')", "its owner runs it"),
        ("p.use_administrator(REASON)", ""),
        ("p.use_administrator()", ""),
    ],
)
def test_a_new_one_is_found(call: str, reason: str) -> None:
    assert list(administrators(f"def test_x(p):\n    if p:\n        {call}")) == [
        ("test_x", reason)
    ]


def test_no_other_test_makes_a_superuser() -> None:
    found = {
        str(file.relative_to(TESTS))
        for file in TESTS.rglob("*.py")
        if " SUPERUSER" in file.read_text() and file != Path(__file__)
    }
    assert found == SUPERUSERS.keys()
