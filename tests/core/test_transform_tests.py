"""`loadsheet test`: transforms on given rows, in databases made for it, by the same code as every
run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.byhand import wait_until
from tests.project import ROOT, Project
from tests.unit import test_readme as readme

TABLES = {
    "customer": {"incremental": "at", "primary_key": "id"},
    "sale": {"incremental": "at", "primary_key": "id"},
}
PER_SALE = """
SELECT s.id, c.name, s.amount FROM staging.sale s JOIN staging.customer c ON c.id = s.customer
WHERE s._load_id > :since_load OR c._load_id > :since_load
"""
MERGE = {"materialized": "merge", "unique_key": "id"}
STEPS = """
tests:
  a renamed customer is renamed in old sales:
    steps:
      - given:
          staging.customer: [{id: 1, name: Ann}, {id: 2, name: Bob}]
          staging.sale: [{id: 7, customer: 1, amount: 2.50}, {id: 8, customer: 2, amount: 1}]
        expect:
          mart.per_sale: [{id: 7, name: Ann, amount: 2.5}, {id: 8, name: Bob}]
      - given:
          staging.customer: [{id: 1, name: Zoe}]
        expect:
          mart.per_sale: [{id: 7, name: Zoe}, {id: 8, name: Bob}]
"""


def write(project: Project, tests: str, **transforms: Any) -> None:
    project.spec(TABLES, transforms, external=["elsewhere.rates"])
    folder = project.folder / "pipelines" / "shop" / "tests"
    folder.mkdir(exist_ok=True)
    (folder / "tests.yml").write_text(tests)


def run(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """On the tests' own server, which is up already; its role has what docs/security.md says."""
    project.in_warehouse(f"ALTER ROLE {project.loader} CREATEDB")
    return project.cli("test", "shop", "--warehouse", "warehouse", *arguments)


