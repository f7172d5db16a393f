"""Random sequences of changes, runs, faults and retries, compared with a model of staging."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from loadsheet import failpoints
from loadsheet.engine.execute import execute
from loadsheet.engine.runner import StepResult
from loadsheet.errors import Corrupt, Refused
from loadsheet.failpoints import POINTS
from loadsheet.lake.store import Lake
from loadsheet.outcome import Outcome, RunRequest
from loadsheet.plan.steps import Step
from loadsheet.source import bounds, selection
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.warehouse import drift
from tests.faults.oracle import Verdict, judge, violations
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.faults.twin import Twin
from tests.project import Project

KINDS = {"bigint": False, "timestamp with time zone": True, "timestamp without time zone": True}
TRANSFORM = (
    "SELECT id, v FROM staging.merged WHERE _load_id > :since_load",
    {"materialized": "merge", "unique_key": "id"},
)
# Each operation is a name and a number that picks the row, the column or the point it is about.
CHANGES = ("insert", "touch", "retouch", "tie", "null", "mend", "delete")
DRIFTS = ("add", "add default", "drop", "rename", "drop and add", "widen")
RUNS = (
    "run",
    "full refresh",
    "interval",
    "retry",
    "same run",
    "late",
    "rolled back",
    "lake lost",
    "load again",
)
WEIGHTED = (*CHANGES, *CHANGES, *DRIFTS, *RUNS, "insert", "run", "late")
MODES = {"merged": "merge", "appended": "append", "replaced": "replace"}
LINE = "sequences of changes, drift, faults and retries against a model"
policies = st.sampled_from(["fail", "include", "exclude"])
tables = st.sampled_from(
    [["merged"], ["appended"], ["replaced"], ["merged", "appended"], ["merged", "replaced"]]
)


@dataclass
class Sequence:
    """A source, its warehouse and their twins, through one sequence of operations."""

    project: Project
    source: psycopg.Connection
    warehouse: psycopg.Connection
    kind: str
    twins: list[Twin]
    runs: int = 0
    next_number: int = 1
    names: int = 0
    last: dict[str, StepResult] = field(default_factory=dict)
    run_id: str = ""

    def begin(self) -> None:
        """Empty tables, an empty ledger and the spec."""
        # Not by the sessions of the operations: of these the project does not know that there is
        # something to grant again.
        self.project.in_warehouse("DROP SCHEMA IF EXISTS staging, mart, loadsheet CASCADE")
        self.project.in_source("DROP TABLE IF EXISTS merged, appended, replaced")
        spec: dict[str, Any] = {}
        for twin in self.twins:
            self.project.in_source(
                f"CREATE TABLE {twin.name} (id int PRIMARY KEY, v int, at {self.kind})"
            )
            cursor = {"cursor": "at", "nulls": twin.nulls, "hold_back": "0s"}
            # The model has no limit to what a load may remove.
            spec[twin.name] = {"max_shrink": 1}
            if twin.mode != "replace":
                spec[twin.name] |= {"incremental": cursor, "mode": twin.mode}
        marts = {"mart_of": TRANSFORM} if self.twins[0].name == "merged" else {}
        self.project.spec(spec, marts)

    def do(self, name: str, number: int) -> None:
        """One operation, on the tables and on their twins."""
        getattr(self, "op_" + name.replace(" ", "_"))(number)

    # Changes of rows

    def _insert(self, twin: Twin, session: psycopg.Connection, at: str) -> dict[str | int, Any]:
        number = self.next_number
        self.next_number += 1
        insert = f"INSERT INTO {twin.name} (id, v, at) VALUES (%s, %s, {at}) RETURNING *"
        return self._row(twin, session.execute(insert, (number, number)))

    def _row(self, twin: Twin, cursor: psycopg.Cursor) -> dict[str | int, Any]:
        assert cursor.description
        values = dict(
            zip(
                [column.name for column in cursor.description], cursor.fetchone() or (), strict=True
            )
        )
        return {name: values[name] for name in ("id", "v", "at")} | {
            p: values[n] for p, n in twin.extras.items()
        }

    def _new(self) -> str:
        """A cursor value nobody had before, in SQL."""
        if self.kind != "bigint":
            return "clock_timestamp()"
        return str(self.next_number)

    def _inserted(self, at: Callable[[Twin], str]) -> None:
        for twin in self.twins:
            row = self._insert(twin, self.source, at(twin))
            twin.rows[row["id"]] = row

    def _changed(self, number: int, assignments: str) -> None:
        for twin in self.twins:
            if twin.rows:
                chosen = sorted(twin.rows)[number % len(twin.rows)]
                self.next_number += 1
                row = self.source.execute(
                    f"UPDATE {twin.name} SET {assignments} WHERE id = %s RETURNING *", (chosen,)
                )
                twin.rows[chosen] = self._row(twin, row)

    def op_insert(self, number: int) -> None:
        for _ in range(1 + number % 3):
            self._inserted(lambda twin: self._new())

    def op_touch(self, number: int) -> None:
        self._changed(number, f"v = v + 1000, at = {self._new()}")

    def op_retouch(self, number: int) -> None:
        """An update that does not touch the cursor: not seen by increments."""
        self._changed(number, "v = v + 1000")

    def op_tie(self, number: int) -> None:
        """A row that shares the highest cursor."""
        self._inserted(lambda twin: f"(SELECT max(at) FROM {twin.name})")

    def op_null(self, number: int) -> None:
        if number % 2:
            self._inserted(lambda twin: "NULL")
        else:
            self._changed(number, "at = NULL")

    def op_mend(self, number: int) -> None:
        """Every row without a cursor gets one."""
        for twin in self.twins:
            for row_id in [row["id"] for row in twin.rows.values() if row["at"] is None]:
                self.next_number += 1
                update = f"UPDATE {twin.name} SET at = {self._new()} WHERE id = %s RETURNING *"
                twin.rows[row_id] = self._row(twin, self.source.execute(update, (row_id,)))

    def op_delete(self, number: int) -> None:
        for twin in self.twins:
            if twin.rows:
                chosen = sorted(twin.rows)[number % len(twin.rows)]
                self.source.execute(f"DELETE FROM {twin.name} WHERE id = %s", (chosen,))
                del twin.rows[chosen]

    # Changes of columns

    def _altered(self, clause: Callable[[Twin, int | None], str | None], number: int) -> None:
        for twin in self.twins:
            places = sorted(twin.extras)
            if done := clause(twin, places[number % len(places)] if places else None):
                self.source.execute(f"ALTER TABLE {twin.name} {done}")

    def _added(self, twin: Twin, name: str, default: int | None = None) -> str:
        twin.extras[twin.next_attnum] = name
        for row in twin.rows.values():
            row[twin.next_attnum] = default
        twin.next_attnum += 1
        return f"ADD COLUMN {name} int" + (f" DEFAULT {default}" if default is not None else "")

    def op_add(self, number: int, default: int | None = None) -> None:
        self.names += 1
        self._altered(lambda twin, place: self._added(twin, f"x{self.names}", default), number)

    def op_add_default(self, number: int) -> None:
        self.op_add(number, default=number)

    def op_drop(self, number: int) -> None:
        self._altered(
            lambda twin, place: f"DROP COLUMN {twin.extras.pop(place)}" if place else None, number
        )

    def op_rename(self, number: int) -> None:
        self.names += 1

        def clause(twin: Twin, place: int | None) -> str | None:
            if place is None:
                return None
            old, twin.extras[place] = twin.extras[place], f"x{self.names}"
            return f"RENAME COLUMN {old} TO x{self.names}"

        self._altered(clause, number)

    def op_drop_and_add(self, number: int) -> None:
        """Another column under the same name: increments are refused until a full refresh."""

        def clause(twin: Twin, place: int | None) -> str | None:
            if place is None:
                return None
            name = twin.extras.pop(place)
            return f"DROP COLUMN {name}, {self._added(twin, name, number)}"

        self._altered(clause, number)

    def op_widen(self, number: int) -> None:
        """The server rewrites all rows."""
        for twin in self.twins:
            twin.rows = {place: dict(row) for place, row in twin.rows.items()}
        self._altered(
            lambda twin, place: f"ALTER {twin.extras.get(place, 'v')} TYPE bigint", number
        )

    # Runs

    def _run(self, run_id: str = "", **request: Any) -> dict[str, StepResult]:
        if not run_id:
            self.runs += 1
            run_id = f"run {self.runs}"
        self.run_id, self.last = run_id, self.project.run(run_id=run_id, **request)
        return self.last

    def _expect(self, results: dict[str, StepResult], twin: Twin, fine: bool) -> None:
        """The steps of this table succeeded, or were refused when the twin says so."""
        steps = [results[f"{kind}.{kind}_{twin.name}"] for kind in ("extract", "load")]
        errors = [step.result for step in steps if step.state == "failed"]
        if fine:
            assert not errors, errors
        else:
            assert [isinstance(error, Refused) for error in errors] == [True], (twin, steps)

    def _run_and_model(self, run_id: str = "", since: Any = None, **request: Any) -> None:
        interval = request.pop("interval", None)
        if interval:
            request |= {
                "explicit_interval": True,
                "interval_start": interval[0][1],
                "interval_end": interval[1][1],
            }
        results = self._run(run_id, **request)
        for twin in self.twins:
            full = request.get("full_refresh") == "all"
            bounds_ = (interval[0][0], interval[1][0]) if interval else None
            self._expect(results, twin, twin.run(full, bounds_, since))

    def op_run(self, number: int) -> None:
        self._run_and_model()

    def op_full_refresh(self, number: int) -> None:
        self._run_and_model(full_refresh="all")

    def op_same_run(self, number: int) -> None:
        """The same run id again, as when somebody clears its tasks."""
        self._run_and_model(self.run_id)

    def op_interval(self, number: int) -> None:
        """A backfill between two cursor values that rows have, the later one excluded."""
        values = sorted(
            {
                row["at"]
                for twin in self.twins
                for row in twin.rows.values()
                if row["at"] is not None
            }
        )
        if len(values) > 1:
            first = number % (len(values) - 1)
            texts = [
                value if self.kind == "bigint" else value.isoformat()
                for value in (values[first], values[-1])
            ]
            self._run_and_model(
                interval=list(zip((values[first], values[-1]), map(str, texts), strict=True))
            )

    def op_retry(self, number: int) -> None:
        """A run that fails somewhere, and its retry."""
        with armed(POINTS[number % len(POINTS)]):
            self._run()
        self._run_and_model(self.run_id)

    def op_lake_lost(self, number: int) -> None:
        """Everything in the lake is lost between extract and load: the load says so, the retry
        reads again."""
        with armed("load.manifest_read"):
            results = self._run()
        lake = Lake(self.project.connections("lake"), self.project.bucket)
        for name in list(lake.names("")):
            lake.remove(name)
        for twin in self.twins:
            extracted, loaded = (
                results[f"{kind}.{kind}_{twin.name}"] for kind in ("extract", "load")
            )
            if loaded.state == "failed" and "failpoint" in str(loaded.result):
                assert isinstance(extracted.result, Outcome)
                with pytest.raises(Corrupt):
                    self._load(twin.name, extracted.result.load_id)
        self._run_and_model(self.run_id)

    def op_load_again(self, number: int) -> None:
        """A load that was committed, once more: it changes nothing."""
        for twin in self.twins:
            extracted = self.last.get(f"extract.extract_{twin.name}")
            loaded = self.last.get(f"load.load_{twin.name}")
            if (
                extracted
                and loaded
                and loaded.state == "done"
                and isinstance(extracted.result, Outcome)
            ):
                assert (
                    "committed already" in self._load(twin.name, extracted.result.load_id).message
                )

    def _load(self, table: str, load_id: str | None) -> Outcome:
        pipeline = load_pipeline(
            self.project.folder / "pipelines" / self.project.name / "pipeline.yml"
        )
        step, request = Step(kind="load", name=table), RunRequest(run_id=self.run_id)
        return execute(step, pipeline, request, self.project.connections, load_id=load_id)

    def op_late(self, number: int, commit: bool = True) -> None:
        """A transaction takes its cursor value, another one commits a higher value, a run comes,
        the first commits."""
        late = []
        with psycopg.connect(self.project.source) as session:
            since = session.execute(
                f"SELECT CAST(now() AS {self.kind})" if self.kind != "bigint" else "SELECT 0"
            )
            [began] = since.fetchone() or ()
            for twin in self.twins:
                late.append(
                    (
                        twin,
                        self._insert(
                            twin, session, "now()" if self.kind != "bigint" else self._new()
                        ),
                    )
                )
            self._inserted(lambda twin: self._new())
            self._run_and_model(since=began)
            self.check()
            session.commit() if commit else session.rollback()
        if commit:
            for twin, row in late:
                twin.rows[row["id"]] = row
        self._run_and_model()

    def op_rolled_back(self, number: int) -> None:
        self.op_late(number, commit=False)

    # What must hold

    def check(self) -> None:
        """Staging is what the twins say."""
        for twin in self.twins:
            if twin.staging is None:
                continue
            names = ["id", "v", "at", *sorted(twin.staged.values())]
            found = self.warehouse.execute(
                f"SELECT {', '.join(names)} FROM staging.{twin.name}"
            ).fetchall()
            assert Counter(found) == twin.shown(), twin.name

    def check_mart(self) -> None:
        """The mart is what its SELECT gives."""
        if self.twins[0].name == "merged" and self.last.get("mart_of") is None:
            both = "SELECT id, v FROM staging.merged", "SELECT id, v FROM mart.mart_of"
            assert Counter(self.warehouse.execute(both[0])) == Counter(
                self.warehouse.execute(both[1])
            )

    def end(self) -> list[Verdict]:
        """A full refresh once every row has a cursor makes staging equal to the source, whatever
        was before."""
        self.op_mend(0)
        self.op_full_refresh(0)
        self.check()
        self.check_mart()
        assert violations(self.project) == []
        return [judge(self.project, twin.name, where=self._arrived(twin)) for twin in self.twins]

    def _arrived(self, twin: Twin) -> str:
        """The rows that staging must have: an append waits with the highest number."""
        if twin.mode != "append" or twin.is_time:
            return "TRUE"
        return f"at < (SELECT max(at) FROM {twin.name})"


@contextmanager
def armed(point: str) -> Iterator[None]:
    """The first step that reaches `point` fails there."""
    failpoints._reached.clear()
    os.environ[failpoints.VARIABLE] = f"{point}:raise"
    try:
        yield
    finally:
        del os.environ[failpoints.VARIABLE]


@pytest.fixture
def prove(project: Project, chance: random.Random) -> Iterator[Callable[..., None]]:
    """`prove(n, ended)` tries n sequences and tells `ended` what the oracle says after each; the
    seed is printed."""
    with (
        psycopg.connect(project.source, autocommit=True, prepare_threshold=None) as source,
        psycopg.connect(project.warehouse, autocommit=True, prepare_threshold=None) as warehouse,
    ):
        source.execute("SET TimeZone = 'UTC'")
        warehouse.execute("SET TimeZone = 'UTC'; SET client_min_messages = error")

        def sequences(
            examples: int,
            ended: Callable[[list[Verdict]], None],
            words: Collection[str] = WEIGHTED,
            shrink: bool = True,
        ) -> None:
            operations = st.lists(
                st.tuples(st.sampled_from(words), st.integers(0, 99)), min_size=2, max_size=14
            )

            @seed(chance.randrange(10**6))
            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
            )
            @given(
                names=tables, kind=st.sampled_from(list(KINDS)), nulls=policies, steps=operations
            )
            def equal(
                names: list[str], kind: str, nulls: str, steps: list[tuple[str, int]]
            ) -> None:
                twins = [
                    Twin(name, MODES[name], _allowed(nulls, name), KINDS[kind]) for name in names
                ]
                sequence = Sequence(project, source, warehouse, kind, twins)
                sequence.begin()
                for name, argument in steps:
                    sequence.do(name, argument)
                    sequence.check()
                ended(sequence.end())

            equal()

        yield sequences


def _allowed(nulls: str, table: str) -> str:
    """An append reads each row once, so it cannot include rows without a cursor."""
    return "exclude" if table == "appended" and nulls == "include" else nulls


@pytest.mark.timeout(scaled(600, 14400))
def test_after_any_sequence_staging_is_what_the_model_says(
    prove: Any, tally: Callable[[str], Tally]
) -> None:
    line = tally(LINE)
    prove(scaled(16, 2000), lambda verdicts: line.add(*verdicts))
    assert not (line.lost or line.doubled)


def naive_bound(self: bounds.Cursor, mode: str) -> tuple[str | None, str]:
    """max(cursor), whoever is still writing."""
    return self._highest(""), ""


# What is taken away, and the operations among which a sequence shows it soon.
CONTROLS: dict[str, tuple[Any, str, Any, tuple[str, ...]]] = {
    "max(cursor) as watermark": (
        bounds.Cursor,
        "safe_upper",
        naive_bound,
        ("insert", "late", "run"),
    ),
    "columns told apart by name only": (
        drift,
        "refuse_replaced_columns",
        lambda target, drift, remedy: None,
        ("add", "drop and add", "insert", "run"),
    ),
    "no look at rows without a cursor": (
        selection,
        "refuse_null_cursors",
        lambda session, table, source: None,
        ("insert", "null", "run"),
    ),
}


@pytest.mark.parametrize("control", scaled(list(CONTROLS)[:1], list(CONTROLS)))
@pytest.mark.timeout(scaled(600, 3600))
def test_without_a_mechanism_a_sequence_is_found_that_shows_it(
    prove: Any, tally: Callable[[str], Tally], monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    """The negative control."""
    *mechanism, words = CONTROLS[control]
    monkeypatch.setattr(*mechanism)
    tried: list[int] = []
    with pytest.raises((AssertionError, ExceptionGroup)):
        prove(200, lambda verdicts: tried.append(1), words=words, shrink=False)
    tally(LINE).control(f"{control}: a wrong sequence found after {len(tried)} right ones")
