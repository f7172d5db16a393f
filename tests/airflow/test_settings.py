"""What we tell people to set is what Airflow reads: a setting it does not know is passed over
without a word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from airflow.configuration import conf

from demo.airflow.settings import settings
from tests.airflow.conftest import REPO

ELSEWHERE = {"celery", "dag_factory"}
"""Sections that Airflow itself does not describe."""


def unknown(names: set[str]) -> set[str]:
    found = set()
    for name in names:
        section, option = name.lower().removeprefix("airflow__").split("__")
        options = conf.configuration_description.get(section, {}).get("options", {})
        if section not in ELSEWHERE and option not in options:
            found.add(name)
    return found


SHOWING = [
    "docker-compose.yml",
    "docs/bundle.md",
    "docs/compose.md",
    "docs/deploy.md",
    "docs/faq.md",
]
"""Files that tell people what to set."""


@pytest.mark.parametrize("file", SHOWING)
def test_every_setting_we_write_down_is_one_of_airflows(file: str) -> None:
    found = set(re.findall(r"AIRFLOW__[A-Z_]+?__[A-Z_]+", (REPO / file).read_text()))
    assert unknown(found) == set()


def test_every_setting_of_the_demo_is_one_of_airflows(tmp_path: Path) -> None:
    made = settings(tmp_path, tmp_path, "postgresql://", 1, "admin", tmp_path / "passwords")
    assert unknown({name for name in made if name.startswith("AIRFLOW__")}) == set()


def test_the_settings_that_the_bundles_page_explains_are_airflows_and_have_its_defaults() -> None:
    rows = re.findall(
        r"^\| `\[(\w+)\] (\w+)` \|.*\| (\S+) \|$", (REPO / "docs" / "bundle.md").read_text(), re.M
    )
    assert len(rows) == 6
    for section, option, default in rows:
        described = conf.configuration_description[section]["options"][option]
        assert str(described["default"]) == default, option


def test_a_setting_that_airflow_has_given_up_is_found() -> None:
    gone = "AIRFLOW__CORE__MIN_SERIALIZED_DAG_FETCH_INTERVAL"
    assert unknown({gone, "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL"}) == {gone}
