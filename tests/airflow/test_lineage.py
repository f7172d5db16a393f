"""What the operators tell Airflow's OpenLineage provider. It is no dependency of ours: these tests
run where it is installed."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

from loadsheet.airflow import operators
from loadsheet.airflow.operators import (
    MinioToPostgresOperator,
    PostgresToMinioOperator,
    SqlTransformOperator,
    StepOperator,
    VerifyTablesOperator,
)
from loadsheet.airflow.table_operators import BatchOperator, TableOperator
from tests.airflow.conftest import REPO
from tests.airflow.test_table_operators import Task
from tests.project import Project

extractors = pytest.importorskip("airflow.providers.openlineage.extractors.base")
SCHEMAS = list((REPO / "tests" / "core" / "openlineage").glob("*.json"))


@pytest.fixture
def shop(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A pipeline that has run once, as `first`."""
    project.in_source("CREATE TABLE sale (id int PRIMARY KEY, amount numeric, kind text)")
    project.in_source("INSERT INTO sale VALUES (1, 5, 'a'), (2, 7, 'b')")
    sql = "SELECT id, amount * 2 AS twice FROM staging.sale WHERE kind <> 'x'"
    project.spec({"sale": None}, {"sales": sql})
    project.run(run_id="first")
    for name, value in project.environment().items():
        if name.startswith("AIRFLOW_CONN_"):
            monkeypatch.setenv(name, value)
    return project


def operator(kind: type[StepOperator], project: Project, name: str) -> StepOperator:
    spec = project.folder / "pipelines" / "shop" / "pipeline.yml"
    return kind(task_id="step", spec=str(spec), name=name)


def lineage(kind: type[StepOperator], project: Project, name: str, run_id: str = "first") -> Any:
    """As the provider asks for it when a task has ended."""
    extractor = extractors.DefaultExtractor(operator(kind, project, name))
    return extractor.extract_on_complete(SimpleNamespace(run_id=run_id))


def names(datasets: Any) -> list[str]:
    return [one.name.partition(".")[2] or one.name for one in datasets]


def test_a_mart_is_reported_with_its_columns_and_rows(shop: Project) -> None:
    found = lineage(SqlTransformOperator, shop, "sales")
    assert names(found.inputs) == ["staging.sale"]
    [mart] = found.outputs
    assert names([mart]) == ["mart.sales"]
    warehouse = shop.connections("warehouse")
    assert mart.namespace == f"postgres://{warehouse.host}:{warehouse.port}"
    written = serialized(mart)
    twice = written["facets"]["columnLineage"]["fields"]["twice"]["inputFields"]
    [one] = twice[0]["transformations"]
    assert (twice[0]["field"], one["type"], one["description"]) == (
        "amount",
        "DIRECT",
        "amount * 2",
    )
    [kind] = written["facets"]["columnLineage"]["dataset"]
    assert (kind["field"], kind["transformations"][0]["subtype"]) == ("kind", "FILTER")
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 2
    assert "amount * 2" in found.job_facets["sql"].query


def test_a_load_is_reported_from_the_source_over_the_lake(shop: Project) -> None:
    extract = lineage(PostgresToMinioOperator, shop, "sale")
    load = lineage(MinioToPostgresOperator, shop, "sale")
    [objects] = extract.outputs
    assert objects.namespace == f"s3://{shop.bucket}"
    assert names(extract.inputs) == ["public.sale"]
    assert names(load.inputs) == ["public.sale", objects.name]
    [table] = load.outputs
    written = serialized(table)
    assert set(written["facets"]["columnLineage"]["fields"]) == {"id", "amount", "kind"}
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 2
    # A run that has loaded nothing has written nothing.
    assert "outputFacets" not in serialized(
        lineage(MinioToPostgresOperator, shop, "sale", "2").outputs[0]
    )


def test_a_task_that_loads_tables_by_itself_is_reported_from_the_source(shop: Project) -> None:
    shop.in_source("CREATE TABLE kind (name text PRIMARY KEY)")
    shop.spec({"sale": None, "kind": None}, tasks={"granularity": "batch"})
    shop.run(run_id="second")
    one = lineage(TableOperator, shop, "sale")
    assert names(one.inputs) == ["public.sale"] and names(one.outputs) == ["staging.sale"]
    spec = shop.folder / "pipelines" / "shop" / "pipeline.yml"
    tables = ["sale", "kind"]
    many = BatchOperator(task_id="step", spec=str(spec), name="001", tables=tables)
    found = many.get_openlineage_facets_on_complete(SimpleNamespace(run_id="second"))
    assert names(found.inputs) == ["public.sale", "public.kind"]
    assert names(found.outputs) == ["staging.sale", "staging.kind"]
    started = many.get_openlineage_facets_on_start()
    assert names(started.outputs) == names(found.outputs)


def test_a_step_that_starts_or_has_failed_names_its_tables_and_asks_no_server(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = json.dumps({"conn_type": "postgres", "host": "127.0.0.1", "port": 1, "schema": "x"})
    for conn_id in ("SHOP_SOURCE", "WAREHOUSE"):
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id}", nowhere)
    step = extractors.DefaultExtractor(operator(SqlTransformOperator, shop, "sales"))
    for found in (step.extract(), step.extract_on_failure(None)):
        assert names(found.inputs) == ["staging.sale"]
        assert names(found.outputs) == ["mart.sales"]
    nothing = extractors.DefaultExtractor(operator(VerifyTablesOperator, shop, "")).extract()
    assert (nothing.inputs, nothing.outputs) == ([], [])


