"""Hostile text in every string field of a spec: refused with its place, or carried as data. Nothing
is executed, rendered, expanded or read beside the project."""

from __future__ import annotations

import copy
import dataclasses
import os
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import croniter  # noqa: F401  its first import asks the program `file` about this Python
import pytest
import yaml

from loadsheet.plan.dag_config import OPERATORS, dag_config, render_dag
from loadsheet.problem import Problem
from loadsheet.spec import models
from loadsheet.spec.pipeline_file import check_file
from tests import hostile_spec
from tests.hostile_spec import (
    CANARY_VALUE,
    CANARY_VARIABLE,
    RAW,
    RENDERED,
    SCHEMA,
    TRAP,
    VALUES,
    Field,
)

FIELDS = hostile_spec.string_fields()
LONG = bool(os.environ.get("LOADSHEET_LONG"))
SAMPLE = 400
_TYPES = {"datetime.timedelta", "airflow.sdk.Param", "airflow.sdk.CronDataIntervalTimetable"}
_TYPES |= {"airflow.sdk.AssetOrTimeSchedule", "airflow.sdk.CronTriggerTimetable"}
_TYPES |= {"airflow.sdk.AssetAny", "airflow.sdk.Asset", "airflow.sdk.AssetAlias"}
CALLBACKS = "loadsheet.airflow.alerts.callbacks."
_TAKE_ARGS = {"airflow.sdk.AssetAny", "airflow.sdk.CronTriggerTimetable"}
_STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Not of the schema: made from the document, or the SQL that stands in a file of its own.
_MADE = {"Transform.sql", "Table.name", "Transform.name", "Pipeline.name", "Pattern.name"}
_MADE |= {"Inputs.tables", "Inputs.transforms"}  # inferred from the SQL, never read from the file
_OTHERWISE = {
    "include": "columns.include",
    "exclude": "columns.exclude",
    "schema_contract": "schema_contract.columns",
}


class _Watch:
    """What this process opens, starts and connects to, while it looks."""

    def __init__(self) -> None:
        self.looking = False
        self.seen: list[tuple[str, str]] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.looking and event in (
            "open",
            "os.system",
            "subprocess.Popen",
            "os.exec",
            "os.posix_spawn",
            "socket.connect",
        ):
            self.seen.append((event, str(arguments[0])))


