"""The bucket policy in the documentation is the one that the tests of the lake run with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.lake.policy import bucket_policy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lake.md"


def test_the_policy_in_the_documentation_is_the_real_one() -> None:
    [shown] = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert json.loads(shown) == bucket_policy("lake", "shop")


@pytest.mark.parametrize("name", ["public", "none", "pg_monitor", "", "x" * 64])
def test_a_name_that_no_role_can_have_is_refused(name: str) -> None:
    """`public` gave the privileges to everyone."""
    printed = CliRunner().invoke(app, ["grants", "flights", "--reader", name])
    assert printed.exit_code == 2 and "cannot be the name of a role" in printed.stderr


def test_loadsheet_grants_prints_the_policy_of_a_pipeline() -> None:
    printed = CliRunner().invoke(app, ["grants", "flights", "--on", "lake"]).stdout
    assert json.loads(printed) == bucket_policy("lake", "flights")
