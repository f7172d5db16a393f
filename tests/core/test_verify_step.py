"""`verify` in a pipeline file: a run also compares the tables that are due, and fails where a row
differs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from loadsheet.errors import Differs
from tests.project import Project

CREATE = """
CREATE TABLE item (
    id int PRIMARY KEY, name text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE code (id int PRIMARY KEY, name text);
INSERT INTO item SELECT i, 'Ada Lovelace ' || i FROM generate_series(1, 100) i;
INSERT INTO code SELECT i, 'code ' || i FROM generate_series(1, 10) i;
"""
TABLES: dict[str, Any] = {"item": {"incremental": "at"}, "code": None}
DAMAGE = """
DELETE FROM staging.item WHERE id = 7;
UPDATE staging.item SET name = 'Grace Hopper' WHERE id BETWEEN 20 AND 24;
"""


def loaded(project: Project, verify: str, **more: Any) -> Project:
    project.in_source(CREATE)
    project.spec(TABLES, verify=verify, **more)
    assert project.succeed()["verify"] == "done"
    return project


def add_row(project: Project) -> None:
    project.in_source("INSERT INTO item SELECT max(id) + 1, 'new' FROM item")


def age_verdicts(project: Project, interval: str) -> None:
    project.in_warehouse(
        f"UPDATE loadsheet.verified SET verified_at = now() - interval '{interval}'"
    )


def compared(project: Project, **request: Any) -> str:
    """Runs; what the step verify says."""
    result = project.run(**request)["verify"].result
    return getattr(result, "message", str(result))


def test_every_nth_run_that_loads_something_compares_the_tables(project: Project) -> None:
    loaded(project, "2 runs")
    for _ in range(2):
        assert compared(project) == "nothing is due (2 runs)"  # nothing new
    states = []
    for _ in range(4):
        add_row(project)
        states.append(project.succeed()["verify"])
    assert states == ["skipped", "done", "skipped", "done"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"item"}, "1 table: 1 equal"),
        ({"item", "code"}, "2 tables: 2 equal"),
        ({"n"}, "1 mart: 1 equal"),
        ({"*"}, "2 tables, 1 mart: 3 equal"),
        (set(), "nothing is due (0 0 1 1 *)"),  # the control
    ],
)
def test_a_run_that_names_what_to_verify_compares_that_although_it_is_not_due(
    project: Project, names: set[str], says: str
) -> None:
    loaded(project, "0 0 1 1 *", transforms={"n": "SELECT count(*) FROM staging.item"})
    assert says in compared(project, verify=frozenset(names))


@pytest.mark.parametrize(("schedule", "older"), [("@weekly", "8 days"), ("@daily", "25 hours")])
def test_the_first_run_after_each_time_of_the_schedule_compares_them(
    project: Project, schedule: str, older: str
) -> None:
    loaded(project, schedule)
    add_row(project)
    # Next January at the earliest: no test runs at the moment at which that changes.
    project.spec(TABLES, verify="0 0 1 1 *")
    assert project.succeed()["verify"] == "skipped"
    age_verdicts(project, older)
    project.spec(TABLES, verify=schedule)
    assert compared(project) == "2 tables: 2 equal"


def test_a_table_that_was_added_is_compared_by_the_next_run(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"item": TABLES["item"]}, verify="0 0 1 1 *")
    project.succeed()
    project.spec(TABLES, verify="0 0 1 1 *")
    assert compared(project) == "1 table: 1 equal"


def test_a_difference_fails_the_step_and_names_tables_counts_and_keys(project: Project) -> None:
    loaded(project, "1 run")
    project.in_warehouse(DAMAGE)
    add_row(project)
    error = project.run()["verify"].result
    assert isinstance(error, Differs) and not error.retryable
    # Rows come in the order of their keys' hashes.
    assert re.match(
        r"1 of 2 tables compared differ from the source\. item: 1 missing \(id = 7\), 5 different"
        r" \((id = 2\d in name; ){3}\.\.\.\)\. Next: `loadsheet verify shop` names more rows; ",
        error.reason,
    )
    assert "`loadsheet verify shop item --repair` reads them again" in str(error)
    assert "Ada" not in str(error) and "Grace" not in str(error)


def test_the_command_line_fails_and_logs_a_line_per_table_without_values(project: Project) -> None:
    loaded(project, "1 run")
    project.in_warehouse(DAMAGE)
    add_row(project)
    done = project.cli("-v", "run", "shop")
    told = done.stdout + done.stderr
    assert done.returncode == 1
    assert "item: differs, 100 rows, 1 missing, 5 different" in told
    assert "code: equal, 10 rows" in told
    assert "item: 1 missing (id = 7), 5 different" in told
    assert "Ada" not in told and "Grace" not in told


def test_a_table_that_differs_is_compared_by_every_run_until_it_is_equal(project: Project) -> None:
    loaded(project, "0 0 1 1 *")
    project.in_warehouse(DAMAGE)
    assert project.verify()["item"].state == "differs"
    for _ in range(2):
        assert "1 of 1 table compared differ" in compared(project)
    project.run(full_refresh=frozenset({"item"}), only=frozenset({"item"}))
    assert compared(project) == "nothing is due (0 0 1 1 *)"


def test_marts_are_built_although_a_table_differs(project: Project) -> None:
    loaded(project, "1 run", transforms={"items": "SELECT id, name FROM staging.item"})
    project.in_warehouse(DAMAGE)
    add_row(project)
    results = project.run()
    assert results["verify"].state == "failed"
    assert results["transform.transform_items"].state == "done"
    assert not any("verify" in result.step.upstream for result in results.values())


# A merge keeps what earlier builds wrote, so it may differ from its SELECT in full on purpose.
MARTS: dict[str, Any] = {
    "item": "SELECT id, upper(name) AS name FROM item",
    "names": (
        "SELECT id, name FROM item WHERE _load_id > :since_load",
        {"materialized": "merge", "unique_key": "id"},
    ),
    "of_a_run": "SELECT id, :run_id AS run FROM item",
    "shown": ("SELECT id FROM item", {"materialized": "view"}),
}


def test_marts_that_each_build_writes_in_full_are_compared_once_they_are_built(
    project: Project,
) -> None:
    """The mart `item` has the name of a table. It is built before it is compared: a mart that is
    due would prove nothing. The merge `names` differs and is left out."""
    project.in_source(CREATE)
    project.spec(TABLES, MARTS, verify="2 runs")
    assert compared(project) == "2 tables, 1 mart: 3 equal"
    add_row(project)
    assert compared(project) == "nothing is due (2 runs)"
    add_row(project)
    assert compared(project) == "2 tables, 1 mart: 3 equal"
    project.in_warehouse("UPDATE mart.names SET name = 'Grace'; DELETE FROM mart.item WHERE id = 7")
    assert project.verify("names")["names"].state == "differs"
    assert compared(project) == "nothing is due (2 runs)"
    project.in_warehouse("DELETE FROM loadsheet.verified WHERE kind = 'transform'")
    # By every run, until it is equal again; nothing is new, so no run builds it.
    for _ in range(2):
        results = project.run()
        assert results["transform.transform_item"].state == "skipped"
        error = results["verify"].result
        assert isinstance(error, Differs) and error.reason == (
            "1 of 1 mart compared differ from what their SELECT returns. item: 1 missing. Next:"
            " `loadsheet verify shop` names more rows; `loadsheet verify shop item --repair` builds"
            " the marts in full"
        )
    assert "item: 1 missing, found " in project.cli("status", "shop").stdout
    project.in_warehouse("DELETE FROM staging.code WHERE id = 7; DELETE FROM loadsheet.verified")
    error = project.run()["verify"].result
    assert "1 of 2 tables compared differ from the source. code: 1 missing (id = 7). 1 of " in str(
        error
    )
    assert "`loadsheet verify shop code item --repair` reads them again and builds" in str(error)
    assert project.run(only=frozenset({"item"}))["verify"].state == "skipped"
    assert project.cli("verify", "shop", "code", "item", "--repair").returncode == 0
    assert compared(project) == "nothing is due (2 runs)"


def test_a_run_of_chosen_tables_compares_only_those(project: Project) -> None:
    loaded(project, "0 0 1 1 *")
    project.in_warehouse("DELETE FROM loadsheet.verified")
    result = project.run(only=frozenset({"code"}))["verify"].result
    assert getattr(result, "message", "") == "1 table: 1 equal"
    assert compared(project) == "1 table: 1 equal"


def test_tables_of_a_pattern_are_compared(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"*": None}, verify="1 run")
    done = project.cli("run", "shop", "--json")
    steps = {step["id"]: step for step in json.loads(done.stdout)["steps"]}
    assert steps["verify"]["message"] == "2 tables: 2 equal"


def test_after_a_load_that_failed_nothing_is_compared(project: Project) -> None:
    loaded(project, "1 run")
    project.in_source("ALTER TABLE code RENAME TO gone")
    results = project.run()
    assert results["extract.extract_code"].state == "failed"
    assert results["verify"].state == "upstream_failed"


def test_a_sample_is_not_compared(project: Project) -> None:
    project.in_source(CREATE)
    project.spec(TABLES, verify="1 run")
    done = project.cli("run", "shop", "--sample", "50%", "--json")
    assert done.returncode == 0
    assert "verify" not in [step["id"] for step in json.loads(done.stdout)["steps"]]


def test_a_table_that_cannot_be_compared_is_named_and_tried_again(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"item": TABLES["item"]}, verify="0 0 1 1 *")
    project.succeed()
    project.in_warehouse(
        "DELETE FROM loadsheet.verified;"
        "INSERT INTO loadsheet.scope (pipeline, table_name, target, last_load_no)"
        " VALUES ('other', 'item', 'staging.item', 1)"
    )
    for _ in range(2):
        assert compared(project).startswith("1 table: 1 not compared. item: other has loaded")


def test_the_plan_shows_the_step_and_whether_it_is_due(project: Project) -> None:
    project.in_source(CREATE)
    project.spec(TABLES, verify="2 runs")
    assert "verify  staging (warehouse) against public (shop_source), when it is due: 2 runs" in (
        project.cli("plan", "shop").stdout
    )

    def now() -> str:
        return str(json.loads(project.cli("plan", "shop", "--connect", "--json").stdout))

    assert "'does': '2 tables to compare'" in now()
    project.succeed()
    assert "'does': 'skipped: nothing is due'" in now()
    add_row(project)
    project.succeed()
    add_row(project)
    # The run itself is the second.
    assert "'does': '2 tables to compare'" in now()
