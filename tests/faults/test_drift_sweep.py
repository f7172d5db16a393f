"""Schema changes before, during and after a run: applied by policy or refused with a name, and
nothing by halves."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import psycopg
import pytest

from loadsheet.engine import extract as extract_step
from loadsheet.engine import load as load_step
from loadsheet.engine.runner import StepResult
from loadsheet.errors import LoadsheetError, Overtaken, Refused, SourceChanged
from loadsheet.outcome import RunRequest
from loadsheet.sql.text import Relation
from loadsheet.warehouse import drift
from tests.faults.oracle import judge, violations
from tests.faults.scale import LONG, scaled
from tests.faults.schema_changes import CHANGES, TABLE, Change
from tests.faults.tally import Tally
from tests.project import Project, fetch

LINE = "schema changes before, during and after a run"


class Sweep:
    """A pipeline with one table per change, each loaded once."""

    def __init__(self, project: Project, names: list[str], settings: dict[str, Any]):
        self.project, self.names = project, names
        self.changing: list[threading.Thread] = []
        for name in names:
            project.in_source((TABLE + CHANGES[name].before).format(t=name))
        project.spec({name: {"incremental": "at", **deepcopy(settings)} for name in names})
        project.succeed()
        self.before = {name: self.state(name) for name in names}
        self.objects = project.objects()

    def change(self, name: str) -> None:
        """Alter the table, then write half of its rows."""
        self.alter(name)
        self.touch(name)

    def alter(self, name: str) -> None:
        for statement in CHANGES[name].sql.format(t=name).split("; "):
            self.project.in_source(statement)

    def touch(self, name: str) -> None:
        change = CHANGES[name]
        self.project.in_source(change.touch.format(t=name, cursor=change.cursor, key=change.key))

    def state(self, name: str) -> list[Any]:
        """All that a failed load must leave as it was: staging's columns and rows, its loads, its
        watermark."""
        return [
            self.project.in_warehouse(query)
            for query in (
                (
                    "SELECT attname, atttypid, atttypmod FROM pg_attribute WHERE attrelid ="
                    f" 'staging.{name}'::regclass"
                ),
                (
                    "SELECT count(*), md5(string_agg(i::text, '' ORDER BY i::text)) FROM"
                    f" staging.{name} i"
                ),
                f"SELECT * FROM loadsheet.load WHERE table_name = '{name}' ORDER BY load_no",
                (
                    "SELECT watermark, cursor, last_load_no, content_sha256, source_oid, columns,"
                    f" source FROM loadsheet.scope WHERE table_name = '{name}'"
                ),
            )
        ]

    def expect(self, results: dict[str, StepResult], name: str, refused: str) -> bool:
        """The table's load was refused with these words, its state as before; or it did not fail.
        True when refused."""
        steps = [results[f"{kind}.{kind}_{name}"] for kind in ("extract", "load")]
        errors = [step.result for step in steps if step.state == "failed"]
        if not refused:
            assert not errors, (name, errors)
            return False
        assert len(errors) == 1 and isinstance(errors[0], (Refused, SourceChanged)), (name, errors)
        assert refused.format(t=name) in str(errors[0]) and name in str(errors[0]), str(errors[0])
        return True

    def unchanged(self, name: str) -> None:
        assert self.state(name) == self.before[name], name
        assert self.objects <= self.project.objects()

    def judge_applied(self, name: str, line: Tally) -> None:
        """Staging equals the source, except columns whose older rows wait for a full refresh."""
        rows = fetch(
            self.project.source,
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT"
            " attisdropped",
            name,
        )
        columns = [row[0] for row in rows if row[0] not in CHANGES[name].until_refresh]
        verdict = judge(self.project, name, columns=columns)
        assert not verdict, (name, verdict)
        line.add(verdict)

    def refresh(self, line: Tally) -> None:
        """A full refresh makes every table equal that can still be read."""
        left = [name for name in self.names if not CHANGES[name].gone]
        results = self.project.run(only=frozenset(left), full_refresh="all")
        for name in left:
            self.expect(results, name, "")
            verdict = judge(self.project, name)
            assert not verdict, (name, verdict)
            line.add(verdict, tried=0)
        assert violations(self.project) == []


def settle(
    sweep: Sweep, line: Tally, refused: Callable[[Change], str] = lambda change: change.refused
) -> None:
    """The run after the change: each table followed it or was refused; then the way on."""
    results = sweep.project.run()
    for name in sweep.names:
        if sweep.expect(results, name, refused(CHANGES[name])):
            sweep.unchanged(name)
            line.add()
        else:
            sweep.judge_applied(name, line)
    assert violations(sweep.project) == []


@pytest.mark.timeout(scaled(600, 3600))
def test_every_change_before_a_run_is_applied_or_refused_by_name(
    project: Project, chance: random.Random, tally: Callable[[str], Tally]
) -> None:
    sweep = Sweep(project, some(chance, 24), {})
    for name in sweep.names:
        sweep.change(name)
    settle(sweep, tally(LINE))
    sweep.refresh(tally(LINE))


@pytest.mark.timeout(scaled(600, 3600))
def test_a_change_after_a_run_is_no_news_until_a_row_is(
    project: Project, chance: random.Random, tally: Callable[[str], Tally]
) -> None:
    sweep = Sweep(project, some(chance), {})
    files = {name: file_of(project, name) for name in sweep.names}
    for name in sweep.names:
        sweep.alter(name)
    rewritten = {name for name in sweep.names if file_of(project, name) != files[name]}
    results = project.run()
    for name in sweep.names:
        # A change that rewrites the table makes every row a new one, also that of the watermark.
        if name not in rewritten:
            assert results[f"load.load_{name}"].state != "done"
            sweep.unchanged(name)
        sweep.touch(name)
    settle(sweep, tally(LINE))
    sweep.refresh(tally(LINE))


def file_of(project: Project, table: str) -> Any:
    return project.in_source(
        "SELECT pg_relation_filenode(to_regclass(%s))", Relation("public", table).sql
    )


def some(chance: random.Random, few: int = 4) -> list[str]:
    """All changes, or a few of them in the short form."""
    return list(CHANGES) if LONG else sorted(chance.sample(list(CHANGES), few))


def between_looking_and_reading(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change comes after the extraction has decided what to read, before it locks the table."""
    decide = extract_step.selection.decide
    changed: set[str] = set()

    def decided(session: Any, table: Any, *more: Any, **options: Any) -> Any:
        reading = decide(session, table, *more, **options)
        # Once: an extraction that finds the change decides again.
        if table.name not in changed:
            changed.add(table.name)
            sweep.change(table.name)
        return reading

    monkeypatch.setattr(extract_step.selection, "decide", decided)


