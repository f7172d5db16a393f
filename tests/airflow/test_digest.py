"""The daily digest: one message for each place, once, of what the ledgers have. Real ledgers and
receivers; the clock is given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from loadsheet.airflow import digest, freshness_watch
from loadsheet.airflow.alerts.callbacks import notify_success
from loadsheet.airflow.alerts.email import email_of
from loadsheet.airflow.alerts.slack import slack_message
from loadsheet.airflow.alerts.teams import teams_message
from loadsheet.airflow.dag_ids import routes_in
from loadsheet.airflow.digest import send_due
from loadsheet.airflow.digest_message import digest_message
from loadsheet.airflow.freshness_watch import watch
from loadsheet.airflow.registry import pipeline_dags
from loadsheet.freshness.day import Day, Failing
from loadsheet.spec.models import FRESHNESS_DAG
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.spec.routes import Route
from tests.airflow import published_shapes as shapes
from tests.airflow.alert_world import KINDS, World, as_slack, context, variables, world
from tests.airflow.receivers import Answer
from tests.project import Project

__all__ = ["variables", "world"]

HOOK = {**KINDS["webhook"], "events": ["digest"]}
BOT = {**KINDS["bot"], "events": ["failure", "digest"]}
DAY = timedelta(days=1)
SOURCE = """
CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1), (2);
CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1);
"""


class Shop:
    """A project whose digests are sent."""

    def __init__(self, project: Project, world: World, variables: dict[str, str]):
        self.project = project
        self.world = world
        self.variables = variables
        self.now = datetime.now(UTC)
        self.broken: dict[str, Sequence[Route]] = {}

    @property
    def specs(self) -> list[Path]:
        return sorted(self.project.folder.glob("pipelines/*/pipeline.yml"))

    def look(self, after: timedelta = timedelta(0)) -> list[dict[str, Any]]:
        """What the webhook is told by a look after that time."""
        before = len(self.world.posted_to("/hook"))
        self.now += after
        pipelines = [load_pipeline(spec) for spec in self.specs]
        send_due(pipelines, self.broken, "digests", self.now, {})
        return [request.document for request in self.world.posted_to("/hook")[before:]]

    def next_day(self) -> dict[str, Any]:
        (told,) = self.look(DAY)
        jsonschema.validate(told, shapes.WEBHOOK)
        assert (told["event"], told["state"], told["incident"]) == ("digest", "note", None)
        return told

    def write(self, *routes: dict[str, Any], **more: Any) -> None:
        self.project.spec(
            {"a": None, "b": None}, notify=list(routes) or HOOK, tasks={"retries": 0}, **more
        )

    def copy(self, name: str) -> None:
        """Another pipeline with the same routes, which never ran."""
        folder = self.specs[0].parent
        shutil.copytree(folder, folder.parent / name)


@pytest.fixture
def shop(
    project: Project, world: World, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Shop:
    monkeypatch.setattr(digest, "airflow_connection", project.connections)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/sub")
    shop = Shop(project, world, variables)
    project.in_source(SOURCE)
    shop.write()
    assert shop.look() == []
    return shop


def test_all_well_is_one_line_once_a_day(shop: Shop) -> None:
    shop.project.succeed()
    told = shop.next_day()
    assert told["title"] == (
        "Daily digest: all well in 1 pipeline, 2 tables loaded in 1 run, 3 rows changed"
    )
    assert told["sections"] == {}
    assert told["facts"].keys() == {"Period", "Done", "When"}
    assert told["link"] == "https://airflow.example.com/sub/loadsheet/"
    # Retries, cleared tasks and later looks of that day.
    assert shop.look() == shop.look(timedelta(minutes=5)) == []
    assert shop.next_day()["title"] == "Daily digest: all well in 1 pipeline, nothing new"


def test_after_days_in_which_airflow_was_down_there_is_one_for_all_of_them(shop: Shop) -> None:
    shop.project.succeed()
    (told,) = shop.look(5 * DAY)
    start, _, end = told["facts"]["Period"].removesuffix(" UTC").partition(" to ")
    assert datetime.fromisoformat(end) - datetime.fromisoformat(start) == 5 * DAY
    assert "2 tables loaded" in told["title"] and shop.look() == []


def test_what_is_wrong_is_counted_and_named(shop: Shop) -> None:
    project = shop.project
    shop.write(defaults={"fresh_within": "2h"})
    project.succeed()
    project.in_warehouse("DELETE FROM staging.b")
    project.verify()
    project.in_warehouse(
        "UPDATE loadsheet.scope SET current_at = current_at - interval '3 hours',"
        " waits_for = CASE table_name WHEN 'b' THEN 'session 7 of app' ELSE '' END"
    )
    project.in_source("ALTER TABLE a RENAME TO c")
    project.run()
    told = shop.next_day()
    assert told["title"] == "Daily digest: 1 of 1 pipeline needs a look"
    facts = told["facts"]
    assert facts["Failing"] == "1" and facts["Verified"] == "1 equal, 1 differs"
    assert facts["Late"] == "1"
    line = told["sections"]["Needs a look"]
    assert line.startswith("shop: staging.a fails (the source has no table public.a")
    assert "late: staging.a" in line and "differs: staging.b" in line and "\n" not in line


def test_a_failed_check_and_a_recovery_are_told_as_such(shop: Shop) -> None:
    project = shop.project
    shop.write(defaults={"max_shrink": 0.1})
    project.succeed()
    project.in_source("DELETE FROM a WHERE id = 2")
    project.run()
    told = shop.next_day()
    assert told["facts"]["Failing"] == "1, 1 of them by a check"
    assert "staging.a does not pass a check (staging.a would shrink" in str(told["sections"])
    project.in_source("INSERT INTO a VALUES (2), (3)")
    project.succeed()
    # It worked again in the day of that digest, by the clock of the servers.
    project.in_warehouse("UPDATE loadsheet.failure SET worked_at = worked_at + interval '1 day'")
    told = shop.next_day()
    assert told["facts"]["Recovered"] == "1" and "all well" in told["title"]


def test_a_table_of_which_the_whole_and_a_part_were_compared_counts_once(shop: Shop) -> None:
    shop.project.succeed()
    shop.project.verify()
    part = "INSERT INTO loadsheet.verified SELECT (jsonb_populate_record(v, %s::jsonb)).*"
    of_a = " FROM loadsheet.verified v WHERE name = 'a' AND is_whole"
    as_part = '{"is_whole": false, "part": "the last rows"}'
    shop.project.in_warehouse(part + of_a, as_part)
    assert shop.next_day()["facts"]["Verified"] == "2 equal"
    shop.project.in_warehouse("UPDATE loadsheet.verified SET verified_at = verified_at + '1 day'")
    differs = "UPDATE loadsheet.verified SET verdict = 'differs' WHERE NOT is_whole"
    shop.project.in_warehouse(differs)
    assert shop.next_day()["facts"]["Verified"] == "1 equal, 1 differs"


def test_what_is_no_longer_in_the_file_is_not_told(shop: Shop) -> None:
    shop.project.succeed()
    shop.project.in_source("ALTER TABLE a RENAME TO c")
    shop.project.run()
    shop.project.spec({"b": None}, notify=HOOK)
    assert "all well" in shop.next_day()["title"]


def test_each_place_gets_one_message_of_all_pipelines_that_name_it(shop: Shop) -> None:
    shop.write(HOOK, BOT)
    shop.copy("second")
    third = shop.specs[0].parent.parent / "third"
    shutil.copytree(shop.specs[0].parent, third)
    (third / "pipeline.yml").write_text(
        (third / "pipeline.yml").read_text().replace("'#data'", "'#other'")
    )
    shop.look()
    shop.project.succeed()
    assert "in 3 pipelines, 2 tables loaded" in shop.next_day()["title"]
    by_channel = {message["channel"]: message["text"] for message in shop.world.by_bot}
    assert by_channel.keys() == {"#data", "#other"} and len(shop.world.by_bot) == 2
    assert "in 2 pipelines, 2 tables" in by_channel["#data"]
    assert "in 1 pipeline, nothing new" in by_channel["#other"]


def test_one_place_and_time_is_one_however_files_write_them(shop: Shop) -> None:
    shop.write({**BOT, "digest_at": "08:00"})
    shop.copy("second")
    second = shop.specs[0].parent.parent / "second" / "pipeline.yml"
    second.write_text(second.read_text().replace("'#data'", "data").replace("08:00", "08:00 UTC"))
    assert {route.digest_at for spec in shop.specs for route in load_pipeline(spec).notify} == {
        "08:00",
        "08:00 UTC",
    }
    shop.look()
    shop.look(DAY)
    (told,) = shop.world.by_bot
    assert "in 2 pipelines" in told["text"]


@pytest.mark.parametrize(("days", "told"), [(3, 1), (8, 0)])
def test_a_place_that_no_file_names_for_a_while_loses_no_digest(
    shop: Shop, days: int, told: int
) -> None:
    """A file is edited, or replaced by an older one: the digest that was due meanwhile is sent when
    it is back, unless that was so long ago that it is a new one."""
    shop.write(HOOK, BOT)
    shop.look()
    shop.write(HOOK)
    for _ in range(days):
        shop.next_day()
    shop.write(HOOK, BOT)
    assert shop.look() == [] and len(shop.world.by_bot) == told
    assert len(shop.look(DAY)) == 1 and len(shop.world.by_bot) == told + 1


def test_each_time_of_day_has_its_own(shop: Shop) -> None:
    shop.now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    shop.variables.clear()
    late = {**BOT, "digest_at": "23:30 Europe/Berlin"}
    shop.write(HOOK, late)
    assert shop.look() == []
    assert shop.look(timedelta(hours=10)) == [] and shop.world.by_bot == []
    assert shop.look(timedelta(minutes=31)) == [] and len(shop.world.by_bot) == 1
    assert len(shop.look(timedelta(hours=10))) == 1 and len(shop.world.by_bot) == 1


@pytest.mark.parametrize("answer", [500, "away"])
def test_a_route_that_refuses_gets_it_later_and_no_other_gets_it_twice(
    shop: Shop, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write(HOOK, {**KINDS["teams"], "events": ["digest"]})
    shop.look()
    if answer == "away":
        monkeypatch.setenv(
            "AIRFLOW_CONN_AT_WEBHOOK", '{"conn_type": "http", "host": "http://127.0.0.1:9"}'
        )
    else:
        shop.world.http.answer = lambda request: Answer(500 if request.path == "/hook" else 200)
    shop.look(DAY)
    if answer == "away":
        address = f"http://127.0.0.1:{shop.world.http.port}/hook"
        monkeypatch.setenv(
            "AIRFLOW_CONN_AT_WEBHOOK", json.dumps({"conn_type": "http", "host": address})
        )
    shop.world.http.answer = as_slack
    assert len(shop.look(timedelta(minutes=5))) == 1
    assert shop.look(timedelta(minutes=5)) == []
    assert len(shop.world.posted_to("/workflows")) == 1


def test_without_the_note_it_would_be_sent_by_every_look(shop: Shop) -> None:
    """The negative control, and what a process that dies before the note costs: one more message.
    None is lost."""
    before = dict(shop.variables)
    shop.next_day()
    shop.variables.clear()
    shop.variables.update(before)
    assert len(shop.look()) == 1


def test_a_warehouse_that_is_away_is_told_and_the_others_are(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(conn_id: str) -> Any:
        raise OSError("connection refused")

    monkeypatch.setattr(digest, "airflow_connection", away)
    told = shop.next_day()
    assert told["facts"]["Not judged"] == "1 pipeline not known"
    assert told["sections"]["Needs a look"] == (
        "shop: the warehouse warehouse cannot be asked: OSError: connection refused"
    )


def test_a_look_waits_once_for_a_warehouse_that_is_away(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what is late and for all digests: each wait takes up to 30 s of the look's 4 minutes."""
    asked: list[str] = []

    def away(conn_id: str) -> Any:
        asked.append(conn_id)
        raise OSError("connection refused")

    shop.write(HOOK, {**BOT, "digest_at": "09:00"}, defaults={"fresh_within": "2h"})
    for module in (digest, freshness_watch):
        monkeypatch.setattr(module, "airflow_connection", away)
    watch(shop.project.folder, FRESHNESS_DAG, None)
    name = f"{FRESHNESS_DAG}__digests"
    places = json.loads(shop.variables[name])
    yesterday = datetime.now(UTC) - 2 * DAY
    shop.variables[name] = json.dumps(dict.fromkeys(places, yesterday.isoformat()))
    asked.clear()
    watch(shop.project.folder, FRESHNESS_DAG, None)
    assert asked == ["warehouse"]
    (told,) = (request.document for request in shop.world.posted_to("/hook"))
    assert "connection refused" in told["sections"]["Needs a look"]
    assert len(shop.world.by_bot) == 1


