"""The commit protocol: fences, corrupt objects, lost acknowledgements. Each guarantee with the attack it withstands."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psycopg
import pytest

from loadsheet.connections import Connection
from loadsheet.errors import Corrupt, Superseded
from loadsheet.lake.store import Lake
from loadsheet.outcome import Outcome, RunRequest
from loadsheet.plan.steps import Step
from loadsheet.spec.load import load_pipeline
from loadsheet.spec.models import Pipeline
from loadsheet.steps import execute
from loadsheet.warehouse import ledger, tables
from tests.project import Project

SOURCE = """
CREATE TABLE item (id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO item SELECT i, md5(i::text) FROM generate_series(1, 5000) i;
"""


@dataclass
class ByHand:
    """The steps of table `item`, one by one, as Airflow's tasks run them."""

    project: Project
    pipeline: Pipeline = field(init=False)

    def __post_init__(self) -> None:
        self.project.in_source(SOURCE)
        self.project.spec({"item": {"incremental": "at"}})
        self.pipeline = load_pipeline(self.project.folder / "pipelines" / "shop" / "pipeline.yml")
        self.step("create_bucket", "run")

    def step(
        self, kind: str, run: str, load_id: str | None = None, connections: Callable[[str], Connection] | None = None
    ) -> Outcome:
        step = Step(kind=kind, name="item")
        request = RunRequest(run_id=run)
        return execute(step, self.pipeline, request, connections or self.project.connections, load_id=load_id)

    @property
    def lake(self) -> Lake:
        return Lake(self.project.connections("lake"), self.project.bucket)


@pytest.fixture
def by_hand(project: Project) -> ByHand:
    return ByHand(project)


def test_a_load_that_is_repeated_changes_nothing(by_hand: ByHand) -> None:
    load_id = by_hand.step("extract", "run").load_id
    first = by_hand.step("load", "run", load_id)
    again = by_hand.step("load", "run", load_id)
    assert again.counts == first.counts and "was committed already" in again.message
    assert by_hand.project.in_warehouse("SELECT count(*) FROM loadsheet.load") == [(1,)]


def test_a_retry_of_an_extract_keeps_the_load_id_until_it_is_committed(by_hand: ByHand) -> None:
    first = by_hand.step("extract", "run").load_id
    assert by_hand.step("extract", "run").load_id == first
    by_hand.step("load", "run", first)
    by_hand.project.in_source("INSERT INTO item VALUES (0, 'late')")
    assert by_hand.step("extract", "run").load_id != first


def test_an_older_extraction_never_overwrites_a_newer_one(by_hand: ByHand) -> None:
    old = by_hand.step("extract", "old").load_id
    by_hand.project.in_source("UPDATE item SET what = 'new', at = clock_timestamp()")
    new = by_hand.step("extract", "new").load_id
    with pytest.raises(Superseded, match="Re-run the extract step"):
        by_hand.step("load", "old", old)
    by_hand.step("load", "new", new)
    with pytest.raises(Superseded):
        by_hand.step("load", "old", old)
    assert by_hand.project.differences("item") == 0


def test_without_the_fence_the_older_one_would_win(by_hand: ByHand) -> None:
    """The negative control: give the old load the current fence, and stale rows return."""
    old = by_hand.step("extract", "old").load_id
    [sealed] = by_hand.project.in_warehouse(
        "SELECT sealed_load_id, sealed_manifest, sealed_sha256 FROM loadsheet.scope"
    )
    by_hand.project.in_source("DELETE FROM item WHERE id > 10")
    by_hand.step("load", "new", by_hand.step("extract", "new").load_id)
    assert by_hand.project.differences("item") == 0
    by_hand.project.in_warehouse(
        "UPDATE loadsheet.scope SET fence = 1, sealed_load_id = %s, sealed_manifest = %s, sealed_sha256 = %s", *sealed
    )
    by_hand.step("load", "old", old)
    assert by_hand.project.differences("item") == 4990


def test_an_increment_is_not_loaded_into_a_table_that_lost_the_rest(by_hand: ByHand) -> None:
    by_hand.step("load", "first", by_hand.step("extract", "first").load_id)
    by_hand.project.in_source("INSERT INTO item VALUES (0, 'late')")
    load_id = by_hand.step("extract", "second").load_id
    by_hand.project.in_warehouse("DROP TABLE staging.item")
    with pytest.raises(Superseded, match="re-run the extract step"):
        by_hand.step("load", "second", load_id)
    by_hand.step("load", "second", by_hand.step("extract", "second").load_id)
    assert by_hand.project.differences("item") == 0


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "cut short": lambda data, chance: data[: chance.randrange(len(data))],
    "one bit flipped": lambda data, chance: _flipped(data, chance.randrange(len(data) * 8)),
    "emptied": lambda data, chance: b"",
    "removed": lambda data, chance: None,
    "longer": lambda data, chance: data + b"\0",
    "swapped for another": lambda data, chance: data[::-1],
}


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("format", ["binary", "csv"])
def test_an_altered_part_is_never_committed(by_hand: ByHand, mutation: str, format: str) -> None:
    by_hand.project.spec({"item": {"incremental": "at"}}, lake={"format": format})
    by_hand.pipeline = load_pipeline(by_hand.pipeline.file)
    load_id = by_hand.step("extract", "run").load_id
    [part] = [name for name in by_hand.project.objects() if "part-" in name]
    original = by_hand.lake.get(part)
    for seed in range(5):
        changed = MUTATIONS[mutation](original, random.Random(seed))
        if changed is None:
            by_hand.lake.remove(part)
        else:
            by_hand.lake.put(part, changed)
        with pytest.raises(Corrupt, match="run the extract step again"):
            by_hand.step("load", "run", load_id)
        assert by_hand.project.in_warehouse("SELECT count(*) FROM loadsheet.load") == [(0,)]
        assert by_hand.project.in_warehouse("SELECT to_regclass('staging.item')") == [(None,)]
    by_hand.step("load", "run", by_hand.step("extract", "run").load_id)
    assert by_hand.project.differences("item") == 0