class Checking:
    """A pipeline that checks its rows, in one run after the other."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(operators, "airflow_connection", project.connections)
        self._project = project
        self._runs = 0
        self.set_key("id")

    def set_key(self, key: str) -> None:
        """The mart's."""
        cursor = {"cursor": "at", "nulls": "fail"}
        self._project.spec(
            {"sale": {"max_shrink": 0.3}, "odd": {"incremental": cursor, "mode": "append"}},
            {"sales": ("SELECT id, kind FROM staging.sale", {"unique_key": key})},
            tasks={"granularity": "table", "retries": 0},
            verify="1 run",
        )

    def end(self, task_id: str) -> Any:
        """Run the task as one of a new run; what is in its last event, and whether it failed."""
        self._runs += 1
        task = Task(self._project, task_id, f"checked {self._runs}")
        extractor = extractors.DefaultExtractor(task.operator)
        started = extractor.extract()
        ends = [*started.inputs, *started.outputs]
        assert not any("dataQualityAssertions" in one.facets for one in ends)
        ti = SimpleNamespace(run_id=task.run_id)
        try:
            task.execute()
        except AirflowFailException:
            return extractor.extract_on_failure(ti)
        return extractor.extract_on_complete(ti)


@pytest.fixture
def checking(shop: Project, monkeypatch: pytest.MonkeyPatch) -> Checking:
    """Everything is loaded, built and equal."""
    shop.in_source("CREATE TABLE odd (id int, at timestamptz DEFAULT now())")
    shop.in_source("INSERT INTO odd VALUES (1)")
    made = Checking(shop, monkeypatch)
    for task_id in ("transform.transform_sales", "table.table_odd", "verify"):
        made.end(task_id)
    return made


def test_the_checks_that_rows_have_passed_are_in_the_event_of_the_task(
    shop: Project, checking: Checking
) -> None:
    shop.in_source("INSERT INTO sale VALUES (3, 9, 'c')")
    shop.in_source("INSERT INTO odd VALUES (2)")
    [table] = checking.end("table.table_sale").outputs
    assert checks(table) == [
        ("matches_manifest", True, None),
        ("not_null", True, "id"),
        ("unique", True, "id"),
        ("max_shrink", True, None),
    ]
    [odd] = checking.end("table.table_odd").outputs
    assert checks(odd) == [("not_null", True, "at"), ("matches_manifest", True, None)]
    built = checking.end("transform.transform_sales")
    assert checks(built.outputs[0]) == [("not_null", True, "id"), ("unique", True, "id")]
    assert checks(built.inputs[0]) == []
    compared = {one.name.partition(".")[2]: one for one in checking.end("verify").inputs}
    assert list(compared) == [
        "public.sale",
        "staging.sale",
        "public.odd",
        "staging.odd",
        "mart.sales",
    ]
    assert checks(compared["public.sale"]) == []
    assert checks(compared["staging.sale"]) == [("equals_source", True, None)]
    assert checks(compared["mart.sales"]) == [("equals_select", True, None)]
    facets = serialized(compared["staging.sale"])["inputFacets"]
    assert facets["dataQualityMetrics"]["rowCount"] == 3
    assert facets["dataQualityAssertions"]["assertions"][0]["success"] is True


@pytest.mark.parametrize(
    ("breaks", "task_id", "found"),
    [
        ("DELETE FROM sale", "table.table_sale", [("max_shrink", False, None)]),
        ("INSERT INTO odd VALUES (2, NULL)", "table.table_odd", [("not_null", False, "at")]),
        ("UPDATE sale SET kind = 'a'", "transform.transform_sales", [("unique", False, "kind")]),
        (
            "INSERT INTO odd VALUES (2)",
            "verify",
            [("equals_source", False, None), ("equals_select", False, None)],
        ),
    ],
)
def test_the_check_that_fails_a_task_is_in_its_last_event(
    shop: Project, checking: Checking, breaks: str, task_id: str, found: list[tuple[Any, ...]]
) -> None:
    shop.in_source(breaks)
    if task_id == "transform.transform_sales":
        checking.end("table.table_sale")
        checking.set_key("kind")
    if task_id == "verify":
        checking.end("table.table_odd")
        shop.in_warehouse("DELETE FROM staging.sale WHERE id = 1")
    event = checking.end(task_id)
    ends = event.inputs if task_id == "verify" else event.outputs
    assert [check for one in ends for check in checks(one) if not check[1]] == found


def checks(dataset: Any) -> list[tuple[Any, ...]]:
    """Assertion, result and column of each check of the dataset."""
    facet = serialized(dataset)["facets"].get("dataQualityAssertions", {})
    return [
        (one["assertion"], one["success"], one.get("column")) for one in facet.get("assertions", ())
    ]


def serialized(dataset: Any) -> dict[str, Any]:
    """As the client sends it; its facets are valid against OpenLineage's schemas."""
    from openlineage.client.serde import Serde

    written: dict[str, Any] = json.loads(Serde.to_json(dataset))
    schemas = [json.loads(file.read_text()) for file in SCHEMAS]
    registry = Registry().with_resources(
        (one["$id"], Resource.from_contents(one)) for one in schemas
    )
    for name, facet in written["facets"].items():
        if name == "dataQualityAssertions":  # its class has checked it
            continue
        title = f"{name[0].upper()}{name[1:]}DatasetFacet"
        [url] = [one["$id"] for one in schemas if one["$id"].endswith(f"/{title}.json")]
        schema = {"$ref": f"{url}#/$defs/{title}"}
        checker = Draft202012Validator(schema, registry=registry, format_checker=FormatChecker())
        assert list(checker.iter_errors(facet)) == []
    return written