_WATCH = _Watch()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A pipeline's folder; whatever is done in the test reads nothing but this folder, and starts
    nothing."""
    monkeypatch.setenv(CANARY_VARIABLE, CANARY_VALUE)
    home = tmp_path / "pipelines" / "shop"
    check_file(hostile_spec.written(home, hostile_spec.BASE))  # what is imported is imported
    _WATCH.seen.clear()
    _WATCH.looking = True
    yield home
    _WATCH.looking = False
    strange = {
        seen for seen in _WATCH.seen if seen[0] != "open" or not _may_be_read(seen[1], tmp_path)
    }
    assert not strange
    assert not Path(TRAP).exists()


def _may_be_read(name: str, project: Path) -> bool:
    ours = (
        str(project),
        sys.prefix,
        sys.base_prefix,
        str(Path(hostile_spec.__file__).parents[1] / "loadsheet"),
    )
    return name.startswith(ours) or name.isdigit()


def cases(values: tuple[str, ...]) -> list[tuple[Field, str]]:
    """All pairs of a field and a value in the long form, else a sample whose seed is printed."""
    pairs = [(field, value) for field in FIELDS for value in values]
    if LONG:
        return pairs
    seed = int(os.environ.get("LOADSHEET_SEED") or random.SystemRandom().randrange(10**6))
    print(f"LOADSHEET_SEED={seed}")
    return random.Random(seed).sample(pairs, min(SAMPLE, len(pairs)))


def assert_placed(problems: list[Problem], file: Path) -> None:
    """Each problem has a position, its text is one line that steers nothing, and nothing in it was
    computed."""
    for problem in problems:
        assert problem.line >= 1 and problem.column >= 1 and problem.message, problem
        text = str(problem)
        assert not _STEERING.search(text) and len(text.splitlines()) <= 2, text
        assert RENDERED not in text.replace(str(file), "") and CANARY_VALUE not in text, text


def assert_data(value: Any) -> None:
    """Nothing that dag-factory would import or call, but what we write ourselves."""
    if isinstance(value, dict):
        kind = value.get("__type__", "airflow.sdk.Param")
        assert kind in _TYPES and ("__args__" not in value or kind in _TAKE_ARGS)
        assert str(value.get("uri", "x-loadsheet://")).startswith("x-loadsheet://")
        assert value.get("operator", OPERATORS["load"]) in OPERATORS.values()
        assert str(value.get("callback", CALLBACKS)).startswith(CALLBACKS)
        for inner in value.values():
            assert_data(inner)
    elif isinstance(value, list):
        for inner in value:
            assert_data(inner)
    elif isinstance(value, str):
        assert RENDERED not in value and CANARY_VALUE not in value


def test_every_string_of_the_models_is_a_field_of_the_sweep() -> None:
    names = {".".join(field) for field in FIELDS}
    for model in vars(models).values():
        if not (dataclasses.is_dataclass(model) and isinstance(model, type)):
            continue
        for field in dataclasses.fields(model):
            text = str(field.type)
            where = f"{model.__name__}.{field.name}"
            if ("str" in text or "Literal" in text or "Mode" in text) and where not in _MADE:
                wanted = (
                    _OTHERWISE.get(field.name, field.name)
                    if model.__name__ == "Table"
                    else field.name
                )
                assert any(
                    re.search(rf"(^|\.){re.escape(wanted)}(\.\[\])?$", name) for name in names
                ), where


def test_a_new_text_field_is_in_the_sweep_by_itself() -> None:
    schema = copy.deepcopy(SCHEMA)
    schema["$defs"]["table"]["properties"]["where"] = {"type": "string"}
    found = set(hostile_spec.string_fields(schema)) - set(FIELDS)
    assert found == {("tables", "<name>", "where"), ("defaults", "where")}


def test_there_are_500_values_and_each_is_placed_where_it_should_be() -> None:
    assert len(VALUES) >= 500 and len(FIELDS) >= 50
    for field in FIELDS:
        assert "a value" in str(hostile_spec.placed(field, "a value"))


def test_the_page_says_how_many_there_are() -> None:
    page = (hostile_spec.ROOT / "docs" / "security.md").read_text("utf-8")
    assert (
        f"{len(VALUES)} hostile values in each of the {len(FIELDS)} string fields, and {len(RAW)}"
        " pieces" in page
    )


@pytest.mark.timeout(1200)
def test_text_is_refused_with_its_place_or_is_data(folder: Path) -> None:
    accepted = refused = 0
    for field, value in cases(VALUES):
        file = hostile_spec.written(folder, hostile_spec.placed(field, value))
        pipeline, problems = check_file(file)
        assert_placed(problems, file)
        if pipeline is None:
            assert any(problem.severity == "error" for problem in problems), (field, value)
            refused += 1
            continue
        accepted += 1
        config = dag_config(pipeline, folder.parents[1])
        assert_data(config)
        if accepted % 20 == 1:  # 20 ms each: PyYAML's writer is slow
            text = render_dag(pipeline, folder.parents[1])
            assert os.path.expandvars(text) == text  # as dag-factory does with a file
            assert yaml.safe_load(text) == {pipeline.name: config}, (field, value)
    print(f"{accepted} accepted as data, {refused} refused")
    assert accepted and refused


@pytest.mark.timeout(1200)
def test_yaml_that_is_more_than_a_value_is_refused_with_its_place(folder: Path) -> None:
    for field, raw in cases(RAW):
        file = hostile_spec.written_raw(folder, field, raw)
        pipeline, problems = check_file(file)
        assert pipeline is None, (field, raw)
        assert_placed(problems, file)


def test_an_execution_would_be_seen() -> None:
    """The watch itself: what a value could do is noticed."""
    _WATCH.seen.clear()
    _WATCH.looking = True
    Path("/etc/hostname").exists()
    with open("/etc/passwd"):
        pass
    os.system("true")
    _WATCH.looking = False
    assert ("open", "/etc/passwd") in _WATCH.seen and any(
        event == "os.system" for event, _ in _WATCH.seen
    )
    with pytest.raises(AssertionError):
        assert_data({"x": {"__type__": "builtins.exit"}})
