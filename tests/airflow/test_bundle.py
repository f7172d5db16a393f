"""Pipelines as a real Airflow's DAG bundles, on disk and in Git: edits show at once, and one bad
file hurts nobody.

Airflow's own loop takes a second; the bar of 10 s is for busy machines, what was measured is
printed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.airflow import Airflow
from demo.servers import PostgresServer, SlackReceiver
from loadsheet.spec.pipeline_file import load_pipeline
from tests.airflow import secrets_kept
from tests.airflow.world import World, ask
from tests.git import commit_all, git, new_repository
from tests.granted import End, printed, run_each

BAR = 10.0
SPEC = """\
version: 1
source: {conn_id: flights_source, schema: public}
lake: {conn_id: lake, bucket: bundles}
warehouse: {conn_id: warehouse, schema: staging, mart_schema: mart}
tables: {t: }
transforms: {answer: {materialized: table}}
"""


@dataclass
class Bundles:
    """A folder of pipelines, a Git repository with one, and the Airflow that has both."""

    airflow: Airflow
    slack: SlackReceiver
    folder: Path
    repository: Path
    warehouse: str

    def call(self, path: str) -> Any:
        return self.airflow.api.call("GET", path, headers={"Accept": "application/json"})

    def code(self, dag_id: str) -> str:
        return str(self.call(f"dagSources/{dag_id}")["content"])

    def error(self, file: str) -> str:
        """The import error of a DAG file; empty when it has none."""
        errors = self.call("importErrors")["import_errors"]
        return next(
            (error["stack_trace"] for error in errors if error["filename"] == f"{file}.yml.py"), ""
        )

    def parsed(self, name: str) -> int:
        """When the latest parse of the file began."""
        (marker,) = Path(self.airflow.home).glob(f"bundles/**/parsed/{name}.yml.py")
        return marker.stat().st_mtime_ns

    def stale(self, dag_id: str) -> bool:
        return bool(self.call(f"dags/{dag_id}")["is_stale"])

    def commit(self, message: str) -> str:
        """The new commit."""
        return commit_all(self.repository, message)


def write(root: Path, name: str, *lines: str, answer: int = 1) -> Path:
    file = root / "pipelines" / name / "pipeline.yml"
    (file.parent / "sql").mkdir(parents=True)
    (file.parent / "sql" / "answer.sql").write_text(
        f"SELECT {answer} AS answer, count(*) AS n FROM staging.t\n"
    )
    save(file, SPEC + "".join(f"{line}\n" for line in lines))
    return file


def save(file: Path, text: str) -> None:
    """Write a whole file at once: the DAG processor reads at any moment, and would tell Slack of
    an empty one."""
    written = file.with_name(f".{file.name}")
    written.write_text(text)
    written.replace(file)


def seen(done: Callable[[], bool], what: str) -> None:
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < BAR, f"waited in vain for {what}"
        time.sleep(0.05)
    print(f"{what}: {time.monotonic() - began:.1f} s")


@pytest.fixture(scope="module")
def bundles(world: World, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """The processes that know the bundles have started again, with these two and no other."""
    with psycopg.connect(world.source) as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS id")
    folder, repository = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("repository")
    good = write(folder, "good")
    write(folder, "edited")
    save(write(folder, "bad"), "version: 1\nsuorce: {}\n")
    new_repository(repository)
    write(repository / "elt", "versioned", answer=1)
    commit_all(repository, "first")
    grant(world.postgres, good)
    world.slack.messages.clear()
    airflow = world.airflow
    airflow.env["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"] = json.dumps(
        configured(folder, repository)
    )
    for component in ("dag-processor", "scheduler"):
        airflow.restart_component(component)
    for name in ("good", "edited", "versioned"):
        airflow.wait_for_dag(name)
    return Bundles(airflow, world.slack, folder, repository, world.warehouse)


def grant(postgres: PostgresServer, file: Path) -> None:
    """Give the roles of the connections what `loadsheet grants` prints. All pipelines here read and
    write the same tables."""
    pipeline = load_pipeline(file)
    ends: tuple[tuple[End, str, str], ...] = (
        ("source", "flights_source", secrets_kept.EXTRACTORS["flights_source"]),
        ("warehouse", "warehouse", secrets_kept.LOADER),
    )
    for end, database, role in ends:
        uri = postgres.dsn(database)
        with psycopg.connect(uri, autocommit=True) as session:
            run_each(session, printed(end, uri, [pipeline], role))


def configured(folder: Path, repository: Path) -> list[dict[str, Any]]:
    local = {"path": str(folder), "refresh_interval": 1}
    remote = {
        "repo_url": str(repository),
        "tracking_ref": "main",
        "subdir": "elt",
        "refresh_interval": 1,
    }
    return [
        {
            "name": "local",
            "classpath": "loadsheet.airflow.bundle.LocalPipelineBundle",
            "kwargs": local,
        },
        {
            "name": "remote",
            "classpath": "loadsheet.airflow.git_bundle.GitPipelineBundle",
            "kwargs": remote,
        },
    ]


def test_the_code_tab_shows_the_yaml(bundles: Bundles) -> None:
    for dag_id, file in (("good", bundles.folder), ("versioned", bundles.repository / "elt")):
        assert bundles.code(dag_id) == (file / "pipelines" / dag_id / "pipeline.yml").read_text()
        # Airflow 3.3 knows no languages.
        assert bundles.call(f"dagSources/{dag_id}").get("language", "yaml") == "yaml"


def test_a_broken_file_is_an_import_error_with_every_place_and_no_traceback(
    bundles: Bundles,
) -> None:
    seen(lambda: bundles.error("bad") != "", "a broken file's import error")
    error = bundles.error("bad")
    assert "pipelines/bad/pipeline.yml:2:1 suorce: unknown key 'suorce'" in error
    assert "pipelines/bad/pipeline.yml:1:1 missing key 'lake'" in error
    assert "Traceback" not in error and ".py" not in error
    assert not bundles.stale("good") and not bundles.stale("edited")


def test_an_edit_shows_at_once(bundles: Bundles) -> None:
    file = bundles.folder / "pipelines" / "edited" / "pipeline.yml"
    save(file, f"{SPEC}description: edited by hand\n")
    seen(lambda: bundles.call("dags/edited")["description"] == "edited by hand", "an edited spec")
    assert bundles.code("edited") == file.read_text()
    save(file, f"{file.read_text()}# a comment changes nothing but the text\n")
    seen(lambda: "a comment changes nothing" in bundles.code("edited"), "an edited comment")


def test_edited_sql_shows_at_once(bundles: Bundles) -> None:
    (bundles.folder / "pipelines" / "edited" / "sql" / "answer.sql").write_text(
        "SELECT 41 + 1 AS answer FROM staging.t"
    )
    seen(lambda: "41 + 1" in json.dumps(bundles.call("dags/edited/tasks")), "edited SQL")


def test_a_broken_edit_takes_its_dag_out_until_it_is_mended(bundles: Bundles) -> None:
    file = write(bundles.folder, "mended")
    seen(lambda: bundles.airflow.api.has_dag("mended"), "a new file")
    save(file, SPEC.replace("version: 1", "version: 7"))
    seen(lambda: bundles.stale("mended"), "a broken edit")
    assert "pipelines/mended/pipeline.yml:1:10 version" in bundles.error("mended")
    assert not bundles.stale("good")
    save(file, SPEC)
    seen(lambda: not bundles.stale("mended") and not bundles.error("mended"), "the mended file")


def test_slack_is_told_once_of_each_change_of_a_broken_file_and_of_its_repair(
    bundles: Bundles,
) -> None:
    """A broken file has no runs: nothing was sent at all."""
    told = bundles.slack.messages
    notify = "notify: {slack_conn_id: slack}\n"
    file = write(bundles.folder, "told", notify)
    seen(lambda: bundles.airflow.api.has_dag("told"), "a new file")
    broken = SPEC.replace("version: 1", "version: 7")
    save(file, broken)
    seen(lambda: len(told) == 1, "the message about a broken edit")
    before = bundles.parsed("told")
    save(file, f"{broken}# the problem is the same\n")
    seen(lambda: bundles.parsed("told") > before, "the parse of an edit that fixes nothing")
    save(file, "version: 1\nsuorce: {}\n")
    seen(lambda: len(told) == 2, "the message about other problems")
    save(file, SPEC + notify)
    seen(lambda: len(told) == 3, "the message about the repair")
    save(write(bundles.folder, "told_too"), f"version: 7\n{notify}")
    seen(lambda: len(told) == 4, "the message about a new file that is broken")
    texts = [message["text"] for message in told]
    assert "pipelines/told/pipeline.yml:1:10 version" in texts[0]
    assert "pipelines/told/pipeline.yml" in texts[1] and "suorce" in json.dumps(told[1])
    assert texts[2] == ":large_green_circle: pipelines/told/pipeline.yml is read again"
    assert "pipelines/told_too/pipeline.yml has problems" in texts[3]
    # Airflow may store it after the message was sent.
    seen(lambda: bundles.error("told_too") != "", "the error of the new file")


def test_a_pool_that_airflow_does_not_have_is_an_import_error_until_it_is_there(
    bundles: Bundles,
) -> None:
    """Its tasks waited for ever, and only the scheduler's log had a line about it."""
    write(bundles.folder, "pooled", "tasks: {pool: nightly}")
    seen(lambda: bundles.error("pooled") != "", "a missing pool")
    assert "Airflow has no pool 'nightly', and look, " in bundles.error("pooled")
    assert not bundles.error("good")
    pool = {"name": "nightly", "slots": 1}
    bundles.airflow.api.call("POST", "pools", json=pool)
    seen(lambda: bundles.airflow.api.has_dag("pooled") and not bundles.error("pooled"), "a pool")


