"""The hashes by which verify compares: no value, and no exchange of values, hides behind them."""

from __future__ import annotations

import secrets

import psycopg
import pytest

from demo.servers import PostgresServer
from loadsheet.comparison.digest import BUCKETS, Side, Value
from loadsheet.engine.request import repair_request
from loadsheet.engine.runner import run_pipeline
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.sql.text import Relation
from tests.project import Project

# Pairs of values to which PostgreSQL's own hash function is blind.
BLIND = {
    "numeric(10, 2)": ("5.00", "-5.00"),
    "numeric(10, 1)": ("NaN", "0.1"),
    "numeric(12, 2)": ("10000.00", "-10000.00"),
    "bigint": ("-1", "4294967295"),
    "timestamp": ("2000-01-01", "2000-01-01 01:11:34.967296"),
}


def test_a_value_of_the_same_server_hash_is_a_difference(project: Project) -> None:
    columns = ", ".join(f'"{name}" {name}' for name in BLIND)
    values = ", ".join(f"'{one}'" for one, _ in BLIND.values())
    project.in_source(f"CREATE TABLE item (id int PRIMARY KEY, {columns}, at timestamptz)")
    project.in_source(f"INSERT INTO item SELECT i, {values}, now() FROM generate_series(1, 9) i")
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    assert project.verify()["item"].state == "equal"
    for id, (name, (_, other)) in enumerate(BLIND.items(), 1):
        project.in_warehouse(f"UPDATE staging.item SET \"{name}\" = '{other}' WHERE id = {id}")
    verdict = project.verify()["item"]
    found = {row.key["id"]: [c.column for c in row.changes] for row in verdict.named["different"]}
    assert found == {str(id): [name] for id, name in enumerate(BLIND, 1)}


@pytest.mark.parametrize("mode", ["merge", "replace", "keyless"])
def test_rows_of_one_bucket_that_swap_their_values_differ(project: Project, mode: str) -> None:
    """The server's hash of a row adds up the hashes of its columns, and so do the sums: values that
    two rows of a bucket exchange leave the sums as they were."""
    key = "" if mode == "keyless" else "PRIMARY KEY"
    project.in_source(
        f"CREATE TABLE item (id int {key}, amount int, at timestamptz);"
        f"INSERT INTO item SELECT i, i, now() FROM generate_series(1, {3 * BUCKETS}) i"
    )
    project.spec({"item": {"incremental": "at"} if mode == "merge" else {"mode": "replace"}})
    project.succeed()
    key_hash = Side(Relation("staging", "item"), (Value("id", "integer"),), (0,), "record").key_hash
    # Each row has the amount of the next one of its bucket.
    project.in_warehouse(
        "UPDATE staging.item i SET amount = other FROM (SELECT id, coalesce(lead(id) OVER w,"
        " first_value(id) OVER w) AS other FROM staging.item WINDOW w AS (PARTITION BY"
        f" {key_hash} & {BUCKETS - 1} ORDER BY id)) o"
        " WHERE o.id = i.id"
    )
    [(swapped,)] = project.in_warehouse("SELECT count(*) FROM staging.item WHERE amount <> id")
    verdict = project.verify()["item"]
    kind = "missing" if mode == "keyless" else "different"
    assert verdict.counts[kind] == swapped


def test_a_key_that_became_null_in_a_view_does_not_stop_the_comparison(project: Project) -> None:
    project.in_source("CREATE TABLE base (id int, at timestamptz)")
    project.in_source("INSERT INTO base SELECT i, now() FROM generate_series(1, 9) i")
    project.in_source("CREATE VIEW item AS SELECT * FROM base")
    project.spec({"item": {"incremental": "at", "primary_key": ["id"]}})
    project.succeed()
    project.in_source("INSERT INTO base VALUES (NULL, now() + interval '1 h')")
    verdict = project.verify()["item"]
    assert (verdict.state, verdict.newer) == ("equal", 1)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_source_in_another_encoding_is_compared_repaired_and_searched_for_deleted_rows(
    project: Project, postgres: PostgresServer, encoding: str
) -> None:
    """A statement with letters that the source's encoding has not is refused as a whole, so none
    may be in one that is sent to both servers."""
    name = f"test_{secrets.token_hex(6)}"
    project.in_source(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    project.source = postgres.dsn(name)
    with psycopg.connect(project.source, autocommit=True, client_encoding="UTF8") as session:
        session.execute(
            "CREATE TABLE item (id text PRIMARY KEY, what text, at timestamptz DEFAULT now());"
            "INSERT INTO item SELECT 'é' || i, 'é' FROM generate_series(1, 50) i"
        )
        if encoding == "LATIN1":
            with pytest.raises(psycopg.errors.UntranslatableCharacter):
                session.execute("SELECT '東'")
        project.spec({"item": {"incremental": "at", "deletes": "hard"}})
        project.succeed()
        assert project.verify()["item"].state == "equal"
        session.execute("DELETE FROM item WHERE id = 'é7'")
        project.in_warehouse(
            "DELETE FROM staging.item WHERE id LIKE '_8'; UPDATE staging.item SET what = 'x'"
            " WHERE id LIKE '_9'"
        )
        verdict = project.verify()["item"]
        assert verdict.counts == {"missing": 1, "extra": 0, "different": 1}
        assert verdict.named["missing"][0].key == {"id": "é8"}
        pipeline = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")
        request = repair_request(pipeline, rows_of={"item"}, whole=set(), marts=set())
        dict(run_pipeline(pipeline, request, project.connections))
        assert project.verify()["item"].state == "equal"
        session.execute("DELETE FROM item WHERE id = 'é9'")
    project.succeed()
    assert project.in_warehouse("SELECT count(*) FROM staging.item") == [(48,)]
