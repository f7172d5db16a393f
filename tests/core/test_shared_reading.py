"""One table, read by several processes in one snapshot: each row is loaded once, whoever reads it,
and whoever dies meanwhile."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from loadsheet.engine import reading, shared_reading
from loadsheet.lake import parts
from loadsheet.outcome import Outcome
from loadsheet.source import stream
from loadsheet.sql.text import Relation, ident
from loadsheet.warehouse.shared_read import SharedReads
from tests.byhand import ByHand, Worker
from tests.faults.oracle import judge
from tests.faults.workers import settled
from tests.project import Project

ROWS = 8_000
SOURCE = f"""
CREATE TABLE item (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item SELECT i, md5(i::text) FROM generate_series(1, {ROWS}) i;
"""
# Rows leave their pages for the last ones, which the last range holds.
WRITERS = """
UPDATE item SET what = 'moved' WHERE id % 3 = 0;
DELETE FROM item WHERE id % 7 = 0;
INSERT INTO item SELECT i, 'late' FROM generate_series(100001, 102000) i;
"""
TABLES: dict[str, Any] = {"item": {"extract_tasks": 3}}
ALL = "SELECT count(*), count(DISTINCT id), md5(string_agg(id || what, ',' ORDER BY id)) FROM "


def small() -> None:
    """Many ranges and parts for few rows, in this process."""
    stream._LEAST_BYTES = 40_000
    parts.PART_BYTES, parts.BLOCK_BYTES = 4096, 8192
    shared_reading._LONGEST_WAIT_SECONDS = 2
    shared_reading._LOOK_SECONDS = 0.1
    shared_reading._PATIENCE_SECONDS = 1


def libpq_only() -> None:
    """A reader whose connection has options that only libpq knows."""
    small()
    stream._COMMON_OPTIONS = stream._COMMON_OPTIONS - {"host"}


def naive() -> None:
    """A reader that reads what is there now."""
    small()

    def copy_now(session: Any, jobs: Any, wire: Any, readers: int, snapshot: str) -> list[int]:
        with session.transaction():
            return [stream.copy(session, job, wire) for job in jobs]

    stream.copy_parallel = copy_now  # type: ignore[assignment]


@pytest.fixture
def item(project: Project) -> Iterator[ByHand]:
    by_hand = ByHand(project, SOURCE, TABLES)
    yield by_hand
    by_hand.close()
    settled(project.source)


def extracting(item: ByHand, run: str = "one", **request: Any) -> Worker:
    """An extract task that sleeps when it has stored its first part, and holds its first ranges."""
    worker = item.start("extract", run, stop_at="extract.part_stored", prepare=small, **request)
    assert worker.wait_until_stopped()
    return worker


def helped(item: ByHand, run: str = "one", stop_at: str = "", prepare: Any = small) -> Worker:
    return item.start("read", run, stop_at=stop_at, prepare=prepare)


def done(worker: Worker) -> Outcome:
    result = worker.result()
    assert isinstance(result, Outcome), result
    return result


def content(item: ByHand, place: str) -> Any:
    ask = item.project.in_source if place == "item" else item.project.in_warehouse
    return ask(ALL + place)


def manifest_parts(item: ByHand) -> set[str]:
    return {name for name in item.project.objects() if "/part-" in name}


@pytest.mark.parametrize("prepare", [small, libpq_only])
def test_readers_read_in_the_snapshot_of_the_extract_beside_writers(
    item: ByHand, prepare: Any
) -> None:
    before = content(item, "item")
    extract = extracting(item)
    item.project.in_source(WRITERS)
    readers = [done(helped(item, prepare=prepare)) for _ in range(2)]
    extract.wake()
    outcome = done(extract)
    # At most two ranges were the extract's; the first reader found all others.
    assert readers[0].status == "done", readers[0]
    assert readers[1].skipped and "taken before" in readers[1].message
    assert outcome.counts["extracted"] == ROWS and "read by 2 tasks" in outcome.message
    item.step("load", "one", outcome.load_id)
    assert content(item, "staging.item") == before
    item.both("two")
    assert not judge(item.project, "item")


def test_a_reader_with_a_snapshot_of_its_own_loses_rows_or_doubles_them(item: ByHand) -> None:
    """The negative control."""
    extract = extracting(item)
    item.project.in_source(WRITERS)
    assert done(helped(item, prepare=naive)).status == "done"
    extract.wake()
    assert done(extract).counts["extracted"] != ROWS


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_the_ranges_of_a_reader_that_is_gone_are_read_again(item: ByHand, way: str) -> None:
    before = content(item, "item")
    extract = extracting(item)
    item.project.in_source(WRITERS)
    reader = helped(item, stop_at="extract.part_stored")
    assert reader.wait_until_stopped()
    if way == "kill":
        reader.kill()
    extract.wake()
    outcome = done(extract)
    assert outcome.counts["extracted"] == ROWS
    if way == "stop":
        # It wakes up when the manifest is sealed, and what it stores is in no manifest.
        reader.wake()
        assert done(reader).skipped
        # Those who read the lake must leave them out (docs/lake.md).
        [manifest] = (name for name in item.project.objects() if name.endswith("manifest.json"))
        listed = json.loads(item.lake.get(manifest, 1 << 20) or b"")["parts"]
        assert manifest_parts(item) > {part["name"] for part in listed}
    item.step("load", "one", outcome.load_id)
    assert content(item, "staging.item") == before


def test_readers_of_an_extract_that_is_gone_end_and_help_its_next_try(item: ByHand) -> None:
    before = content(item, "item")
    extract = extracting(item)
    reader = helped(item, stop_at="extract.part_stored")
    assert reader.wait_until_stopped()
    extract.kill()
    retry = extracting(item)
    reader.wake()
    # What it had read for the first try is not recorded for the second.
    assert done(reader).status == "done"
    retry.wake()
    outcome = done(retry)
    assert "read by 2 tasks" in outcome.message
    item.step("load", "one", outcome.load_id)
    assert content(item, "staging.item") == before


def test_a_reader_ends_where_nothing_is_offered_and_at_once_when_the_extract_has_ended(
    item: ByHand,
) -> None:
    early = helped(item)
    assert "offered nothing" in done(early).message
    item.both("one")
    step = item.project.table_step("item", run_id="one")
    began = time.monotonic()
    assert "has ended" in shared_reading.help_to_read(step, 2, is_over=lambda: True).message
    assert time.monotonic() - began < shared_reading._LONGEST_WAIT_SECONDS / 2


def test_another_run_s_extract_is_not_helped_and_overtakes(item: ByHand) -> None:
    extract = extracting(item)
    other = done(item.start("extract", "two", prepare=small))
    assert "offered nothing" in done(helped(item)).message
    extract.wake()
    # It was overtaken, and has read again; so does the load of the other.
    outcome = done(extract)
    assert outcome.counts["extracted"] == ROWS
    item.step("load", "two", other.load_id)
    item.step("load", "one", outcome.load_id)
    assert not judge(item.project, "item")


@pytest.mark.parametrize(
    "forged",
    [
        """jsonb_set(shared_read, '{conditions,3}', '"what > ''f''"')""",
        """jsonb_set(shared_read, '{where}', '"1 / 0 = 1"')""",
        """jsonb_set(shared_read, '{prefix}', '"shop/elsewhere"')""",
        """jsonb_set(shared_read, '{snapshot}', '"x''; SELECT 1 / 0; --"')""",
    ],
)
def test_an_offer_that_the_extract_has_not_made_is_not_read(item: ByHand, forged: str) -> None:
    """The ledger may be written by roles that may not read the source."""
    extract = extracting(item)
    offered = item.project.in_warehouse("SELECT shared_read FROM loadsheet.scope")
    stored = manifest_parts(item)
    item.project.in_warehouse(f"UPDATE loadsheet.scope SET shared_read = {forged}")
    assert "offered nothing" in done(helped(item)).message
    assert manifest_parts(item) == stored
    back = "UPDATE loadsheet.scope SET shared_read = %s::jsonb"
    item.project.in_warehouse(back, json.dumps(offered[0][0]))
    extract.wake()
    assert done(extract).counts["extracted"] == ROWS


def test_an_offer_of_another_version_is_none(item: ByHand) -> None:
    """While a new Loadsheet comes to one worker after the other."""
    extract = extracting(item)
    names = ("shop", "item", Relation("staging", "item"))
    with item.project.session("warehouse") as session:

        def found(change: str = "shared_read") -> Any:
            with session.transaction(force_rollback=True):
                session.execute(f"UPDATE loadsheet.scope SET shared_read = {change}")
                return SharedReads(*names).find(session)

        assert found()
        for change in (
            """shared_read || '{"newer": 1}'""",
            "shared_read - 'format'",
            "shared_read - 'records'",
            """jsonb_set(shared_read, '{snapshot}', '7')""",
            """jsonb_set(shared_read, '{relation}', '["item"]')""",
            """jsonb_set(shared_read, '{columns,0,type}', '"newtype"')""",
            """jsonb_set(shared_read, '{columns}', '[1]')""",
            """jsonb_set(shared_read, '{conditions}', '1')""",
            "'{}'",
            "'[]'",
            "'7'",
            "'null'",
        ):
            assert found(change) is None, change
    extract.wake()
    assert done(extract).counts["extracted"] == ROWS


@pytest.mark.parametrize("holder", ["another", "extractor"])
def test_an_offer_that_a_session_of_another_role_vouches_for_is_not_read(
    item: ByHand, holder: str
) -> None:
    """Any role that may connect to the source can take an advisory lock there. The extractor's own
    is the control: it could read the rows itself."""
    project = item.project
    extract = extracting(item)
    forged = """jsonb_set(shared_read, '{where}', '"id > 5"')"""
    project.in_warehouse(f"UPDATE loadsheet.scope SET shared_read = {forged}")
    with project.session("warehouse") as session:
        read = SharedReads("shop", "item", Relation("staging", "item")).find(session)
    assert read
    role = f"lowly_{secrets.token_hex(4)}"
    project.in_source(f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    url = urlsplit(project.uri("shop_source"))
    if holder == "another":
        url = urlsplit(project.source)  # a pooler knows the extractor's role only
        url = url._replace(netloc=f"{role}:{role}@{url.hostname}:{url.port}")
    with psycopg.connect(url.geturl()) as session:
        lock = shared_reading._lock_of_extract(read)
        assert session.execute(f"SELECT {lock}").fetchone() == (True,)
        assert done(helped(item)).skipped == (holder == "another")
    project.in_source(f"DROP ROLE {role}")
    extract.kill()


def blind() -> None:
    """Ranges that read what inherits from the table, too."""
    small()
    select_columns = reading.select_columns

    def with_heirs(*given: Any, is_only: bool) -> str:
        return select_columns(*given)

    reading.select_columns = with_heirs


@pytest.mark.parametrize(
    ("options", "prepare"),
    [(None, small), (TABLES["item"], small), (TABLES["item"], blind)],
    ids=["alone", "shared", "control"],
)
def test_a_table_that_begins_to_inherit_meanwhile_is_not_read_in_part(
    project: Project, options: Any, prepare: Any
) -> None:
    item = ByHand(project, SOURCE, {"item": options})
    try:
        project.in_source(
            "CREATE TABLE more (LIKE item INCLUDING ALL);"
            "INSERT INTO more SELECT -id, what FROM item"
        )
        before = content(item, "item")
        extract = item.start("extract", "one", stop_at="extract.part_stored", prepare=prepare)
        assert extract.wait_until_stopped()
        project.in_source("ALTER TABLE more INHERIT item")
        extract.wake()
        item.step("load", "one", done(extract).load_id)
        assert content(item, "item") != before
        # The control reads the end of the other table, without its beginning.
        assert (content(item, "staging.item") == before) == (prepare is small)
    finally:
        item.close()


def test_the_content_of_a_table_is_the_same_whoever_has_read_it(item: ByHand) -> None:
    extract = extracting(item)
    assert done(helped(item)).status == "done"
    extract.wake()
    item.step("load", "one", done(extract).load_id)
    again = done(item.start("extract", "two", prepare=small))
    assert again.skipped and again.message.startswith("nothing new")


ODD = 'odd "na\'me" %s {0} \\ $1\n漢 which goes on until it has 63 bytes'
ODD_SOURCE = f"""
CREATE DOMAIN amount AS numeric(12, 3);
CREATE TABLE {ident(ODD)} (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gone int, {ident(ODD)} text, amount amount,
    doubled int GENERATED ALWAYS AS (gone * 2) STORED, hidden int GENERATED ALWAYS AS (7) STORED
);
INSERT INTO {ident(ODD)} (gone, {ident(ODD)}, amount)
    SELECT i, md5(i::text), i / 7.0 FROM generate_series(1, {ROWS}) i;
ALTER TABLE {ident(ODD)} DROP COLUMN doubled, DROP COLUMN gone;
ALTER TABLE {ident(ODD)} ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON {ident(ODD)} USING (id < 10);
"""


def odd_content(schema: str) -> str:
    """A query of the table's content, as it is in this schema."""
    row = f"ROW(id, {ident(ODD)}, amount, hidden)::text"
    rows = f"{schema}.{ident(ODD)}"
    return f"SELECT count(*), md5(string_agg({row}, ',' ORDER BY id)) FROM {rows}"


@pytest.mark.parametrize("prepare", [small, libpq_only])
def test_a_table_with_odd_names_domains_and_policies_is_read_by_several(
    project: Project, prepare: Any
) -> None:
    project.in_source(ODD_SOURCE)
    item = ByHand(project, "", {ODD: TABLES["item"]})
    # Others would see nine rows.
    project.in_source(f"ALTER ROLE {project.extractor} BYPASSRLS")
    try:
        before = project.in_source(odd_content("public"))
        stop = "extract.part_stored"
        extract = item.start("extract", "one", stop_at=stop, prepare=prepare, name=ODD)
        assert extract.wait_until_stopped()
        project.in_source(f"DELETE FROM {ident(ODD)} WHERE id % 3 = 0")
        assert done(item.start("read", "one", prepare=prepare, name=ODD)).status == "done"
        extract.wake()
        outcome = done(extract)
        assert "read by 2 tasks" in outcome.message
        item.step("load", "one", outcome.load_id, name=ODD)
        assert project.in_warehouse(odd_content("staging")) == before
    finally:
        item.close()


def test_increments_are_read_by_the_extract_alone_and_a_full_refresh_is_shared(
    project: Project,
) -> None:
    tables = {"item": {"incremental": "at", "extract_tasks": 3}}
    item = ByHand(project, SOURCE, tables)
    try:
        item.both("one")
        project.in_source(WRITERS)
        assert "only new rows" in done(helped(item, "two")).message
        item.both("two")
        full = {"full_refresh": "all"}
        extract = extracting(item, "three", **full)
        assert done(item.start("read", "three", prepare=small, **full)).status == "done"
        extract.wake()
        item.step("load", "three", done(extract).load_id, **full)
        assert not judge(project, "item")
    finally:
        item.close()