def test_a_run_waits_for_its_file_to_be_mended(bundles: Bundles) -> None:
    api, file = bundles.airflow.api, write(bundles.folder, "waiting")
    seen(lambda: api.has_dag("waiting"), "a new file")
    run_id = api.trigger("waiting")  # paused
    save(file, "version: 7\n")
    seen(lambda: bundles.stale("waiting"), "a broken edit")
    api.unpause("waiting")
    time.sleep(3)
    assert bundles.call(f"dags/waiting/dagRuns/{run_id}")["state"] == "queued"
    save(file, SPEC)
    assert api.wait("waiting", run_id, timeout=120) == "success"


def test_a_deleted_file_takes_its_dag_and_its_error_with_it(bundles: Bundles) -> None:
    write(bundles.folder, "short_lived")
    seen(lambda: bundles.airflow.api.has_dag("short_lived"), "a new file")
    shutil.rmtree(bundles.folder / "pipelines" / "short_lived")
    seen(lambda: bundles.stale("short_lived"), "a deleted file")
    save(write(bundles.folder, "wrong"), "[")
    seen(lambda: bundles.error("wrong") != "", "a new broken file")
    shutil.rmtree(bundles.folder / "pipelines" / "wrong")
    seen(lambda: not bundles.error("wrong"), "a deleted broken file")


