"""A connection in `AIRFLOW_CONN_<ID>` means the same to Loadsheet as to Airflow's tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from airflow.sdk import Connection as AirflowConnection

from loadsheet.connections.lookup import project_connections

URIS = [
    "postgres://login:password@host:5432/database",
    "postgresql://login:password@host:5432/database",
    "postgres://host",
    "postgres://host/",
    "postgres://host:5432",
    "postgres://:5432/db",
    "postgres:///db",
    "postgres://login@host/db",
    "postgres://login:@host/db",
    "postgres://:password@host/db",
    "postgres://lo%40gin:p%40ss%2Fw%3Ard%25%23%3F@host/db",
    "postgres://Login:PassWord@HOST.Example.COM/Db",
    "postgres://host/data%2Fbase%20x",
    "postgres://login:password@%2Fvar%2Frun%2FPostgreSQL/db",
    "postgres://login:password@[::1]:5432/db",
    "postgres://host/db?sslmode=require&connect_timeout=10",
    "postgres://host/db?empty=&flag=true&text=a%20b%2Bc+d",
    'postgres://host/db?__extra__={"a": {"b": [1, true, null]}}',
    "postgres://host/db?__extra__=%7B%22a%22%3A%20%7B%22b%22%3A%20%22%26%3D%23%22%7D%7D",
    "generic://key:secret@/?__extra__=%7B%22endpoint_url%22%3A%20%22http%3A%2F%2Flake%3A9000%22%7D",
    "google-cloud-platform://?key_path=%2Fkeys%2Fkey.json",
    "slackwebhook://:T000%2FB000%2FXXX@/?timeout=30",
    "slackwebhook://https://hooks.slack.com/services",
    "http://https://login:password@host:8080/path?x=1",
    "postgres://пользователь:пароль@хост/база",
]
DOCUMENTS = [
    {
        "conn_type": "postgres",
        "login": "u",
        "password": "p@:/?#",
        "host": "h",
        "port": 5432,
        "schema": "db",
    },
    {"conn_type": "postgresql", "port": "5432", "description": "x"},
    {"conn_type": "google-cloud-platform", "host": None, "login": "", "port": None},
    {
        "conn_type": "generic",
        "extra": {"endpoint_url": "http://h:9000", "nested": {"list": [1, None, True]}},
    },
    {"conn_type": "generic", "extra": '{"endpoint_url": "http://h:9000"}'},
    {"conn_type": "generic", "extra": ""},
    {"conn_type": "generic", "extra": {}},
    {"host": "h"},
]
FIELDS = ("conn_type", "host", "login", "password", "schema", "port")


@pytest.mark.parametrize("text", [*URIS, *(json.dumps(document) for document in DOCUMENTS)])
def test_a_connection_in_the_environment_is_read_as_airflow_reads_it(
    tmp_path: Path, text: str
) -> None:
    is_json = text.startswith("{")
    theirs = (
        AirflowConnection.from_json(text, conn_id="x")
        if is_json
        else AirflowConnection.from_uri(text, conn_id="x")
    )
    ours = project_connections(tmp_path, {"AIRFLOW_CONN_X": text})("x")
    assert [getattr(ours, name) or None for name in FIELDS] == [
        getattr(theirs, name) or None for name in FIELDS
    ]
    assert ours.extra == theirs.extra_dejson


@pytest.mark.parametrize("text", URIS)
def test_a_uri_that_airflow_writes_is_read_back(tmp_path: Path, text: str) -> None:
    theirs = AirflowConnection.from_uri(text, conn_id="x")
    ours = project_connections(tmp_path, {"AIRFLOW_CONN_X": theirs.get_uri()})("x")
    assert (ours.login or None, ours.password or None) == (
        theirs.login or None,
        theirs.password or None,
    )
    assert ours.extra == theirs.extra_dejson
