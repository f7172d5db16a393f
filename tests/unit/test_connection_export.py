"""connections.yml becomes a file that `airflow connections import` can take: nothing left to fill
in, or a refusal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadsheet.connections.export import export_connections
from loadsheet.errors import ConnectionMissing, InputError

ROOT = Path(__file__).parents[2]
FILE = """
warehouse:
  conn_type: postgres
  description: "staging and marts"
  host: ${HOST}
  port: ${PORT:-5432}
  password: ${PASSWORD}
  extra: {sslmode: "${SSL:-require}"}
"""


def project(folder: Path, text: str) -> Path:
    (folder / "connections").mkdir()
    (folder / "connections/connections.yml").write_text(text)
    return folder


def test_variables_are_filled_in_and_ports_are_numbers(tmp_path: Path) -> None:
    found = export_connections(
        project(tmp_path, FILE), {"HOST": "db", "PASSWORD": "a: #'\"${HOST}%"}
    )
    assert found["warehouse"] == {
        "conn_type": "postgres",
        "description": "staging and marts",
        "host": "db",
        "port": 5432,
        "password": "a: #'\"${HOST}%",
        "extra": {"sslmode": "require"},
    }


def test_a_variable_without_a_value_stops_the_export(tmp_path: Path) -> None:
    with pytest.raises(ConnectionMissing, match="PASSWORD"):
        export_connections(project(tmp_path, FILE), {"HOST": "db", "PASSWORD": ""})


@pytest.mark.parametrize("text", ["- a", "a: [", "just text"])
def test_a_file_without_connections_is_refused_without_quoting_it(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(InputError, match=r"connections\.yml") as refused:
        export_connections(project(tmp_path, text), {})
    assert "just" not in str(refused.value)


def test_a_project_without_the_file_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"connections\.yml:1:1 .*No such file"):
        export_connections(tmp_path, {})


def test_the_command_prints_json_and_a_missing_variable_is_exit_code_2(tmp_path: Path) -> None:
    def run(**environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "loadsheet.connections.export", str(tmp_path)]
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)

    project(tmp_path, FILE)
    assert json.loads(run(HOST="db", PASSWORD="x").stdout)["warehouse"]["host"] == "db"
    refused = run(HOST="db")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "PASSWORD" in refused.stderr and "Traceback" not in refused.stderr
