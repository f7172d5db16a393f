"""`loadsheet check` looks at a pipeline beside the rest of its project: names, tables, connections,
pools."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import SPEC, Cli, write_pipeline

OTHER = SPEC.replace("pipeline: shop\n", "")


def test_two_pipelines_that_write_one_table_are_a_problem(cli: Cli, project: Path) -> None:
    write_pipeline(project, "zoo", OTHER)
    result = cli("check")
    assert result.code == 2
    taken = "is also written by the pipeline 'shop' (pipelines/shop/pipeline.yml)"
    assert f"pipelines/zoo/pipeline.yml:6:3 tables.orders: staging.orders {taken}" in result.out
    assert f"pipelines/zoo/pipeline.yml:10:3 transforms.sales: mart.sales {taken}" in result.out
    assert result.out.splitlines()[-1] == "2 files checked: 5 errors, 0 warnings"
    assert "pipelines/shop/pipeline.yml:" not in result.out


def test_the_file_that_is_asked_for_is_the_one_to_blame(cli: Cli, project: Path) -> None:
    write_pipeline(project, "zoo", OTHER)
    out = cli("check", "pipelines/shop").out
    assert (
        "pipelines/shop/pipeline.yml:7:3 tables.orders: staging.orders is also written by the"
        " pipeline 'zoo'" in out
    )
    assert out.splitlines()[-1] == "1 file checked: 5 errors, 0 warnings"


@pytest.mark.parametrize(
    "spec",
    [
        OTHER.replace(
            "{conn_id: warehouse}", "{conn_id: warehouse, schema: zoo, mart_schema: zoo_mart}"
        ),
        OTHER.replace("{conn_id: warehouse}", "{conn_id: source}"),
    ],
)
def test_the_same_table_elsewhere_is_none(cli: Cli, project: Path, spec: str) -> None:
    sql = {"sales": "SELECT id FROM orders", "report": "SELECT * FROM sales"}
    write_pipeline(project, "zoo", spec, sql)
    assert cli("check").out == "2 files checked: no problems\n"


PLAIN = """\
version: 1
source: {conn_id: source}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse, schema: raw}
tables:
  """


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (
            '"*":',
            "bills:",
            (
                "tables.bills: raw.bills is also written by the pipeline 'first' (pipelines/first/"
                "pipeline.yml), by its pattern '*'\n  hint: add `exclude: [bills]` to that pattern"
            ),
        ),
        (
            "bills:",
            '"*":',
            (
                "tables.\"*\": raw.bills is also written by the pipeline 'first' (pipelines/first/"
                "pipeline.yml), which names it\n  hint: add `exclude: [bills]` here"
            ),
        ),
        (
            '"odd[*]name":',
            '"odd*":',
            (
                "raw.odd*name is also written by the pipeline 'first' (pipelines/first/"
                'pipeline.yml), which names it\n  hint: add `exclude: ["odd[*]name"]` here'
            ),
        ),
        (
            '"*":',
            '"log_*":',
            (
                "raw.log_* is also written by the pipeline 'first' (pipelines/first/pipeline.yml),"
                " by its pattern '*'"
            ),
        ),
        ('"log_*":', '"*": {exclude: [log_web]}', "raw.* is also written by the pipeline 'first'"),
        ('"*":', '"*":', "raw.* is also written by the pipeline 'first'"),
    ],
)
def test_a_pattern_that_means_a_table_of_another_pipeline_is_a_problem(
    cli: Cli, project: Path, first: str, second: str, said: str
) -> None:
    for name, table in (("first", first), ("second", second)):
        write_pipeline(project, name, f"{PLAIN}{table}\n", {})
    result = cli("check", "pipelines/first", "pipelines/second")
    assert (
        result.code == 2 and result.out.splitlines()[-1] == "2 files checked: 1 error, 0 warnings"
    )
    assert said in "\n".join(line for line in result.out.splitlines() if " | " not in line)


@pytest.mark.parametrize(
    ("first", "second", "elsewhere"),
    [
        ('"*": {exclude: [bills]}', "bills:", ""),
        ('"*": {exclude: ["log_*"]}', '"log_*":', ""),
        ('"log_*":', "bills:", ""),
        ('"*_2024":', '"log_*":', ""),
        ('"odd[*]name":', '"odd[?]name":', ""),
        ('"*":', "bills:", "conn_id: source, schema: other"),
        ('"*":', '"*":', "conn_id: later"),
    ],
)
def test_a_pattern_that_may_mean_no_table_of_another_pipeline_is_none(
    cli: Cli, project: Path, first: str, second: str, elsewhere: str
) -> None:
    (project / "connections/connections.yml").write_text(
        "source: {}\nlater: {}\nlake: {}\nwarehouse: {}\n"
    )
    write_pipeline(project, "first", f"{PLAIN}{first}\n", {})
    spec = f"{PLAIN}{second}\n"
    write_pipeline(
        project, "second", spec.replace("conn_id: source", elsewhere) if elsewhere else spec, {}
    )
    assert (
        cli("check", "pipelines/first", "pipelines/second").out == "2 files checked: no problems\n"
    )


def test_a_pipeline_that_nobody_reads_because_of_its_name_is_a_problem(
    cli: Cli, project: Path
) -> None:
    (project / "pipelines/zoo").mkdir()
    misnamed = project / "pipelines/zoo/pipeline.yaml"
    misnamed.write_text(OTHER.replace("conn_id: warehouse", "conn_id: warehouse, schema: zoo"))
    result = cli("check")
    assert result.code == 2
    assert (
        "pipelines/zoo/pipeline.yaml:1:1 ignored: pipeline files must be named pipeline.yml"
        in result.out
    )
    assert cli("check", "pipelines/shop").code == 0
    misnamed.rename(project / "pipelines/zoo/draft.yaml")
    assert cli("check").code == 0


def test_a_draft_beside_a_pipeline_is_left_alone(cli: Cli, project: Path) -> None:
    (project / "pipelines/shop/draft.yml").write_text(
        SPEC.replace("conn_id: source", "conn_id: later")
    )
    assert cli("check", "pipelines/shop/draft.yml").out == "1 file checked: no problems\n"


def with_connection(project: Path, name: str) -> None:
    file = project / "pipelines/shop/pipeline.yml"
    file.write_text(
        SPEC.replace("warehouse: {conn_id: warehouse}", f"warehouse: {{conn_id: {name}}}")
    )


def test_an_unknown_connection_is_a_problem_with_a_way_out(cli: Cli, project: Path) -> None:
    with_connection(project, "warehose")
    result = cli("check")
    assert result.code == 2
    assert (
        "pipelines/shop/pipeline.yml:5:22 warehouse.conn_id: there is no connection 'warehose'"
        in result.out
    )
    assert (
        "did you mean 'warehouse'? else add it to connections/connections.yml, or set"
        " AIRFLOW_CONN_WAREH" in result.out
    )


@pytest.mark.parametrize(
    ("notify", "place"),
    [
        ("{slack_conn_id: slak}", " notify.slack_conn_id"),
        ("[{slack_conn_id: warehouse}, {teams_conn_id: slak}]", " notify[1].teams_conn_id"),
        ("[{email_conn_id: slak, to: [a@example.com]}]", " notify[0].email_conn_id"),
    ],
)
def test_the_connection_of_each_route_must_be_there(
    cli: Cli, project: Path, notify: str, place: str
) -> None:
    file = project / "pipelines/shop/pipeline.yml"
    file.write_text(f"{SPEC}notify: {notify}\n")
    result = cli("check")
    assert result.code == 2 and result.out.count("there is no connection") == 1
    assert f"{place}: there is no connection 'slak'" in result.out


def test_a_connection_is_missed_even_where_there_are_other_errors(cli: Cli, project: Path) -> None:
    with_connection(project, "warehose")
    file = project / "pipelines/shop/pipeline.yml"
    file.write_text(file.read_text().replace("merge, ", "mrge, "))
    assert cli("check").out.splitlines()[-1] == "1 file checked: 2 errors, 0 warnings"


@pytest.mark.parametrize("where", ["environment", ".env", "no connections folder"])
def test_a_connection_may_be_declared_elsewhere(
    cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with_connection(project, "dwh")
    assert cli("check").code == 2
    if where == "environment":
        monkeypatch.setenv("AIRFLOW_CONN_DWH", "postgresql://db/x")
    elif where == ".env":
        (project / ".env").write_text("AIRFLOW_CONN_DWH=postgresql://db/x\n")
    else:
        (project / "connections").rename(project / "elsewhere")
    assert cli("check").code == 0


@pytest.mark.parametrize(
    "variable", ["AIRFLOW__SECRETS__BACKEND", "AIRFLOW__WORKERS__SECRETS_BACKEND"]
)
@pytest.mark.parametrize("where", ["environment", ".env"])
def test_a_secrets_backend_may_have_the_connection_and_a_slip_is_shown_all_the_same(
    cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch, variable: str, where: str
) -> None:
    with_connection(project, "dwh_prod")
    assert f"set {variable}" in cli("check").out or "WORKERS" in variable
    backend = "airflow.providers.hashicorp.secrets.vault.VaultBackend"
    if where == "environment":
        monkeypatch.setenv(variable, backend)
    else:
        (project / ".env").write_text(f"{variable}={backend}\n")
    assert cli("check").out == "1 file checked: no problems\n"
    with_connection(project, "warehose")
    result = cli("check")
    assert result.code == 0 and "warning: there is no connection 'warehose'" in result.out
    assert "did you mean 'warehouse'? else Airflow must have it" in result.out


ELSEWHERE = "AIRFLOW_CONN_SOURCE=postgres://h\nAIRFLOW_CONN_LAKE=aws://\n"


def test_a_misspelt_connection_is_found_with_an_env_file_alone(cli: Cli, project: Path) -> None:
    """The old code looked only where the project has connections/."""
    (project / "connections").rename(project / "elsewhere")
    (project / ".env").write_text(f"{ELSEWHERE}AIRFLOW_CONN_WAREHOUSE=postgres://h\n")
    assert cli("check").code == 0
    with_connection(project, "warehose")
    result = cli("check")
    assert result.code == 2 and "did you mean 'warehouse'? else add it to" in result.out
    # A file without connections declares none.
    (project / ".env").write_text("OTHER=1\n")
    assert cli("check").out == "1 file checked: no problems\n"


def test_a_likely_slip_is_a_warning_where_only_the_environment_has_connections(
    cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be another project's, and Airflow may have the rest."""
    (project / "connections").rename(project / "elsewhere")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgres://h")
    assert cli("check").out == "1 file checked: no problems\n"
    with_connection(project, "warehose")
    result = cli("check")
    assert result.code == 0 and "did you mean 'warehouse'? else Airflow must have it" in result.out