def test_a_file_with_problems_is_told_where_its_text_says(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yml"
    file.write_text(
        "notify:\n- {webhook_conn_id: at_webhook, events: [digest]}\n"
        "- {teams_conn_id: t, events: [digest], digest_at: never}\nversion: 7\n"
    )
    shop.broken = {"pipelines/x/pipeline.yml": routes_in(file)}
    told = shop.next_day()
    assert told["title"] == "Daily digest: 1 of 2 pipelines needs a look"
    assert told["sections"]["Needs a look"].startswith("pipelines/x/pipeline.yml: has problems")


def test_changed_columns_are_told_by_each_digest_and_then_forgotten(shop: Shop) -> None:
    shop.write(HOOK, {**BOT, "digest_at": "09:00"})
    shop.look()
    found = context(step="load.load_a")
    found["ti"].dag_id = "shop"
    found["task"].drift = {"a": ("added note text",)}
    for _ in range(2):  # a task that was cleared does the same again
        notify_success(found, routes=[HOOK])
    assert sum(key.startswith("loadsheet_drift__") for key in shop.variables) == 1
    told = shop.next_day()
    assert told["facts"]["Changed columns"] == "1"
    assert told["sections"]["Changes"] == "shop: a: added note text"
    assert len(shop.world.by_bot) == 1 and "added note" in json.dumps(shop.world.by_bot)
    assert not any(key.startswith("loadsheet_drift__") for key in shop.variables)


def test_a_variable_that_was_edited_begins_anew(shop: Shop) -> None:
    for text in ("gone", "[]", '{"x": 7}'):
        shop.variables["digests"] = text
        assert shop.look() == []


def test_the_look_of_the_dag_sends_them(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a Variable beside that of what is late."""
    monkeypatch.setattr(freshness_watch, "airflow_connection", shop.project.connections)
    watch(shop.project.folder, FRESHNESS_DAG, None)
    name = f"{FRESHNESS_DAG}__digests"
    (key,) = json.loads(shop.variables[name])
    yesterday = datetime.now(UTC) - 2 * DAY
    shop.variables[name] = json.dumps({key: yesterday.isoformat()})
    for _ in range(2):
        watch(shop.project.folder, FRESHNESS_DAG, None)
    assert len(shop.world.posted_to("/hook")) == 1


def test_a_project_whose_files_ask_for_a_digest_alone_has_the_dag(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("LOADSHEET_CACHE", str(tmp_path_factory.mktemp("cache")))
    file = bundle / "pipelines" / "one" / "pipeline.yml"
    file.parent.mkdir(parents=True)
    file.write_text(
        "version: 1\nsource: {conn_id: s}\nlake: {conn_id: l, bucket: lake}\n"
        "warehouse: {conn_id: w}\ntables: {one: }\n"
        "notify: {slack_conn_id: slack, events: [digest]}\n"
    )
    assert FRESHNESS_DAG in pipeline_dags(bundle)


def troubled(number: int) -> list[Day]:
    days = []
    for place in range(number):
        failing = [
            Failing(target=f"staging.table_{n}", reason="x" * 500, is_check=False)
            for n in range(place % 7 + 1)
        ]
        days.append(Day(pipeline=f"pipeline_{place:03}", tables=10, rows=1000, failing=failing))
    return days


def test_no_pipeline_hides_another_in_a_digest() -> None:
    """Its error may end with a value that was taken out, its file may have a line break."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    reasons = ('invalid input syntax for type integer: "***"', "no server", 'no relation "x"')
    days = []
    for number, reason in enumerate(reasons):
        failing = [Failing(target="staging.t", reason=reason, is_check=False)]
        days.append(Day(pipeline=f"p{number}", failing=failing, drift=["t: added a\nall well"]))
    message = digest_message(days, ["pipelines/a\nb/pipeline.yml"], now, now + DAY)
    needs, changes = (section.text.split("\n") for section in message.sections)
    assert needs[0].startswith("pipelines/a\\nb/pipeline.yml: has problems")
    told = [f"p{number}: staging.t fails ({reason})" for number, reason in enumerate(reasons)]
    assert needs[1:] == told and len(changes) == len(days)


def test_the_digest_of_500_troubled_pipelines_is_short() -> None:
    """The ten worst by name, and how many more there are."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    days = troubled(500)
    for day in days:
        day.late = day.waiting = day.differing = [f"staging.t{n}" for n in range(40)]
        day.equal = day.not_proven = day.tables = day.marts = 1
        day.recovered, day.drift = ["staging.t"], ["t: added note text"]
    broken = ["pipelines/x/pipeline.yml"]
    message = digest_message(days, broken, now, now + DAY, "https://a.example/loadsheet/")
    (needs, changes) = message.sections
    lines = needs.text.split("\n")
    assert len(lines) == 11 and lines[-1] == "and 491 more"
    assert lines[1].startswith("pipeline_006: staging.table_0 fails (xxx")
    assert changes.text.endswith("and 490 more")
    sent = slack_message(message)
    jsonschema.validate(sent, shapes.SLACK)
    assert "Open Loadsheet" in json.dumps(sent)
    card = teams_message(message)
    jsonschema.validate(card, shapes.TEAMS)
    assert len(json.dumps(card).encode()) <= shapes.TEAMS_BYTES
    assert "Open Loadsheet: https://a.example/loadsheet/" in str(
        email_of(message, "a@b.c", ("d@e.f",))
    )
    assert "link" not in json.dumps(digest_message(days, [], now, now, "/loadsheet/").link)