def test_a_truncated_csv_would_be_accepted_without_the_check(by_hand: ByHand) -> None:
    """The negative control: with a manifest that agrees with the damage, PostgreSQL itself does not object."""
    by_hand.project.spec({"item": {"incremental": "at"}}, lake={"format": "csv"})
    by_hand.pipeline = load_pipeline(by_hand.pipeline.file)
    load_id = by_hand.step("extract", "run").load_id
    _forge(by_hand, rows=2000)
    by_hand.step("load", "run", load_id)
    assert by_hand.project.differences("item") == 3000


def _forge(by_hand: ByHand, rows: int) -> None:
    """Keep the first `rows` rows of the part and make the manifest say that this is all."""
    import hashlib

    import zstandard

    [part] = [name for name in by_hand.project.objects() if "part-" in name]
    [manifest] = [name for name in by_hand.project.objects() if name.endswith("manifest.json")]
    text = zstandard.ZstdDecompressor().decompressobj().decompress(by_hand.lake.get(part))
    data = zstandard.ZstdCompressor().compress(b"".join(text.splitlines(keepends=True)[: rows + 1]))
    by_hand.lake.put(part, data)
    claims = json.loads(by_hand.lake.get(manifest))
    claims["rows"] = claims["parts"][0]["rows"] = rows
    claims["parts"][0].update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    stored = json.dumps(claims).encode()
    by_hand.lake.put(manifest, stored)
    by_hand.project.in_warehouse("UPDATE loadsheet.scope SET sealed_sha256 = %s", hashlib.sha256(stored).hexdigest())


@pytest.mark.parametrize("damage", ["removed", "cut short", "not json", "other count"])
def test_a_damaged_manifest_is_never_loaded(by_hand: ByHand, damage: str) -> None:
    load_id = by_hand.step("extract", "run").load_id
    [name] = [name for name in by_hand.project.objects() if name.endswith("manifest.json")]
    text = by_hand.lake.get(name)
    by_hand.lake.remove(name)
    if damage != "removed":
        changed = {
            "cut short": text[:-20],
            "not json": b"{",
            "other count": text.replace(b'"rows": 5000', b'"rows": 4999', 1),
        }
        by_hand.lake.put(name, changed[damage])
    with pytest.raises(Corrupt, match="run the extract step again"):
        by_hand.step("load", "run", load_id)


class DroppedAcknowledgement:
    """A TCP proxy that cuts the line as soon as a client's COMMIT has reached the server, once."""

    def __init__(self, target: tuple[str, int]):
        self._target, self._listener = target, socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.dropped = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()
            threading.Thread(target=self._ask, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            while data := _received(client):
                last = b"COMMIT\0" in data and not self.dropped
                if last:
                    self.dropped += 1
                    client.shutdown(socket.SHUT_RDWR)
                server.sendall(data)
                if last:
                    return

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        while data := _received(server):
            try:
                client.sendall(data)
            except OSError:
                return


def _received(line: socket.socket) -> bytes:
    try:
        return line.recv(65536)
    except OSError:
        return b""


@pytest.fixture
def proxy(project: Project) -> Iterator[DroppedAcknowledgement]:
    warehouse = project.connections("warehouse")
    between = DroppedAcknowledgement((warehouse.host, warehouse.port or 0))
    yield between
    between.close()


def test_a_commit_whose_answer_is_lost_counts_once(by_hand: ByHand, proxy: DroppedAcknowledgement) -> None:
    from dataclasses import replace

    def through_proxy(conn_id: str) -> Connection:
        connection = by_hand.project.connections(conn_id)
        return replace(connection, port=proxy.port) if conn_id == "warehouse" else connection

    by_hand.project.in_warehouse("CREATE SCHEMA staging")
    load_id = by_hand.step("extract", "run").load_id
    outcome = by_hand.step("load", "run", load_id, through_proxy)
    assert proxy.dropped == 1
    assert "was committed already" in outcome.message and outcome.counts["inserted"] == 5000
    assert by_hand.project.in_warehouse("SELECT count(*) FROM loadsheet.load") == [(1,)]
    assert by_hand.project.differences("item") == 0


def test_two_runs_at_once_leave_staging_equal_to_the_source(project: Project) -> None:
    project.in_source(SOURCE)
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    for _ in range(5):
        project.in_source("UPDATE item SET what = what || '.', at = clock_timestamp() WHERE id % 3 = 0")
        threads = [threading.Thread(target=project.run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        project.succeed()
        assert project.differences("item") == 0


def test_first_runs_at_once_create_the_ledger_once(project: Project) -> None:
    errors: list[Exception] = []

    def first() -> None:
        try:
            with psycopg.connect(project.warehouse, autocommit=True) as session:
                together.wait()
                ledger.ensure(session)
                tables.ensure_schema(session, "staging")
        except Exception as error:
            errors.append(error)

    for _ in range(5):
        project.in_warehouse("DROP SCHEMA IF EXISTS loadsheet, staging CASCADE")
        together = threading.Barrier(8)
        threads = [threading.Thread(target=first) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