def test_the_answer_follows_connections_at_once_though_the_spec_stays(
    cli: Cli, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOADSHEET_CACHE", str(tmp_path / "cache"))
    with_connection(project, "dwh")
    connections = project / "connections/connections.yml"
    codes = []
    for text in (
        "source: {}\nlake: {}\ndwh: {}\n",
        "source: {}\nlake: {}\n",
        "source: {}\nlake: {}\ndwh: {}\n",
    ):
        connections.write_text(text)
        codes.append(cli("check").code)
    assert codes == [0, 2, 0]


@pytest.mark.parametrize(
    ("file", "text", "place"),
    [
        ("connections.yml", "a: [\n", "connections/connections.yml:2:1 not valid YAML"),
        ("connections.yml", "- a\n", "connections/connections.yml:1:1 expected a mapping"),
        ("pools.json", "{\n x", "connections/pools.json:2:2 not valid JSON"),
        ("pools.json", "[]", "connections/pools.json:1:1 expected a mapping"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_a_problem_beside_the_others(
    cli: Cli, project: Path, file: str, text: str, place: str
) -> None:
    (project / "connections" / file).write_text(text)
    (project / "pipelines/shop/sql/report.sql").write_text("SELECT * FROM staging.custmers")
    result = cli("check")
    assert result.code == 2 and place in result.out and "reads staging.custmers" in result.out


POOLED = SPEC.replace("customers:", "customers: {pool: slo}").replace(
    "tables:", "tasks: {pool: default_pool}\ntables:"
)


def test_an_unknown_pool_is_a_problem_where_pools_are_declared(cli: Cli, project: Path) -> None:
    (project / "pipelines/shop/pipeline.yml").write_text(POOLED)
    assert cli("check").code == 0
    (project / "connections/pools.json").write_text('{"slow": {"slots": 2, "description": ""}}')
    result = cli("check")
    assert result.code == 2
    assert (
        "pipelines/shop/pipeline.yml:9:21 tables.customers.pool: there is no pool 'slo'"
        in result.out
    )
    assert "did you mean 'slow'?" in result.out
    (project / "connections/pools.json").write_text('{"slo": {"slots": 2, "description": ""}}')
    assert cli("check").code == 0


WAITING = """\
version: 1
schedule: {{assets: [{name}]}}
source: {{conn_id: source}}
lake: {{conn_id: lake, bucket: lake}}
warehouse: {{conn_id: {warehouse}, schema: raw}}
tables:
  bills:
"""


@pytest.mark.parametrize(
    ("name", "warehouse", "meant"),
    [
        ("mart.sales", "warehouse", None),
        ("staging.orders", "warehouse", None),
        ("warehouse.mart.sales", "source", None),
        ("staging.log_7", "warehouse", None),  # of a pattern
        ("mart.slaes", "warehouse", "did you mean mart.sales?"),
        ("staging.sales", "warehouse", "did you mean mart.sales?"),
        ("mart.sales", "source", "did you mean warehouse.mart.sales?"),
        ("shop.mart.sales", "warehouse", "did you mean mart.sales?"),  # a pipeline's name
        ("public.x", "warehouse", "write schema.table of another pipeline"),
        # No event has the name of a pattern: a run would never start.
        (
            "'staging.log_*'",
            "warehouse",
            "a pattern cannot be waited for: name the tables that it matches",
        ),
    ],
)
def test_an_asset_that_no_pipeline_of_the_project_writes_is_a_problem(
    cli: Cli, project: Path, name: str, warehouse: str, meant: str | None
) -> None:
    write_pipeline(project, "logs", PLAIN.replace("raw", "staging") + '"log_*":', {})
    write_pipeline(project, "late", WAITING.format(name=name, warehouse=warehouse), {})
    result = cli("check", "pipelines/late")
    if meant is None:
        assert result.out == "1 file checked: no problems\n"
        return
    place = "pipelines/late/pipeline.yml:2:21 schedule.assets[0]: "
    assert f"{place}no pipeline of this project writes {name.strip(chr(39))}\n" in result.out
    assert f"hint: {meant}\n" in result.out and result.code == 2


@pytest.mark.parametrize(
    ("waits", "circle"),
    [
        ({"a": "shop", "b": "a", "c": "b"}, None),
        ({"a": "c", "b": "a", "c": "b"}, "c waits for b, b waits for a, a waits for c"),
        ({"a": "c", "b": "shop", "c": "a"}, "c waits for a, a waits for c"),
        ({"a": "b", "b": "a", "c": "b"}, None),  # it waits for a circle, and is in none
    ],
)
def test_pipelines_that_wait_for_each_other_are_a_problem(
    cli: Cli, project: Path, waits: dict[str, str], circle: str | None
) -> None:
    """Each would start the next for as long as rows arrive."""
    for name, upstream in waits.items():
        asset = "staging.orders" if upstream == "shop" else f"{upstream}.bills"
        text = WAITING.format(name=asset, warehouse="warehouse").replace("raw", name)
        write_pipeline(project, name, text, {})
    result = cli("check", "pipelines/c")
    if circle is None:
        assert result.out == "1 file checked: no problems\n"
        return
    name = f"{waits['c']}.bills"
    assert result.code == 2
    assert (
        f"pipelines/c/pipeline.yml:2:21 schedule.assets[0]: by {name}, this pipeline waits for"
        f" itself: {circle}\n" in result.out
    )


def test_what_a_file_with_problems_writes_is_not_known(cli: Cli, project: Path) -> None:
    write_pipeline(project, "broken", "version: 1\n", {})
    write_pipeline(project, "late", WAITING.format(name="mart.new", warehouse="warehouse"), {})
    assert cli("check", "pipelines/late").out == "1 file checked: no problems\n"
