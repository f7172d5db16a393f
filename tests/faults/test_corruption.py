"""Objects in the lake that are not what was stored: every change is noticed before anything is
committed."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
import zstandard

from loadsheet.engine import load as load_step
from loadsheet.errors import Corrupt
from loadsheet.lake import parts
from loadsheet.lake.manifest import Manifest, read_manifest
from tests.byhand import ByHand
from tests.faults.oracle import Verdict, judge, violations, watermark_violations
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.project import Project

SOURCE = """
CREATE TABLE item (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 700) i;
CREATE TABLE other AS SELECT * FROM item;
ALTER TABLE other ADD PRIMARY KEY (id);
"""
CHANGE = "UPDATE {table} SET what = repeat(md5(what), 20), at = clock_timestamp()"
TABLES = {"item": {"incremental": "at"}, "other": {"incremental": "at"}}
STATE = """
SELECT (SELECT md5(string_agg(s::text, ',' ORDER BY table_name)) FROM loadsheet.scope s),
       (SELECT md5(string_agg(l::text, ',' ORDER BY load_no)) FROM loadsheet.load l),
       (SELECT md5(string_agg(i::text, ',' ORDER BY id)) FROM staging.item i),
       (SELECT array_agg(relname ORDER BY relname) FROM pg_class
        WHERE relnamespace = 'staging'::regnamespace)
"""
HEAL_EVERY = scaled(15, 50)
FAULT = "objects of the lake truncated, flipped, swapped, replayed, edited, removed"


@dataclass
class Attempts:
    """An attempt of `item` that is not loaded yet, and what else lies in the lake: older ones,
    another table's."""

    by_hand: ByHand
    looking: psycopg.Connection
    load_id: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    """Of the attempt: its parts in order, then its manifest."""
    older: list[bytes] = field(default_factory=list)
    """Of the attempt of the load before, in the same order."""
    foreign: list[bytes] = field(default_factory=list)

    def renew(self) -> None:
        """Another extraction; the one before it becomes the older one."""
        for table in TABLES:
            self.by_hand.project.in_source(CHANGE.format(table=table))
        before = self.by_hand.project.objects()
        self.by_hand.step("extract", f"run {len(before)}", name="other")
        foreign = self._stored(before)
        before = self.by_hand.project.objects()
        self.load_id = self.by_hand.step("extract", f"run {len(before)}").load_id or ""
        self.older, self.objects = list(self.objects.values()), self._stored(before)
        self.foreign = list(foreign.values())
        assert len(self.objects) > 3

    def _stored(self, before: set[str]) -> dict[str, bytes]:
        names = sorted(
            self.by_hand.project.objects() - before, key=lambda name: (name.endswith(".json"), name)
        )
        return {name: self.by_hand.lake.get(name, 1 << 30) or b"" for name in names}

    @property
    def parts(self) -> list[str]:
        """The names of the attempt's parts."""
        return [name for name in self.objects if "part-" in name]

    @property
    def manifest(self) -> str:
        """The name of the attempt's manifest."""
        return list(self.objects)[-1]

    def put(self, changed: dict[str, bytes | None]) -> None:
        """Store these objects; None removes."""
        for name, data in changed.items():
            self.by_hand.lake.remove(name) if data is None else self.by_hand.lake.put(name, data)

    def load(self) -> None:
        """The load step."""
        self.by_hand.step("load", "run", self.load_id)

    def state(self) -> tuple[Any, ...] | None:
        """The ledger and staging."""
        return self.looking.execute(STATE).fetchone()


Mutation = Callable[[Attempts, random.Random], dict[str, bytes | None]]


def altered(change: Callable[[bytes, random.Random], bytes | None]) -> Mutation:
    """A mutation of any one object by its bytes alone."""

    def mutate(attempts: Attempts, chance: random.Random) -> dict[str, bytes | None]:
        name = chance.choice(list(attempts.objects))
        return {name: change(attempts.objects[name], chance)}

    return mutate


def flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def inserted(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.randbytes(chance.choice([1, 1, 7, 4096])) + data[place:]


def cut_between_rows(data: bytes, chance: random.Random) -> bytes:
    """Recompressed without its last rows: nothing in the object itself tells."""
    text = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return zstandard.ZstdCompressor().compress(text[: chance.randrange(len(text))])


def swapped(attempts: Attempts, chance: random.Random) -> dict[str, bytes | None]:
    one, two = chance.sample(attempts.parts, 2)
    return {one: attempts.objects[two], two: attempts.objects[one]}


def in_place_of(
    attempts: Attempts, chance: random.Random, others: list[bytes]
) -> dict[str, bytes | None]:
    """One object of another attempt (a part for a part, the manifest for the manifest), or all of
    them."""
    names, place = list(attempts.objects), chance.randrange(len(attempts.parts))
    how = chance.choice(["all", "the manifest", "the same part", "another part"])
    if how == "all" and len(others) == len(names):
        return dict(zip(names, others, strict=True))
    if how == "the manifest":
        return {attempts.manifest: others[-1]}
    return {
        attempts.parts[place]: (
            others[place] if how == "the same part" else chance.choice(others[:-1])
        )
    }


def replayed(attempts: Attempts, chance: random.Random) -> dict[str, bytes | None]:
    return in_place_of(attempts, chance, attempts.older)


def taken_from_another_table(attempts: Attempts, chance: random.Random) -> dict[str, bytes | None]:
    return in_place_of(attempts, chance, attempts.foreign)


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "rows": lambda m: m.update(rows=m["rows"] - 1),
    "one part fewer": lambda m: m["parts"].pop(),
    "one part twice": lambda m: m.update(parts=m["parts"] + m["parts"][:1]),
    "parts in another order": lambda m: m["parts"].reverse(),
    "a later upper cursor": lambda m: m.update(upper="2999-01-01 00:00:00+00"),
    "an earlier upper cursor": lambda m: m.update(upper="1999-01-01 00:00:00+00"),
    "the watermark stays": lambda m: m.update(moves_watermark=False),
    "the key": lambda m: m.update(key=["what"]),
    "no key": lambda m: m.update(key=[], action="append"),
    "replace for merge": lambda m: m.update(action="replace"),
    "a type": lambda m: m["columns"][1].update(type="character varying(40)"),
    "the columns' order": lambda m: m["columns"].reverse(),
    "the format": lambda m: m.update(format={"binary": "csv", "csv": "binary"}[m["format"]]),
    "the fence": lambda m: m.update(fence=m["fence"] + 1),
    "the load": lambda m: m.update(load_id="0" * 20),
    "the content": lambda m: m.update(content_sha256="0" * 64),
    "the moment of reading": lambda m: m.update(read_at="1999-01-01 00:00:00+00"),
    "the version": lambda m: m.update(version=m["version"] + 1),
}


def edited(attempts: Attempts, chance: random.Random) -> dict[str, bytes | None]:
    """Valid JSON, and mostly a manifest that adds up."""
    claims = json.loads(attempts.objects[attempts.manifest])
    EDITS[chance.choice(list(EDITS))](claims)
    return {attempts.manifest: json.dumps(claims, indent=1, ensure_ascii=False).encode()}


MUTATIONS: dict[str, Mutation] = {
    "truncate": altered(lambda data, chance: data[: chance.randrange(len(data))]),
    "flip a bit": altered(flipped),
    "insert bytes": altered(inserted),
    "empty": altered(lambda data, chance: b""),
    "delete": altered(lambda data, chance: None),
    "cut between rows": lambda a, chance: {
        (name := chance.choice(a.parts)): cut_between_rows(a.objects[name], chance)
    },
    "swap two parts": swapped,
    "another table's": taken_from_another_table,
    "an older one's": replayed,
    "edit the manifest": edited,
}


