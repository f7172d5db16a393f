"""Twelve secrets in every place where a project may keep them: none is shown by any command,
however it fails."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from loadsheet.sql.text import literal
from tests import canaries
from tests.forked import command_line
from tests.project import Project

# Where it is kept -> the secret. Those that servers must know are made in the test.
SECRETS = {
    "source password in a URI": canaries.HARD,
    "warehouse password in .env": "canary $w {x} pass'phrase",
    "S3 key": "CANARYKEY0001",
    "S3 secret": "canary/s3+secret==",
    "libpq option": "canary-in-options",
    "token in an extra": "canary-extra-token",
    "nested extra": "canary-deep-secret",
    "sslpassword": "canary-sslpassword",
    "webhook token": "T0/B0/canary-webhook",
    "unused variable": "canary-unused-variable",
    "wrong password": "canary-wrong&pass",
    "password of a bad host": "canary-bad-host",
}
UNMASKED = (
    "import loadsheet.redact as r; r.masked = r.clean = r.without_secrets = lambda text: text;"
    "r.message = str; from loadsheet.cli.main import main; main()"
)


@pytest.fixture
def world(project: Project) -> Iterator[Project]:
    """A project that holds all twelve, on servers that take the first few."""
    role = f"canary_{project.bucket[-6:].replace('-', '_')}"
    project.in_source(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'planted-in-a-row')"
    )
    project.in_source("CREATE TABLE t2 (id int PRIMARY KEY)")
    project.spec(
        {"t": None},
        {"m": "SELECT id FROM t"},
        notify={"slack_conn_id": "slack"},
        tasks={"retries": 0},
    )
    warehouse = SECRETS["warehouse password in .env"]
    # They inherit what `loadsheet grants` prints; `t2` is for `loadsheet add`.
    project.in_source(
        f"GRANT SELECT ON t2 TO {project.extractor};"
        f"CREATE ROLE {role} LOGIN PASSWORD {literal(canaries.HARD)} IN ROLE {project.extractor}"
    )
    project.in_warehouse(
        f"CREATE ROLE {role}_w LOGIN PASSWORD {literal(warehouse)} IN ROLE {project.loader}"
    )
    source = urlsplit(project.source)
    options = quote(f"-c app.canary={SECRETS['libpq option']}")
    project.source = (
        f"postgresql://{role}:{quote(canaries.HARD, safe='')}@{source.hostname}:{source.port}"
        f"{source.path}?options={options}&oauth_client_secret={SECRETS['token in an extra']}"
        f"&sslpassword={SECRETS['sslpassword']}"
    )
    target = urlsplit(project.warehouse)
    (project.folder / "connections").mkdir()
    (project.folder / "connections" / "connections.yml").write_text(
        f"warehouse: {{conn_type: postgres, host: {target.hostname}, port: {target.port}, schema:"
        f" {target.path[1:]}, login: {role}_w, password: '${{WAREHOUSE_PASSWORD}}', extra:"
        f" {{sqlalchemy_query: {{secret: {SECRETS['nested extra']}}}}}}}\n"
        "slack: {conn_type: slackwebhook, password:"
        f" {SECRETS['webhook token']}}}\n"
    )
    quoted = warehouse.replace("'", "\\'")
    (project.folder / ".env").write_text(
        f"WAREHOUSE_PASSWORD='{quoted}'\nUNUSED={SECRETS['unused variable']}\n"
    )
    yield project
    project.source, project.warehouse = source.geturl(), target.geturl()


def environment(project: Project, **more: str) -> dict[str, str]:
    """As a user has it: the warehouse only in connections.yml."""
    given = project.environment()
    del given["AIRFLOW_CONN_WAREHOUSE"]
    return {**given, **more}


def shown(
    project: Project, *arguments: str, code: int | None, unmasked: bool = False, **more: str
) -> dict[str, str]:
    """What the command prints, by stream."""
    line = ["--project", str(project.folder), *arguments]
    given = environment(project, **more)
    if unmasked:
        command = [sys.executable, "-c", UNMASKED, *line]
        done = subprocess.run(command, env=given, text=True, capture_output=True, timeout=120)
    else:
        done = command_line(line, given)
    assert code in (None, done.returncode), done.stdout + done.stderr
    name = f"{' '.join(arguments)} {sorted(more)}"
    return {f"{name} stdout": done.stdout, f"{name} stderr": done.stderr}


def broken(project: Project, port: int) -> dict[str, dict[str, str]]:
    """Every kind of failure, as the environment that makes it."""
    url = project.source
    host, wrong = (
        quote(SECRETS["password of a bad host"]),
        quote(SECRETS["wrong password"], safe=""),
    )
    at = urlsplit(url)
    place = f"{at.hostname}:{at.port}{at.path}"
    endpoint = f"http://k:{quote(SECRETS['S3 secret'], safe='')}@127.0.0.1:{port}"
    lake = {"conn_type": "generic", "login": SECRETS["S3 key"], "password": SECRETS["S3 secret"]}
    return {
        "bad host": {"AIRFLOW_CONN_SHOP_SOURCE": f"postgresql://u:{host}@no-such-host.invalid/x"},
        "bad password": {"AIRFLOW_CONN_SHOP_SOURCE": f"postgresql://{at.username}:{wrong}@{place}"},
        "refused": {"AIRFLOW_CONN_SHOP_SOURCE": f"postgresql://u:{wrong}@127.0.0.1:{port}/x"},
        "no TLS": {"AIRFLOW_CONN_SHOP_SOURCE": f"{url}&sslmode=require"},
        "no such mode": {
            "AIRFLOW_CONN_SHOP_SOURCE": f"{url}&sslmode={SECRETS['token in an extra']}"
        },
        "bad option": {
            "AIRFLOW_CONN_SHOP_SOURCE": (
                f"postgresql://{at.username}:{quote(canaries.HARD, safe='')}@{place}"
                f"?options=-c%20lock_timeout%3D{SECRETS['libpq option']}"
            )
        },
        "not a URI": {"AIRFLOW_CONN_SHOP_SOURCE": f"postgresql://u:{canaries.HARD}@{place}"},
        "not JSON": {"AIRFLOW_CONN_SHOP_SOURCE": '{"password": "' + canaries.HARD},
        "lake's key": {
            "AIRFLOW_CONN_LAKE": json.dumps(
                {**lake, "extra": {"endpoint_url": project.s3.endpoint}}
            )
        },
        "lake away": {
            "AIRFLOW_CONN_LAKE": json.dumps(
                {**lake, "extra": {"endpoint_url": f"http://127.0.0.1:{port}"}}
            )
        },
        "lake's address": {
            "AIRFLOW_CONN_LAKE": json.dumps({**lake, "extra": {"endpoint_url": endpoint}})
        },
    }


@pytest.fixture
def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.timeout(300)
def test_no_command_shows_a_secret_however_it_ends(
    world: Project,
    closed_port: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    cache.chmod(0o700)
    monkeypatch.setenv("LOADSHEET_CACHE", str(cache))
    commands = (
        ("check",),
        ("plan", "shop"),
        ("plan", "shop", "--connect", "--json"),
        ("render", "shop"),
        ("run", "shop"),
        ("run", "shop", "--json"),
        ("status", "shop"),
        ("status", "--json"),
        ("gc", "shop", "--dry-run"),
        ("add", "shop", "t2", "--dry-run"),
        ("new", "other", "--source", "shop_source", "--dry-run", "--json"),
    )
    with canaries.process_arguments() as arguments:
        places = {
            name: text
            for command in commands
            for name, text in shown(world, *command, code=0).items()
        }
        for name, variables in broken(world, closed_port).items():
            code = 2 if name in ("not a URI", "not JSON", "lake's address") else 1
            try:
                places |= {
                    f"{name}: {k}": v
                    for k, v in shown(world, "run", "shop", code=code, **variables).items()
                }
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from None
        told = broken(world, closed_port)["bad option"]  # the server says it again
        for command in (("plan", "shop", "--connect"), ("status", "--json"), ("add", "shop", "t2")):
            places |= shown(world, *command, code=None, **told)
    places |= {f"arguments of {name}": line for name, line in arguments.items()}
    cached, stored = canaries.files(cache), canaries.objects(world.s3, world.bucket)
    with psycopg.connect(world.warehouse) as session:
        ledger = canaries.tables(session, "loadsheet")
    assert (
        cached
        and "planted-in-a-row" in "".join(stored.values())
        and set(ledger) >= {"scope", "load", "failure"}
    )
    secrets = [*SECRETS.values(), world.s3.access_key, world.s3.secret_key]
    assert canaries.found(places | cached | stored | ledger, secrets) == set()


def test_without_the_masking_one_would_be_seen(world: Project, closed_port: int) -> None:
    """The negative control, and that the search finds what is planted."""
    variables = broken(world, closed_port)["bad option"]
    places = shown(world, "run", "shop", code=1, unmasked=True, **variables)
    assert {secret for _, secret in canaries.found(places, SECRETS.values())} == {
        SECRETS["libpq option"]
    }
    planted = f"password={quote(canaries.HARD, safe='')}"
    assert canaries.found({"planted": planted}, SECRETS.values()) == {("planted", canaries.HARD)}


def test_a_secret_typed_into_a_spec_is_not_repeated(world: Project) -> None:
    spec = world.folder / "pipelines" / "shop" / "pipeline.yml"
    spec.write_text(
        spec.read_text().replace(
            "conn_id: shop_source", f"conn_id: '{world.source}', password: {SECRETS['S3 key']}"
        )
    )
    places = shown(world, "check", code=2) | shown(world, "check", "--format", "json", code=2)
    assert canaries.found(places, SECRETS.values()) == set()
