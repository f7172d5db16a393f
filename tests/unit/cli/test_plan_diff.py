"""`loadsheet plan --diff`: what changed in a pipeline since a Git revision, and what it means for
the data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.git import git as git_in
from tests.unit.cli.conftest import SPEC, SQL, Cli, write_pipeline

FILE = Path("pipelines/shop/pipeline.yml")


def git(*arguments: str) -> None:
    """In the current folder."""
    git_in(Path(), *arguments)


@pytest.fixture
def committed(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project as it was committed; it is the current folder."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "as it was")
    return project


def edit(old: str, new: str, file: Path = FILE) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def diff(cli: Cli, revision: str = "HEAD") -> dict[str, Any]:
    """The changes by name."""
    document: dict[str, Any] = cli("plan", "shop", "--diff", revision, "--json").json["diff"]
    return {change["name"]: change for change in document["changes"]}


def kinds(change: dict[str, Any]) -> list[str]:
    return [consequence["kind"] for consequence in change["consequences"]]


def test_nothing_changed_is_exit_code_0_and_said(cli: Cli, committed: Path) -> None:
    result = cli("plan", "shop", "--diff", "HEAD", "--exit-code")
    assert (result.code, result.out) == (0, "shop since HEAD: nothing changed\n")


def test_a_comment_in_the_yaml_changes_nothing_one_in_the_sql_does(
    cli: Cli, committed: Path
) -> None:
    edit("version: 1", "version: 1  # the first")
    assert cli("plan", "shop", "--diff", "HEAD", "--exit-code").code == 0
    edit("SELECT id", "-- ids\nSELECT id", Path("pipelines/shop/sql/sales.sql"))
    assert cli("plan", "shop", "--diff", "HEAD", "--exit-code").code == 4


def test_steps_that_come_and_go_are_named(cli: Cli, committed: Path) -> None:
    edit('  "odd [red]name": {primary_key: [a, b]}\n', "  events:\n")
    found = diff(cli)
    assert found["table events"]["steps"] == ["extract.extract_events", "load.load_events"]
    assert (found["table events"]["what"], kinds(found["table events"])) == ("added", ["created"])
    assert (found["table odd [red]name"]["what"], kinds(found["table odd [red]name"])) == (
        "removed",
        ["stays"],
    )


def test_settings_are_shown_as_they_were_and_are(cli: Cli, committed: Path) -> None:
    edit("orders: {incremental: updated_at}", "orders: {incremental: created_at, pool: big}")
    change = diff(cli)["table orders"]
    assert change["details"] == [
        "incremental.cursor: updated_at -> created_at",
        "tasks.pool: default_pool -> big",
    ]
    assert kinds(change) == ["stops"]
    assert "loadsheet run shop --tables orders --full-refresh" in change["consequences"][0]["text"]


def test_tasks_of_the_whole_pipeline_are_one_change(cli: Cli, committed: Path) -> None:
    edit("tables:", "schedule: '@daily'\ntasks: {retries: 5}\ntables:")
    found = diff(cli)
    assert list(found) == ["pipeline"]
    assert found["pipeline"]["details"] == ["schedule: none -> @daily", "tasks.retries: 2 -> 5"]


def test_a_changed_select_is_a_short_diff_and_rebuilds_what_reads_it(
    cli: Cli, committed: Path
) -> None:
    edit("SELECT id FROM", "SELECT id, 1 AS one FROM", Path("pipelines/shop/sql/sales.sql"))
    document = cli("plan", "shop", "--diff", "HEAD", "--json").json["diff"]
    change = document["changes"][0]
    assert change["sql"].splitlines() == [
        "@@ -1 +1 @@",
        f"-{SQL['sales']}",
        f"+{SQL['sales'].replace('SELECT id', 'SELECT id, 1 AS one')}",
    ]
    assert kinds(change) == ["rebuilt"]
    assert document["built_again"] == ["report"]
    out = cli("plan", "shop", "--diff", "HEAD").out
    assert "then  built again, because of what they read: report" in out


def test_what_a_transform_waits_for_is_part_of_the_change(cli: Cli, committed: Path) -> None:
    edit(
        "USING (id)",
        "USING (id) JOIN staging.orders USING (id)",
        Path("pipelines/shop/sql/report.sql"),
    )
    assert diff(cli)["transform report"]["details"] == [
        "after: load customers; transform sales -> load orders, customers; transform sales"
    ]


def test_a_table_that_is_to_become_a_view_stops(cli: Cli, committed: Path) -> None:
    edit("report:", "report: {materialized: view}")
    assert kinds(diff(cli)["transform report"]) == ["stops"]


def test_a_pipeline_new_since_then_is_all_added(cli: Cli, committed: Path) -> None:
    write_pipeline(committed, "fresh", SPEC.replace("pipeline: shop", "pipeline: fresh"))
    result = cli("plan", "fresh", "--diff", "HEAD", "--exit-code")
    assert result.code == 4
    assert result.out.startswith("fresh is new since HEAD: there was no such pipeline\n")
    assert result.out.count("── added ") == 5


def test_a_pipeline_in_another_folder_is_found_by_its_name(cli: Cli, committed: Path) -> None:
    git("mv", "pipelines/shop", "pipelines/store")
    edit("customers:", "customers: {max_shrink: 0.5}", Path("pipelines/store/pipeline.yml"))
    assert list(diff(cli)) == ["table customers"]


def test_a_renamed_pipeline_begins_anew(cli: Cli, committed: Path) -> None:
    edit("pipeline: shop", "pipeline: store")
    document = cli("plan", "store", "--diff", "HEAD", "--json").json["diff"]
    change = document["changes"][0]
    assert change["details"][0] == "pipeline: shop -> store"
    assert kinds(change)[:2] == ["rebuilt", "stays"]
    assert document["built_again"] == ["sales", "report"]


def test_older_revisions_of_any_spelling_are_understood(cli: Cli, committed: Path) -> None:
    git("tag", "v1")
    edit("customers:", "customers: {max_shrink: 0.5}")
    git("commit", "--quiet", "--all", "--message", "later")
    assert diff(cli, "HEAD") == {}
    assert list(diff(cli, "v1")) == list(diff(cli, "HEAD~1")) == ["table customers"]


@pytest.mark.parametrize("revision", ["nope", "--help", "", "HEAD:pipelines", "a\nb"])
def test_a_revision_that_is_none_is_wrong_input(cli: Cli, committed: Path, revision: str) -> None:
    result = cli("plan", "shop", f"--diff={revision}")
    assert (result.code, result.out) == (2, "")
    assert f"{revision!r} is not a revision of the Git repository" in result.err


def test_outside_a_repository_is_wrong_input(
    cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.parent))
    result = cli("plan", "shop", "--diff", "HEAD")
    assert (result.code, result.out) == (2, "")
    assert "--diff: git failed in" in result.err and "not a git repository" in result.err


def test_without_git_is_wrong_input(
    cli: Cli, committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(committed))
    assert not shutil.which("git")
    result = cli("plan", "shop", "--diff", "HEAD")
    assert (result.code, result.out) == (2, "")
    assert "--diff needs git" in result.err


def test_a_file_that_was_broken_then_is_shown_with_its_places_then(
    cli: Cli, committed: Path
) -> None:
    good = FILE.read_text()
    edit("materialized: merge", "materialized: upsrt")
    git("commit", "--quiet", "--all", "--message", "broken")
    FILE.write_text(good)
    result = cli("plan", "shop", "--diff", "HEAD")
    assert (result.code, result.out) == (2, "")
    assert "HEAD:pipelines/shop/pipeline.yml:11:" in result.err and "/tmp" not in result.err


def test_sql_in_folders_below_is_none_of_the_pipeline(cli: Cli, committed: Path) -> None:
    for folder in ("a", "z"):  # listed before and after the transform's own
        below = Path("pipelines/shop/sql", folder)
        below.mkdir()
        (below / "sales.sql").write_text("SELECT 1 AS other")
    git("add", ".")
    git("commit", "--quiet", "--message", "kept aside")
    assert diff(cli) == {}


def test_sql_behind_a_link_is_read_where_it_leads(cli: Cli, committed: Path) -> None:
    sql = Path("pipelines/shop/sql/sales.sql")
    sql.rename("pipelines/shop/shared.sql")
    sql.symlink_to("../shared.sql")
    git("add", ".")
    git("commit", "--quiet", "--message", "linked")
    assert diff(cli) == {}
    Path("pipelines/shop/shared.sql").write_text(SQL["sales"] + " AND true")
    assert list(diff(cli)) == ["transform sales"]


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"])
def test_in_a_git_hook_the_repository_is_that_of_the_file(
    cli: Cli, committed: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    edit("customers:", "customers: {max_shrink: 0.5}")
    monkeypatch.setenv(variable, str(committed / ".git"))
    assert list(diff(cli)) == ["table customers"]


def test_a_revision_that_a_shallow_clone_lacks_is_said_to_be_fetched(
    cli: Cli, committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git("commit", "--quiet", "--allow-empty", "--message", "later")
    git("clone", "--quiet", "--depth", "1", f"file://{committed}", str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    assert diff(cli) == {}
    result = cli("plan", "shop", "--diff", "HEAD~1")
    assert (result.code, result.out) == (2, "")
    assert "which is a shallow clone: run git fetch --unshallow" in result.err


def test_what_was_missing_then_is_named_as_it_was_then(cli: Cli, committed: Path) -> None:
    Path("pipelines/shop/sql/sales.sql").rename("kept.sql")
    git("add", ".")
    git("commit", "--quiet", "--message", "without")
    Path("kept.sql").rename("pipelines/shop/sql/sales.sql")
    result = cli("plan", "shop", "--diff", "HEAD")
    assert "create HEAD:pipelines/shop/sql/sales.sql" in result.err


def test_a_table_that_a_pattern_means_from_now_on_goes_on_as_it_is(
    cli: Cli, committed: Path
) -> None:
    edit("orders: {incremental: updated_at}", '"ord*": {incremental: updated_at}')
    found = diff(cli)
    assert list(found)[:2] == ["table ord*", "table orders"]
    assert found["table ord*"]["steps"][0].startswith("resolve_")
    change = found["table orders"]
    assert (change["what"], change["details"], kinds(change)) == (
        "changed",
        ["matched by ord* now, no longer listed by name"],
        [],
    )


def test_a_table_named_although_a_pattern_meant_it_is_no_first_one(
    cli: Cli, committed: Path
) -> None:
    edit("customers:", '"*_log": {incremental: at}\n  customers:')
    git("commit", "--quiet", "--all", "--message", "pattern")
    edit("customers:", "user_log: {incremental: {cursor: at, nulls: exclude}}\n  customers:")
    change = diff(cli)["table user_log"]
    assert (change["what"], kinds(change)) == ("changed", ["from now on"])
    assert change["details"] == [
        "incremental.nulls: fail -> exclude",
        "listed by name now, no longer matched by *_log",
    ]
    edit("user_log:", "user_logs:")  # one that the pattern never meant
    assert kinds(diff(cli)["table user_logs"]) == ["created"]


def test_what_a_pattern_leaves_out_stays_and_what_it_takes_in_comes(
    cli: Cli, committed: Path
) -> None:
    edit("customers:", '"*_log": {exclude: [tmp_*]}\n  customers:')
    git("commit", "--quiet", "--all", "--message", "pattern")
    edit("[tmp_*]", "[old_*]")
    change = diff(cli)["table *_log"]
    assert change["details"] == ["exclude: tmp_* -> old_*"]
    assert kinds(change) == ["stays", "from now on"]


def test_nothing_stops_where_every_table_is_a_first_one(cli: Cli, committed: Path) -> None:
    edit("orders: {incremental: updated_at}", "orders: {incremental: created_at}")
    assert kinds(diff(cli)["table orders"]) == ["stops"]
    edit("warehouse: {conn_id: warehouse}", "warehouse: {conn_id: another}")
    edit("report:", "report: {materialized: view}")
    found = diff(cli)
    assert kinds(found["pipeline"]) == ["rebuilt"]
    assert kinds(found["table orders"]) == kinds(found["transform report"]) == []


def test_another_format_builds_again_only_what_reads_tables_without_a_cursor(
    cli: Cli, committed: Path
) -> None:
    edit("bucket: lake", "bucket: lake, format: csv")
    document = cli("plan", "shop", "--diff", "HEAD", "--json").json["diff"]
    assert document["built_again"] == ["report"]  # and not sales, which reads orders alone


@pytest.mark.parametrize(
    ("before", "after", "stops"),
    [
        ("", "", []),
        (
            "cursor: at",
            "cursor: made",
            ["its intervals were read by at, and by made they may hold"],
        ),
        ("cursor: at", "cursor: at, time_zone: Asia/Tokyo", ["at was read as stamped in UTC, and"]),
        ("cursor: at", "cursor: at, time_zone: UTC", []),
        (", by: data_interval", ", time_zone: Asia/Tokyo", []),
    ],
)
def test_what_changes_the_meaning_of_an_interval_stops(
    cli: Cli,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    after: str,
    stops: list[str],
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    table = "readings: {primary_key: id, incremental: {cursor: at, by: data_interval}}"
    FILE.write_text(SPEC.replace("tables:\n", f"tables:\n  {table}\n") + "\nschedule: '@daily'\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "as it was")
    edit(before, after)
    changes = diff(cli)
    found = [
        one["text"]
        for one in changes.get("table readings", {}).get("consequences", ())
        if one["kind"] == "stops"
    ]
    assert len(found) == len(stops)
    for text, start in zip(found, stops, strict=True):
        assert text.startswith(start)
