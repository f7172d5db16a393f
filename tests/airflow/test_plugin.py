"""What Airflow's processes get to know of the page, and what it costs them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pkgutil import resolve_name

import pytest
from airflow.sdk._shared.plugins_manager import is_valid_plugin

from loadsheet.airflow import preload
from loadsheet.airflow.plugin import LoadsheetPlugin
from tests.airflow.conftest import REPO

TASK = """\
import sys
import airflow.sdk.execution_time.task_runner, airflow.sdk.plugins_manager
known = set(sys.modules)
from loadsheet.airflow.plugin import LoadsheetPlugin
plugin = LoadsheetPlugin()
plugin.macros, plugin.listeners, plugin.external_views
print(*sorted(set(sys.modules) - known))
{}
print(bool({{"fastapi", "psycopg", "airflow.models.dag"}} & set(sys.modules)))
"""


def imported(more: str = "") -> list[str]:
    """What a process with a task imports for the plugin, and whether the page is in it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TASK.format(more)],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPO,
    )
    return done.stdout.splitlines()[-2:]


def test_a_task_imports_nothing_for_it_but_the_plugin_itself() -> None:
    modules, has_page = imported()
    own = {"loadsheet", "loadsheet.airflow", "loadsheet.airflow.links", "loadsheet.airflow.plugin"}
    assert set(modules.split()) <= own | {"airflow.sdk.bases.operatorlink"}  # an abstract class
    assert has_page == "False"


def test_the_api_server_would_import_the_page() -> None:
    """The negative control: what is imported is seen."""
    assert imported("plugin.fastapi_apps")[1] == "True"


def test_the_entry_point_leads_to_a_plugin() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    plugin = resolve_name(project["entry-points"]["airflow.plugins"]["loadsheet"])
    assert plugin is LoadsheetPlugin and is_valid_plugin(plugin)


def test_a_page_that_cannot_be_built_does_not_stop_the_api_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "loadsheet.airflow.page", None)
    assert LoadsheetPlugin().fastapi_apps == []


def test_each_view_has_an_address_of_its_own() -> None:
    """Airflow drops a view whose `url_route` another one has. A relative `href` works where Airflow
    is below a path."""
    views = LoadsheetPlugin.external_views
    assert len({view["url_route"] for view in views}) == len(views)
    assert not any(view["href"].startswith(("/", "http")) for view in views)


@pytest.mark.parametrize(
    ("command", "executor", "preloads"),
    [
        ("scheduler", "LocalExecutor", True),
        ("scheduler", "CeleryExecutor,LocalExecutor", True),
        ("scheduler", "CeleryExecutor", False),
        ("api-server", "LocalExecutor", False),
    ],
)
def test_only_a_process_that_forks_tasks_imports_what_they_need(
    command: str, executor: str, preloads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(preload, "preload", asked.append)
    monkeypatch.setattr(sys, "argv", ["airflow", command])
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    LoadsheetPlugin.on_load()
    assert asked == ([preload.WORKING] if preloads else [])


def test_a_scheduler_starts_without_a_module_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preload, "WORKING", ("loadsheet.gone",))
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
    preload.preload_for_tasks()
