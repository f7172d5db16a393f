"""What the tests of `loadsheet plan --connect` share: a small shop, a role that lacks everything,
the plan as JSON."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.sql.text import ident
from tests.project import Project

__all__ = ["MART", "SOURCE", "TABLES", "as_role", "fixes", "found", "plan", "role", "shop"]

SOURCE = """
CREATE TABLE customer (
    id int PRIMARY KEY, name text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON customer (at);
CREATE TABLE country (code char(2) PRIMARY KEY, name text);
INSERT INTO customer SELECT i, 'name ' || i FROM generate_series(1, 100) i;
INSERT INTO country VALUES ('no', 'Norway'), ('pe', 'Perú');
"""
TABLES = {"customer": {"incremental": "at"}, "country": None}
MART = {"names": "SELECT id, name FROM staging.customer"}


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    project.spec(TABLES, MART)
    return project


@pytest.fixture
def role(postgres: Any, two_databases: tuple[str, str]) -> Iterator[str]:
    """A role that may log in and nothing else, with a name that must be quoted."""
    name = f'Re"ader {secrets.token_hex(4)}'
    with psycopg.connect(two_databases[0], autocommit=True) as session:
        session.execute(f"CREATE ROLE {ident(name)} LOGIN PASSWORD 'secret'")
        yield name
    for dsn in two_databases:
        with psycopg.connect(dsn, autocommit=True) as session:
            session.execute(
                f"REASSIGN OWNED BY {ident(name)} TO CURRENT_USER; DROP OWNED BY {ident(name)}"
            )
    with psycopg.connect(two_databases[0], autocommit=True) as session:
        session.execute(f"DROP ROLE {ident(name)}")


def plan(project: Project, *options: str, code: int | None = 0) -> dict[str, Any]:
    """The plan against the servers, with each step's preview by its id; `code` is the exit code,
    None any."""
    arguments = ["--project", str(project.folder), "plan", project.name]
    arguments += ["--connect", "--json", *options]
    done = CliRunner().invoke(app, arguments, env=project.environment())
    assert code is None or done.exit_code == code, done.output
    document = json.loads(done.stdout)
    steps = {step["id"]: {**step.pop("now"), **step} for step in document["steps"]}
    return {**document, "steps": steps | document["connect"]["before"]}


def found(document: dict[str, Any], step: str, severity: str = "error") -> list[str]:
    return [f["message"] for f in document["steps"][step]["remarks"] if f["severity"] == severity]


def fixes(document: dict[str, Any]) -> list[str]:
    steps = document["steps"].values()
    return [f["fix"] for step in steps for f in step["remarks"] if f["severity"] == "error"]


def as_role(dsn: str, role: str) -> str:
    """The database as this role logs in to it."""
    return dsn.replace(dsn.split("//")[1].split("@")[0], f"{quote(role)}:secret")
