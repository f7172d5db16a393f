"""The page inside a real API server of Airflow: who sees what, and who may press."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles

from demo.airflow import Airflow
from demo.servers import PostgresServer, S3Server
from loadsheet.airflow.plugin import PREFIX
from tests.airflow.conftest import REPO
from tests.granted import Granted
from tests.page.chromium import PROGRAM, Chromium

with warnings.catch_warnings():  # a library of Airflow imports a test client that is deprecated
    warnings.simplefilter("ignore")
    from airflow.api_fastapi.core_api.security import get_user

    from loadsheet.airflow.page import ACTIONS, page
    from tests.airflow.page_users import HIDDEN, READ_ONLY, ROLES

SHOP = """\
version: 1
description: Orders of the shop
verify: "@weekly"
source: {conn_id: page_source}
lake: {conn_id: page_lake, bucket: page}
warehouse: {conn_id: page_warehouse, schema: shop, mart_schema: shop_mart}
tables:
  item:
transforms:
  totals:
"""
PAYROLL = """\
version: 1
source: {conn_id: page_source}
lake: {conn_id: page_lake, bucket: page}
warehouse: {conn_id: page_undefined, schema: payroll}
tables:
  item:
"""
AWAY = """\
version: 1
source: {conn_id: page_source}
lake: {conn_id: page_lake, bucket: page}
warehouse: {conn_id: page_away, schema: away}
tables:
  item:
