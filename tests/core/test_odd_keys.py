"""Keys of unusual types, and keys that change between two loads: `deletes`, `verify` and its repair
are right with them, or refuse them by name."""

from __future__ import annotations

import pytest

from loadsheet.engine.request import repair_request
from loadsheet.engine.runner import run_pipeline
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.sqltest.embedded import memory_folder
from tests.debian import DebianServer, has_extension
from tests.faults.oracle import judge
from tests.project import Project

SEVERAL_WAYS = "may be written in several ways"
# The key's type, its value of row i, and why deleted rows cannot be found.
KEYS = {
    "domain": ("code", "i", ""),
    "text_domain": ("name_of", "'n' || i", ""),
    "uuid": ("uuid", "md5(i::text)::uuid", ""),
    "inet": ("inet", "'10.0.0.0'::inet + i", SEVERAL_WAYS),
    "bytea": ("bytea", "decode(md5(i::text), 'hex')", ""),
    "date": ("date", "date '2024-02-20' + i", ""),
    "fixed": ("numeric(6,2)", "i / 4.0", ""),
    "free": ("numeric", "i / 4.0", SEVERAL_WAYS),
    "renamed": ("int", "i", ""),
    "widened": ("int", "i", ""),
}
CHANGES = {"renamed": "RENAME k TO key", "widened": "ALTER k TYPE bigint"}


@pytest.fixture
def keyed(project: Project) -> Project:
    """A table for each key, of 30 rows, with `deletes` where it can be."""
    project.in_source("CREATE DOMAIN code AS int CHECK (VALUE > 0); CREATE DOMAIN name_of AS text")
    for table, (kind, value, _) in KEYS.items():
        project.in_source(
            f"CREATE TABLE {table} (k {kind} PRIMARY KEY, i int, v text,"
            " at timestamptz NOT NULL DEFAULT clock_timestamp());"
            f"INSERT INTO {table} SELECT {value}, i, 'v' FROM generate_series(1, 30) i"
        )
    project.spec(
        {
            table: {"incremental": "at", "deletes": None if why else "hard"}
            for table, (_, _, why) in KEYS.items()
        }
    )
    project.succeed()
    return project


def repair(project: Project, *tables: str) -> dict[str, str]:
    """The state of each step of a repair of these tables."""
    pipeline = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")
    request = repair_request(pipeline, rows_of=set(tables), whole=set(), marts=set())
    results = run_pipeline(pipeline, request, project.connections)
    return {name: result.state for name, result in results.items()}


def test_verify_repair_and_deletes_are_right_by_keys_of_any_type(keyed: Project) -> None:
    for table in KEYS:
        keyed.in_warehouse(
            f"DELETE FROM staging.{table} WHERE i = 3; UPDATE staging.{table} SET v = 'x'"
            " WHERE i = 4"
        )
        keyed.in_source(f"DELETE FROM {table} WHERE i = 5")
    for table, found in keyed.verify().items():
        extra = 1 if KEYS[table][2] else 0
        assert found.counts == {"missing": 1, "extra": extra, "different": 1}, table
        assert found.unproven == 1 - extra, table
    assert "failed" not in repair(keyed, *KEYS).values()
    for table, found in keyed.verify().items():
        extra = 1 if KEYS[table][2] else 0
        assert found.counts == {"missing": 0, "extra": extra, "different": 0}, table
    for table in KEYS:
        keyed.in_source(f"DELETE FROM {table} WHERE i = 6")
    keyed.succeed()
    for table, (_, _, why) in KEYS.items():
        assert judge(keyed, table).doubled == (2 if why else 0), table


def test_a_key_that_changes_between_two_loads_is_followed_or_refused(keyed: Project) -> None:
    for table, change in CHANGES.items():
        keyed.in_source(f"ALTER TABLE {table} {change}; DELETE FROM {table} WHERE i = 5")
        keyed.in_warehouse(f"DELETE FROM staging.{table} WHERE i = 3")
    found = keyed.verify(*CHANGES)
    assert found["renamed"].counts["missing"] == 1
    assert "its primary key cannot be compared: k: was integer, is bigint now" in (
        found["widened"].why
    )
    states = repair(keyed, *CHANGES)
    assert states["load.load_renamed"] == "done"
    assert states["extract.extract_widened"] == "failed"
    # The next run alters the column, and finds what is gone and what is missing.
    keyed.succeed()
    assert [table for table in CHANGES if judge(keyed, table)] == []
    assert {verdict.state for verdict in keyed.verify(*CHANGES).values()} == {"equal"}


def test_keys_that_can_be_written_in_several_ways_are_refused_by_name(keyed: Project) -> None:
    keyed.spec({table: {"incremental": "at", "deletes": "hard"} for table in KEYS})
    results = keyed.run()
    for table, (_, _, why) in KEYS.items():
        result = results[f"extract.extract_{table}"]
        assert (result.state == "failed") == bool(why), table
        assert f"equal values of the key column k {why}" in str(result.result) or not why


LOOSE = """
CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE texts (k text COLLATE any_case PRIMARY KEY, at timestamptz NOT NULL);
CREATE EXTENSION citext;
CREATE TABLE words (k citext PRIMARY KEY, at timestamptz NOT NULL)
"""


def test_keys_that_are_equal_in_any_case_are_refused_by_name(project: Project) -> None:
    """The embedded servers have neither."""
    if not has_extension("citext"):
        pytest.skip("Debian's postgresql-15 is not installed")
    with DebianServer(memory_folder(1 << 30)) as server:
        project.source = server.create_database("odd_source")
        project.in_source(LOOSE)
        defaults = {"incremental": "at", "deletes": "hard"}
        project.spec({"texts": None, "words": None}, defaults=defaults)
        results = project.run()
        for table, kind in {"texts": "text", "words": "public.citext"}.items():
            refusal = str(results[f"extract.extract_{table}"].result)
            assert f"column k ({kind}) cannot be part of a key to merge by" in refusal
        assert {verdict.state for verdict in project.verify().values()} == {"not compared"}
