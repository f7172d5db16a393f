"""Which DAGs a folder of pipeline files becomes, in Airflow's own DagBag; broken and doubled ones
included."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import DAG

from loadsheet.airflow import registry
from loadsheet.airflow.dag_ids import owner_of
from loadsheet.airflow.registry import pipeline_dags

Write = Callable[..., Path]


@pytest.fixture
def write(bundle: Path) -> Write:
    def write(folder: str, *lines: str) -> Path:
        file = bundle / "pipelines" / folder / "pipeline.yml"
        file.parent.mkdir()
        usual = (
            "version: 1",
            "source: {conn_id: s}",
            "lake: {conn_id: l, bucket: lake}",
            "warehouse: {conn_id: w}",
        )
        table = f"t{zlib.crc32(folder.encode(errors='surrogateescape'))}"  # each writes its own
        if not any(line.startswith("tables:") for line in lines):
            lines = (*lines, f"tables: {{{table}: }}")
        file.write_text("\n".join((*usual, *lines, "")))
        return file

    return write


def dag_bag(bundle: Path) -> BundleDagBag:
    return BundleDagBag(dag_folder=bundle, bundle_path=bundle, bundle_name="test")


def broken(dag: DAG) -> bool:
    return "broken-spec" in dag.tags


def test_every_good_file_is_a_dag(bundle: Path, write: Write) -> None:
    write("one")
    write("two", "pipeline: second.name")
    bag = dag_bag(bundle)
    assert bag.import_errors == {} and set(bag.dags) == {"one", "second.name"}
    assert not any(map(broken, bag.dags.values()))


@pytest.mark.parametrize(
    "lines",
    [
        ["shedule: '@daily'"],
        ["schedule: '61 * * * *'"],
        ["schedule: {__type__: builtins.exit}"],
        ["{ not yaml"],
        ["transforms: {missing: }"],
    ],
)
def test_a_broken_file_hides_neither_the_others_nor_itself(
    bundle: Path, write: Write, lines: list[str]
) -> None:
    write("good")
    write("bad", *lines)
    bag = dag_bag(bundle)
    assert bag.import_errors == {} and set(bag.dags) == {"good", "bad"}
    assert not broken(bag.dags["good"]) and broken(bag.dags["bad"])
    bad = bag.dags["bad"]
    assert bad.task_ids == ["broken_spec"]
    problems = bad.get_task("broken_spec").problems
    assert "pipeline.yml:" in problems and problems in bad.doc_md
    assert "pipelines/bad/pipeline.yml" in bad.description


def test_sql_that_reads_itself_in_a_circle_is_a_broken_file(bundle: Path, write: Write) -> None:
    file = write("bad", "transforms: {a: , b: }")
    (file.parent / "sql").mkdir()
    (file.parent / "sql" / "a.sql").write_text("SELECT * FROM mart.b")
    (file.parent / "sql" / "b.sql").write_text("SELECT * FROM mart.a")
    assert "in a circle" in dag_bag(bundle).dags["bad"].get_task("broken_spec").problems


def test_a_broken_file_keeps_its_name_and_schedule_where_they_can_be_read(
    bundle: Path, write: Write
) -> None:
    write("folder", "pipeline: named", "schedule: '0 4 * * *'", "nonsense: 1")
    dag = dag_bag(bundle).dags["named"]
    assert broken(dag) and dag.timetable.expression == "0 4 * * *"


def test_an_unreadable_name_or_schedule_is_left_out(bundle: Path, write: Write) -> None:
    write("folder", "pipeline: not a name", "schedule: sometimes")
    dag = dag_bag(bundle).dags["folder"]
    assert broken(dag) and dag.schedule is None


def test_a_broken_file_never_makes_dag_factory_call_anything(
    bundle: Path, write: Write, tmp_path: Path
) -> None:
    trap = tmp_path / "called"
    write(
        "bad",
        "schedule: {__type__: pathlib.Path.touch, __args__: [{__type__: pathlib.Path, __args__:"
        f" [{trap}]}}]}}",
    )
    dag_bag(bundle)
    assert not trap.exists()


def test_a_surprise_in_one_file_does_not_take_out_the_rest(
    bundle: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("good")
    write("odd")
    real = registry.build_dag

    def surprising(pipeline: Any, root: Path) -> DAG:
        if pipeline.name == "odd":
            raise RuntimeError("never seen before")
        return real(pipeline, root)

    monkeypatch.setattr(registry, "build_dag", surprising)
    found = pipeline_dags(bundle)
    assert not broken(found["good"])
    assert "RuntimeError: never seen before" in found["odd"].get_task("broken_spec").problems


def test_a_name_claimed_twice_stays_with_the_folder_of_that_name(
    bundle: Path, write: Write
) -> None:
    write("copy", "pipeline: flights")
    write("flights")
    found = dag_bag(bundle).dags
    assert set(found) == {"flights", "copy"}
    assert not broken(found["flights"]) and broken(found["copy"])
    assert found["flights"].get_task("look").spec == "pipelines/flights/pipeline.yml"
    assert (
        "'flights' is taken by pipelines/flights/pipeline.yml"
        in found["copy"].get_task("broken_spec").problems
    )


def test_a_table_that_two_pipelines_write_breaks_the_later_one(bundle: Path, write: Write) -> None:
    write("first", "tables: {orders: , own: }")
    write("second", "schedule: '@daily'", "tables: {orders: }")
    write("third", "tables: {items: }")
    dags = dag_bag(bundle).dags
    assert [name for name, dag in sorted(dags.items()) if broken(dag)] == ["second"]
    assert "staging.orders is also written by the pipeline 'first'" in str(dags["second"].doc_md)
    assert "pipelines/second/pipeline.yml:6" in str(dags["second"].doc_md)
    assert str(bundle) not in str(dags["second"].doc_md)


def test_a_worker_reads_the_other_files_only_for_the_task_of_a_broken_dag(
    bundle: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("first", "tables: {orders: }")
    write("second", "tables: {orders: }")
    assert not broken(pipeline_dags(bundle, only="first")["first"])
    read: list[Path] = []
    real = registry.find_specs
    monkeypatch.setattr(registry, "find_specs", lambda root: read.append(root) or real(root))
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "second")
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_TASK_ID", "look")
    assert not broken(pipeline_dags(bundle)["second"]) and not read
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_TASK_ID", "broken_spec")
    problems = pipeline_dags(bundle)["second"].get_task("broken_spec").problems
    assert "staging.orders is also written by the pipeline 'first'" in problems and read


def test_stand_ins_never_take_anothers_id(bundle: Path, write: Write) -> None:
    write("a", "pipeline: x")
    write("b", "pipeline: x")
    write("c", "pipeline: b")
    found = dag_bag(bundle).dags
    assert {dag_id: broken(dag) for dag_id, dag in found.items()} == {
        "x": False,
        "b": False,
        "b.broken": True,
    }
    assert found["x"].get_task("look").spec == "pipelines/a/pipeline.yml"


class TestWhoHasAName:
    """As each file of the DAG bundle asks for itself."""

    def test_two_links_to_one_folder_do_not_both_have_its_name(
        self, bundle: Path, write: Write
    ) -> None:
        write("away")
        (bundle / "pipelines" / "away").rename(bundle / "away")
        for link in ("a", "b"):
            (bundle / "pipelines" / link).symlink_to(bundle / "away")
        first, second = (bundle / "pipelines" / link / "pipeline.yml" for link in ("a", "b"))
        assert owner_of("away", first, bundle) is None
        assert owner_of("away", second, bundle) == first

    def test_an_escaped_name_is_a_name(self, bundle: Path, write: Write) -> None:
        first, second = (write(folder, 'pipeline: "fl\\x69ghts"') for folder in ("a", "b"))
        assert owner_of("flights", first, bundle) is None
        assert owner_of("flights", second, bundle) == first

    @pytest.mark.parametrize("target", ["gone.yml", "pipeline.yml"])
    def test_a_file_that_cannot_be_read_keeps_the_name_of_its_folder(
        self, bundle: Path, write: Write, target: str
    ) -> None:
        (bundle / "pipelines" / "flights").mkdir()
        linked = bundle / "pipelines" / "flights" / "pipeline.yml"
        linked.symlink_to(target)
        assert owner_of("flights", write("copy", "pipeline: flights"), bundle) == linked


@pytest.mark.parametrize("folder", ["Ünïcode", "two words"])
def test_a_folder_that_cannot_be_a_dag_id_is_still_seen(
    bundle: Path, write: Write, folder: str
) -> None:
    write(folder)
    (dag,) = dag_bag(bundle).dags.values()
    assert broken(dag) or dag.dag_id == folder


def test_no_pipelines_no_dags(bundle: Path) -> None:
    bag = dag_bag(bundle)
    assert bag.import_errors == {} and bag.dags == {}


class TestForOneTask:
    """What a worker does: it asks for one DAG."""

    @pytest.fixture
    def read(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The folders whose spec was read in full."""
        seen: list[str] = []
        real = registry.load_pipeline

        def reading(file: Path) -> Any:
            seen.append(file.parent.name)
            return real(file)

        monkeypatch.setattr(registry, "load_pipeline", reading)
        return seen

    def test_only_that_file_is_read(self, bundle: Path, write: Write, read: list[str]) -> None:
        for folder in ("a", "flights", "z"):
            write(folder)
        assert set(pipeline_dags(bundle, only="flights")) == {"flights"}
        assert read == ["flights"]

    def test_a_renamed_pipeline_is_found(self, bundle: Path, write: Write, read: list[str]) -> None:
        write("a")
        write("folder", "pipeline: flights")
        write("z")
        assert set(pipeline_dags(bundle, only="flights")) == {"flights"}
        assert read == ["folder"]

    def test_a_folder_of_that_name_with_another_pipeline_does_not_mislead(
        self, bundle: Path, write: Write
    ) -> None:
        write("flights", "pipeline: other")
        write("folder", "pipeline: flights")
        found = pipeline_dags(bundle, only="flights")
        assert found["flights"].get_task("look").spec == "pipelines/folder/pipeline.yml"

    def test_an_escaped_name_is_found_by_reading_everything(
        self, bundle: Path, write: Write
    ) -> None:
        write("folder", 'pipeline: "fl\\x69ghts"')
        assert set(pipeline_dags(bundle, only="flights")) == {"flights"}

    @pytest.mark.parametrize("dag_id", ["flights", "copy", "x", "b", "b.broken", "bad"])
    def test_it_is_the_dag_that_a_full_parse_gives(
        self, bundle: Path, write: Write, dag_id: str
    ) -> None:
        write("copy", "pipeline: flights")
        write("flights")
        write("a", "pipeline: x")
        write("b", "pipeline: x")
        write("c", "pipeline: b")
        write("bad", "nonsense: 1")
        alone, full = pipeline_dags(bundle, only=dag_id)[dag_id], pipeline_dags(bundle)[dag_id]
        assert alone.task_ids == full.task_ids and alone.description == full.description
        assert [vars(t).get("spec") for t in alone.tasks] == [
            vars(t).get("spec") for t in full.tasks
        ]

    def test_an_unknown_dag_is_none(self, bundle: Path, write: Write) -> None:
        write("a")
        assert pipeline_dags(bundle, only="gone") == {}

    def test_the_loader_asks_airflow_which_dag_is_wanted(
        self, bundle: Path, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write("a")
        write("b")
        monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "b")  # what Airflow sets in a worker
        assert set(dag_bag(bundle).dags) == {"b"}