"""
PIPELINES = {"shop": SHOP, HIDDEN: PAYROLL, READ_ONLY: AWAY}
PLUGIN = "from loadsheet.airflow.plugin import LoadsheetPlugin\n"


@dataclass
class Site:
    """An API server with the page, and a client for each user."""

    airflow: Airflow
    clients: dict[str, httpx.Client]
    project: Path

    def get(self, user: str, path: str) -> httpx.Response:
        """The answer to a path of the page."""
        return self.clients[user].get(f"{PREFIX}/{path}")


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, s3: S3Server
) -> Iterator[Site]:
    """`shop` has run once. Airflow has read the DAGs; only its API server runs."""
    databases = ("page_source", "page_warehouse", "page_airflow")
    source, warehouse, metadata = (postgres.create_database(name) for name in databases)
    with psycopg.connect(source) as session:
        session.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1), (2)")
    project = tmp_path_factory.mktemp("project")
    for name, text in PIPELINES.items():
        folder = project / "pipelines" / name
        (folder / "sql").mkdir(parents=True)
        (folder / "pipeline.yml").write_text(text)
    (project / "pipelines/shop/sql/totals.sql").write_text("SELECT count(*) AS n FROM item")
    home = tmp_path_factory.mktemp("airflow")
    plugins = home / "plugins"
    plugins.mkdir()
    (plugins / "page.py").write_text(PLUGIN)
    granted = Granted(project)
    lake = {"conn_type": "generic", "login": s3.access_key, "password": s3.secret_key}
    extra = {
        "AIRFLOW_CONN_PAGE_SOURCE": granted.login("source", source),
        "AIRFLOW_CONN_PAGE_WAREHOUSE": granted.login("warehouse", warehouse),
        "AIRFLOW_CONN_PAGE_AWAY": "postgres://someone:secret-of-away@127.0.0.1:1/away",
        "AIRFLOW_CONN_PAGE_LAKE": json.dumps(lake | {"extra": {"endpoint_url": s3.endpoint}}),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(plugins),
        "AIRFLOW__CORE__AUTH_MANAGER": "tests.airflow.page_users.GuestAuthManager",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(
            f"{user}:{role}" for user, role in ROLES.items()
        ),
        "PYTHONPATH": str(REPO),
    }
    airflow = Airflow(home, project, metadata, extra=extra).prepare()
    run = [sys.executable, "-m", "loadsheet", "--project", str(project), "run", "shop"]
    subprocess.run(run, env=airflow.env, cwd=REPO, check=True, capture_output=True)
    passwords = {user: f"password of {user}" for user in ROLES}
    (home / "passwords.json").write_text(json.dumps(passwords))
    airflow.run("dags", "reserialize")
    airflow.start_component("api-server")
    clients = {
        user: httpx.Client(base_url=airflow.url, trust_env=False, timeout=60) for user in ROLES
    }
    try:
        _wait_for(airflow)
        for user, client in clients.items():
            login = {"username": user, "password": passwords[user]}
            token = client.post("/auth/token", json=login).json()["access_token"]
            # As in a browser: there is no Authorization header, and scripts cannot read the cookie.
            client.cookies.set("_token", token)
        yield Site(airflow, clients, project)
    finally:
        for client in clients.values():
            client.close()
        airflow.stop()
    for name in databases:
        postgres.drop_database(name)


def _wait_for(airflow: Airflow) -> None:
    end = time.monotonic() + 240
    while airflow.alive() and time.monotonic() < end:
        try:
            httpx.get(f"{airflow.url}/api/v2/monitor/health", trust_env=False, timeout=30)
            return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise AssertionError("the API server does not answer")


def paths(app: FastAPI) -> list[str]:
    """A path for each route of an application; fails for a route that none can be made for."""
    values = {
        "dag_id": "shop",
        "kind": "table",
        "name": "item",
        "run_id": "manual__1",
        "task_id": "load.load_item",
    }
    found = []
    for route in app.routes:
        assert isinstance(route, APIRoute), f"{route} has no dependencies"
        path = re.sub(r"\{(\w+)(:path)?\}", lambda match: values[match[1]], route.path)
        found.append(path.removeprefix("/"))
    return found


def test_a_stranger_gets_nothing(site: Site) -> None:
    asked = paths(page())
    assert len(asked) > 8
    with httpx.Client(base_url=site.airflow.url, trust_env=False, timeout=60) as stranger:
        for path in [*asked, "app.js", "nothing.js"]:
            answer = stranger.get(f"{PREFIX}/{path}")
            assert answer.status_code == 401, path
            assert answer.json() == {"error": "Not authenticated"}
            forged = stranger.get(f"{PREFIX}/{path}", headers={"Cookie": "_token=x.y.z"})
            assert forged.status_code in (401, 403), path


def test_a_route_without_the_question_who_asks_would_be_seen() -> None:
    """The negative control: what FastAPI adds by itself, and what is mounted, asks nobody."""
    with pytest.raises(AssertionError, match="has no dependencies"):
        paths(FastAPI(dependencies=[Depends(get_user)]))
    app = page()
    app.mount("/files", StaticFiles(directory=REPO / "docs"))
    with pytest.raises(AssertionError, match="has no dependencies"):
        paths(app)


def test_only_answers_to_get_are_there(site: Site) -> None:
    for path in paths(page()):
        assert site.clients["admin"].post(f"{PREFIX}/{path}", json={}).status_code == 405, path


def names(site: Site, user: str) -> list[str]:
    """The pipelines that a user sees."""
    return [entry["name"] for entry in site.get(user, "api/pipelines").json()["pipelines"]]


def test_a_pipeline_is_shown_to_those_who_may_read_its_dag(site: Site) -> None:
    assert names(site, "viewer") == ["away", HIDDEN, "shop"]
    assert names(site, "guest") == ["away", "shop"]
    for path in (
        f"api/pipelines/{HIDDEN}/targets/table/item",
        f"api/pipelines/{HIDDEN}/runs/manual__1",
        f"api/pipelines/{HIDDEN}/runs",
        f"api/pipelines/{HIDDEN}/actions",
        f"dags/{HIDDEN}/tasks/load.load_item",
    ):
        assert site.get("viewer", path).status_code in (200, 302), path
        assert site.get("guest", path).status_code == 403, path


def test_what_is_no_pipeline_is_not_found(site: Site) -> None:
    for path in ("api/pipelines/nothing/runs/x", "api/pipelines/shop/targets/table/nothing"):
        answer = site.get("admin", path)
        assert answer.status_code == 404 and "nothing" in answer.json()["error"]


def test_the_state_of_tables_and_marts_is_shown(site: Site) -> None:
    away, hidden, shop = site.get("viewer", "api/pipelines").json()["pipelines"]
    assert {target["name"]: target["state"] for target in shop["targets"]} == {
        "item": "loaded",
        "totals": "current",
    }
    assert "page_away" in away["unknown"] and away["targets"] == []
    assert "API server has no connection 'page_undefined'" in hidden["unknown"]
    table = site.get("viewer", "api/pipelines/shop/targets/table/item").json()
    (load,) = table["loads"]
    assert load["inserted"] == 2
    run = site.get("viewer", f"api/pipelines/shop/runs/{load['run_id']}").json()
    assert [one["name"] for one in run["loads"]] == ["item"]
    assert [one["name"] for one in run["builds"]] == ["totals"]
    [listed] = site.get("viewer", "api/pipelines/shop/runs").json()["runs"]
    assert (listed["run_id"], listed["tables"], listed["marts"]) == (load["run_id"], 1, 1)


def test_a_file_that_is_broken_or_elsewhere_is_shown_with_its_problem(site: Site) -> None:
    spec = site.project / "pipelines/away/pipeline.yml"

    def problems() -> list[str]:
        away = site.get("viewer", "api/pipelines").json()["pipelines"][0]
        target = site.get("viewer", "api/pipelines/away/targets/table/item")
        assert target.status_code == 409
        return [away["error"], target.json()["error"]]

    try:
        spec.write_text(AWAY.replace("tables:", "tabels:"))
        assert all("pipeline.yml:5:1" in text and "tables" in text for text in problems())
        spec.unlink()
        assert all("its API server has no such file" in text for text in problems())
    finally:
        spec.write_text(AWAY)


def test_sql_is_shown_to_those_who_may_read_code(site: Site) -> None:
    path = "api/pipelines/shop/targets/transform/totals"
    assert "count(*)" in site.get("viewer", path).json()["sql"]
    assert site.get("guest", path).json()["sql"] == ""


def test_no_answer_holds_a_secret_and_none_is_kept(site: Site) -> None:
    for path in paths(page()):
        answer = site.get("admin", path)
        assert "secret-of-away" not in answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self';" in policy and "frame-ancestors 'self'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_buttons_are_those_that_the_user_may_press(site: Site) -> None:
    """A button starts a run by Airflow's API, with the cookie of the person who presses it."""
    body = {"logical_date": None, "conf": {"tables": ["item"]}}
    for user, may in {"viewer": False, "user": True, "op": True, "admin": True}.items():
        actions = list(ACTIONS) if may else []
        detail = site.get(user, "api/pipelines/shop/targets/table/item").json()
        assert detail["actions"] == actions
        for name in ("shop", "away"):
            found = site.get(user, f"api/pipelines/{name}/actions").json()["actions"]
            assert found == [one for one in actions if name == "shop" or one != "verify"]
        pressed = site.clients[user].post("/api/v2/dags/shop/dagRuns", json=body)
        assert pressed.status_code == (200 if may else 403), pressed.text
    # Some may start runs of one DAG and only read another.
    for name, allowed in {"shop": True, READ_ONLY: False}.items():
        assert bool(site.get("guest", f"api/pipelines/{name}/actions").json()["actions"]) is allowed
        pressed = site.clients["guest"].post(f"/api/v2/dags/{name}/dagRuns", json=body)
        assert (pressed.status_code == 403) is not allowed
    forged = site.clients["admin"].post(
        "/api/v2/dags/shop/dagRuns",
        content=json.dumps(body),
        headers={"Content-Type": "text/plain"},  # all that a form of another site can send
    )
    assert forged.status_code == 422


