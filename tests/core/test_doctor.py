"""`loadsheet doctor`: each connection once, what is missing, and the line that mends it."""

from __future__ import annotations

import json
import os
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from demo.servers import PostgresServer
from loadsheet.connections.lookup import Connection
from loadsheet.engine import preflight
from loadsheet.engine.preflight import Place
from loadsheet.engine.sessions import KeptServers
from loadsheet.preview import health
from loadsheet.preview.lacking import lacking_privileges
from loadsheet.spec.pipeline_file import load_pipeline
from tests.core.shop import MART, SOURCE, TABLES
from tests.project import Project, fetch

AWAY = "postgresql://nobody:secret@127.0.0.1:1/none"
WRONG = "the connection is missing or wrong"


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    project.spec(TABLES, MART)
    return project


def doctor(shop: Project, code: int, *more: str) -> dict[str, Any]:
    """What `loadsheet doctor --json` says, by connection id and as `pipelines`."""
    done = shop.cli("doctor", *more, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    document = json.loads(done.stdout)
    found = {each["conn_id"]: each for each in document["connections"]}
    return {**found, "pipelines": document["pipelines"]}


def test_a_healthy_project_is_told_so_and_left_as_it_was(shop: Project) -> None:
    shop.succeed()
    objects = shop.objects()
    found = doctor(shop, 0)
    assert shop.objects() == objects
    for conn_id in ("shop_source", "lake", "warehouse"):
        assert found[conn_id]["answers"] and found[conn_id]["remarks"] == []
        assert found[conn_id]["tls"] == "none" and found[conn_id]["latency_ms"] > 0
        assert abs(found[conn_id]["clock_seconds"]) < 60
    assert found["warehouse"]["version"].partition(".")[0].isdecimal()
    assert found["warehouse"]["role"] == shop.loader
    assert found["pipelines"] == [{"pipeline": "shop", "other_errors": 0, "remarks": []}]


def test_an_error_that_is_the_plans_is_no_ok(shop: Project) -> None:
    """The exit code was 1, below `ok` and `0 errors`."""
    shop.spec({"nothing": None})
    shown = shop.cli("doctor", "shop")
    assert shown.returncode == 1
    *_, pipeline, total = shown.stdout.splitlines()
    assert pipeline.startswith("failed  pipeline shop: ") and pipeline.endswith("1 other error")
    assert total == "3 connections examined: 1 error, 0 warnings"


def test_before_the_first_run_nothing_is_created(shop: Project) -> None:
    found = doctor(shop, 0, "shop")
    assert [remark["code"] for remark in found["lake"]["remarks"]] == ["bucket"]
    assert shop.in_warehouse("SELECT FROM pg_namespace WHERE nspname = 'loadsheet'") == []


def test_what_roles_lack_is_given_by_the_lines_that_are_printed(
    shop: Project, postgres: PostgresServer
) -> None:
    shop.succeed()
    owner = shop.source
    role = f"low_{os.urandom(4).hex()}"
    fetch(owner, f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    shop.source = owner.replace(f"loadsheet:{postgres.password}", f"{role}:x")
    for _ in range(3):
        done = shop.cli("doctor", "shop")
        lines = [line.strip() for line in done.stdout.splitlines()]
        # Both servers are the same here; the head tells on which one the line is to run.
        pattern = re.compile(r"fix \(on the (source|warehouse)\)  ")
        fixes = [pattern.sub("", line) for line in lines if pattern.match(line)]
        assert len(fixes) == sum(line.startswith("fix") for line in lines)
        if not fixes:
            break
        assert done.returncode == 1 and "failed  pipeline shop: lacks privileges" in done.stdout
        for fix in fixes:
            fetch(owner, fix)
    assert done.returncode == 0, done.stdout
    assert shop.cli("run", "shop").returncode == 0


@pytest.mark.parametrize(
    ("uri", "code", "short", "told"),
    [
        (AWAY, 1, "no answer", "SQLSTATE 08001"),
        ("a wrong password", 1, "the login is refused", "SQLSTATE 28P01"),
        ("a wrong dbname", 1, "refused", "SQLSTATE 3D000"),
        ("postgresql://u:p@127.0.0.1:1/x?sslmod=verify-full", 2, WRONG, "'sslmode'"),
        ("mysql://u:p@127.0.0.1:1/x", 2, WRONG, "has the type 'mysql'"),
        ("", 2, WRONG, "'warehouse' is not defined"),
    ],
)
def test_a_connection_that_does_not_work_is_said_once(
    shop: Project, uri: str, code: int, short: str, told: str
) -> None:
    """Before, each was headed `no answer`, also where the server had answered."""
    if "password" in uri:
        login, _, rest = shop.warehouse.rpartition("@")
        uri = f"{login.rpartition(':')[0]}:wr0ng@{rest}"
    if "dbname" in uri:
        uri = f"{shop.warehouse.rpartition('/')[0]}/nowhere"
    shop.warehouse = uri
    shop.spec({f"t{number}": None for number in range(9)})
    done = shop.cli("doctor")
    assert done.returncode == code and done.stdout.count(told) == 1
    assert f"failed  warehouse warehouse: {short}\n" in done.stdout
    assert "ok      source shop_source: 127.0.0.1:" in done.stdout
    assert "secret" not in done.stdout and "pipeline shop" not in done.stdout


def test_a_warehouse_that_only_reads_is_an_error_with_its_line(shop: Project) -> None:
    shop.in_warehouse(f"ALTER ROLE {shop.loader} SET default_transaction_read_only = on")
    (remark,) = doctor(shop, 1)["warehouse"]["remarks"]
    assert remark["code"] == "read-only"
    shop.in_warehouse(remark["fix"])
    doctor(shop, 0)


def test_a_line_to_another_machine_should_be_encrypted(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same server, as if it were another machine's."""
    monkeypatch.setattr(health, "_is_local", lambda *given: False)
    examined = health.examine(Place(end="source", conn_id="shop_source"), shop.connections)
    (remark,) = examined.remarks
    assert (remark.severity, remark.code) == ("warning", "tls")
    assert '"sslmode": "verify-full"' in remark.fix


@pytest.mark.parametrize(
    ("host", "address", "expected"),
    [
        ("/run/postgresql", "", True),
        ("localhost", "", True),
        ("localhost", "127.0.0.1", True),
        ("::1", "::1", True),
        ("db.example.com", "192.0.2.1", False),
        ("db.example.com", "", False),
    ],
)
def test_which_lines_stay_on_this_machine(host: str, address: str, expected: bool) -> None:
    assert health._is_local(host, address) is expected


@pytest.mark.parametrize("seconds", [-600, 600])
def test_a_clock_that_is_wrong_is_a_warning(
    shop: Project, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(datetime):
        @classmethod
        def now(cls, zone: Any = None) -> Any:
            return datetime.now(UTC) + timedelta(seconds=seconds)

    shop.succeed()
    monkeypatch.setattr(health, "datetime", Wrong)
    for end, conn_id in (("source", "shop_source"), ("lake", "lake")):
        place = Place(end=end, conn_id=conn_id, bucket=shop.bucket if end == "lake" else "")
        (remark,) = health.examine(place, shop.connections).remarks
        way = "behind" if seconds > 0 else "ahead of"
        assert remark.code == "clock" and f"s {way} the clock of this machine" in remark.message


def test_a_wrong_key_of_the_lake_is_said(shop: Project) -> None:
    shop.succeed()
    right = shop.s3.secret_key
    shop.s3.secret_key = "not-the-key"
    try:
        found = doctor(shop, 1)
    finally:
        shop.s3.secret_key = right
    assert not found["lake"]["answers"] and found["pipelines"] == []
    message = found["lake"]["remarks"][0]["message"]
    assert "The secret key does not belong to the access key" in message


def test_a_project_is_examined_with_each_server_once(shop: Project) -> None:
    home = shop.folder / "pipelines"
    for name in ("two", "three"):
        shop.name = name
        shop.spec(TABLES, warehouse={"conn_id": "warehouse", "schema": name})
    shop.name = "shop"
    done = shop.cli("doctor", "--json")
    document = json.loads(done.stdout)
    assert sorted(each["end"] for each in document["connections"]) == [
        "lake",
        "source",
        "warehouse",
    ]
    assert [each["pipeline"] for each in document["pipelines"]] == ["shop", "three", "two"]
    assert len(list(home.iterdir())) == 3


def test_the_time_that_a_connection_takes_to_be_found_is_not_the_servers(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing Airflow took longer than the limit, and all three servers were said to be away."""
    monkeypatch.setattr(health, "_LONGEST", timedelta(seconds=3))
    monkeypatch.setattr(preflight, "_LONGEST_TRY", timedelta(seconds=3))

    def find(conn_id: str) -> Connection:
        time.sleep(4)
        return shop.connections(conn_id)

    place = Place(end="warehouse", conn_id="warehouse")
    assert health.examine(place, find).answers
    pipeline = load_pipeline(shop.folder / "pipelines" / "shop" / "pipeline.yml")
    servers = KeptServers(pipeline, find)
    assert preflight.refused([place], servers) == []
    servers.close()


HIDDEN = """
CREATE TABLE owned (id int PRIMARY KEY); ALTER TABLE owned ENABLE ROW LEVEL SECURITY;
CREATE TABLE forced (id int PRIMARY KEY); ALTER TABLE forced ENABLE ROW LEVEL SECURITY;
ALTER TABLE forced FORCE ROW LEVEL SECURITY;
CREATE TABLE plain (id int PRIMARY KEY); CREATE TABLE part (LIKE plain) PARTITION BY LIST (id);
CREATE TABLE part_1 PARTITION OF part DEFAULT; ALTER TABLE part_1 ENABLE ROW LEVEL SECURITY;
CREATE POLICY first ON owned USING (id = 1); CREATE POLICY first ON forced USING (id = 1);
INSERT INTO owned VALUES (1), (2); INSERT INTO forced VALUES (1), (2); INSERT INTO plain VALUES (1);
INSERT INTO part VALUES (1), (2);
CREATE FUNCTION secret(int) RETURNS int LANGUAGE sql IMMUTABLE RETURN $1 + 1;
REVOKE ALL ON FUNCTION secret FROM PUBLIC;
"""


@pytest.mark.parametrize(
    ("made", "fix"),
    [
        ("CREATE VIEW seen AS SELECT * FROM plain", ""),
        ("CREATE VIEW seen AS SELECT * FROM owned", ""),  # as the superuser, its owner
        ("CREATE VIEW seen AS SELECT * FROM part", ""),
        ("CREATE VIEW seen AS SELECT * FROM plain; ALTER VIEW seen OWNER TO {other}", "GRANT"),
        ("CREATE VIEW seen AS SELECT * FROM owned; ALTER VIEW seen OWNER TO {other}", "BYPASSRLS"),
        ("CREATE VIEW seen WITH (security_invoker) AS SELECT * FROM plain", "GRANT"),
        ("CREATE VIEW seen WITH (security_invoker) AS SELECT * FROM owned", "BYPASSRLS"),
        ("CREATE VIEW seen WITH (security_invoker = on) AS SELECT * FROM forced", "BYPASSRLS"),
        ("CREATE VIEW seen WITH (security_invoker = off) AS SELECT * FROM forced", ""),
        (
            "CREATE VIEW below WITH (security_invoker) AS SELECT * FROM owned;"
            "CREATE VIEW seen AS SELECT * FROM below",
            "BYPASSRLS",
        ),
        ("CREATE VIEW seen AS SELECT secret(id) AS id FROM plain", "GRANT EXECUTE"),
        ("ALTER TABLE owned RENAME TO seen", "BYPASSRLS"),
        ("ALTER TABLE part RENAME TO seen", ""),
        ("ALTER TABLE owned RENAME TO seen; ALTER TABLE seen OWNER TO {role}", ""),
        ("ALTER TABLE forced RENAME TO seen; ALTER TABLE seen OWNER TO {role}", "BYPASSRLS"),
    ],
)
def test_what_a_role_sees_only_in_part_is_named_with_its_line(
    shop: Project, postgres: PostgresServer, made: str, fix: str
) -> None:
    """Each line is run as it is printed, until the doctor is content: then all rows are loaded.
    Before, all of these but GRANTs on the table itself were counted as `other errors`."""
    owner = shop.source
    role, other = f"low_{os.urandom(4).hex()}", f"other_{os.urandom(4).hex()}"
    fetch(owner, f"CREATE ROLE {role} LOGIN PASSWORD 'x'; CREATE ROLE {other}" + ";" + HIDDEN)
    fetch(owner, made.format(role=role, other=other))
    fetch(owner, f"GRANT SELECT ON seen TO {role}")
    expected = 1 if "FROM plain" in made else 2
    shop.source = owner.replace(f"loadsheet:{postgres.password}", f"{role}:x")
    shop.spec({"seen": {"mode": "replace"}})
    fixes: list[str] = []
    while lacking := lacking_lines(shop):
        # What is refused is never loaded in part.
        assert shop.run()["extract.extract_seen"].state == "failed"
        assert len(fixes) < 4
        fixes += lacking
        fetch(owner, lacking[0])
    assert (fix in " ".join(fixes)) if fix else fixes == []
    shop.succeed()
    assert shop.in_warehouse("SELECT count(*) FROM staging.seen") == [(expected,)]


def lacking_lines(shop: Project) -> list[str]:
    """The lines that the doctor prints for the pipeline; it has nothing else to say."""
    file = shop.folder / "pipelines" / shop.name / "pipeline.yml"
    found = lacking_privileges(load_pipeline(file), shop.connections)
    assert found.others == 0
    return [remark.fix for remark in found.remarks]


def test_a_table_of_others_in_the_warehouse_is_examined_as_well(
    shop: Project, postgres: PostgresServer
) -> None:
    owner, role = shop.warehouse, f"low_{os.urandom(4).hex()}"
    fetch(owner, f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    database = owner.rpartition("/")[2]
    fetch(
        owner,
        f"CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.rates AS SELECT 1 AS rate;"
        f" ALTER TABLE elsewhere.rates ENABLE ROW LEVEL SECURITY;"
        f" GRANT USAGE ON SCHEMA elsewhere TO {role}; GRANT SELECT ON elsewhere.rates TO {role};"
        f" GRANT CREATE ON DATABASE {database} TO {role}",
    )
    marts = {"rated": "SELECT rate FROM elsewhere.rates"}
    shop.spec(TABLES, marts, external=["elsewhere.*"])
    shop.warehouse = owner.replace(f"loadsheet:{postgres.password}", f"{role}:x")
    assert shop.run()["transform.transform_rated"].state == "failed"
    (fix,) = lacking_lines(shop)
    assert fix == f'ALTER ROLE "{role}" BYPASSRLS;'
    fetch(owner, fix)
    assert lacking_lines(shop) == []
    shop.succeed()


def test_a_sequence_that_may_not_be_read_has_its_lines(
    shop: Project, postgres: PostgresServer
) -> None:
    """Before, it was one of the `other errors`, and the line in its message was not enough."""
    owner, role = shop.source, f"low_{os.urandom(4).hex()}"
    fetch(
        owner,
        f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT pg_read_all_stats TO {role};"
        " CREATE SCHEMA apart; CREATE SEQUENCE apart.counted;"
        " CREATE TABLE seen (n bigint DEFAULT nextval('apart.counted') PRIMARY KEY);"
        f" INSERT INTO seen DEFAULT VALUES; GRANT SELECT ON seen TO {role}",
    )
    shop.spec({"seen": {"incremental": "n"}})
    shop.succeed()
    fetch(owner, "INSERT INTO seen DEFAULT VALUES")
    shop.source = owner.replace(f"loadsheet:{postgres.password}", f"{role}:x")
    (lines,) = lacking_lines(shop)
    assert "SCHEMA" in lines and "SEQUENCE" in lines
    fetch(owner, lines)
    assert lacking_lines(shop) == []
    shop.succeed()
