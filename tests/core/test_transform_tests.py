"""`loadsheet test`: transforms on given rows, in databases made for it, by the same code as every run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.project import ROOT, Project
from tests.unit import test_readme as readme

TABLES = {"customer": {"incremental": "at", "primary_key": "id"}, "sale": {"incremental": "at", "primary_key": "id"}}
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
    project.spec(TABLES, transforms)
    folder = project.folder / "pipelines" / "shop" / "tests"
    folder.mkdir(exist_ok=True)
    (folder / "tests.yml").write_text(tests)


def run(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """On the tests' own server, which is up already."""
    return project.cli("test", "shop", "--warehouse", "warehouse", *arguments)


def test_the_flights_pipeline_does_what_its_tests_say_on_the_embedded_server() -> None:
    command = [sys.executable, "-m", "loadsheet", "test", "flights"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("3 tests, all as expected, in ")


def test_the_tests_in_the_documentation_are_right(project: Project) -> None:
    home = readme.write(project.folder, next(spec for spec in readme.SPECS if "pipeline: shop" in spec)).parent
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
    assert project.in_warehouse("SELECT FROM pg_namespace WHERE nspname IN ('staging', 'mart', 'loadsheet')") == []
    assert project.in_warehouse("SELECT FROM pg_database WHERE datname LIKE 'loadsheet\\_test\\_%'") == []


def test_a_transform_that_forgets_an_input_fails_in_the_second_step(project: Project) -> None:
    """The negative control: the same test, and SQL that does not look at which customers are new."""
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
        "tests: {all: {given: {staging.sale: [{id: 1, amount: 1.0}, {id: 2, amount: 2}, {id: 3, amount: null}]}, "
        "expect: {mart.sales: [{id: 1, amount: 1.00}, {id: 3, amount: 3}, {id: 4, amount: 4}]}}}",
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


def test_values_tell_their_types_now_is_when_the_test_says_and_a_given_mart_is_not_built(project: Project) -> None:
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
        upkeep=("CREATE TABLE mart.log AS SELECT count(*) AS rows FROM staging.sale", {"materialized": "script"}),
    )
    done = run(project)
    assert done.returncode == 0, done.stdout


BAD = {
    "zero": ("given: {staging.sale: [{id: 0}]}", "zero.sql: division by zero"),
    "mixed": ("given: {staging.sale: [{id: 1}, {id: x}]}", "id is text here and bigint above: give its type under"),
    "silent": ("given: {elsewhere.rates: []}", "silent reads staging.sale, of which the test says nothing"),
    "kind": (
        "given: {staging.customer: [{id: 1}], staging.sale: [{id: 1}]}",
        'type "nonsense" does not exist: correct',
    ),
    "value": ("given: {staging.sale: [{id: 1, at: '2026-99-01'}]}", " at: date/time field value out of range"),
    "column": ("given: {staging.sale: [{id: 1}]}, expect: {mart.column: [{nr: 1}]}", "mart.column has no column 'nr'"),
}


def test_what_keeps_a_test_from_being_run_is_told_and_the_others_run(project: Project) -> None:
    tests = {
        name: test if "expect" in test else f"{test}, expect: {{mart.{name}: []}}" for name, (test, _) in BAD.items()
    }
    text = "tables: {staging.customer: {columns: {id: nonsense}}}\ntests:\n" + "".join(
        f"  {name}: {{{test}}}\n" for name, test in tests.items()
    )
    write(project, text, **dict.fromkeys(BAD, "SELECT 1 / id AS id FROM sale"))
    done = run(project, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    told = {test["name"]: test["error"] for test in json.loads(done.stdout)["tests"]}
    assert {name: message in told[name] for name, (_, message) in BAD.items()} == dict.fromkeys(BAD, True), told


def test_wrong_test_files_and_no_tests_are_wrong_input(project: Project) -> None:
    write(project, "tests: {a: {givn: }}", sales="SELECT 1 AS id")
    done = run(project)
    assert done.returncode == 2 and "tests.yml:1:13 tests.a.givn: unknown key 'givn'" in done.stderr
    (project.folder / "pipelines" / "shop" / "tests" / "tests.yml").unlink()
    done = run(project)
    assert done.returncode == 2 and done.stderr.startswith("error: there are no tests in ")


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_the_embedded_server_does_not_outlive_a_killed_owner(project: Project) -> None:
    write(project, "tests: {slow: {given: {}, expect: {mart.slow: []}}}", slow="SELECT pg_sleep(60)")
    with subprocess.Popen(project.command("test", "shop"), env=project.environment(), stdout=subprocess.DEVNULL) as run:
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
            environ = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            found = [entry for entry in environ if entry.startswith(b"SCRATCH=")]
            if found and Path(f"/proc/{child}/comm").read_text() == "sh\n":
                return Path(found[0].decode().partition("=")[2])
        time.sleep(0.02)
    raise AssertionError("no server was started")
