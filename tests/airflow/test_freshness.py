"""What the watch of a project tells Slack: real ledgers, a real receiver, and what Airflow would
answer. `test_bundle.py` has a run of its DAG in a real Airflow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Variable
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from demo.servers import SlackReceiver
from loadsheet.airflow import freshness_alerts, freshness_watch
from loadsheet.airflow.freshness import asks_for_looks, watched_dag
from loadsheet.airflow.freshness_watch import watch
from loadsheet.airflow.registry import pipeline_dags
from loadsheet.spec.models import FRESHNESS_DAG
from tests.airflow.alert_world import KINDS, World, as_slack, world
from tests.project import Project

__all__ = ["world"]

SOURCE = """
CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);
CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1);
"""


class Ti:
    """The running task, and what Airflow answers it."""

    def __init__(self) -> None:
        self.paused = False
        self.known = True
        self.runs: dict[str, int] = {}
        self.asked = 0

    def get_dag(self, dag_id: str) -> Any:
        self.asked += 1
        if not self.known:
            detail = {"status_code": 404, "message": "not found"}
            raise AirflowRuntimeError(
                ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail)
            )
        return SimpleNamespace(dag_id=dag_id, is_paused=self.paused)

    def get_dr_count(self, dag_id: str, states: list[str]) -> int:
        return self.runs.get(states[0], 0)


class Shop:
    """A project that is watched."""

    def __init__(self, project: Project, slack: SlackReceiver, variables: dict[str, str]):
        self.project = project
        self.slack = slack
        self.variables = variables
        self.ti = Ti()
        self.last_run: Any = None

    @property
    def spec(self) -> Path:
        return self.project.folder / "pipelines" / self.project.name / "pipeline.yml"

    def look(self) -> list[str]:
        """What Slack is told now: the title of each message."""
        before = len(self.slack.messages)
        watch(self.project.folder, FRESHNESS_DAG, self.ti)
        return [message["text"] for message in self.slack.messages[before:]]

    def pass_time(self, hours: int) -> None:
        """Make all that the ledger and the watch remember that much older."""
        self.project.in_warehouse(
            "UPDATE loadsheet.scope SET current_at = current_at - make_interval(hours => %s)", hours
        )
        for key, text in self.variables.items():
            remembered = json.loads(text)
            for one in remembered["pipelines"].values():
                due = datetime.fromisoformat(one["due"]).timestamp() - hours * 3600
                one["due"] = datetime.fromtimestamp(due, UTC).isoformat()
            self.variables[key] = json.dumps(remembered)


@pytest.fixture
def shop(project: Project, slack: SlackReceiver, monkeypatch: pytest.MonkeyPatch) -> Shop:
    variables: dict[str, str] = {}
    monkeypatch.setattr(Variable, "get", lambda key, default: variables.get(key, default))
    monkeypatch.setattr(
        Variable, "set", lambda key, value, description: variables.__setitem__(key, value)
    )
    project.in_source(SOURCE)
    project.spec(
        {"a": None, "b": None},
        defaults={"fresh_within": "2h"},
        notify={"slack_conn_id": "slack"},
        tasks={"retries": 0},
    )
    shop = Shop(project, slack, variables)
    monkeypatch.setattr(freshness_watch, "airflow_connection", project.connections)
    monkeypatch.setattr(
        freshness_watch.Airflow, "_last_scheduled_run", lambda self, pipeline: shop.last_run
    )
    project.succeed()
    assert shop.look() == []
    return shop


def pause(shop: Shop) -> None:
    shop.ti.paused = True


def forget(shop: Shop) -> None:
    shop.ti.known = False


def queue(shop: Shop) -> None:
    shop.ti.runs["queued"] = 1


def run_on(shop: Shop) -> None:
    shop.ti.runs["running"] = 1


def fail_early(shop: Shop) -> None:
    shop.last_run = SimpleNamespace(state=SimpleNamespace(value="failed"), run_id="scheduled__1")


def start_nothing(shop: Shop) -> None:
    pass


def remove(shop: Shop) -> None:
    shutil.move(shop.spec, shop.spec.with_name("kept"))


def break_file(shop: Shop) -> None:
    shutil.copy(shop.spec, shop.spec.with_name("kept"))
    shop.spec.write_text(shop.spec.read_text() + "tabels: {}\n")


def mend(shop: Shop) -> None:
    shop.ti.__init__()  # type: ignore[misc]
    shop.last_run = None
    if shop.spec.with_name("kept").exists():
        shutil.move(shop.spec.with_name("kept"), shop.spec)


@pytest.mark.parametrize(
    ("happens", "cause"),
    [
        (pause, "its DAG is paused"),
        (forget, "Airflow has no DAG of this name"),
        (queue, "its run waits in Airflow's queue"),
        (run_on, "its run has not ended yet"),
        (fail_early, "its last scheduled run ended as failed: scheduled__1"),
        (start_nothing, "no scheduled run of its DAG was started"),
        (remove, "pipelines/shop/pipeline.yml is gone"),
        (break_file, "its file has problems: pipelines/shop/pipeline.yml:"),
    ],
)
def test_one_alarm_with_its_cause_and_one_message_at_the_end(
    shop: Shop, happens: Callable[[Shop], None], cause: str
) -> None:
    happens(shop)
    assert shop.look() == [] and shop.ti.asked == 0
    shop.pass_time(1)
    assert shop.look() == []
    shop.pass_time(1)
    (alarm,) = shop.look()
    assert alarm.startswith(":red_circle: shop: ") and cause in alarm
    shop.pass_time(1)
    assert shop.look() == []
    mend(shop)
    assert shop.look() == []
    shop.project.succeed()
    (over,) = shop.look()
    assert over.startswith(":large_green_circle: shop: ") and "fresh again" in over
    assert shop.look() == []


def test_a_table_that_fails_is_named_with_its_error(shop: Shop) -> None:
    shop.pass_time(3)
    shop.project.in_source("ALTER TABLE a RENAME TO c")
    shop.project.run()
    (alarm,) = shop.look()
    assert ": staging.a is late: extract of a failed: " in alarm
    sent = json.dumps(shop.slack.messages[-1])
    assert "staging.a is 3h old (limit 2h)" in sent
    assert shop.project.uri("warehouse").split(":")[2].partition("@")[0] not in sent


def test_a_warehouse_that_is_away_fails_nothing_and_is_an_incident_when_the_promise_is_broken(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = shop.project.connections

    def away(conn_id: str) -> Any:
        raise OSError("connection refused")

    monkeypatch.setattr(freshness_watch, "airflow_connection", away)
    assert shop.look() == []
    shop.pass_time(2)
    (alarm,) = shop.look()
    assert "the warehouse warehouse cannot be asked: OSError: connection refused" in alarm
    monkeypatch.setattr(freshness_watch, "airflow_connection", there)
    # The other table is late as well now, by the same incident.
    assert shop.look() == []
    shop.project.succeed()
    assert len(shop.look()) == 1


def test_rows_that_differ_are_an_alarm_of_their_own_while_the_dag_is_paused(shop: Shop) -> None:
    shop.project.spec(
        {"a": None, "b": {"fresh_within": "2h"}},
        defaults={"fresh_within": {"verified": "8d"}},
        notify={"slack_conn_id": "slack"},
        tasks={"retries": 0},
    )
    assert shop.look() == []
    pause(shop)
    shop.pass_time(3)
    (alarm,) = shop.look()
    assert "staging.b is late" in alarm and "its DAG is paused" in alarm
    shop.project.in_warehouse("DELETE FROM staging.a")
    shop.project.verify()
    (alarm,) = shop.look()
    assert "staging.a (verify) is late" in alarm
    assert "its last comparison found that it differs (rows: 1 missing)" in alarm
    assert shop.look() == []
    assert shop.project.cli("verify", "shop", "--repair").returncode == 0
    (over,) = shop.look()
    assert "staging.a (verify) is fresh again" in over


@pytest.mark.parametrize(
    "notify", [None, {"slack_conn_id": "slack", "events": ["failure", "recovery"]}]
)
def test_without_the_event_nothing_is_sent(shop: Shop, notify: Any) -> None:
    shop.project.spec({"a": None, "b": None}, defaults={"fresh_within": "2h"}, notify=notify)
    shop.pass_time(3)
    assert shop.look() == shop.look() == []


def test_a_pipeline_that_promises_nothing_any_more_is_forgotten_silently(shop: Shop) -> None:
    shop.pass_time(3)
    assert len(shop.look()) == 1
    shop.project.spec({"a": None}, notify={"slack_conn_id": "slack"})
    assert shop.look() == []
    assert json.loads(shop.variables[FRESHNESS_DAG]) == {"pipelines": {}, "incidents": []}


def test_slack_that_is_away_is_told_later_and_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.pass_time(3)
    with monkeypatch.context() as away:
        away.setenv(
            "AIRFLOW_CONN_SLACK", '{"conn_type": "slackwebhook", "host": "http://127.0.0.1:9"}'
        )
        assert shop.look() == []
    assert len(shop.look()) == 1
    assert shop.look() == []


def test_each_route_is_told_once_although_one_of_them_is_away(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = [{"slack_conn_id": "other"}, {"slack_conn_id": "slack"}]
    shop.project.spec({"a": None, "b": None}, defaults={"fresh_within": "2h"}, notify=routes)
    shop.pass_time(3)
    with SlackReceiver() as other:
        nowhere = "http://127.0.0.1:9"
        away = f'{{"conn_type": "slackwebhook", "host": "{nowhere}", "password": "T/B/x"}}'
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", away)
        assert len(shop.look()) == 1
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", away.replace(nowhere, other.url))
        assert shop.look() == []
        assert shop.look() == []
        assert len(other.messages) == 1
        shop.project.succeed()
        assert len(shop.look()) == 1
        assert len(other.messages) == 2


def test_a_look_that_is_stopped_between_its_messages_repeats_none(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receivers that take seconds, hundreds of incidents, and 4 minutes for a look: each would be
    stopped, and would tell the first ones again."""
    for name in ("second", "third"):
        shutil.copytree(shop.spec.parent, shop.spec.parents[1] / name)
        shop.project.cli("run", name)
    assert shop.look() == []
    shop.pass_time(3)
    told: list[str] = []
    tell = freshness_alerts.tell

    def told_once(*given: Any) -> Any:
        if len(told) % 2:
            told.append("stopped")
            raise TimeoutError
        results = tell(*given)
        told.append("told")
        return results

    with monkeypatch.context() as stopped:
        stopped.setattr(freshness_alerts, "tell", told_once)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                shop.look()
    shop.look()
    titles = [message["text"] for message in shop.slack.messages]
    assert len(titles) == 3 == len(set(titles))
    # The control: without what was noted after each, they are told again.
    untold = shop.variables[FRESHNESS_DAG].replace('"told": true', '"told": false')
    shop.variables[FRESHNESS_DAG] = untold
    assert len(shop.look()) == 3


