"""Tasks that extract tables and load them: what they do, and what a retry and a cleared task do, on
real servers. The runs of a real scheduler are in test_end_to_end.py."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.state import State

from loadsheet.airflow import operators
from loadsheet.airflow.factory import build_dag
from loadsheet.airflow.operators import StepOperator
from loadsheet.engine import early, seal, shared_reading, table_step
from loadsheet.errors import Unavailable
from loadsheet.lake import parts
from loadsheet.plan import dag_config
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.warehouse.arrival import Arrival
from tests.project import Project

RETRIES = 2
SOURCE = """
CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE kind (id int PRIMARY KEY, name text);
INSERT INTO item SELECT generate_series(1, 50);
INSERT INTO kind SELECT i, 'kind ' || i FROM generate_series(1, 5) i;
"""
LOADS = "SELECT load_id FROM loadsheet.load WHERE table_name = %s ORDER BY load_no"


class Task:
    """A task of the project's DAG, in one run: each call of `execute` is a try."""

    def __init__(self, project: Project, task_id: str, run_id: str = "run", **params: Any):
        project.grant()
        pipeline = load_pipeline(project.folder / "pipelines" / project.name / "pipeline.yml")
        task = build_dag(pipeline).get_task(task_id)
        assert isinstance(task, StepOperator)
        self.operator, self.run_id, self.params = task, run_id, params
        self.tries, self.most = 0, RETRIES
        self.pushed: dict[str, Any] = {}
        self.states: dict[str, str] = {}
        self.pulled: list[str] | None = None
        self._outlets = list(task.outlets)
        self.events: dict[str, dict[str, Any]] = {}

    def clear(self) -> None:
        """What Airflow does when a person clears the task."""
        self.most = self.tries + RETRIES

    def execute(self) -> Any:
        """One try."""
        self.tries += 1
        self.pushed.clear()
        self.events.clear()
        self.operator.outlets = list(self._outlets)
        told = {outlet: SimpleNamespace(extra={}) for outlet in self._outlets}

        def get_task_states(task_ids: list[str], **asked: Any) -> dict[str, dict[str, str]]:
            return {self.run_id: {i: s for i, s in self.states.items() if i in task_ids}}

        ti = SimpleNamespace(
            dag_id="shop",
            run_id=self.run_id,
            try_number=self.tries,
            max_tries=self.most,
            xcom_push=lambda key, value: self.pushed.update({key: value}),
            xcom_pull=lambda task_ids, key: self.pulled,
            get_task_states=get_task_states,
        )
        context = {
            "run_id": self.run_id,
            "params": self.params,
            "ti": ti,
            "outlet_events": told,
        }
        inside = contextvars.copy_context()
        inside.run(ExecutorSafeguard.tracker.set, self.operator)
        returned = inside.run(self.operator.execute, context)
        # Airflow emits one for each outlet that a task has when it ends well.
        for outlet in self.operator.outlets:
            self.events[outlet.uri.rpartition("/")[2]] = told[outlet].extra
        return returned


