"""What others may create where transforms find their names: nothing of it runs, or it is told."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from demo.servers import PostgresServer
from loadsheet.postgres import connect_warehouse
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.warehouse import search_path
from tests.project import Project

# Each takes the types of its arguments exactly, where PostgreSQL's own would need a cast.
TRAPS = """
SET ROLE {intruder};
CREATE TABLE {schema}.loot (who text);
GRANT INSERT ON {schema}.loot TO PUBLIC;
CREATE FUNCTION {schema}.sprung(varchar) RETURNS text LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO {schema}.loot VALUES (current_user); RETURN 'stolen'; END$$;
CREATE FUNCTION {schema}.lower(varchar) RETURNS text LANGUAGE sql AS
    'SELECT {schema}.sprung($1)';
CREATE FUNCTION {schema}.is_same(varchar, varchar) RETURNS bool LANGUAGE sql AS
    'SELECT {schema}.sprung($1) IS NULL';
CREATE OPERATOR {schema}.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = {schema}.is_same);
CREATE FUNCTION {schema}.sum_state(text, varchar) RETURNS text LANGUAGE sql AS
    'SELECT {schema}.sprung($2)';
CREATE AGGREGATE {schema}.max(varchar) (SFUNC = {schema}.sum_state, STYPE = text);
"""
TABLE = "CREATE TABLE public.person (id int PRIMARY KEY, name varchar(20), other varchar(20))"
SQL = """
SELECT id, lower(name) AS name, name = other AS same, (SELECT max(name) FROM person) AS newest
FROM person
"""
HONEST = [(1, "ann", True, "Ann")]


@pytest.fixture
def intruder(postgres: PostgresServer, project: Project) -> Iterator[str]:
    """A role without any privilege; a pipeline that it attacks."""
    project.in_source(f"{TABLE}; INSERT INTO public.person VALUES (1, 'Ann', 'Ann')")
    role = f"intruder_{secrets.token_hex(4)}"
    project.in_warehouse(f"CREATE ROLE {role}")
    yield role
    project.in_warehouse(f"DROP OWNED BY {role}; DROP ROLE {role}")


def spec(project: Project, **more: object) -> None:
    project.spec({"person": {}}, {"people": SQL}, **more)


def spring(project: Project, intruder: str, schema: str) -> None:
    project.in_warehouse(f"GRANT CREATE, USAGE ON SCHEMA {schema} TO {intruder}")
    project.in_warehouse(TRAPS.format(intruder=intruder, schema=schema))


def test_what_others_create_in_public_does_not_run(project: Project, intruder: str) -> None:
    spec(project)
    spring(project, intruder, "public")
    project.succeed()
    assert project.in_warehouse("TABLE mart.people") == HONEST
    assert project.in_warehouse("TABLE public.loot") == []


def test_the_traps_are_sprung_where_the_schema_is_searched(project: Project, intruder: str) -> None:
    """The control, and why `plan --connect` and `doctor` warn: the order of schemas does not
    help."""
    spec(project, external=["public.rates"])
    spring(project, intruder, "public")
    project.succeed()
    assert project.in_warehouse("TABLE mart.people") == [(1, "stolen", False, "stolen")]
    assert project.in_warehouse("SELECT count(*) > 0 FROM public.loot") == [(True,)]


@pytest.mark.parametrize("grantee", ["{intruder}", "PUBLIC"])
@pytest.mark.parametrize("schema", ["mart", "staging"])
def test_who_else_may_create_there_is_told_with_the_revoke(
    project: Project, intruder: str, schema: str, grantee: str
) -> None:
    spec(project)
    project.succeed()
    role = grantee.format(intruder=intruder)
    project.in_warehouse(f"GRANT CREATE ON SCHEMA {schema} TO {role}")
    quoted = role if role == "PUBLIC" else f'"{role}"'
    revoke = f'REVOKE CREATE ON SCHEMA "{schema}" FROM {quoted};'
    for command in (("plan", "shop", "--connect"), ("doctor", "shop")):
        told = project.cli(*command)
        assert f"may create in schema {schema}" in told.stdout, told.stdout + told.stderr
        assert revoke in told.stdout
        assert told.returncode == 0, told.stdout
    project.in_warehouse(revoke)
    assert "may create in schema" not in project.cli("plan", "shop", "--connect").stdout


def test_public_is_searched_where_the_file_names_it_or_an_extension_lives_there(
    project: Project, intruder: str
) -> None:
    def found() -> list[str]:
        pipeline = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")
        with connect_warehouse(project.connections("warehouse")) as session:
            return list(search_path.current(session, pipeline))

    spec(project)
    project.succeed()
    ours = ["pg_catalog", "staging", "mart"]
    assert found() == ours
    spec(project, external=["elsewhere.rates"])
    assert found() == ours
    spec(project, external=["public.*"])
    assert found() == [*ours, "public"]
    spec(project, warehouse={"conn_id": "warehouse", "schema": "public"})
    assert found() == ["pg_catalog", "public", "mart"]
    spec(project)
    project.in_warehouse("CREATE EXTENSION vector SCHEMA public")
    assert found() == [*ours, "public"]