def test_messages_for_which_a_look_has_no_time_left_are_sent_by_the_next_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.pass_time(3)
    with monkeypatch.context() as slow:
        slow.setattr(freshness_alerts, "SECONDS", -1.0)
        assert shop.look() == []
    assert len(shop.look()) == 1 and shop.look() == []


def test_a_route_that_was_added_while_a_table_was_late_hears_of_no_end(
    shop: Shop, world: World
) -> None:
    shop.pass_time(3)
    assert len(shop.look()) == 1
    routes = [{"slack_conn_id": "slack"}, KINDS["webhook"]]
    shop.project.spec({"a": None, "b": None}, defaults={"fresh_within": "2h"}, notify=routes)
    shop.project.succeed()
    assert len(shop.look()) == 1 and world.posted_to("/hook") == []


def test_a_bot_tells_the_end_in_the_thread_of_the_alarm(shop: Shop, world: World) -> None:
    """The Variable keeps the thread from look to look."""
    shop.project.spec({"a": None, "b": None}, defaults={"fresh_within": "2h"}, notify=KINDS["bot"])
    shop.pass_time(3)
    shop.look()
    shop.look()
    shop.project.succeed()
    shop.look()
    alarm, over = world.by_bot
    assert "thread_ts" not in alarm and "fresh again" in over["text"]
    assert over["thread_ts"] == json.loads(as_slack(world.posted_to("/api/")[0]).body)["ts"]


