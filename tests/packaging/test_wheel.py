"""The wheel and the sdist: what is in them, and that the wheel works away from the checkout."""

from __future__ import annotations

import json
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.servers import S3Server
from loadsheet import __version__
from tests.git import commit_all, new_repository
from tests.granted import Granted
from tests.packaging.environment import ROOT, Environment

AIRFLOW = ("python", "-m", "airflow")
SHOP = """
CREATE TABLE customers (customer_id int PRIMARY KEY, country text);
CREATE TABLE orders (
    order_id int PRIMARY KEY,
    customer_id int REFERENCES customers,
    ordered_at timestamptz NOT NULL,
    amount numeric(10, 2) NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO customers VALUES (1, 'NL'), (2, 'JP');
INSERT INTO orders
SELECT i, 1 + i % 2, '2026-03-01 12:00+00'::timestamptz + i * interval '1 hour', i
FROM generate_series(1, 48) i;
"""
"""What the example pipeline of a new project reads."""


def names(wheel: Path) -> set[str]:
    """The files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def metadata(wheel: Path, name: str) -> str:
    """A file of the wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"loadsheet-{__version__}.dist-info/{name}").decode()


@pytest.fixture(scope="module")
def headers(wheel: Path) -> Message:
    """The wheel's METADATA."""
    return Parser().parsestr(metadata(wheel, "METADATA"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Most Airflow projects have folders `dags` and `operators`: a package must not own them."""
    folders = {name.partition("/")[0] for name in names(wheel)}
    assert folders == {"loadsheet", f"loadsheet-{__version__}.dist-info"}


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    package = ROOT / "loadsheet"
    files = (file for file in package.rglob("*") if file.is_file())
    ours = {str(f.relative_to(ROOT)) for f in files if "__pycache__" not in f.parts}
    assert {name for name in names(wheel) if name.startswith("loadsheet/")} == ours
    assert {"loadsheet/py.typed", "loadsheet/schemas/pipeline.schema.json"} < ours


def test_the_sdist_holds_what_the_wheel_was_built_from(sdist: Path, wheel: Path) -> None:
    with tarfile.open(sdist) as archive:
        found = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert {name for name in names(wheel) if name.startswith("loadsheet/")} <= found
    folders = {name.partition("/")[0] for name in found if "/" in name}
    assert folders == {"loadsheet", "loadsheet.egg-info"}


def test_the_metadata_is_what_pyproject_declares(headers: Message, wheel: Path) -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert headers["Version"] == __version__
    assert headers["Requires-Python"] == project["requires-python"]
    assert set(headers.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    always = [text for text in headers.get_all("Requires-Dist", []) if "extra ==" not in text]
    assert len(always) == len(project["dependencies"])
    entry_points = metadata(wheel, "entry_points.txt")
    assert "loadsheet = loadsheet.__main__:main" in entry_points
    assert "provider_info = loadsheet.airflow.provider:get_provider_info" in entry_points


def test_the_command_knows_its_version(core: Environment, tmp_path: Path) -> None:
    assert core.succeed("loadsheet", "--version", at=tmp_path) == f"loadsheet {__version__}\n"


def test_the_code_that_runs_is_the_wheels(core: Environment, tmp_path: Path) -> None:
    code = "import loadsheet; print(loadsheet.__file__)"
    found = Path(core.succeed("python", "-c", code, at=tmp_path).strip())
    assert found == core.site_packages / "loadsheet" / "__init__.py"


def test_the_command_line_brings_nothing_of_airflow(core: Environment, tmp_path: Path) -> None:
    others = ("airflow", "dagfactory", "pandas", "pyarrow")
    code = f"from importlib.util import find_spec; print([*filter(find_spec, {others})])"
    assert core.succeed("python", "-c", code, at=tmp_path) == "[]\n"


def test_every_command_has_help(core: Environment, tmp_path: Path) -> None:
    from loadsheet.cli.main import EXAMPLES

    for command in EXAMPLES:
        assert "Usage: loadsheet" in core.succeed("loadsheet", command, "--help", at=tmp_path)


def test_the_schemas_are_printed(core: Environment, tmp_path: Path) -> None:
    printed = core.json("loadsheet", "schema", at=tmp_path)
    assert printed == json.loads((ROOT / "schemas" / "pipeline.schema.json").read_text())
    assert core.json("loadsheet", "schema", "tests", at=tmp_path)["x-version"] == __version__


def test_a_check_is_remembered_by_the_installed_code(core: Environment, tmp_path: Path) -> None:
    core.succeed("loadsheet", "init", at=tmp_path)
    cache = {"LOADSHEET_CACHE": str(tmp_path / "cache")}
    core.succeed("loadsheet", "check", at=tmp_path, more=cache)
    assert len(list((tmp_path / "cache").glob("*/*.json"))) == 1
    core.succeed("loadsheet", "check", at=tmp_path, more=cache)
    assert len(list((tmp_path / "cache").glob("*/*.json"))) == 1


def test_without_the_extra_a_test_says_what_to_install(core: Environment, tmp_path: Path) -> None:
    core.succeed("loadsheet", "init", at=tmp_path)
    done = core.run("loadsheet", "test", at=tmp_path)
    assert done.returncode == 2 and "install loadsheet[test]" in done.stderr


def test_the_tests_of_a_new_project_pass(airflow: Environment, tmp_path: Path) -> None:
    """In the environment that has the embedded PostgreSQL of the extra."""
    airflow.succeed("loadsheet", "init", at=tmp_path)
    printed = airflow.succeed("loadsheet", "test", at=tmp_path)
    assert "1 test, all passed" in printed


def test_a_new_project_is_checked_planned_and_run(
    core: Environment, tmp_path: Path, two_databases: tuple[str, str], s3: S3Server
) -> None:
    source, warehouse = two_databases
    with psycopg.connect(source) as session:
        session.execute(SHOP)
    core.succeed("loadsheet", "init", "shop", at=tmp_path)
    project = tmp_path / "shop"
    lake = {
        "conn_type": "generic",
        "login": s3.access_key,
        "password": s3.secret_key,
        "extra": {"endpoint_url": s3.endpoint},
    }
    granted = Granted(project)
    (project / ".env").write_text(
        f"AIRFLOW_CONN_SOURCE='{granted.login('source', source)}'\n"
        f"AIRFLOW_CONN_WAREHOUSE='{granted.login('warehouse', warehouse)}'\n"
        f"AIRFLOW_CONN_LAKE='{json.dumps(lake)}'\n"
    )
    checked = core.succeed("loadsheet", "check", at=project)
    assert checked.startswith("1 file checked: no problems")
    planned = core.json("loadsheet", "plan", "example", "--connect", "--json", at=project)
    assert {step["kind"] for step in planned["steps"]} >= {"extract", "load", "transform"}
    core.succeed("loadsheet", "run", "example", at=project)
    with psycopg.connect(warehouse) as session:
        rows = session.execute("SELECT count(*), sum(orders), sum(revenue) FROM mart.daily_sales")
        assert rows.fetchone() == (6, 48, 48 * 49 / 2)
    again = core.succeed("loadsheet", "run", "example", at=project)
    assert "orders" in again


WAYS = {
    "folder": {
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": "{project}"},
    },
    "dags": {
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": "{project}/dags"},
    },
    "bundle": {
        "classpath": "loadsheet.airflow.bundle.LocalPipelineBundle",
        "kwargs": {"path": "{project}"},
    },
    "git": {
        "classpath": "airflow.providers.git.bundles.git.GitDagBundle",
        "kwargs": {"repo_url": "file://{project}", "tracking_ref": "main"},
    },
    "git-bundle": {
        "classpath": "loadsheet.airflow.git_bundle.GitPipelineBundle",
        "kwargs": {"repo_url": "file://{project}", "tracking_ref": "main"},
    },
}
"""How Airflow can be given a project; each here with a project of its own."""


@pytest.fixture(scope="module")
def listed(airflow: Environment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The DAGs that Airflow finds, by id, where every way to give it a project is configured."""
    home = tmp_path_factory.mktemp("projects")
    bundles = []
    for way, bundle in WAYS.items():
        project = home / way
        airflow.succeed("loadsheet", "init", way, at=home)
        (project / "pipelines" / "example").rename(project / "pipelines" / way)
        spec = project / "pipelines" / way / "pipeline.yml"
        spec.write_text(spec.read_text().replace("pipeline: example", f"pipeline: {way}"))
        new_repository(project)
        commit_all(project)
        text = json.dumps({"name": way, **bundle})
        bundles.append(json.loads(text.replace("{project}", str(project))))
    more = {
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home / "storage"),
    }
    airflow.succeed(*AIRFLOW, "db", "migrate", at=home, more=more)
    airflow.succeed(*AIRFLOW, "dags", "reserialize", at=home, more=more)
    found = airflow.airflow("dags", "list", at=home, more=more)
    return {dag["dag_id"]: dag for dag in found}


def test_airflow_imports_the_wheel_not_the_checkout(airflow: Environment, tmp_path: Path) -> None:
    code = "import airflow, loadsheet; print(loadsheet.__file__)"
    found = Path(airflow.succeed("python", "-c", code, at=tmp_path).split()[-1])
    assert found == airflow.site_packages / "loadsheet" / "__init__.py"


@pytest.mark.parametrize("way", WAYS)
def test_airflow_lists_the_dag_of_a_new_project(listed: dict[str, Any], way: str) -> None:
    assert listed[way]["bundle_name"] == way


def test_airflow_lists_nothing_else(listed: dict[str, Any]) -> None:
    assert set(listed) == set(WAYS)


def test_airflow_knows_the_provider(airflow: Environment, tmp_path: Path) -> None:
    found = airflow.airflow("providers", "list", at=tmp_path)
    assert [p["version"] for p in found if p["package_name"] == "loadsheet"] == [__version__]
