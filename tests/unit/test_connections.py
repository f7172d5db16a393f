"""Connections are found as Airflow finds them, and say what is missing without saying a secret."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from loadsheet.connections.lookup import Connection, definitions_of, project_connections
from loadsheet.errors import ConnectionMissing, InputError, SpecError

SECRET = "s3cr3t"

YAML = """
warehouse:
  conn_type: postgres
  description: Staging and marts
  host: ${WAREHOUSE_HOST}
  port: ${WAREHOUSE_PORT:-5432}
  schema: dwh
  login: ${WAREHOUSE_USER:-loader}
  password: ${WAREHOUSE_PASSWORD}
lake:
  conn_type: generic
  extra:
    endpoint_url: "http://${LAKE_HOST:-localhost}:9000"
    nested: {list: ["${LAKE_HOST:-localhost}", 1, true]}
uri: postgresql://u:${URI_PASSWORD:-}@h:5433/db
numbers: {login: 123, port: 5432, password: 007}
advised: {host: "${ADVISED:?ask the platform team}"}
"""
ENVIRON = {"WAREHOUSE_HOST": "db", "WAREHOUSE_PASSWORD": SECRET}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "connections").mkdir()
    (tmp_path / "connections" / "connections.yml").write_text(YAML)
    return tmp_path


def find(project: Path, conn_id: str, environ: Mapping[str, str] = ENVIRON) -> Connection:
    return project_connections(project, environ)(conn_id)


def test_the_file_is_filled_from_the_environment(project: Path) -> None:
    assert find(project, "warehouse") == Connection(
        conn_id="warehouse",
        conn_type="postgres",
        host="db",
        port=5432,
        login="loader",
        password=SECRET,
        schema="dwh",
    )


def test_extras_are_filled_at_any_depth(project: Path) -> None:
    extra = find(project, "lake", {"LAKE_HOST": "s3"}).extra
    assert extra == {"endpoint_url": "http://s3:9000", "nested": {"list": ["s3", 1, True]}}


def test_a_uri_in_the_file_is_read(project: Path) -> None:
    found = find(project, "uri", {"URI_PASSWORD": "p%40"})
    assert (found.conn_type, found.host, found.port, found.password) == (
        "postgres",
        "h",
        5433,
        "p@",
    )


def test_numbers_in_the_file_become_text_where_text_is_meant(project: Path) -> None:
    found = find(project, "numbers")
    assert (found.login, found.port) == ("123", 5432)


@pytest.mark.parametrize("text", ["0123", "yes", "1.0e+5", "0x10", "1_000", "12:30:45"])
def test_a_password_is_what_is_written_whatever_yaml_makes_of_it(project: Path, text: str) -> None:
    assert str(yaml.safe_load(text)) != text  # the control
    (project / "connections" / "connections.yml").write_text(
        f"odd: {{conn_type: postgres, password: {text}, login: }}"
    )
    assert (find(project, "odd").password, find(project, "odd").login) == (text, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a: {host: one}\nb: {host: two}\na: {host: three}\n",
            "connections.yml:3:1 duplicate key 'a'",
        ),
        (
            "a: {host: one, login: x, host: two}\n",
            "connections.yml:1:26 duplicate key 'host'",
        ),
        ("a: {password: {x: canary}}\n", "a.password: expected text"),
    ],
)
def test_what_yaml_would_pass_over_is_said(project: Path, text: str, said: str) -> None:
    (project / "connections" / "connections.yml").write_text(text)
    with pytest.raises(InputError) as caught:
        find(project, "a")
    assert said in str(caught.value) and "canary" not in str(caught.value)


def test_dotenv_fills_what_the_environment_does_not(project: Path) -> None:
    (project / ".env").write_text(
        f"# mine\nexport WAREHOUSE_HOST=from_file\nWAREHOUSE_PASSWORD='{SECRET}'\n"
    )
    before = dict(os.environ)
    assert find(project, "warehouse", {}).host == "from_file"
    assert find(project, "warehouse", {"WAREHOUSE_HOST": "from_environ"}).host == "from_environ"
    assert dict(os.environ) == before


@pytest.mark.parametrize("line", ["A='canary", 'A="canary', "A canary", "=canary"])
def test_a_broken_line_of_dotenv_has_its_place(project: Path, line: str) -> None:
    # It was passed over, and the connection was then "not defined".
    (project / ".env").write_text(f"# mine\n{line}\nB=1\n")
    with pytest.raises(InputError, match=r"\.env:2: expected NAME=value") as caught:
        find(project, "other")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [('{"password": canary}', "line 1, column 14"), ('{"password": "canary"', "line 1, column")],
)
def test_wrong_json_has_its_place(project: Path, text: str, place: str) -> None:
    with pytest.raises(InputError, match=f"is not valid JSON: .* at {place}") as caught:
        find(project, "other", {"AIRFLOW_CONN_OTHER": text})
    assert "canary" not in str(caught.value)


def test_a_connection_may_stand_in_dotenv_whole(project: Path) -> None:
    (project / ".env").write_text("AIRFLOW_CONN_OTHER=postgres://h/db\n")
    assert find(project, "other").schema == "db"


@pytest.mark.parametrize(
    "value",
    [
        "postgres://u:p%40ss@h:5433/db?sslmode=require",
        json.dumps(
            {
                "conn_type": "postgres",
                "login": "u",
                "password": "p@ss",
                "host": "h",
                "port": 5433,
                "schema": "db",
                "extra": {"sslmode": "require"},
            }
        ),
        (
            '\n {"conn_type": "postgresql", "login": "u", "password": "p@ss", "host": "h", "port":'
            ' "5433", "schema": "db", "extra": "{\\"sslmode\\": \\"require\\"}", "description":'
            " null}"
        ),
    ],
)
def test_the_environments_connection_comes_before_the_file(project: Path, value: str) -> None:
    found = find(project, "warehouse", {"AIRFLOW_CONN_WAREHOUSE": value})
    assert found == Connection(
        conn_id="warehouse",
        conn_type="postgres",
        host="h",
        port=5433,
        login="u",
        password="p@ss",
        schema="db",
        extra={"sslmode": "require"},
    )


def test_an_empty_variable_is_as_good_as_none(project: Path) -> None:
    assert find(project, "warehouse", {**ENVIRON, "AIRFLOW_CONN_WAREHOUSE": " "}).host == "db"


def test_a_project_without_files_still_has_the_environment(tmp_path: Path) -> None:
    assert find(tmp_path, "x", {"AIRFLOW_CONN_X": "postgres://h"}).host == "h"


def test_an_unknown_connection_says_where_to_define_it(project: Path) -> None:
    with pytest.raises(ConnectionMissing) as caught:
        find(project, "warehose")
    assert "AIRFLOW_CONN_WAREHOSE" in str(caught.value)
    assert "connections.yml (did you mean 'warehouse'?)" in str(caught.value)


@pytest.mark.parametrize("value", [{}, {"WAREHOUSE_HOST": ""}])
def test_a_variable_without_a_value_is_named(project: Path, value: dict[str, str]) -> None:
    with pytest.raises(
        ConnectionMissing, match=r"'warehouse' has no host: WAREHOUSE_HOST is not set.*\.env"
    ):
        find(project, "warehouse", {"WAREHOUSE_PASSWORD": SECRET, **value})


def test_a_variable_may_carry_its_own_advice(project: Path) -> None:
    with pytest.raises(ConnectionMissing, match="ask the platform team"):
        find(project, "advised")


def test_others_variables_are_not_missed(project: Path) -> None:
    assert find(project, "lake", {}).extra["endpoint_url"] == "http://localhost:9000"


def test_a_value_is_never_looked_into(project: Path) -> None:
    assert (
        find(project, "warehouse", {**ENVIRON, "WAREHOUSE_PASSWORD": "${HOME} $X {}"}).password
        == "${HOME} $X {}"
    )


def test_secrets_are_in_no_repr(project: Path) -> None:
    value = f"postgres://u:{SECRET}@h/db?token={SECRET}"
    connections = project_connections(project, {"AIRFLOW_CONN_X": value})
    assert SECRET not in repr(connections("x")) + str(connections("x")) + repr(connections)


@pytest.mark.parametrize(
    "value",
    [
        f"postgres://u:{SECRET}@h:{SECRET}/db",
        f"postgres://u:{SECRET}://a://b",
        f"u:{SECRET}@h",
        f"postgres://[{SECRET}",
        f'{{"password": "{SECRET}"',
        f'{{"pasword": "{SECRET}"}}',
        f'{{"port": "{SECRET}"}}',
        f'{{"extra": "{SECRET}"}}',
        f'{{"extra": ["{SECRET}"]}}',
        f"postgres://h?__extra__={SECRET}",
    ],
)
def test_a_broken_connection_is_refused_without_quoting_it(project: Path, value: str) -> None:
    with pytest.raises(InputError, match="AIRFLOW_CONN_X") as caught:
        find(project, "x", {"AIRFLOW_CONN_X": value})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"x:\n  password: '{SECRET}", r"connections.yml:2:\d+ not valid YAML"),
        (f"x: {{password: {SECRET}\x00}}", r"connections.yml:1:1 not valid YAML"),
        (f"- {SECRET}", "expected a mapping"),
        ("x: 5", "x: expected the connection's fields"),
        (f"x: {{hots: {SECRET}}}", "x.hots: unknown field 'hots'; the fields are conn_type, host"),
        (f"x: {{port: {SECRET}}}", "x.port: expected a whole number"),
    ],
)
def test_a_broken_file_is_refused_without_quoting_it(
    project: Path, text: str, message: str
) -> None:
    (project / "connections" / "connections.yml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        find(project, "x")
    assert SECRET not in str(caught.value)


def test_an_empty_file_defines_nothing(project: Path) -> None:
    (project / "connections" / "connections.yml").write_text("# nothing yet\n")
    with pytest.raises(ConnectionMissing):
        find(project, "warehouse")


MAPPING, LIST, NUMBER, FLOAT, BOOL, TEXT = "{a: b}", "[1, 2]", "5432", "1.5", "true", "'words'"
KINDS = {
    **dict.fromkeys(("conn_type", "host", "login", "password", "schema"), (MAPPING, LIST)),
    "port": (
        *(MAPPING, LIST, FLOAT, BOOL, TEXT, "'5432 '", "0", "65536", "-1", "0x1538", "05432"),
        *("5_432", "5e3", "' 5432'"),
    ),
    "extra": (LIST, NUMBER, FLOAT, BOOL, "2026-01-01"),
    "extra_dejson": (LIST, NUMBER, FLOAT, BOOL),
    "uri": (MAPPING, LIST, NUMBER, BOOL),
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in KINDS.items() for value in values]
)
def test_a_field_of_another_kind_has_its_place(tmp_path: Path, field: str, value: str) -> None:
    """Before, the ports 1.5, true and '5432 ' were 1, 1 and 5432, and none had a line."""
    folder = tmp_path / "connections"
    folder.mkdir()
    file = folder / "connections.yml"
    file.write_text(f"good: postgres://u:p@h/x\nx:\n  description: a\n  {field}: {value}\n")
    with pytest.raises(SpecError) as caught:
        project_connections(tmp_path, {})("good")
    (problem,) = caught.value.problems
    place = (problem.file, problem.line, problem.column)
    assert place == (str(file), 4, len(field) + 5)
    assert problem.path == f"x.{field}" and problem.message.startswith("expected ")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("x: 5\n", 1, "expected the connection's fields"),
        ("x: [a]\n", 1, "expected the connection's fields"),
        ("x:\n", 1, "expected the connection's fields"),
        ("x: true\n", 1, "expected the connection's fields"),
        ("5: {host: h}\n", 1, "id must be text: put it in quotes"),
        ("yes: {host: h}\n", 1, "id must be text: put it in quotes"),
        ("x:\n  hots: h\n", 2, "unknown field 'hots'"),
        ("x:\n  extra: {a: b}\n  extra_dejson: {a: c}\n", 2, "extra and extra_dejson are the same"),
    ],
)
def test_what_is_no_connection_has_its_place(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    (tmp_path / "connections").mkdir()
    (tmp_path / "connections" / "connections.yml").write_text(text)
    with pytest.raises(SpecError) as caught:
        project_connections(tmp_path, {})("x")
    (problem,) = caught.value.problems
    assert problem.line == line and said in problem.message


def test_every_wrong_field_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "connections").mkdir()
    (tmp_path / "connections" / "connections.yml").write_text(
        "a: {port: true, extra: 5}\nb: {host: [h]}\nc: {port: '${PORT}', extra: '${EXTRA}'}\n"
        "base: &base {port: 5432}\nd: {<<: *base, host: h}\n"
    )
    with pytest.raises(SpecError) as caught:
        project_connections(tmp_path, {})("a")
    assert [problem.path for problem in caught.value.problems] == ["a.port", "a.extra", "b.host"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('{"port": 1.5}', "port must be a whole number from 1 to 65535"),
        ('{"port": true}', "port must be a whole number from 1 to 65535"),
        ('{"port": "5432 "}', "port must be a whole number from 1 to 65535"),
        ('{"port": 0}', "port must be a whole number from 1 to 65535"),
        ('{"port": [5432]}', "port must be a whole number from 1 to 65535"),
        ('{"host": true}', "host must be text"),
        ('{"host": ["h"]}', "host must be text"),
        ('{"extra": [1]}', "extra must be a mapping"),
        ('{"extra": 5}', "extra must be a mapping"),
        ('{"extra": true}', "extra must be a mapping"),
        ('{"extra": {"a": 1}, "extra_dejson": {"a": 2}}', "remove one of the two"),
        ('{"host": "a", "host": "b"}', "duplicate key 'host'"),
        (
            '{"extra": "{\\"sslmode\\": \\"a\\", \\"sslmode\\": \\"b\\"}"}',
            "duplicate key 'sslmode'",
        ),
        ('{"uri": "postgres://h/x", "host": "h"}', "uri is the whole connection"),
        ("postgres://h/x?sslmode=require&sslmode=disable", "'sslmode' is given twice"),
        ("postgres://h/x?__extra__=%7B%7D&sslmode=require", "with __extra__"),
        ("[" * 100_000, "is not a connection URI"),
        ('{"extra": ' + "[" * 100_000, "is not valid JSON"),
    ],
)
def test_a_variable_of_another_kind_is_refused(tmp_path: Path, value: str, said: str) -> None:
    """Before, the last of two was taken without a word, and so was what `int` makes of a port."""
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        project_connections(tmp_path, {"AIRFLOW_CONN_X": value})("x")
    assert "AIRFLOW_CONN_X" in str(caught.value)


def test_where_a_connection_is_defined_is_known_in_the_order_of_use(tmp_path: Path) -> None:
    (tmp_path / "connections").mkdir()
    file = tmp_path / "connections" / "connections.yml"
    file.write_text("x: postgres://file/x\nX: postgres://other/x\n")
    (tmp_path / ".env").write_text("AIRFLOW_CONN_X=postgres://dotenv/x\n")
    environment = {"AIRFLOW_CONN_X": "postgres://environment/x"}
    found = definitions_of(tmp_path, "x", environment)
    assert found[0] == "AIRFLOW_CONN_X in the environment" and len(found) == 4
    assert project_connections(tmp_path, environment)("x").host == "environment"
    assert project_connections(tmp_path, {})("x").host == "dotenv"
    (tmp_path / ".env").write_text("")
    assert definitions_of(tmp_path, "x", {}) == [f"'x' in {file}"]
    assert project_connections(tmp_path, {})("x").host == "file"
