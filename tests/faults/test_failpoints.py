"""A run that dies, fails or hangs at a boundary of the protocol is healed by the next: nothing
lost, nothing twice."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from demo.servers import PostgresServer, S3Server
from loadsheet import failpoints
from loadsheet.failpoints import POINTS, reach
from loadsheet.lake.manifest import Manifest
from loadsheet.postgres import Session
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.sql.text import Relation
from loadsheet.warehouse import fence
from tests.faults.oracle import Verdict, judge, violations
from tests.faults.scale import scaled
from tests.faults.shop import TABLES, TRANSFORMS, change, open_shop, verdicts
from tests.faults.tally import Tally
from tests.faults.workers import Worker, settled
from tests.project import ROOT, Project

ROWS = {"merged": 300, "appended": 100, "swapped": 300, "viewed": 300}
PART_BYTES = 4096
MOVING = ("merged", "appended", "swapped", "viewed", "pruned")
# Where an early load fails, the load step begins again. core/test_overlap_ends.py has a hang.
EARLY = ("early.begun", "early.block_copied", "early.copied")
# Where an incremental run meets a point; all others are met by every table that moves.
MET_BY = {
    "extract.unchanged": ("quiet",),
    "extract.deletes_found": ("pruned",),
    "load.gone_removed": ("pruned",),
    **dict.fromkeys(EARLY, ("merged", "pruned")),
    # All parts of a small table whose load begins early come from memory.
    "load.part_copied": ("swapped", "viewed"),
    "load.altered": ("merged", "appended", "viewed"),
    "swap.dropped": ("swapped",),
    "difference.deleted": ("viewed",),
    "merge.written": ("merged", "appended", "viewed"),
    **dict.fromkeys(
        ("transform.built", "transform.recorded", "transform.committed"), ("merged", "appended")
    ),
}
# A table on which nothing hangs is merged in one statement.
MERGED_IN_STEPS = """
CREATE TRIGGER same BEFORE UPDATE ON staging.viewed
FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()
"""
ONLY_AT_FIRST = ("bucket.missing", "ledger.created")
# test_repairs.py, test_fill.py, core/test_restore_lake.py
IN_NO_RUN = ("repair.compared", "fill.updated", "restore.placed")
NOT_AT_FIRST = (
    "extract.deletes_found",
    "load.gone_removed",
    "extract.unchanged",
    "load.altered",
    "load.part_copied",
    "swap.dropped",
    "difference.deleted",
    "merge.written",
)
# How a run ends that is killed, fails, hangs, or fails and tries the failed step again: exit code,
# words.
ENDS = {
    "kill": (-9, ""),
    "raise": (1, "failpoint {point}"),
    "hang": (1, "longer than its timeout (2 s)"),
    "retry": (0, "retry 1 of 1"),
}
RETRIES = ("extract.sealed", "load.committed")
HANGS = ("bucket.missing", "extract.snapshot", "load.filled", "transform.built")
Case = tuple[str, str, str]


def cases() -> Iterator[Case]:
    """(point, action, table): the table that meets the point, or `first` for a first run of all of
    them."""
    for point in POINTS:
        if point in IN_NO_RUN:
            continue
        met_by = () if point in ONLY_AT_FIRST else MET_BY.get(point, MOVING)
        places = scaled(
            (*met_by, "first")[:1], met_by if point in NOT_AT_FIRST else (*met_by, "first")
        )
        for action, at in (
            ("kill", POINTS),
            ("raise", POINTS),
            ("hang", HANGS),
            ("retry", RETRIES),
        ):
            if action == "hang" and point in EARLY:
                continue
            if point in scaled(at, POINTS):
                yield from ((point, action, place) for place in places)


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, s3: S3Server
) -> Iterator[Project]:
    """A shop that has been loaded once; in the end all of it must be right."""
    source, warehouse = (postgres.create_database(f"test_{secrets.token_hex(6)}") for _ in range(2))
    project = Project(tmp_path_factory.mktemp("shop"), source, warehouse, s3)
    open_shop(project, ROWS)
    yield project
    project.spec(TABLES, TRANSFORMS)
    project.succeed()
    assert not any(verdicts(project))


def forget(project: Project) -> None:
    """An empty warehouse and no bucket, as before the first run."""
    project.in_warehouse("DROP SCHEMA IF EXISTS staging, mart, loadsheet CASCADE")
    project.bucket = f"test-{secrets.token_hex(6)}"


def prepare(project: Project, point: str, place: str) -> None:
    """Something to do at `point`: changes, a new column, or a warehouse without anything."""
    if point == "load.altered":
        column = f"c_{secrets.token_hex(4)}"
        project.in_source(
            f"ALTER TABLE {place} ADD COLUMN {column} int, ALTER COLUMN {column} SET DEFAULT 7"
        )
    change(project, ROWS)
    if place == "first":
        forget(project)


def broken_run(project: Project, point: str, action: str, place: str) -> None:
    """One run that is broken at `point`. AssertionError when the point is not reached, or the run
    ends otherwise."""
    again = {"retries": 1, "retry_delay": "0s"} if action == "retry" else {"retries": 0}
    patience = {"timeout": "2s"} if action == "hang" else {}
    project.spec(TABLES, TRANSFORMS, tasks=again | patience)
    only = () if place == "first" else ("--tables", place)
    armed = f"{point}:{'raise' if action == 'retry' else action}"
    worker = Worker(project, *only, failpoint=armed, part_bytes=PART_BYTES)
    ended, (code, words) = worker.wait(30), ENDS[action]
    if point in EARLY and action != "kill":
        code, words = 0, ""
    assert f"failpoint {point}: " in worker.text, f"never reached:\n{worker.text}"
    assert ended == code and words.format(point=point) in worker.text.replace("\n", " "), (
        worker.text
    )


@pytest.mark.parametrize(("point", "action", "place"), list(cases()))
def test_a_run_broken_at_a_point_is_healed_by_the_next(
    shop: Project, tally: Callable[[str], Tally], point: str, action: str, place: str
) -> None:
    prepare(shop, point, place)
    broken_run(shop, point, action, place)
    settled(shop.source, shop.warehouse)
    shop.spec(TABLES, TRANSFORMS)
    only = None if place == "first" else frozenset({place})
    shop.succeed(only=only)
    if place == "first":
        shop.in_warehouse("CREATE VIEW staging.seen AS SELECT * FROM staging.viewed")
        shop.in_warehouse(MERGED_IN_STEPS)
    found = verdicts(shop) if place == "first" else [judge(shop, place)]
    tally(f"{action} at a named point of the protocol").add(*found)
    assert not any(found) and violations(shop) == []


def test_a_lake_that_fails_while_rows_still_arrive_ends_the_run(shop: Project) -> None:
    """It once waited for ever: the ROLLBACK was sent into a COPY that nobody read any more."""
    shop.in_source(
        "CREATE TABLE IF NOT EXISTS large AS SELECT i AS id, noise(i) AS what FROM"
        " generate_series(1, 60000) i"
    )
    shop.spec({"large": None}, tasks={"retries": 0})
    worker = Worker(shop, failpoint="extract.part_stored:raise", part_bytes=PART_BYTES)
    assert worker.wait(20) == 1, worker.text
    assert "failpoint extract.part_stored" in worker.text.replace("\n", " ")
    settled(shop.source, shop.warehouse)


def test_the_same_crash_doubles_rows_where_the_watermark_moves_in_a_transaction_of_its_own(
    shop: Project, tally: Callable[[str], Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = fence.advance_watermark

    def apart(session: Session, manifest: Manifest, target: Relation, *of: Any) -> None:
        session.execute("COMMIT; BEGIN")
        reach("load.advanced")
        advance(session, manifest, target, *of)

    verdict = crashed_without_the_mechanism(
        shop, monkeypatch, "load.advanced", "advance_watermark", apart
    )
    assert verdict.doubled == ROWS["appended"] and not verdict.lost
    tally("raise at a named point of the protocol").control(
        f"doubled {verdict.doubled} of {verdict.rows} rows"
    )


def test_the_same_crash_loses_rows_where_the_watermark_moves_before_the_rows(
    shop: Project, tally: Callable[[str], Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    def early(session: Session, manifest: Manifest, target: Relation) -> None:
        spec = load_pipeline(shop.folder / "pipelines" / "shop" / "pipeline.yml")
        [table] = [table for table in spec.tables if table.name == manifest.table]
        fence.advance_watermark(session, manifest, target, table, 0)
        session.execute("COMMIT; BEGIN")

    verdict = crashed_without_the_mechanism(
        shop, monkeypatch, "load.recorded", "check_fence", early
    )
    assert verdict.lost == ROWS["appended"] and not verdict.doubled
    tally("raise at a named point of the protocol").control(
        f"lost {verdict.lost} of {verdict.rows} rows"
    )


def crashed_without_the_mechanism(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    name: str,
    instead: Callable[..., None],
) -> Verdict:
    """What the oracle says when one function of the fence is replaced, a load fails and the next
    run follows."""
    only = frozenset({"appended"})
    project.spec(TABLES)
    project.succeed(only=only)
    change(project, ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(fence, name, instead)
        patch.setenv(failpoints.VARIABLE, f"{point}:raise")
        patch.setattr(failpoints, "_reached", Counter())
        assert project.run(only=only)["load.load_appended"].state == "failed"
    project.succeed(only=only)
    verdict = judge(project, "appended")
    project.succeed(full_refresh=only)
    assert not judge(project, "appended")
    return verdict


def test_every_boundary_has_a_point_and_every_point_a_boundary() -> None:
    files = (ROOT / "loadsheet").rglob("*.py")
    reached = [
        point
        for file in files
        for point in re.findall(r'\breach\("([a-z._]+)"\)', file.read_text())
    ]
    assert sorted(reached) == sorted(POINTS) and len(POINTS) >= 15


def test_a_point_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "load.lokced:kill")
    with pytest.raises(ValueError, match="no such point"):
        failpoints.reach("load.locked")