def while_reading(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change waits for the extraction's lock and is made as soon as its rows have been read."""
    look = extract_step.selection.refuse_null_cursors

    def locked(session: Any, table: Any, source: Any) -> None:
        look(session, table, source)
        thread = threading.Thread(target=sweep.change, args=(table.name,))
        thread.start()
        sweep.changing.append(thread)
        wait_for_lock(sweep.project, thread)

    monkeypatch.setattr(extract_step.selection, "refuse_null_cursors", locked)


def wait_for_lock(project: Project, thread: threading.Thread) -> None:
    """Until the change stands before the table's lock, or is done because it needs none."""
    waiting = (
        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database "
        "WHERE NOT granted AND datname = current_database()"
    )
    while thread.is_alive() and not project.in_source(waiting)[0][0]:
        thread.join(0.02)


def before_loading(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is made between the extract and the load step."""
    load = load_step.load_manifest

    def loading(session: Any, lake: Any, manifest: Any, *more: Any) -> Any:
        sweep.change(manifest.table)
        return load(session, lake, manifest, *more)

    monkeypatch.setattr(load_step, "load_manifest", loading)


@pytest.mark.parametrize("moment", [between_looking_and_reading, while_reading, before_loading])
@pytest.mark.timeout(scaled(600, 3600))
def test_a_change_during_a_run_fails_it_or_waits_for_the_next(
    project: Project,
    chance: random.Random,
    tally: Callable[[str], Tally],
    monkeypatch: pytest.MonkeyPatch,
    moment: Any,
) -> None:
    sweep = Sweep(project, some(chance), {})
    for name in sweep.names:
        project.in_source(f"UPDATE {name} SET n = n + 1, at = clock_timestamp() WHERE id > 30")
    with monkeypatch.context() as patch:
        moment(sweep, patch)
        results = project.run()
        for thread in sweep.changing:
            thread.join()
    for name in sweep.names:
        steps = [results[f"{kind}.{kind}_{name}"] for kind in ("extract", "load")]
        errors = [step.result for step in steps if step.state == "failed"]
        assert all(isinstance(error, (Overtaken, Refused, SourceChanged)) for error in errors), (
            name,
            errors,
        )
        if errors:
            assert name in str(errors[0])
            sweep.unchanged(name)
        else:
            sweep.before[name] = sweep.state(name)
    assert violations(project) == []
    settle(sweep, tally(LINE))
    sweep.refresh(tally(LINE))


@pytest.mark.timeout(scaled(600, 3600))
def test_a_frozen_table_refuses_every_change_of_its_columns(
    project: Project, chance: random.Random, tally: Callable[[str], Tally]
) -> None:
    sweep = Sweep(project, some(chance), {"schema_contract": {"columns": "freeze"}})
    for name in sweep.names:
        sweep.change(name)
    settle(sweep, tally(LINE), frozen)


def frozen(change: Change) -> str:
    """A frozen table says that it is, unless the extraction has found another reason before."""
    by_the_extraction = ("cursor", "has no", "dropped and recreated", "has a column")
    if not change.frozen or any(word in change.refused for word in by_the_extraction):
        return change.refused
    return "schema_contract.columns is freeze"


@pytest.mark.parametrize("mode", ["append", "replace"])
@pytest.mark.timeout(scaled(600, 3600))
def test_appended_and_replaced_tables_follow_or_refuse_too(
    project: Project, chance: random.Random, tally: Callable[[str], Tally], mode: str
) -> None:
    """What a replaced table cannot be refused for: all of its rows arrive."""
    names = [name for name in some(chance) if not CHANGES[name].before]
    sweep = Sweep(project, names, {"mode": "append"} if mode == "append" else {"incremental": None})
    for name in names:
        sweep.change(name)
    results = project.run()
    for name in names:
        steps = [results[f"{kind}.{kind}_{name}"] for kind in ("extract", "load")]
        errors = [step.result for step in steps if step.state == "failed"]
        if errors:
            assert all(
                isinstance(error, LoadsheetError) and name in str(error) for error in errors
            ), errors
            assert mode == "append" or CHANGES[name].gone
            sweep.unchanged(name)
        elif mode == "replace":
            assert not judge(project, name)
    assert violations(project) == []
    sweep.refresh(tally(LINE))


def test_new_columns_are_backfilled_for_one_table_without_reading_the_others(
    project: Project,
) -> None:
    names = ["add_default", "rename", "widen_int"]
    sweep = Sweep(project, names, {})
    sweep.change("add_default")
    project.succeed()
    numbers = (
        "SELECT table_name, last_load_no, watermark FROM loadsheet.scope WHERE table_name <>"
        " 'add_default'"
    )
    before, staging = project.in_warehouse(numbers), [sweep.state(name) for name in names[1:]]
    assert judge(project, "add_default").lost == 20
    answer = project.cli("run", "shop", "--tables", "add_default", "--full-refresh")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert not judge(project, "add_default")
    assert project.in_warehouse(numbers) == before
    assert [sweep.state(name) for name in names[1:]] == staging


def test_the_trigger_form_backfills_one_table_too(project: Project) -> None:
    from loadsheet.engine.request import airflow_request
    from loadsheet.spec.pipeline_file import load_pipeline

    sweep = Sweep(project, ["add_default", "rename"], {})
    sweep.change("add_default")
    project.succeed()
    other = sweep.state("rename")
    spec = load_pipeline(project.folder / "pipelines" / "shop" / "pipeline.yml")
    asked: RunRequest = airflow_request(
        spec, run_id="manual", params={"full_refresh": True, "tables": ["add_default"]}
    )
    project.succeed(run_id=asked.run_id, only=asked.only, full_refresh=asked.full_refresh)
    assert not judge(project, "add_default")
    assert sweep.state("rename") == other


def test_a_cursor_that_follows_its_new_name_goes_on_and_another_column_does_not(
    project: Project,
) -> None:
    sweep = Sweep(project, ["cursor_renamed", "add"], {})
    sweep.change("cursor_renamed")
    project.spec({"cursor_renamed": {"incremental": "seen_at"}, "add": {"incremental": "plain"}})
    results = project.run()
    assert results["load.load_cursor_renamed"].state == "done" and not judge(
        project, "cursor_renamed"
    )
    error = results["extract.extract_add"].result
    assert isinstance(error, Refused) and "cursor plain is not the column at" in str(error)


def test_told_apart_by_name_only_columns_would_get_each_others_values(
    project: Project, tally: Callable[[str], Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: without the columns' places, a swap and a column made anew go through,
    wrong."""
    names = ["swap", "drop_and_add", "rename_over_dropped"]
    sweep = Sweep(project, names, {})
    compare = drift.compare_columns
    monkeypatch.setattr(
        drift, "compare_columns", lambda arriving, oid, *more: compare(arriving, -1, *more)
    )
    for name in names:
        sweep.change(name)
    project.succeed()
    lost = sum(judge(project, name).lost for name in names)
    assert lost >= 60
    tally(LINE).control(f"columns told apart by name: {lost} of 120 rows wrong")


def test_an_extraction_that_does_not_look_again_reads_with_an_outdated_plan(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look under the lock: the key is dropped while the extraction decides, and doubled
    rows would arrive."""
    sweep = Sweep(project, ["key_dropped"], {})
    project.in_source("UPDATE key_dropped SET at = clock_timestamp()")
    with monkeypatch.context() as patch:
        between_looking_and_reading(sweep, patch)
        error = project.run()["extract.extract_key_dropped"].result
    assert isinstance(error, Overtaken) and error.retryable
    sweep.unchanged("key_dropped")
    with psycopg.connect(project.warehouse) as session:
        assert session.execute("SELECT count(*) FROM staging.key_dropped").fetchone() == (40,)