def test_the_flights_pipeline_does_what_its_tests_say_on_the_embedded_server() -> None:
    command = [sys.executable, "-m", "loadsheet", "test", "flights"]
    done = subprocess.run(
        command, cwd=ROOT, text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("3 tests, all passed, in ")


def test_the_variables_of_libpq_do_not_reach_the_embedded_server() -> None:
    """With PGPORT set, the old code waited for 31 s and did not say why."""
    others = {
        "PGPORT": "1",
        "PGHOST": "db.example.com",
        "PGHOSTADDR": "192.0.2.1",
        "PGOPTIONS": "-c no_such_setting=1",
        "PGSERVICE": "none",
        "PGREQUIREAUTH": "gss",
        "PGTARGETSESSIONATTRS": "standby",
        "PGDATESTYLE": "wrong",
        "PGTZ": "nowhere",
    }
    done = subprocess.run(
        [sys.executable, "-m", "loadsheet", "test", "flights"],
        cwd=ROOT,
        env={**os.environ, **others},
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tests_in_the_documentation_are_right(project: Project) -> None:
    home = readme.write(
        project.folder, next(spec for spec in readme.SPECS if "pipeline: shop" in spec)
    ).parent
    (home / "tests").mkdir()
    shown = readme.blocks(readme.TEXTS["docs/testing.md"], "yaml")
    for number, block in enumerate(shown):
        (home / "tests" / f"{number}.yml").write_text(block)
    done = run(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 2 and len(shown) == 3


def test_an_increment_is_tested_in_steps_and_leaves_the_warehouse_alone(project: Project) -> None:
    write(project, STEPS, per_sale=(PER_SALE, MERGE))
    done = run(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        project.in_warehouse(
            "SELECT FROM pg_class WHERE relnamespace IN (to_regnamespace('staging'),"
            " to_regnamespace('mart'), to_regnamespace('loadsheet'))"
        )
        == []
    )
    assert (
        project.in_warehouse("SELECT FROM pg_database WHERE datname LIKE 'loadsheet\\_test\\_%'")
        == []
    )


def test_a_transform_that_forgets_an_input_fails_in_the_second_step(project: Project) -> None:
    """The negative control: the same test, with SQL that does not check which customers are new."""
    write(project, STEPS, per_sale=(PER_SALE.partition(" OR ")[0], MERGE))
    done = run(project)
    assert done.returncode == 1
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0] == "failed  shop: a renamed customer is renamed in old sales"
    assert lines[1].endswith("tests.yml:3:3 (step 2)")
    assert lines[3].startswith("~ id: 7 ") and lines[3].endswith("tests.yml:13:27")
    assert lines[4] == "name: expected Zoe, found Ann"


def test_missing_rows_rows_too_many_and_cells_are_told_apart(project: Project) -> None:
    write(
        project,
        "tests: {all: {given: {staging.sale: [{id: 1, amount: 1.0}, {id: 2, amount: 2}, {id: 3,"
        " amount: null}]}, expect: {mart.sales: [{id: 1, amount: 1.00}, {id: 3, amount: 3}, {id: 4,"
        " amount: 4}]}}}",
        sales=("SELECT id, amount FROM sale", MERGE),
    )
    done = run(project, "--json")
    assert done.returncode == 1
    (test,) = json.loads(done.stdout)["tests"]
    assert [(d["expected"], d["actual"]) for d in test["differences"]] == [
        ({"id": "3", "amount": "3"}, {"id": "3", "amount": None}),
        ({"id": "4", "amount": "4"}, None),
        (None, {"id": "2", "amount": "2"}),
    ]


def test_values_tell_their_types_now_is_when_the_test_says_and_a_given_mart_is_not_built(
    project: Project,
) -> None:
    write(
        project,
        """
tests:
  age:
    as_of: "2026-03-01 00:00Z"
    given: {staging.sale: [{id: 1, day: "2026-02-27", doc: {a: 1}}]}
    expect: {mart.age: [{days: 2, on_day: "2026-03-01", doc: {"a": 1}}]}
  top:
    given: {mart.totals: [{id: 1, total: 5}, {id: 2, total: 50}]}
    expect: {mart.top: [{id: 2}]}
  log:
    given: {staging.sale: [{id: 1}, {id: 2}]}
    expect: {mart.log: [{rows: 2}]}
""",
        age="SELECT current_date - day AS days, now() AS on_day, doc FROM sale",
        totals="SELECT id, 1 / 0 AS total FROM sale",
        top="SELECT id FROM mart.totals WHERE total > 10",
        upkeep=(
            "CREATE TABLE mart.log AS SELECT count(*) AS rows FROM staging.sale",
            {"materialized": "script"},
        ),
    )
    done = run(project)
    assert done.returncode == 0, done.stdout


def test_rows_that_say_less_than_others_are_paired_so_that_all_that_can_have_one_do(
    project: Project,
) -> None:
    rows = "[{customer: 1, amount: 2}, {customer: 1, amount: 3}, {customer: 5, amount: 5}]"
    right = "{customer: 1}, {customer: 1, amount: 2}, {amount: 5}"
    tests = {"right": right, "wrong": right.replace("amount: 2", "amount: 4")}
    text = "tests:\n" + "".join(
        f"  {name}: {{given: {{staging.sale: {rows}}}, expect: {{mart.sales: [{expected}]}}}}\n"
        for name, expected in tests.items()
    )
    write(project, text, sales="SELECT customer, amount FROM sale")
    told = {test["name"]: test for test in json.loads(run(project, "--json").stdout)["tests"]}
    assert told["right"]["passed"]
    (difference,) = told["wrong"]["differences"]  # the negative control
    assert (
        difference["expected"] == {"customer": "1", "amount": "4"}
        and difference["actual"]["customer"] == "1"
    )


VALUES = {
    "jsonb": ('\'{"a": 1.00, "b": "1.00"}\'::jsonb', '{b: "1.00", a: 1}', '{b: "1.0", a: 1}'),
    "numbers": ("array[1.0, 2.50]", "[1, 2.5]", "[1, 2.05]"),
    "matrix": ("array[[1, 2], [3, 4]]", "[[1, 2], [3, 4]]", "[[1, 2], [4, 3]]"),
    "big": ("12345678901234567890.100", '"12345678901234567890.1"', '"12345678901234567890.2"'),
    "words": ("'null'", '"null"', "null"),
    "range": ("int4range(1, 5)", '"[1,4]"', '"[1,6]"'),
    "raw": ("'\\x00ff'::bytea", '"\\\\x00FF"', '"\\\\x00FE"'),
    "zone": ("'2026-01-01 12:00+02'::timestamptz", '"2026-01-01 10:00Z"', '"2026-01-01 12:00Z"'),
    "empty": ("''", '""', "null"),
}


def test_a_value_is_as_expected_by_its_type_and_not_by_its_digits(project: Project) -> None:
    def test(name: str, expected: str) -> str:
        return (
            f"  {name}: {{given: {{staging.sale: [{{id: 1}}]}}, expect: {{mart.{name}: [{{v:"
            f" {expected}}}]}}}}\n"
        )

    sql = {name: f"SELECT {value} AS v FROM sale" for name, (value, *_) in VALUES.items()}
    write(
        project,
        "tests:\n" + "".join(test(name, right) for name, (_, right, _) in VALUES.items()),
        **sql,
    )
    done = run(project)
    assert done.returncode == 0, done.stdout + done.stderr
    write(
        project,
        "tests:\n" + "".join(test(name, wrong) for name, (_, _, wrong) in VALUES.items()),
        **sql,
    )
    done = run(project)  # the negative control
    assert done.stdout.splitlines()[-1].startswith(f"{len(VALUES)} tests, {len(VALUES)} failed")
    assert "- v: null" in done.stdout and "+ v: 'null'" in done.stdout and "+ v: ''" in done.stdout


def test_rows_of_a_csv_file_join_with_those_of_the_test_by_number(project: Project) -> None:
    write(
        project,
        "tests: {all: {given: {staging.sale: {csv: sale.csv}, staging.customer: [{id: 1, name:"
        " Ann}]}, expect: {mart.sales: [{id: 7, name: Ann, zip: '0815'}]}}}",
        sales="SELECT s.id, c.name, s.zip FROM sale s JOIN customer c ON c.id = s.customer",
    )
    (project.folder / "pipelines" / "shop" / "tests" / "sale.csv").write_text(
        "id,customer,zip\n7,1,0815\n8,2,0816\n"
    )
    done = run(project)
    assert done.returncode == 0, done.stdout


def test_a_run_that_is_killed_leaves_no_database_behind(project: Project) -> None:
    write(
        project,
        "tests: {slow: {given: {staging.sale: []}, expect: {mart.slow: []}}}\n"
        "tables: {staging.sale: {columns: {id: int}}}",
        slow="SELECT id FROM sale, (SELECT pg_sleep(60)) nap",
    )
    made = "SELECT count(*) FROM pg_database WHERE datname LIKE 'loadsheet\\_test\\_%'"
    asleep = (
        "SELECT FROM pg_stat_activity WHERE datname LIKE 'loadsheet\\_test\\_%' AND query LIKE"
        " '%pg_sleep%'"
    )
    project.in_warehouse(f"ALTER ROLE {project.loader} CREATEDB")
    command = project.command("test", "shop", "--warehouse", "warehouse")
    with subprocess.Popen(
        command, env=project.environment(), stderr=subprocess.PIPE, text=True
    ) as running:
        wait_until(lambda: project.in_warehouse(asleep) != [], "the transform to sleep", 20)
        assert project.in_warehouse(made) == [(1,)]
        running.terminate()
        _, told = running.communicate(timeout=20)
    assert (running.returncode, told) == (130, "interrupted\n")
    assert project.in_warehouse(made) == [(0,)]


BAD = {
    "zero": ("given: {staging.sale: [{id: 0}]}", "zero.sql: division by zero"),
    "mixed": (
        "given: {staging.sale: [{id: 1}, {id: x}]}",
        "id is text here and bigint above: give its type under",
    ),
    "silent": (
        "given: {elsewhere.rates: []}",
        "silent reads staging.sale, which this test does not have",
    ),
    "kind": (
        "given: {staging.customer: [{id: 1}], staging.sale: [{id: 1}]}",
        'type "citext" does not exist: correct',
    ),
    "key": (
        "given: {elsewhere.rates: [{id: 1}], staging.sale: [{id: 1}]}",
        "elsewhere.rates has no column 'nr' to be its key; it has id",
    ),
    "load": ("given: {staging.sale: [{id: 1, _load_id: 4}]}", "_load_id is filled by Loadsheet"),
    "value": (
        "given: {staging.sale: [{id: 1, at: '2026-99-01'}]}",
        " at: date/time field value out of range",
    ),
    "column": (
        "given: {staging.sale: [{id: 1}]}, expect: {mart.column: [{nr: 1}]}",
        "mart.column has no column 'nr'",
    ),
}


def test_what_keeps_a_test_from_being_run_is_told_and_the_others_run(project: Project) -> None:
    tests = {
        name: test if "expect" in test else f"{test}, expect: {{mart.{name}: []}}"
        for name, (test, _) in BAD.items()
    }
    text = (
        "tables: {staging.customer: {columns: {id: citext}}, elsewhere.rates: {key:"
        " nr}}\ntests:\n" + "".join(f"  {name}: {{{test}}}\n" for name, test in tests.items())
    )
    write(project, text, **dict.fromkeys(BAD, "SELECT 1 / id AS id FROM sale"))
    done = run(project, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    told = {test["name"]: test["error"] for test in json.loads(done.stdout)["tests"]}
    assert {name: message in told[name] for name, (_, message) in BAD.items()} == dict.fromkeys(
        BAD, True
    ), told


def test_wrong_test_files_and_no_tests_are_wrong_input(project: Project) -> None:
    write(project, "tests: {a: {givn: }}", sales="SELECT 1 AS id")
    done = run(project)
    assert done.returncode == 2 and "tests.yml:1:13 tests.a.givn: unknown key 'givn'" in done.stderr
    (project.folder / "pipelines" / "shop" / "tests" / "tests.yml").unlink()
    done = run(project)
    assert done.returncode == 2 and done.stderr.startswith("error: there are no tests in ")


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_the_embedded_server_does_not_outlive_a_killed_owner(project: Project) -> None:
    write(
        project, "tests: {slow: {given: {}, expect: {mart.slow: []}}}", slow="SELECT pg_sleep(60)"
    )
    with subprocess.Popen(
        project.command("test", "shop"), env=project.environment(), stdout=subprocess.DEVNULL
    ) as run:
        scratch = _scratch_of(run.pid)
        assert scratch.is_dir()
        os.kill(run.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (scratch / "data").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not (scratch / "data").exists()


def _scratch_of(pid: int) -> Path:
    """The folder of the server that the process has started, once it has."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            # initdb has ended meanwhile, or is about to be reaped: its files are then root's
            with contextlib.suppress(ProcessLookupError, FileNotFoundError, PermissionError):
                environ = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
                found = [entry for entry in environ if entry.startswith(b"SCRATCH=")]
                if found and Path(f"/proc/{child}/comm").read_text() == "sh\n":
                    return Path(found[0].decode().partition("=")[2])
        time.sleep(0.02)
    raise AssertionError("no server was started")