def test_a_name_claimed_twice_stays_where_it_was_and_is_an_error_at_the_other(
    bundles: Bundles,
) -> None:
    write(bundles.folder, "twin", "pipeline: good")
    seen(lambda: "twin" in bundles.error("twin"), "a name claimed twice")
    assert bundles.error("twin").startswith(
        "PipelineProblems: pipelines/twin/pipeline.yml cannot become a DAG:\n"
        "the pipeline name 'good' is taken by pipelines/good/pipeline.yml."
    )
    assert bundles.call("dags/good")["relative_fileloc"] == "good.yml.py" and not bundles.stale(
        "good"
    )
    (bundles.folder / "pipelines" / "good").rename(bundles.folder / "pipelines" / ".put_away")
    seen(
        lambda: bundles.call("dags/good")["relative_fileloc"] == "twin.yml.py",
        "the name's next owner",
    )
    seen(lambda: not bundles.error("twin") and not bundles.stale("good"), "the end of the error")


def test_one_message_tells_that_a_paused_pipeline_is_late_and_one_that_it_is_fresh(
    bundles: Bundles,
) -> None:
    api = bundles.airflow.api
    watch = "loadsheet_freshness_local"
    assert not api.has_dag(watch)
    notify = "notify: {slack_conn_id: slack, events: [late, digest]}"
    lines = (notify, "defaults: {fresh_within: 1s}")
    file = write(bundles.folder, "promised", *lines)
    seen(lambda: api.has_dag("promised") and api.has_dag(watch), "the DAG that watches")
    assert bundles.call(f"dags/{watch}")["is_paused"] is False

    def look() -> list[str]:
        """What was told of the pipeline, after one more look."""
        assert api.wait(watch, api.trigger(watch), timeout=120) == "success"
        told = [str(message["text"]) for message in bundles.slack.messages]
        return [text for text in told if " promised: " in text]

    look()
    assert look() == [":red_circle: promised: staging.t is late: its DAG is paused"]
    api.unpause("promised")
    assert api.wait("promised", api.trigger("promised"), timeout=120) == "success"
    save(file, file.read_text().replace("1s", "1h"))
    seen(lambda: "1h" in bundles.code("promised"), "an edit of the limit")
    assert look()[1:] == [":large_green_circle: promised: staging.t is fresh again"]
    # As if the last digest had been sent two days ago.
    key = f"{watch}__digests"
    (place,) = json.loads(bundles.call(f"variables/{key}")["value"])
    before = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    noted = {"key": key, "value": json.dumps({place: before})}
    api.call("PATCH", f"variables/{key}", json=noted)
    look()
    look()
    told = [str(message["text"]) for message in bundles.slack.messages]
    (digest,) = [text for text in told if "Daily digest" in text]
    assert digest.startswith(":large_blue_circle: Daily digest: all well in 1 pipeline, ")