@pytest.fixture
def shop(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Two tables, each extracted and loaded by one task."""
    monkeypatch.setattr(operators, "airflow_connection", project.connections)
    project.in_source(SOURCE)
    tables = {"item": {"incremental": "at"}, "kind": None}
    project.spec(tables, tasks={"granularity": "table", "retries": RETRIES})
    Task(project, "look").execute()  # makes the bucket
    return project


@pytest.fixture
def failing_load(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Loads fail; the function ends that."""

    def fail(*given: Any) -> None:
        raise Unavailable("the warehouse is away")

    load = table_step.load
    monkeypatch.setattr(table_step, "load", fail)
    return lambda: monkeypatch.setattr(table_step, "load", load)


def test_one_task_extracts_and_loads_its_table(shop: Project) -> None:
    item = Task(shop, "table.table_item")
    load_id = item.execute()
    assert shop.in_warehouse(LOADS, "item") == [(load_id,)] and shop.differences("item") == 0
    assert item.events["item"]["inserted"] == 50 and item.events["item"]["load"]
    with pytest.raises(AirflowSkipException, match="nothing new since"):
        Task(shop, "table.table_item", "next").execute()
    shop.in_source("INSERT INTO item VALUES (51)")
    with pytest.raises(AirflowSkipException, match="not chosen"):
        Task(shop, "table.table_item", "chosen", tables=["kind"]).execute()
    assert shop.differences("item") == 1


@pytest.mark.parametrize(
    ("granularity", "task_id"), [("table", "table.table_item"), ("batch", "batch.batch_001")]
)
def test_a_task_knows_which_columns_its_loads_have_followed(
    shop: Project, granularity: str, task_id: str
) -> None:
    """Alerts read it when the task has ended."""
    tables = {"item": {"incremental": "at"}, "kind": None}
    shop.spec(tables, tasks={"granularity": granularity, "retries": RETRIES})
    first = Task(shop, task_id, "first")
    first.execute()
    shop.in_source("ALTER TABLE item ADD COLUMN note text; INSERT INTO item VALUES (51)")
    second = Task(shop, task_id, "second")
    second.execute()
    told = "added note text (NULL in older rows until a full refresh)"
    assert (first.operator.drift, second.operator.drift) == ({}, {"item": (told,)})


def test_a_retry_loads_what_was_extracted_and_a_cleared_task_extracts_again(
    shop: Project, failing_load: Callable[[], None]
) -> None:
    item, kind = Task(shop, "table.table_item"), Task(shop, "table.table_kind")
    for task in (item, kind):
        with pytest.raises(AirflowException, match="the warehouse is away"):
            task.execute()
    shop.in_source("INSERT INTO item VALUES (51); INSERT INTO kind VALUES (6)")
    stored = shop.objects()
    failing_load()
    assert item.execute()
    # Not read again: the row that came between is for the next run.
    assert shop.differences("item") == 1 and shop.objects() == stored
    kind.clear()
    assert kind.execute()
    assert shop.differences("kind") == 0 and shop.objects() > stored


def test_a_task_that_is_lost_after_its_load_is_a_success_when_it_is_tried_again(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = Task(shop, "table.table_item", full_refresh=True)
    load = table_step.load

    def lost(*given: Any) -> None:
        load(*given)
        raise Unavailable("lost")

    monkeypatch.setattr(table_step, "load", lost)
    with pytest.raises(AirflowException, match="lost"):
        item.execute()
    monkeypatch.setattr(table_step, "load", load)
    assert not item.events
    assert shop.in_warehouse(LOADS, "item") == [(item.execute(),)]
    assert item.events["item"]["inserted"] == 50


@pytest.mark.parametrize("overlaps", [True, False])
def test_the_load_begins_while_the_table_is_extracted(
    shop: Project, monkeypatch: pytest.MonkeyPatch, overlaps: bool
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 4096)
    monkeypatch.setattr(parts, "BLOCK_BYTES", 8192)
    monkeypatch.setattr(early, "_FIRST_BYTES", 8192)
    arrived = threading.Event()
    copy_early = Arrival.copy_early

    def copy(arrival: Arrival, blocks: Iterator[bytes]) -> None:
        copy_early(arrival, blocks)
        arrived.set()

    monkeypatch.setattr(Arrival, "copy_early", copy)
    # The attempt is sealed when the rows have arrived: a thread of its own copies them.
    monkeypatch.setattr(seal, "reach", lambda point: arrived.wait(20 if overlaps else 0))
    shop.in_source("INSERT INTO item SELECT generate_series(100, 9000)")
    tables = {"item": {"incremental": "at", "overlap": overlaps}}
    shop.spec(tables, tasks={"granularity": "table", "retries": RETRIES})
    Task(shop, "table.table_item").execute()
    assert arrived.is_set() == overlaps and shop.differences("item") == 0


def test_the_objects_of_a_corrupt_load_name_the_task_to_clear(
    shop: Project, failing_load: Callable[[], None]
) -> None:
    from loadsheet.lake.store import Lake

    item = Task(shop, "table.table_item")
    with pytest.raises(AirflowException):
        item.execute()
    failing_load()
    lake = Lake(shop.connections("lake"), shop.bucket)
    for name in shop.objects():
        if "part-" in name:
            lake.put(name, b"something else")
    with pytest.raises(AirflowFailException, match=r"clear table\.table_item; on the command line"):
        item.execute()
    item.clear()
    assert item.execute() and shop.differences("item") == 0


MANY = """
CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO item SELECT generate_series(1, 2000);
CREATE TABLE kind (id int PRIMARY KEY, name text);
INSERT INTO kind SELECT i, 'kind ' || i FROM generate_series(1, 5) i;
CREATE TABLE sale (LIKE kind INCLUDING ALL);
CREATE TABLE spare (LIKE kind INCLUDING ALL);
CREATE TABLE unfit (id int PRIMARY KEY, _load_id int);
"""
MARTS = {
    "kinds": "SELECT count(*) AS n FROM kind",
    "unfits": "SELECT count(*) AS n FROM unfit",
    "both": "SELECT count(*) AS n FROM kind, mart.unfits",
}


@pytest.fixture
def batched(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Five tables, loaded by one task. One of them cannot be loaded."""
    monkeypatch.setattr(operators, "airflow_connection", project.connections)
    project.in_source(MANY)
    tables = {"item": {"incremental": "at"}, "kind": None, "sale": None, "spare": None}
    tables["unfit"] = None
    project.spec(tables, MARTS, tasks={"granularity": "batch", "retries": RETRIES})
    Task(project, "look").execute()
    return project


def lines(caplog: pytest.LogCaptureFixture, table: str) -> list[str]:
    """What the log says of the table outside of its group."""
    found, is_in_group = [], False
    for text in caplog.messages:
        if text.startswith("::"):
            is_in_group = text.startswith("::group::")
        elif not is_in_group and text.startswith(f"{table}: "):
            found.append(text)
    return found


def test_a_table_that_fails_stops_no_other_and_is_named(
    batched: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="loadsheet")
    batch = Task(batched, "batch.batch_001")
    with pytest.raises(AirflowFailException, match=r"1 of 5 tables failed.*\nunfit: .*_load_id"):
        batch.execute()
    assert batch.pushed == {"failed_tables": ["unfit"]}
    for table in ("item", "kind", "sale", "spare"):
        assert batched.differences(table) == 0
        (line,) = lines(caplog, table)
        assert line.startswith(f"{table}: loaded, ")
    assert lines(caplog, "unfit")[0].startswith("unfit: failed, ")
    # The smallest first: none of them waits for the large one.
    order = [text.partition(":")[0] for text in caplog.messages if ": loaded, " in text]
    assert order[-1] == "item"


def test_a_cleared_batch_tells_of_all_that_its_run_has_loaded(batched: Project) -> None:
    """Airflow takes no event of a task that has failed. The control: a later run tells only of what
    it has loaded itself."""
    batch = Task(batched, "batch.batch_001")
    with pytest.raises(AirflowFailException):
        batch.execute()
    batched.in_source("ALTER TABLE unfit RENAME _load_id TO no")
    later = Task(batched, "batch.batch_001", "later")
    later.execute()
    assert set(later.events) == {"unfit"}
    batch.clear()
    batch.execute()
    assert set(batch.events) == {"item", "kind", "sale", "spare"}
    assert batch.events["item"]["inserted"] == 2000


def test_a_batch_that_fails_knows_which_columns_its_other_tables_have_followed(
    batched: Project,
) -> None:
    """The next try does not load them again, and would have nothing to tell."""
    batch = Task(batched, "batch.batch_001", "first")
    with pytest.raises(AirflowFailException):
        batch.execute()
    assert batch.operator.drift == {}
    batched.in_source("ALTER TABLE item ADD COLUMN note text; INSERT INTO item VALUES (3000)")
    batch = Task(batched, "batch.batch_001", "second")
    with pytest.raises(AirflowFailException):
        batch.execute()
    told = "added note text (NULL in older rows until a full refresh)"
    assert batch.operator.drift == {"item": (told,)}
    batched.in_source("ALTER TABLE unfit RENAME _load_id TO no")
    batch.execute()
    assert batch.operator.drift == {}


def test_a_retry_of_a_batch_does_only_what_is_not_done(
    batched: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    batched.in_source("ALTER TABLE unfit RENAME _load_id TO no")
    load = table_step.load
    away = {"sale", "unfit"}

    def fails(pipeline: Any, table: Any, *given: Any) -> Any:
        if table.name in away:
            raise Unavailable("the warehouse is busy")
        return load(pipeline, table, *given)

    monkeypatch.setattr(table_step, "load", fails)
    batch = Task(batched, "batch.batch_001", full_refresh=True)
    with pytest.raises(AirflowException, match="2 of 5 tables failed") as caught:
        batch.execute()
    assert not isinstance(caught.value, AirflowFailException)
    loads = batched.in_warehouse("SELECT count(*) FROM loadsheet.load")
    stored = batched.objects()
    batched.in_source("INSERT INTO sale VALUES (6); INSERT INTO kind VALUES (6)")
    away.clear()
    load_ids = batch.execute()
    assert set(load_ids) == {"item", "kind", "sale", "spare", "unfit"}
    # Also of what the try before has loaded: Airflow has not heard of that.
    assert set(batch.events) == set(load_ids)
    assert batched.objects() == stored  # nothing was read again
    assert batched.in_warehouse("SELECT count(*) FROM loadsheet.load") == [(loads[0][0] + 2,)]
    # A cleared one reads all of them again.
    batch.clear()
    batch.execute()
    assert batched.differences("kind") == batched.differences("sale") == 0


class Ended(NamedTuple):
    """A task of a run that has ended."""

    task_id: str
    state: str


def run_fails(project: Project) -> bool:
    """Whether Airflow calls a run failed in which the table `unfit` has failed, and nothing else
    but what has to follow from that."""
    pipeline = load_pipeline(project.folder / "pipelines" / project.name / "pipeline.yml")
    dag, reads = build_dag(pipeline), transform_inputs(pipeline)
    states: dict[str, str] = {}
    for task in dag.topological_sort():
        needed = set(task.upstream_task_ids)
        fails = task.task_id in ("batch.batch_001", "load.load_unfit")
        if task.trigger_rule == "all_done":
            # It follows the batch, and needs only those tables of it that it reads.
            inputs = reads[task.name]
            needed = {f"transform.transform_{name}" for name in inputs.transforms}
            fails = "unfit" in inputs.tables
        if any(states[name] != "success" for name in needed):
            states[task.task_id] = "upstream_failed"
        else:
            states[task.task_id] = "failed" if fails else "success"
    ended: Any = [Ended(*found) for found in states.items()]
    last = DagRun._tis_for_dagrun_state(SimpleNamespace(), dag=dag, tis=ended)
    return any(task.state in State.failed_states for task in last)


@pytest.mark.parametrize(
    ("marts", "is_hidden"),
    [
        ((), False),
        (("kinds",), True),
        (("kinds", "of_kinds"), True),
        (("unfits",), False),
        (("kinds", "unfits"), False),
        (("kinds", "unfits", "both"), False),
    ],
)
def test_a_run_fails_with_a_table_of_a_batch_as_with_one_of_its_own_task(
    project: Project, monkeypatch: pytest.MonkeyPatch, marts: tuple[str, ...], is_hidden: bool
) -> None:
    """Airflow looks at the last tasks of a run, and those may all have succeeded."""
    sql = {**MARTS, "of_kinds": "SELECT n FROM mart.kinds"}
    chosen = {name: sql[name] for name in marts}
    tables: dict[str, Any] = {"kind": None, "unfit": None}
    for more in ({}, {"verify": "@weekly"}):
        for granularity in ("step", "batch"):
            project.spec(tables, chosen, tasks={"granularity": granularity}, **more)
            assert run_fails(project), (granularity, more)
    # The negative control: without the task that follows the batches.
    monkeypatch.setattr(dag_config, "_hidden", lambda *given: [])
    assert run_fails(project)
    project.spec(tables, chosen, tasks={"granularity": "batch"})
    assert run_fails(project) != is_hidden


@pytest.mark.parametrize("marts", [(), ("kinds",)])
def test_a_run_does_not_fail_with_a_task_that_only_helps(
    project: Project, monkeypatch: pytest.MonkeyPatch, marts: tuple[str, ...]
) -> None:
    """Its process may be killed in each of its tries, and the extract has read all rows. The
    controls: without the task that follows those that help, and with the extract."""
    chosen = {name: MARTS[name] for name in marts}

    def run_fails_with(task_id: str) -> bool:
        project.spec({"kind": {"extract_tasks": 3}}, chosen)
        dag = build_dag(load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml"))
        states: dict[str, str] = {}
        for task in dag.topological_sort():
            needed = {states[name] for name in task.upstream_task_ids}
            states[task.task_id] = "failed" if task.task_id == task_id else "success"
            if task.trigger_rule != "all_done" and needed - {"success"}:
                states[task.task_id] = "upstream_failed"
        ended: Any = [Ended(*found) for found in states.items()]
        last = DagRun._tis_for_dagrun_state(SimpleNamespace(), dag=dag, tis=ended)
        return any(task.state in State.failed_states for task in last)

    assert not run_fails_with("read.read_kind_2")
    assert run_fails_with("extract.extract_kind")
    follows = dag_config._follows
    monkeypatch.setattr(dag_config, "_follows", lambda names, *more: follows([], *more))
    assert run_fails_with("read.read_kind_2")


@pytest.mark.parametrize("follows", ["batches", "readers"])
def test_what_decides_whether_a_run_fails_starts_no_process(project: Project, follows: str) -> None:
    """Also where alerts want to hear of each success."""
    alerts = [{"slack_conn_id": "slack", "events": ["failure", "recovery", "drift"]}]
    tables: dict[str, Any] = {"kind": None, "unfit": None}
    granularity = "batch"
    if follows == "readers":
        tables["kind"], granularity = {"extract_tasks": 3}, "step"
    chosen = {"kinds": MARTS["kinds"]}
    project.spec(tables, chosen, tasks={"granularity": granularity}, notify=alerts)
    dag = build_dag(load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml"))
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    starts = {task.task_id: TaskInstance.is_task_schedulable(task) for task in stored.tasks}
    assert {name for name, does in starts.items() if not does} == {follows}


def test_a_batch_with_nothing_new_is_skipped_and_never_starts_after_a_look(
    batched: Project, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow.sdk.exceptions import DownstreamTasksSkipped

    batched.in_source("ALTER TABLE unfit RENAME _load_id TO no")
    Task(batched, "batch.batch_001").execute()
    with pytest.raises(DownstreamTasksSkipped) as caught:
        Task(batched, "look", "next").execute()
    assert list(caught.value.tasks) == ["batch.batch_001"]
    caplog.set_level("INFO", logger="loadsheet")
    caplog.clear()
    with pytest.raises(AirflowSkipException, match="nothing to do in 5 tables"):
        Task(batched, "batch.batch_001", "next", tables=["item", "kind", "sale"]).execute()
    assert lines(caplog, "item")[0].startswith("item: skipped, nothing new since 20")
    assert lines(caplog, "spare") == [
        "spare: skipped, not chosen: this run is limited to other tables"
    ]
    batched.in_source("INSERT INTO item VALUES (3000)")
    assert Task(batched, "look", "third").execute() is None
    third = Task(batched, "batch.batch_001", "third")
    assert list(third.execute()) == ["item"]
    assert list(third.events) == ["item"] and third.events["item"]["inserted"] == 1
    assert batched.differences("item") == 0


def test_a_server_that_is_away_is_waited_for_once(
    batched: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from demo.servers.process import free_port
    from loadsheet.connections.lookup import Connection

    port, asked = free_port(), []

    def connections(conn_id: str) -> Connection:
        asked.append(conn_id)
        found = batched.connections(conn_id)
        return replace(found, port=port) if conn_id == "shop_source" else found

    batch = Task(batched, "batch.batch_001")
    monkeypatch.setattr(operators, "airflow_connection", connections)
    reasons = r"5 of 5 tables failed\nitem: .*\nkind, sale, spare, unfit: not tried: .*refused"
    with pytest.raises(AirflowException, match=reasons) as e:
        batch.execute()
    assert not isinstance(e.value, AirflowFailException)
    # the look for news, the sizes, the first table, and the question who is away
    assert asked.count("shop_source") <= 4


def test_a_transform_needs_only_the_tables_that_it_reads(batched: Project) -> None:
    batch, unfits = "batch.batch_001", "transform.transform_unfits"
    cases: list[tuple[dict[str, str], list[str] | None, set[str]]] = [
        ({batch: "success"}, None, {"kinds", "unfits", "both"}),
        ({batch: "skipped"}, None, {"kinds", "unfits", "both"}),
        ({batch: "failed", unfits: "failed"}, ["unfit"], {"kinds"}),
        # Its process was lost: what it has loaded nobody knows.
        ({batch: "failed", unfits: "failed"}, None, set()),
        ({batch: "upstream_failed", unfits: "failed"}, None, set()),
        ({batch: "success", unfits: "failed"}, None, {"kinds", "unfits"}),
    ]
    tasks = {name: Task(batched, f"transform.transform_{name}") for name in MARTS}
    for states, failed, builds in cases:
        found = set()
        for name, task in tasks.items():
            assert task.operator.trigger_rule == "all_done"
            task.states, task.pulled = states, failed
            with pytest.raises(AirflowException) as caught:
                task.execute()  # there is no staging table yet: to get that far is to build
            if not isinstance(caught.value, operators.EarlierTaskFailed):
                found.add(name)
        assert found == builds, states


@pytest.mark.parametrize("state", ["success", "skipped", "failed"])
def test_a_task_that_helps_an_extract_is_skipped_when_that_has_ended(
    shop: Project, state: str
) -> None:
    shop.spec({"item": None, "kind": {"extract_tasks": 2}})
    reader = Task(shop, "read.read_kind_2")
    reader.states = {"extract.extract_kind": state}
    with pytest.raises(AirflowSkipException, match="the extract task has ended"):
        reader.execute()
    with pytest.raises(AirflowSkipException, match="not chosen"):
        Task(shop, "read.read_kind_2", tables=["item"]).execute()


def test_a_task_that_cannot_ask_for_the_state_of_the_extract_waits_no_longer_than_for_an_offer(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's API server is away for a moment: the run must not fail for it."""
    shop.spec({"item": None, "kind": {"extract_tasks": 2}})
    monkeypatch.setattr(shared_reading, "_LONGEST_WAIT_SECONDS", 0.1)
    reader = Task(shop, "read.read_kind_2")
    reader.states = None  # type: ignore[assignment]
    with pytest.raises(AirflowSkipException, match="the extract task has offered nothing to read"):
        reader.execute()


def test_a_task_that_cannot_help_is_skipped_and_says_why(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extract reads on, and the failure of one that only helps must not fail the run."""
    shop.spec({"item": None, "kind": {"extract_tasks": 2}})

    def away(*given: Any) -> None:
        raise Unavailable("the warehouse is away")

    monkeypatch.setattr(shared_reading, "is_read_whole", away)
    with pytest.raises(AirflowSkipException, match=r"could not help: .*the warehouse is away"):
        Task(shop, "read.read_kind_2").execute()
    assert shop.in_warehouse("SELECT FROM loadsheet.failure") == []
