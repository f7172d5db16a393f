"""`loadsheet check --format sarif` is what code scanning reads: SARIF 2.1.0."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from jsonschema import Draft202012Validator

from loadsheet.spec.rule_catalog import RULES
from tests.unit.cli.conftest import SPEC, Cli, write_pipeline

TEXT = {"type": "string", "minLength": 1}


def closed(required: str, **properties: Any) -> dict[str, Any]:
    names = required.split()
    return {
        "type": "object",
        "required": names,
        "additionalProperties": False,
        "properties": properties,
    }


MESSAGE = closed("text", text=TEXT, markdown=TEXT)
RULE = closed(
    "id name shortDescription fullDescription help",
    id=TEXT,
    name={"type": "string", "pattern": "^([A-Z][a-z]+)+$"},
    shortDescription=MESSAGE,
    fullDescription=MESSAGE,
    help=MESSAGE,
)
PLACES = "startLine startColumn endLine endColumn"
REGION = closed(PLACES, **{name: {"type": "integer", "minimum": 1} for name in PLACES.split()})
PLACE = closed("artifactLocation region", artifactLocation=closed("uri", uri=TEXT), region=REGION)
LOCATION = closed(
    "physicalLocation",
    physicalLocation=PLACE,
    logicalLocations={
        "type": "array",
        "items": closed("fullyQualifiedName", fullyQualifiedName=TEXT),
    },
)
RESULT = closed(
    "ruleId ruleIndex level message locations",
    ruleId={"enum": list(RULES)},
    ruleIndex={"type": "integer", "minimum": 0},
    level={"enum": ["error", "warning"]},
    message=MESSAGE,
    locations={"type": "array", "minItems": 1, "items": LOCATION},
)
DRIVER = closed(
    "name version rules",
    name={"const": "loadsheet"},
    version=TEXT,
    rules={"type": "array", "items": RULE},
)
RUN = closed(
    "tool columnKind results",
    tool=closed("driver", driver=DRIVER),
    columnKind={"const": "unicodeCodePoints"},
    results={"type": "array", "items": RESULT},
)
# What the official schema asks of the parts that we write, and nothing beyond them; the whole one
# (draft 4, 120 kB) was used once by hand.
SARIF = closed(
    "$schema version runs",
    **{
        "$schema": TEXT,
        "version": {"const": "2.1.0"},
        "runs": {"type": "array", "minItems": 1, "items": RUN},
    },
)


def run_of(document: Any) -> Any:
    Draft202012Validator(SARIF).validate(document)
    (run,) = document["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in run["results"])
    return run


def test_every_problem_is_a_result_with_its_rule_and_place(cli: Cli, project: Path) -> None:
    (project / "pipelines/shop/pipeline.yml").write_text(SPEC.replace("merge, ", "mrge, "))
    (project / "pipelines/shop/sql/orphan.sql").write_text("SELECT 1")
    result = cli("check", "--format", "sarif")
    assert result.code == 2
    warning, error = run_of(result.json)["results"]
    assert (warning["ruleId"], warning["level"], error["ruleId"], error["level"]) == (
        "sql-file",
        "warning",
        "wrong-value",
        "error",
    )
    place = error["locations"][0]
    assert place["physicalLocation"] == {
        "artifactLocation": {"uri": "pipelines/shop/pipeline.yml"},
        "region": {"startLine": 11, "startColumn": 25, "endLine": 11, "endColumn": 29},
    }
    assert place["logicalLocations"] == [{"fullyQualifiedName": "transforms.sales.materialized"}]


def test_no_problem_is_an_empty_run_with_all_rules(cli: Cli, project: Path) -> None:
    result = cli("check", "--format", "sarif")
    run = run_of(result.json)
    assert (result.code, run["results"]) == (0, [])
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == list(RULES)


def test_a_path_is_a_uri(cli: Cli, project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write_pipeline(
        project, "größer & 100 %", SPEC.replace("shop", "other").replace("merge, ", "mrge, ")
    )
    result, *_ = run_of(cli("check", "--format", "sarif").json)["results"]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert (
        uri.isascii() and " " not in uri and unquote(uri) == "pipelines/größer & 100 %/pipeline.yml"
    )
    elsewhere = tmp_path_factory.mktemp("else where") / "loose.yml"
    elsewhere.write_text("version: 2\n")
    result, *_ = run_of(cli("check", elsewhere, "--format", "sarif").json)["results"]
    assert (
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == elsewhere.as_uri()
    )


def test_a_place_without_a_word_is_one_character_wide(cli: Cli, project: Path) -> None:
    (project / "pipelines/shop/sql/report.sql").write_text("SELECT 1 FROM staging.orders WHERE (")
    (result,) = run_of(cli("check", "--format", "sarif").json)["results"]
    region = result["locations"][0]["physicalLocation"]["region"]
    assert region["endColumn"] == region["startColumn"] + 1