def test_a_run_keeps_the_commit_it_was_scheduled_with(bundles: Bundles) -> None:
    api = bundles.airflow.api
    first = git(bundles.repository, "rev-parse", "HEAD")
    run_id = api.trigger("versioned")  # paused: it waits
    project = bundles.repository / "elt"
    shutil.rmtree(project / "pipelines" / "versioned")
    file = write(project, "versioned", "description: second", answer=2)
    write(project, "pushed")
    second = bundles.commit("second")
    seen(lambda: bundles.call("dags/versioned")["bundle_version"] == second, "a pushed edit")
    seen(lambda: api.has_dag("pushed"), "a pushed new file")
    assert bundles.code("versioned") == file.read_text()
    assert "SELECT 2 AS answer" in json.dumps(bundles.call("dags/versioned/tasks"))
    api.unpause("versioned")
    assert api.wait("versioned", run_id, timeout=120) == "success"
    assert bundles.call(f"dags/versioned/dagRuns/{run_id}")["bundle_version"] == first
    assert ask(bundles.warehouse, "SELECT answer FROM mart.answer") == [(1,)]


def test_a_broken_commit_hurts_only_its_own_file(bundles: Bundles) -> None:
    save(write(bundles.repository / "elt", "bad_push"), "version: 1\nsuorce: {}\n")
    bundles.commit("third")
    seen(
        lambda: "pipelines/bad_push/pipeline.yml:2:1 suorce" in bundles.error("bad_push"),
        "a pushed broken file",
    )
    assert not bundles.stale("versioned")
    git(bundles.repository, "rm", "-r", "--quiet", "elt/pipelines/bad_push")
    bundles.commit("fourth")
    seen(lambda: not bundles.error("bad_push"), "the end of a pushed broken file")


def test_nothing_was_written_into_the_project_or_the_repository(bundles: Bundles) -> None:
    assert {file.suffix for file in bundles.folder.rglob("*") if file.is_file()} <= {".yml", ".sql"}
    assert git(bundles.repository, "status", "--porcelain") == ""
