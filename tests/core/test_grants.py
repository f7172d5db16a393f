"""`loadsheet grants` prints what a pipeline needs and no more: with it a pipeline runs, and without
any one of its statements it does not."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from typer.testing import CliRunner

from demo.servers import PostgresServer, S3Server
from loadsheet.cli.main import app
from loadsheet.connections.lookup import Connection
from loadsheet.engine.resolve import resolved
from loadsheet.engine.runner import run_pipeline
from loadsheet.engine.sessions import Servers
from loadsheet.errors import LoadsheetError
from loadsheet.outcome import RunRequest
from loadsheet.preview.lacking import lacking_privileges
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.sql.text import ident
from loadsheet.sqltest.embedded import memory_folder, postgres_install
from tests.debian import PROGRAMS, DebianServer
from tests.project import Project, fetch

SOURCE = """
REVOKE ALL ON SCHEMA public FROM PUBLIC;
CREATE TABLE merged (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE appended (n int GENERATED ALWAYS AS IDENTITY);
CREATE TABLE replaced (code char(2) PRIMARY KEY);
CREATE TABLE log_web (id int PRIMARY KEY);
CREATE TABLE log_secret (id int PRIMARY KEY);
CREATE TABLE logs (id int PRIMARY KEY);
INSERT INTO merged SELECT generate_series(1, 9);
INSERT INTO appended DEFAULT VALUES;
INSERT INTO replaced VALUES ('no');
INSERT INTO log_web VALUES (1);
"""
CHANGE = """
INSERT INTO merged VALUES (100);
INSERT INTO appended DEFAULT VALUES;
INSERT INTO replaced VALUES ('pe');
INSERT INTO log_web VALUES (2);
"""
TABLES = {
    "merged": {"incremental": "at"},
    "appended": {"incremental": "n", "mode": "append"},
    "replaced": None,
    "log_*": {"exclude": ["log_se*"]},
}
MARTS = {
    "dim": ("SELECT id FROM staging.merged", {"materialized": "merge", "unique_key": "id"}),
    "rated": "SELECT id, rate FROM staging.merged, elsewhere.rates",
    "shown": ("SELECT * FROM mart.rated", {"materialized": "view"}),
}
OTHERS = """
REVOKE ALL ON SCHEMA public FROM PUBLIC;
CREATE SCHEMA elsewhere;
CREATE TABLE elsewhere.rates (rate int);
CREATE TABLE elsewhere.secret (rate int);
INSERT INTO elsewhere.rates VALUES (1);
"""


@dataclass
class World:
    """The pipeline `shop` with roles of its own, on databases that give PUBLIC nothing."""

    project: Project
    administrator: dict[str, str]
    roles: dict[str, str]

    def printed(self, end: str) -> str:
        """The SQL for one server."""
        named = [word for name, role in self.roles.items() for word in (f"--{name}", role)]
        command = ["--project", str(self.project.folder), "grants", "shop", "--on", end, *named]
        done = CliRunner().invoke(app, command, env=self.project.environment())
        assert done.exit_code == 0, done.stderr
        return done.stdout

    def grant(self, end: str, text: str, without: str = "") -> None:
        """Run the SQL, all but the one statement that holds `without`."""
        chosen = statements(text)
        if without:
            (left_out,) = [statement for statement in chosen if without in statement]
            chosen.remove(left_out)
        with psycopg.connect(self.administrator[end], autocommit=True) as session:
            for statement in chosen:
                session.execute(statement)
        self.set_passwords(end)

    def set_passwords(self, end: str) -> None:
        names = {"source": ("extractor",), "warehouse": ("loader", "reader")}[end]
        for name in names:
            fetch(self.administrator[end], f"ALTER ROLE {ident(self.roles[name])} PASSWORD 'x'")


def statements(text: str) -> list[str]:
    """psql's input, statement by statement; a list of privileges is one for each."""
    found: list[str] = []
    for statement in re.split(r";\n", re.sub(r"(?m)^--.*\n?", "", text).strip() + "\n"):
        statement = statement.strip()
        several = re.fullmatch(r"GRANT ([A-Z]+(?:, [A-Z]+)+) ON (.*)", statement)
        names = several[1].split(", ") if several else []
        found += [f"GRANT {name} ON {several[2]}" for name in names] if several else []
        if statement and not several:
            found.append(statement)
    # `END LOOP;` and the like are within a block.
    whole: list[str] = []
    for part in found:
        if whole and whole[-1].count("$grants$") % 2:
            whole[-1] += f";\n{part}"
        else:
            whole.append(part)
    return whole


@pytest.fixture
def world(project: Project, monkeypatch: pytest.MonkeyPatch) -> World:
    administrator = {"source": project.source, "warehouse": project.warehouse}
    token = secrets.token_hex(4)
    roles = {"extractor": f'Ex"{token}', "loader": f"loader {token}", "reader": f"reader_{token}"}
    fetch(project.source, SOURCE)
    fetch(project.warehouse, OTHERS)
    for uri in administrator.values():
        database = urlsplit(uri).path[1:]
        fetch(uri, f'REVOKE ALL ON DATABASE "{database}" FROM PUBLIC')
    project.spec(TABLES, MARTS, external=["elsewhere.*"])
    made = World(project, administrator, roles)
    project.use_administrator("the roles of the test take the place of this login")
    monkeypatch.setattr(project, "connections", connections_as(made))
    return made


def connections_as(world: World) -> Callable[[str], Connection]:
    """The project's connections with the logins of the roles."""
    original = world.project.connections

    def find(conn_id: str) -> Connection:
        found = original(conn_id)
        if conn_id == "lake":
            return found
        role = world.roles["extractor" if conn_id == "shop_source" else "loader"]
        return replace(found, login=role, password="x")

    return find


def why_it_fails(world: World) -> str:
    """A first run, and one that brings changes; then the marts are read. What fails first."""
    file = world.project.folder / "pipelines" / "shop" / "pipeline.yml"
    for number in range(2):
        try:
            spec = load_pipeline(file)
            spec = resolved(spec, Servers(spec, world.project.connections))
        except (LoadsheetError, psycopg.Error) as error:
            return f"resolve: {error}"
        request = RunRequest(run_id=f"run {number}")
        results = run_pipeline(spec, request, world.project.connections)
        for name, result in results.items():
            if result.state not in ("done", "skipped"):
                return f"{name}: {result.result}"
        if number == 0:
            fetch(world.administrator["source"], CHANGE)
    return why_marts_are_not_read(world)


def why_marts_are_not_read(world: World) -> str:
    uri = urlsplit(world.administrator["warehouse"])
    login = {"user": world.roles["reader"], "password": "x", "dbname": uri.path[1:]}
    try:
        with psycopg.connect(host=uri.hostname, port=uri.port, **login) as session:
            for mart in ("dim", "rated", "shown"):
                session.execute(f"SELECT FROM mart.{mart}")
    except psycopg.Error as error:
        return f"reader: {error}"
    return ""


def test_with_the_grants_a_pipeline_runs_and_its_marts_are_read(world: World) -> None:
    texts = {end: world.printed(end) for end in ("source", "warehouse")}
    for end, text in texts.items():
        world.grant(end, text)
    assert why_it_fails(world) == ""
    assert world.project.differences("merged") == 0
    may_read = "SELECT has_table_privilege(%s, %s, 'SELECT')"
    for end, role, table in (
        ("source", "extractor", "log_secret"),
        ("source", "extractor", "logs"),
        ("warehouse", "loader", "elsewhere.secret"),
        ("warehouse", "reader", "staging.merged"),
    ):
        asked = fetch(world.administrator[end], may_read, world.roles[role], table)
        assert asked == [(False,)], table


@pytest.mark.parametrize(
    ("end", "without", "told"),
    [
        ("source", "GRANT CONNECT", "permission denied for database"),
        ("source", 'USAGE ON SCHEMA "public"', 'may not use schema "public"|schema .?public'),
        ("source", '"public"."merged"', "permission denied for table merged"),
        ("source", '"public"."appended"', "permission denied for table appended"),
        ("source", '"public"."replaced"', "permission denied for table replaced"),
        ("source", "matched name", "permission denied for table log_web"),
        ("source", "ON SEQUENCE", "may not read sequence public.appended_n_seq"),
        ("source", "pg_read_all_stats", "cannot see other sessions' transactions"),
        ("warehouse", 'CONNECT ON DATABASE {database} TO "loader', "denied for database"),
        ("warehouse", "GRANT CREATE", "permission denied for database"),
        ("warehouse", "GRANT TEMPORARY", "permission denied to create temporary tables"),
        ("warehouse", 'USAGE ON SCHEMA "elsewhere"', "elsewhere"),
        ("warehouse", 'SELECT ON "elsewhere"."rates"', "permission denied for table rates"),
        ("warehouse", 'CONNECT ON DATABASE {database} TO "reader', "reader: .*database"),
        ("warehouse", 'USAGE ON SCHEMA "mart"', "reader: permission denied for schema mart"),
        ("warehouse", "ALTER DEFAULT PRIVILEGES", "reader: permission denied for"),
    ],
)
def test_without_any_one_of_them_it_fails(world: World, end: str, without: str, told: str) -> None:
    database = ident(urlsplit(world.administrator[end]).path[1:])
    for each in ("source", "warehouse"):
        left_out = without.replace("{database}", database) if each == end else ""
        world.grant(each, world.printed(each), left_out)
    assert re.search(told, why_it_fails(world))


def psql(world: World, end: str, text: str) -> None:
    """Feed the text to psql, as an administrator."""
    done = subprocess.run(
        [
            postgres_install(16) / "bin" / "psql",
            *("-X", "-q", "-v", "ON_ERROR_STOP=1", world.administrator[end]),
        ],
        input=text,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_psql_takes_the_sql_as_it_is_and_twice(world: World) -> None:
    """Without a connection there is no database to name: psql fills in its own."""
    for end in ("source", "warehouse"):
        text = world.printed(end)
        database = ident(urlsplit(world.administrator[end]).path[1:])
        assert f"ON DATABASE {database} " in text
        # Who has schemas of another role must know that these grants are not all.
        assert ("-- If the schemas loadsheet, " in text) is (end == "warehouse")
        psql(world, end, text)
        psql(world, end, text.replace(database, ':"DBNAME"'))
        world.set_passwords(end)
    assert why_it_fails(world) == ""


def test_a_name_ends_neither_a_comment_nor_a_quote(world: World) -> None:
    bad = "x$grants$\n; DROP TABLE merged; --'\"*"
    world.project.spec({"merged": None, bad: {"exclude": ["y*"]}})
    role = f"\nCREATE TABLE hacked (); --$grants$ {secrets.token_hex(4)}"
    world.roles["extractor"] = role
    psql(world, "source", world.printed("source"))
    assert world.project.in_source("SELECT count(*) FROM merged") == [(9,)]
    assert world.project.in_source("SELECT to_regclass('hacked')") == [(None,)]
    granted = world.project.in_source("SELECT has_table_privilege(%s, 'merged', 'SELECT')", role)
    assert granted == [(True,)]


ADMINISTRATOR = """
CREATE ROLE {name} LOGIN CREATEROLE PASSWORD 'x';
ALTER DATABASE {database} OWNER TO {name};
"""
OF_ADMINISTRATOR = "SELECT pg_catalog.current_setting('server_version_num')::int"


@pytest.fixture(params=[15, 16, 18])
def any_version(
    request: pytest.FixtureRequest, postgres: PostgresServer
) -> Iterator[PostgresServer]:
    """A server of each version whose roles and memberships differ."""
    if request.param == 16 and type(postgres) is PostgresServer:
        yield postgres
        return
    if request.param == 15 and not PROGRAMS.is_dir():
        pytest.skip("PostgreSQL 15 of Debian's packages is not installed")
    within = memory_folder(4 << 30)
    server = DebianServer(within)
    if request.param != 15:
        server = PostgresServer(version=request.param, within=within)
    with server:
        yield server


def test_an_administrator_who_is_no_superuser_may_run_each_statement(
    any_version: PostgresServer,
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before, the loader's default privileges, and on 16 and newer its schema, were refused."""
    name = f"admin_{secrets.token_hex(4)}"
    server = any_version
    superusers = [server.create_database(f"test_{secrets.token_hex(6)}") for _ in range(2)]
    project = Project(tmp_path, *superusers, s3)
    for number, uri in enumerate(superusers):
        statements_ = ADMINISTRATOR.format(name=name, database=uri.rpartition("/")[2])
        fetch(uri, statements_ if number == 0 else statements_.partition(";")[2])
    administrator = {
        end: uri.replace(f"loadsheet:{server.password}", f"{name}:x")
        for end, uri in zip(("source", "warehouse"), superusers, strict=True)
    }
    # As the database's owner, it owns schema public, and now the tables in it.
    fetch(administrator["source"], SOURCE)
    fetch(administrator["warehouse"], OTHERS)
    token = secrets.token_hex(4)
    roles = {"extractor": f"ex_{token}", "loader": f"loader {token}", "reader": f"re_{token}"}
    project.spec(TABLES, MARTS, external=["elsewhere.*"])
    world = World(project, administrator, roles)
    project.use_administrator("the roles of the test take the place of this login")
    monkeypatch.setattr(project, "connections", connections_as(world))
    version = fetch(superusers[0], OF_ADMINISTRATOR)[0][0]
    texts = {end: world.printed(end) for end in administrator}
    (first,) = re.findall(r"-- (GRANT pg_read_all_stats TO) \.\.\. (.*;)", texts["source"])
    if version >= 160000:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="pg_read_all_stats"):
            world.grant("source", texts["source"])
        fetch(superusers[0], f"{first[0]} {name} {first[1]}")
    for end, text in texts.items():
        world.grant(end, text)
        world.grant(end, text)  # and again
    assert why_it_fails(world) == ""


VIEWS = """
REVOKE ALL ON SCHEMA public FROM PUBLIC;
CREATE SCHEMA hidden;
CREATE TABLE hidden.base (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, x int);
CREATE VIEW hidden.middle AS SELECT * FROM hidden.base;
CREATE VIEW through AS SELECT * FROM hidden.middle;
CREATE SEQUENCE hidden."of a trigger";
CREATE TABLE triggered (n bigint PRIMARY KEY);
CREATE FUNCTION number() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN NEW.n = NEXTVAL('hidden."of a trigger"'); RETURN NEW; END$$;
CREATE TRIGGER number BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION number();
CREATE SEQUENCE hidden.above;
CREATE TABLE above (n bigint DEFAULT nextval('hidden.above') PRIMARY KEY) PARTITION BY RANGE (n);
CREATE TABLE below PARTITION OF above DEFAULT;
CREATE SEQUENCE other;
INSERT INTO hidden.base (x) VALUES (1), (2);
INSERT INTO triggered SELECT 0 FROM generate_series(1, 3);
INSERT INTO above DEFAULT VALUES;
"""


def test_the_sequences_below_views_are_those_that_the_extractor_asks(world: World) -> None:
    """Before, only those of the tables in the pipeline file were granted."""
    fetch(
        world.administrator["source"], "DROP SCHEMA public CASCADE; CREATE SCHEMA public;" + VIEWS
    )
    by_number = {"incremental": "n"}
    tables = {
        name: {**by_number, "primary_key": ["n"]} for name in ("through", "triggered", "below")
    }
    world.project.spec(tables, {"dim": "SELECT n FROM staging.through"})
    for end in ("source", "warehouse"):
        world.grant(end, world.printed(end))
    asked = "SELECT has_sequence_privilege(%s, %s, 'SELECT')"
    may_read = {
        name: fetch(world.administrator["source"], asked, world.roles["extractor"], name)[0][0]
        for name in ("hidden.base_n_seq", 'hidden."of a trigger"', "hidden.above", "other")
    }
    assert list(may_read.values()) == [True, True, True, False], may_read
    # A partition alone is refused: it shares the sequence with the others.
    tables["above"] = tables.pop("below")
    world.project.spec(tables, {"dim": "SELECT n FROM staging.through"})
    world.grant("source", world.printed("source"))
    file = world.project.folder / "pipelines" / "shop" / "pipeline.yml"
    for number in range(2):
        spec = load_pipeline(file)
        results = run_pipeline(spec, RunRequest(run_id=f"run {number}"), world.project.connections)
        failed = [str(r.result) for r in results.values() if r.state not in ("done", "skipped")]
        assert failed == []
        fetch(
            world.administrator["source"],
            "INSERT INTO hidden.base (x) VALUES (3); INSERT INTO triggered VALUES (0);"
            " INSERT INTO above DEFAULT VALUES",
        )


def test_two_loaders_share_one_ledger_by_the_printed_lines(
    project: Project, postgres: PostgresServer
) -> None:
    """Before, only `loadsheet doctor` knew what the second one needs of the first one's ledger."""
    project.in_source(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());"
        " INSERT INTO t SELECT generate_series(1, 9)"
    )
    project.use_administrator("the test runs what is printed, for roles of its own")
    owner = project.warehouse
    roles = {name: f"loader_{name}_{secrets.token_hex(4)}" for name in "ab"}

    def use(name: str) -> None:
        project.name = name
        uri = owner.replace(f"loadsheet:{postgres.password}", f"{roles[name]}:x")
        project.warehouse = uri

    for name in roles:
        project.name, project.warehouse = name, owner
        dim = {"materialized": "merge", "unique_key": "id"}
        project.spec(
            {"t": {"incremental": "at"}},
            {f"dim_{name}": (f"SELECT id FROM staging_{name}.t", dim)},
            warehouse={
                "conn_id": "warehouse",
                "schema": f"staging_{name}",
                "mart_schema": f"mart_{name}",
            },
        )
        printed = project.cli("grants", name, "--on", "warehouse", "--loader", roles[name]).stdout
        for statement in statements(printed):
            fetch(owner, statement)
        fetch(owner, f"ALTER ROLE {roles[name]} PASSWORD 'x'")
        use(name)
        project.succeed()
    project.in_source("INSERT INTO t VALUES (10)")
    for name in roles:
        use(name)
        project.succeed()
        file = project.folder / "pipelines" / name / "pipeline.yml"
        lacking = lacking_privileges(load_pipeline(file), project.connections)
        assert (lacking.remarks, lacking.others) == ([], 0)
        assert project.in_warehouse(f"SELECT count(*) FROM mart_{name}.dim_{name}") == [(10,)]
    # The second one got no more than that: the ledger stays the first one's.
    asked = "SELECT has_table_privilege(%s, 'loadsheet.load', 'DELETE')"
    assert fetch(owner, asked, roles["b"]) == [(False,)]
