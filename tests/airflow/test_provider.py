"""Airflow accepts what the package says about itself as a provider, and all of it exists."""

from __future__ import annotations

import json
import tomllib
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import airflow
from jsonschema import Draft7Validator

from loadsheet.airflow.provider import get_provider_info
from tests.airflow.conftest import REPO

SCHEMA = json.loads(Path(airflow.__file__).with_name("provider_info.schema.json").read_text())


def test_airflow_accepts_it() -> None:
    assert list(Draft7Validator(SCHEMA).iter_errors(get_provider_info())) == []
    assert list(Draft7Validator(SCHEMA).iter_errors({"name": "Loadsheet"}))


def test_every_module_that_it_names_exists() -> None:
    info = get_provider_info()
    entries = [*info["operators"], *info["bundles"]]
    assert {entry["integration-name"] for entry in entries} == {
        integration["integration-name"] for integration in info["integrations"]
    }
    for entry in entries:
        for module in entry["python-modules"]:
            import_module(module)


def test_the_entry_point_leads_to_it() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    entry_point = project["entry-points"]["apache_airflow_provider"]["provider_info"]
    assert resolve_name(entry_point) is get_provider_info
    assert get_provider_info()["package-name"] == project["name"]
