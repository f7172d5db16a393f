""".env.example says everything that can be set and gives no secret away; the documented command
fills it."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values

from loadsheet.connections.export import export_connections
from tests.unit.compose_file import ROOT, SECRET, STACK, VARIABLE, strings

TEXT = (ROOT / ".env.example").read_text()
CONNECTIONS = yaml.safe_load((ROOT / "connections/connections.yml").read_text())
# Read by docker compose itself; addresses that hold on the host but not inside compose's network;
# and what reaches airflow-init with the whole of .env.
NOT_IN_COMPOSE = {
    "COMPOSE_PROFILES",
    "FLIGHTS_SOURCE_HOST",
    "WAREHOUSE_HOST",
    "LAKE_ENDPOINT_URL",
    "SLACK_WEBHOOK_HOST",
    "SLACK_WEBHOOK_TOKEN",
}


def problems(text: str) -> list[str]:
    """What is wrong with an .env.example for our compose file and our connections."""
    documented = dotenv_values(stream=StringIO(text))
    in_compose = {name for value in strings(STACK) for name, _, _ in VARIABLE.findall(value)}
    in_connections = {
        name for value in strings(CONNECTIONS) for name, _, _ in VARIABLE.findall(value)
    }
    found = [
        f"{name} is documented or used, not both"
        for name in set(documented) ^ (in_compose | NOT_IN_COMPOSE)
    ]
    found += [f"{name} is not documented" for name in in_connections - set(documented)]
    found += [
        f"{name} has a value" for name, value in documented.items() if SECRET.search(name) and value
    ]
    lines = ["", *text.splitlines()]
    for before, line in pairwise(lines):
        # Lines that belong together (host and port) share the comment above the first.
        if "=" in line and line[0] != "#" and not re.match(r"# (?!---)|[A-Z]", before):
            found.append(f"{line} has no comment")
    return found


def test_the_example_documents_what_is_used_and_gives_no_secret_away() -> None:
    assert problems(TEXT) == []


@pytest.mark.parametrize(
    "mistaken",
    [
        TEXT + "# A setting of nothing.\nUNUSED=1\n",
        TEXT.replace("LAKE_REGION=us-east-1\n", ""),
        TEXT.replace("FLIGHTS_SOURCE_HOST=127.0.0.1\n", ""),
        TEXT.replace("WAREHOUSE_PASSWORD=\n", "WAREHOUSE_PASSWORD=warehouse\n"),
        TEXT.replace("# The UI's port on 127.0.0.1.\n", "\n"),
    ],
    ids=["unused", "used by compose", "used by connections", "a default password", "no comment"],
)
def test_an_example_with_one_mistake_does_not_pass(mistaken: str) -> None:
    assert mistaken != TEXT
    assert problems(mistaken)


def test_the_documented_command_fills_every_secret_that_is_needed(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text(TEXT)
    script = re.search(
        r"<<'EOF_PYTHON'\n(.*?)\nEOF_PYTHON", (ROOT / "docs/compose.md").read_text(), re.S
    )
    assert script
    subprocess.run([sys.executable, "-c", script[1]], cwd=tmp_path, check=True)
    filled = dotenv_values(tmp_path / ".env")
    required = {
        name for text in strings(STACK) for name, how, _ in VARIABLE.findall(text) if how == ":?"
    }
    assert {name for name in required if not filled[name]} == set()
    # Slack is optional: with its token empty, all connections can be exported.
    assert not filled["SLACK_WEBHOOK_TOKEN"]
    environment = {name: value or "" for name, value in filled.items()}
    assert set(export_connections(ROOT, environment)) == set(CONNECTIONS)
    assert len(base64.urlsafe_b64decode(filled["AIRFLOW_FERNET_KEY"] or "")) == 32
    secrets = [value for name, value in filled.items() if value and SECRET.search(name)]
    assert len(secrets) == len(set(secrets))
    # RFC 7518 asks for 64 bytes where HMAC uses SHA-512, and Airflow warns below that.
    short = {
        name for name, value in filled.items() if SECRET.search(name) and len(value or "") < 64
    }
    assert short == {"AIRFLOW_FERNET_KEY", "LAKE_ACCESS_KEY", "SLACK_WEBHOOK_TOKEN"}
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