@pytest.fixture
def attempts(
    project: Project, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Attempts]:
    """Loaded once, and extracted twice since: small parts, so that there are several."""
    monkeypatch.setattr(parts, "PART_BYTES", 1_000)
    monkeypatch.setattr(parts, "BLOCK_BYTES", 8_000)
    by_hand = ByHand(project, SOURCE, dict(TABLES))
    by_hand.spec(lake={"format": getattr(request, "param", "binary")})
    for name in TABLES:
        by_hand.step(
            "load", "first", by_hand.step("extract", "first", name=name).load_id, name=name
        )
    with psycopg.connect(project.warehouse, autocommit=True) as looking:
        attempts = Attempts(by_hand, looking)
        attempts.renew()
        attempts.renew()
        yield attempts


@pytest.mark.timeout(scaled(600, 7200))
@pytest.mark.parametrize("attempts", ["binary", "csv"], indirect=True)
def test_every_mutation_of_the_lake_is_noticed_and_none_committed(
    attempts: Attempts, chance: random.Random, tally: Callable[[str], Tally]
) -> None:
    line = tally(FAULT)
    project, before = attempts.by_hand.project, attempts.state()
    for number in range(scaled(30, 500)):
        kind = list(MUTATIONS)[number % len(MUTATIONS)]
        changed = MUTATIONS[kind](attempts, chance)
        touched = {name: data for name, data in changed.items() if data != attempts.objects[name]}
        assert touched, kind
        attempts.put(touched)
        with pytest.raises(Corrupt, match="run the extract step again") as error:
            attempts.load()
        assert any(name in str(error.value) for name in touched), (kind, error.value)
        assert attempts.state() == before, kind
        line.add(Verdict(rows=0))
        if number % HEAL_EVERY == HEAL_EVERY - 1:
            again = attempts.by_hand.both(f"heal {number}")
            line.add(judge(project, "item"), tried=0)
            assert again.counts["extracted"] and not (line.lost or line.doubled)
            attempts.renew()
            before = attempts.state()
        else:
            attempts.put({name: attempts.objects[name] for name in touched})
    attempts.load()
    line.add(judge(project, "item"), tried=0)
    assert not (line.lost or line.doubled)
    assert violations(project) == [] == watermark_violations(project, "item", "at")


def test_every_edit_of_a_manifest_is_noticed(attempts: Attempts) -> None:
    before = attempts.state()
    for edit in EDITS.values():
        claims = json.loads(attempts.objects[attempts.manifest])
        edit(claims)
        attempts.put({attempts.manifest: json.dumps(claims, indent=1, ensure_ascii=False).encode()})
        with pytest.raises(Corrupt, match="is not what was stored; run the extract step again"):
            attempts.load()
        assert attempts.state() == before


def test_without_the_seal_an_edited_manifest_is_committed(
    attempts: Attempts, tally: Callable[[str], Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a manifest that only has to agree with itself moves the watermark past
    the data."""

    def unsealed(stored: bytes | None, name: str, sha256: str) -> Manifest:
        return read_manifest(stored, name, hashlib.sha256(stored or b"").hexdigest())

    monkeypatch.setattr(load_step, "read_manifest", unsealed)
    claims = json.loads(attempts.objects[attempts.manifest])
    EDITS["a later upper cursor"](claims)
    attempts.put({attempts.manifest: json.dumps(claims).encode()})
    attempts.load()
    assert watermark_violations(attempts.by_hand.project, "item", "at")
    tally(FAULT).control("no seal: the watermark is past the data")


def test_without_the_hashes_of_parts_older_rows_are_committed(
    attempts: Attempts, tally: Callable[[str], Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: PostgreSQL takes whatever has the right number of rows."""

    monkeypatch.setattr(parts, "fetch", lambda lake, part: lake.get(part.name, 1 << 30))
    attempts.put({attempts.parts[0]: attempts.older[0]})
    attempts.load()
    verdict = judge(attempts.by_hand.project, "item")
    assert verdict
    tally(FAULT).control(f"no hashes: {verdict.lost} of {verdict.rows} rows stale")