def test_files_that_take_the_time_of_a_parse_leave_the_others_their_dags(
    bundle: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow ends a parse after 30 s, and then had no DAG at all. The small files come first; a
    file that was not reached says so, and is there after the next parse."""
    write("a_large", "description: " + "x" * 500)
    write("small")
    write("z_larger", "description: " + "x" * 1_000)
    monkeypatch.setattr(registry, "is_remembered", lambda spec: False)
    clock = iter([0.0, 1.0, 17.0, 19.0])
    monkeypatch.setattr(registry.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(registry, "_import_timeout", lambda: 30.0)
    dags = pipeline_dags(bundle)
    monkeypatch.undo()
    assert list(dags) == ["a_large", "small", "z_larger"]
    assert [broken(dag) for dag in dags.values()] == [False, False, True]
    assert "not checked yet" in dags["z_larger"].get_task("broken_spec").problems
    assert not any(map(broken, pipeline_dags(bundle).values()))


def test_sql_that_takes_long_to_read_costs_its_own_pipeline(
    bundle: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: a SQL file of 64 kB that is expensive to read, and one past the limit."""
    # What counts is the processor's time, not how busy the machine is.
    monkeypatch.setenv("AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT", "300")
    write("good")
    for folder, sql in {
        "signs": "SELECT " + "a ? " * 16_000 + "1 FROM t",
        "endless": "VALUES " + ",".join(["(1)"] * 60_000),
    }.items():
        file = write(folder, "transforms: {x: }", "external: ['public.*']")
        (file.parent / "sql").mkdir()
        (file.parent / "sql" / "x.sql").write_text(sql)
    began = time.process_time()
    bag = dag_bag(bundle)
    assert time.process_time() - began < 20
    assert bag.import_errors == {} and set(bag.dags) == {"good", "signs", "endless"}
    assert not broken(bag.dags["good"]) and broken(bag.dags["endless"])
    problems = bag.dags["endless"].get_task("broken_spec").problems
    assert "x.sql:1:" in problems and "more than 100,000 words" in problems