def test_a_tab_of_airflow_leads_to_its_place_on_the_page(site: Site) -> None:
    places = {
        "dags/shop": "#/p/shop",
        "dags/shop/runs/manual__2026-01-01T00:00:00+00:00": (
            "#/p/shop/run/manual__2026-01-01T00%3A00%3A00%2B00%3A00"
        ),
        "dags/shop/tasks/extract.extract_item": "#/p/shop/table/item",
        "dags/shop/tasks/transform.transform_totals": "#/p/shop/transform/totals",
        "dags/shop/tasks/look": "#/p/shop",
        "dags/nothing/tasks/x": "#/p/nothing",
    }
    for path, place in places.items():
        answer = site.get("viewer", path)
        assert answer.headers["Location"] == f"{PREFIX}/{place}", path


def test_airflow_shows_it_in_its_navigation_and_as_tabs(site: Site) -> None:
    plugins = site.clients["admin"].get("/api/v2/plugins").json()["plugins"]
    (plugin,) = [one for one in plugins if one["name"] == "loadsheet"]
    places = {view["destination"]: view["href"] for view in plugin["external_views"]}
    assert places.keys() == {"nav", "dag", "dag_run", "task", "task_instance"}
    for href in places.values():
        path = href.format(DAG_ID="shop", RUN_ID="x", TASK_ID="look")
        assert site.clients["viewer"].get(path).status_code in (200, 302)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    if PROGRAM is None:
        pytest.skip("there is no Chromium here")
    with Chromium() as started:
        yield started


def open_frame(browser: Chromium, site: Site, user: str, address: str) -> None:
    """Open a page of Airflow as the user, until the frame shows Loadsheet's page."""
    log_in(browser, site, user)
    browser.look(1300)
    browser.open(f"{site.airflow.url}/{address}")
    browser.wait(frame(SHOWN))