def test_a_variable_that_was_edited_is_read_as_none(shop: Shop) -> None:
    shop.variables[FRESHNESS_DAG] = '{"pipelines": {"shop": {}}}'
    assert shop.look() == []
    shop.variables[FRESHNESS_DAG] = "gone"
    shop.project.in_warehouse(
        "UPDATE loadsheet.scope SET current_at = current_at - interval '3 hours'"
    )
    assert len(shop.look()) == 1


def write(root: Path, name: str, more: str = "") -> Path:
    file = root / "pipelines" / name / "pipeline.yml"
    file.parent.mkdir(parents=True)
    file.write_text(
        "version: 1\nsource: {conn_id: s}\nlake: {conn_id: l, bucket: lake}\n"
        f"warehouse: {{conn_id: w}}\ntables: {{{name}: {{{more}}}}}\n"
    )
    return file


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADSHEET_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.usefixtures("cache")
def test_a_project_has_the_dag_only_where_a_file_asks_for_it(bundle: Path) -> None:
    write(bundle, "one")
    assert pipeline_dags(bundle).keys() == {"one"} and watched_dag(bundle) is None
    write(bundle, "two", "fresh_within: 2h")
    dags = pipeline_dags(bundle)
    assert dags.keys() == {"one", "two", FRESHNESS_DAG}
    dag = dags[FRESHNESS_DAG]
    assert [task.task_id for task in dag.tasks] == ["look"]
    assert dag.is_paused_upon_creation is False and dag.disable_bundle_versioning
    assert pipeline_dags(bundle, FRESHNESS_DAG).keys() == {FRESHNESS_DAG}


@pytest.mark.usefixtures("cache")
def test_the_dag_stays_when_the_last_file_that_asks_for_it_is_broken_or_gone(bundle: Path) -> None:
    """Else nothing would tell that the file is gone."""
    file = write(bundle, "one", "fresh_within: 2h")
    assert asks_for_looks(bundle)
    text = file.read_text()
    file.write_text(text + "tabels: {}\n")
    assert FRESHNESS_DAG in pipeline_dags(bundle)
    shutil.rmtree(file.parent)
    assert FRESHNESS_DAG in pipeline_dags(bundle)
    file.parent.mkdir()
    file.write_text(text.replace("fresh_within: 2h", ""))
    assert pipeline_dags(bundle).keys() == {"one"}
