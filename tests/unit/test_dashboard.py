"""The Grafana dashboard and the alerts of docs/metrics.md: each panel is complete, and each PromQL
expression names metrics and labels that there are."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from loadsheet.status.prometheus import HELP
from tests.unit.test_docs import ROOT

PAGE = (ROOT / "docs" / "metrics.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
MAPPINGS, ALERTS = (
    yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
)
GAUGES = {f"loadsheet_{name}" for name in HELP}
LABELS = {"pipeline", "kind", "name", "state", "change", "verdict", "step"}
FUNCTIONS = {"sum", "min", "count", "topk", "time", "rate", "increase", "absent", "vector"}
WORDS = {"by", "or", "bool"}


def counted() -> set[str]:
    """What Prometheus has of Airflow's metrics, by the mappings of the page and by OpenTelemetry's
    rules."""
    names = set()
    for mapping in MAPPINGS["mappings"]:
        name = mapping["name"]
        if name.endswith("_total"):
            names.add(name)
        else:
            for unit in ("seconds", "milliseconds"):
                names |= {f"{name.replace('seconds', unit)}_{part}" for part in ("sum", "count")}
    return names


def misnamed(expression: str) -> set[str]:
    """The metrics, labels and functions of the expression that do not exist."""
    unknown: set[str] = set()
    matchers = re.findall(r"\{(.*?)\}", expression)
    groups = re.findall(r"\bby \((.*?)\)", expression)
    for label in re.findall(r"(\w+)\s*=~?", ",".join(matchers)) + re.findall(r"\w+", str(groups)):
        unknown |= {label} - LABELS
    rest = re.sub(r"\{.*?\}|\[.*?\]|\bby \(.*?\)", " ", expression)
    for name, opens in re.findall(r"([a-zA-Z_]\w*)(\s*\(?)", rest):
        known = FUNCTIONS if opens.endswith("(") else WORDS | GAUGES | counted()
        unknown |= {name} - known
    return unknown


def expressions() -> list[str]:
    found = [target["expr"] for panel in PANELS for target in panel["targets"]]
    for group in ALERTS["groups"]:
        found += [rule["expr"] for rule in group["rules"]]
    return found


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_what_there_is(expression: str) -> None:
    assert misnamed(expression) == set()


def test_a_name_that_there_is_not_is_found() -> None:
    assert misnamed('sum by (stat) (loadsheet_rowz{pipelin="x"}) or avg(airflow_x)') == {
        "stat",
        "loadsheet_rowz",
        "pipelin",
        "avg",
        "airflow_x",
    }


def test_each_metric_of_the_tasks_is_shown() -> None:
    shown = set(re.findall(r"\bairflow_\w+", " ".join(expressions())))
    assert shown == counted()


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_is_complete(panel: dict[str, Any]) -> None:
    assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
    for part in (panel, *panel["targets"]):
        assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel["targets"]:
        assert target["expr"].count("$pipeline") == target["expr"].count("{")


def test_the_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        covered = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & covered
        cells |= covered
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_variables_are_the_data_source_and_the_pipelines() -> None:
    datasource, pipeline = DASHBOARD["templating"]["list"]
    assert (datasource["name"], datasource["type"]) == ("datasource", "datasource")
    assert pipeline["name"] == "pipeline" and pipeline["multi"] and pipeline["includeAll"]
    (metric, label) = re.findall(r"\w+", pipeline["query"]["query"])[1:]
    assert metric in GAUGES and label in LABELS