def log_in(browser: Chromium, site: Site, user: str) -> None:
    token = site.clients[user].cookies["_token"]
    browser.call("Network.setCookie", name="_token", value=token, url=site.airflow.url)


def open_again(browser: Chromium) -> None:
    """Load what is in the frame again. To open all of Airflow takes 4.4 s of a core."""
    window = "document.querySelector('iframe').contentWindow"
    browser.js(f"{window}.isOld = true; {window}.location.reload()")
    browser.wait(f"!{window}.isOld && {frame(SHOWN)}")


def frame(expression: str) -> str:
    """JavaScript whose `d` is the document in the frame."""
    return f"(d => {expression})(document.querySelector('iframe')?.contentDocument)"


SHOWN = "d?.querySelector('main h1') && !d.querySelector('main[aria-busy]')"
BUTTONS = frame("[...d.querySelectorAll('main .actions button')].map(one => one.textContent)")
SAID = frame("d.querySelector('.said').textContent")
ITEM = "dags/shop/tasks/load.load_item/plugin/loadsheet-task"
TOTALS = "dags/shop/tasks/transform.transform_totals/plugin/loadsheet-task"
RANGE = {"interval_start": "2026-11-02T00:00:00Z", "interval_end": "2026-11-03T00:00:00Z"}
PRESSED = {
    ITEM: {
        "Run": {"tables": ["item"]},
        "Full refresh": {"tables": ["item"], "full_refresh": True},
        "Backfill": {"tables": ["item"], **RANGE},
    },
    TOTALS: {"Rebuild": {"transforms": ["totals"]}, "Verify": {"verify": ["totals"]}},
}


def press(browser: Chromium, label: str) -> str:
    """Press the button of the page and that of its question; returns the id of the run."""
    clicked = f".find(one => one.textContent === '{label}').click()"
    browser.js(frame(f"[...d.querySelectorAll('main .actions button')]{clicked}"))
    if label == "Backfill":
        for name, value in zip(("from", "until"), RANGE.values(), strict=True):
            browser.js(frame(f"d.getElementById('{name}').value = '{value[:16]}'"))
    browser.js(frame("d.querySelector('dialog button').click()"))
    browser.wait(f"{SAID}.length > 1")  # first it says "…"
    said = browser.js(SAID)
    found = re.search(r"manual__\S+?(?=\. )", said)
    assert found, said
    assert said.endswith("The DAG is paused: the run begins once it is unpaused")
    return found[0]


def run_of(site: Site, run_id: str) -> dict[str, Any]:
    run = site.clients["op"].get(f"/api/v2/dags/shop/dagRuns/{quote(run_id)}")
    return run.json()  # type: ignore[no-any-return]


@pytest.mark.parametrize("address", PRESSED)
def test_each_button_starts_the_run_that_it_names(
    browser: Chromium, site: Site, address: str
) -> None:
    open_frame(browser, site, "op", address)
    for label, conf in PRESSED[address].items():
        open_again(browser)
        assert run_of(site, press(browser, label))["conf"] == conf, label


def test_in_airflows_frame_a_button_starts_a_run_and_a_link_leads_out(
    browser: Chromium, site: Site
) -> None:
    open_frame(browser, site, "viewer", ITEM)
    assert browser.js(BUTTONS) == []
    log_in(browser, site, "op")
    open_again(browser)
    assert browser.js(BUTTONS) == ["Run", "Full refresh", "Verify", "Backfill"]
    run_id = press(browser, "Verify")
    run = run_of(site, run_id)
    assert run["conf"] == {"tables": ["item"], "verify": ["item"]}
    assert (run["triggering_user_name"], run["triggered_by"]) == ("op", "ui")
    browser.js(frame(f"d.location.hash = '#/p/shop/run/' + encodeURIComponent({run_id!r})"))
    browser.wait(frame("d.querySelector('a[target=_top]')"))
    browser.js(frame("d.querySelector('a[target=_top]').click()"))
    browser.wait("location.pathname.startsWith('/dags/shop/runs/manual__')")


def test_in_airflows_frame_the_page_has_airflows_theme(browser: Chromium, site: Site) -> None:
    open_frame(browser, site, "viewer", "plugin/loadsheet")
    for theme in ("dark", "light"):
        browser.js(f"localStorage.setItem('theme', '{theme}')")
        browser.wait(frame(f"d.documentElement.dataset.theme === '{theme}'"))
