"""What the command `loadsheet verify` prints, and its exit codes."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from tests.core.verifying import CREATE
from tests.project import Project

A_VIEW = {"materialized": "view"}


def test_the_command_names_the_rows_and_shows_values_only_on_request(project: Project) -> None:
    project.in_source(CREATE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    assert project.cli("verify", "shop").stdout == "item: equal, 3,000 rows\n1 table: 1 equal\n"
    project.in_warehouse("UPDATE staging.item SET name = 'secret' WHERE id = 3")
    damaged = project.cli("verify", "shop", "item")
    assert damaged.returncode == 1
    assert damaged.stdout == (
        "item: differs, 3,000 rows, 1 different\n"
        "  different: id = 3, part = 0 in name\n"
        "1 table: 1 differ\n"
    )
    shown = project.cli("verify", "shop", "--values").stdout
    assert "id = 3, part = 0: name is 'secret', 'name 3' in the source" in shown
    [table] = json.loads(project.cli("verify", "shop", "--json").stdout)["tables"]
    assert table["rows"]["different"] == [{"key": {"id": "3", "part": "0"}, "columns": ["name"]}]
    wrong = project.cli("verify", "shop", "itme")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "error: shop has no table or transform 'itme' (did you mean 'item'?)\n",
    )


def test_an_exit_code_of_its_own_says_that_nothing_was_compared(project: Project) -> None:
    """A pager takes 0 for an answer. The control is the table that is equal."""
    project.in_source(CREATE + "CREATE TABLE later (id int)")
    project.spec({"item": None})
    project.succeed()
    project.spec({"item": None, "later": None}, {"shown": ("SELECT 1 AS one", A_VIEW)})
    codes = {}
    for names in ("item", "later", "shown", "later item", ""):
        done = project.cli("verify", "shop", *names.split())
        codes[names] = done.returncode
        is_told = "nothing was compared" in done.stdout
        assert is_told == (names in ("later", "shown")), done.stdout
        assert ("not compared, see above: later" in done.stdout) == (names in ("later item", ""))
    assert codes == {"item": 0, "later": 5, "shown": 5, "later item": 5, "": 0}
    document = json.loads(project.cli("verify", "shop", "--json").stdout)
    assert document["not_compared"] == ["later"]
    # A difference is worth more.
    project.in_warehouse("DELETE FROM staging.item WHERE id = 7")
    assert project.cli("verify", "shop", "later", "item").returncode == 1
    project.in_source("DROP TABLE item;" + CREATE)
    assert project.cli("verify", "shop").returncode == 5
    project.spec({"nothing_*": {"mode": "replace"}})
    found = project.cli("verify", "shop")
    assert (found.returncode, found.stdout) == (
        5,
        "nothing was compared, so nothing is known of the rows\n",
    )


def test_a_role_that_only_reads_compares_and_says_that_the_verdict_is_not_recorded(
    project: Project,
) -> None:
    project.in_source(CREATE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    project.in_warehouse(
        "CREATE ROLE looks LOGIN PASSWORD 'granted'; GRANT pg_read_all_data TO looks"
    )
    dba = project.warehouse
    url = urlsplit(dba)
    project.warehouse = url._replace(netloc=f"looks:granted@{url.hostname}:{url.port}").geturl()
    done = project.cli("verify", "shop")
    project.warehouse = dba
    project.in_warehouse("DROP OWNED BY looks; DROP ROLE looks")
    assert (done.returncode, done.stdout) == (
        0,
        "item: equal, 3,000 rows\n"
        "  the verdict is not recorded: the warehouse (connection 'warehouse',"
        " role 'looks'): permission denied for table verified\n"
        "1 table: 1 equal\n",
    )
