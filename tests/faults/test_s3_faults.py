"""A lake that answers 5xx, slowly, short, or not at all; and one that stores less than it was
given."""

from __future__ import annotations

import io
import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from minio import Minio

from loadsheet.errors import Corrupt, Refused, TimedOut, Unavailable
from tests.faults.changing import Changing, errors
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.faults.unruly import Decide, Trouble, Unruly
from tests.project import Project

Line = Callable[[str], Tally]


@dataclass
class World(Changing):
    """A project whose lake is behind an unruly neighbour."""

    s3: Unruly = field(kw_only=True)

    def trouble(self, decide: Decide) -> None:
        """New rows in the source; from now on the neighbour does as `decide` says."""
        self.change()
        self.s3.obey()
        self.s3.decide = decide

    def recover(self, line: Tally) -> None:
        """A run without trouble, after which staging equals the source."""
        hit = self.s3.troubled
        self.s3.obey()
        self.succeed()
        line.add(*self.judge(), hit=min(hit, 1))


@pytest.fixture
def world(project: Project) -> Iterator[World]:
    with Unruly(project.s3) as s3:
        yield World(project, {"lake": s3.port}, s3=s3)


def first(times: int, trouble: Trouble) -> Decide:
    """`trouble` for the first requests to each method and path."""
    seen: dict[tuple[str, str], int] = {}

    def decide(method: str, path: str) -> Trouble | None:
        seen[method, path] = seen.get((method, path), 0) + 1
        return trouble if seen[method, path] <= times else None

    return decide


def test_a_lake_that_fails_a_few_times_heals_within_the_run(world: World, tally: Line) -> None:
    for status in (429, 500, 502, 503, 504):
        world.trouble(first(scaled(1, 2), Trouble("status", status)))
        world.succeed()
        world.recover(tally("lake: 5xx or 429 to the first tries of every request"))


DISCONNECTED = b"""<?xml version="1.0" encoding="UTF-8"?><Error><Code>ClientDisconnected</Code>
<Message>Client disconnected before response was ready</Message></Error>"""
FULL = b"""<?xml version="1.0" encoding="UTF-8"?><Error><Code>XMinioAdminBucketQuotaExceeded</Code>
<Message>Bucket quota exceeded</Message></Error>"""


def test_a_line_that_the_lake_calls_broken_is_tried_again(world: World, tally: Line) -> None:
    """MinIO's own status, 499: before, it was never tried again, neither at once nor later."""
    world.trouble(first(1, Trouble("status", 499, body=DISCONNECTED)))
    world.succeed()
    assert world.s3.troubled > 4
    world.recover(tally("lake: 5xx or 429 to the first tries of every request"))
    world.trouble(lambda method, path: Trouble("status", 499, body=DISCONNECTED))
    [error] = errors(world.run())
    assert isinstance(error, Unavailable) and error.code == "S3 ClientDisconnected"
    assert world.is_as_before()
    world.recover(tally("lake: 5xx or 429 for ever"))


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (200, "text/html", b"<html><body>Please log in</body></html>"),
        (200, "application/xml", b""),
        (403, "application/xml", b"<Error><Code>"),
    ],
)
def test_an_answer_that_is_not_of_s3_is_called_so(
    world: World, tally: Line, status: int, kind: str, body: bytes
) -> None:
    """It was a traceback of the XML parser."""
    answer = Trouble("status", status, {"Content-Type": kind}, body)
    world.trouble(lambda method, path: answer if method == "GET" else None)
    assert errors(world.run())
    world.recover(tally("lake: answers that are not of S3"))


def test_a_bucket_that_is_full_is_called_so(world: World, tally: Line) -> None:
    full = Trouble("status", 400, body=FULL)
    world.trouble(lambda method, path: full if method == "PUT" else None)
    found = errors(world.run())
    assert len(found) == len(world.tables)
    for error in found:
        assert isinstance(error, Unavailable) and "A quota of the lake is used up" in str(error)
    assert world.is_as_before()
    world.recover(tally("lake: 5xx or 429 for ever"))


def test_a_lake_that_fails_for_ever_is_named_and_nothing_changes(world: World, tally: Line) -> None:
    for status in (429, 503):
        world.trouble(lambda method, path, status=status: Trouble("status", status))  # type: ignore[misc]
        started = time.monotonic()
        [error] = errors(world.run())
        assert isinstance(error, Unavailable) and error.code == "S3 SlowDown"
        assert time.monotonic() - started < 15
        assert world.is_as_before()
        world.recover(tally("lake: 5xx or 429 for ever"))


def test_the_lake_s_own_words_are_told(world: World, tally: Line) -> None:
    world.trouble(lambda method, path: Trouble("status") if method == "PUT" else None)
    found = errors(world.run())
    assert len(found) == len(world.tables) and all(
        isinstance(error, Unavailable) for error in found
    )
    assert {error.code for error in found} == {"S3 SlowDown"} and "reduce your request rate" in str(
        found[0]
    )
    assert world.is_as_before()
    world.recover(tally("lake: 5xx or 429 for ever"))


def test_a_lake_that_asks_for_a_pause_gets_it(world: World) -> None:
    pause = first(1, Trouble("status", 503, {"Retry-After": "1"}))
    is_first = "?delimiter=&list-type=2"
    world.trouble(lambda method, path: pause(method, path) if is_first in path else None)
    results = world.run()
    assert errors(results) == []
    assert results["create_bucket"].seconds >= 1


def test_a_pause_is_never_longer_than_the_step_may_take(world: World) -> None:
    world.trouble(lambda method, path: Trouble("status", 503, {"Retry-After": "3600"}))
    started = time.monotonic()
    [error] = errors(world.run(timeout=1))
    assert isinstance(error, TimedOut) and "tasks.timeout" in str(error)
    assert time.monotonic() - started < 10
    assert world.is_as_before()


def test_a_slow_lake_is_waited_for_until_the_step_s_time_is_up(world: World, tally: Line) -> None:
    world.trouble(lambda method, path: Trouble("slow", seconds=0.2))
    world.succeed()
    world.judge()
    world.recover(tally("lake: slow answers"))
    world.trouble(lambda method, path: Trouble("slow", seconds=6) if "part-" in path else None)
    found = errors(world.run(timeout=1))
    assert found and all(isinstance(error, TimedOut) for error in found)
    assert world.is_as_before()
    world.recover(tally("lake: slow answers"))


def test_a_request_whose_answer_is_lost_may_be_sent_again(world: World, tally: Line) -> None:
    world.trouble(first(1, Trouble("lost")))
    world.succeed()
    world.judge()
    assert world.s3.troubled > 4
    world.recover(tally("lake: the answer of every request lost once"))


def test_an_answer_that_ends_early_is_noticed(world: World, tally: Line) -> None:
    for kind, what in (("short", "the answer's own length"), ("shortened", "the manifest")):
        world.trouble(
            lambda method, path, kind=kind: (
                Trouble(kind) if method == "GET" and "part-" in path else None
            )
        )
        found = errors(world.run())
        assert len(found) == len(world.tables) and not any(
            isinstance(error, Refused) for error in found
        ), found
        assert all(isinstance(error, Corrupt) for error in found) == (kind == "shortened")
        assert world.is_as_before()
        world.recover(tally(f"lake: an object cut short, seen by {what}"))


def test_any_answer_cut_in_half_is_worth_another_try(world: World, tally: Line) -> None:
    """Half of a listing was taken for a login page, and the step for one that cannot be mended."""
    world.trouble(lambda method, path: None)
    world.succeed()
    count = len(world.s3.requests)
    for number in range(1, count + 1):
        asked = itertools.count(1)

        def cut(method: str, path: str, number: int = number, asked: Iterator[int] = asked) -> Any:
            return Trouble("shortened") if next(asked) == number else None

        world.trouble(cut)
        found = errors(world.run())
        assert not any(isinstance(error, Refused) for error in found), found
        world.recover(tally("lake: one answer cut in half, under a length that fits"))


def test_an_object_that_was_not_stored_whole_is_never_loaded(world: World, tally: Line) -> None:
    world.trouble(
        lambda method, path: Trouble("truncated") if method == "PUT" and "part-" in path else None
    )
    found = errors(world.run())
    assert (
        world.s3.troubled
        and len(found) == len(world.tables)
        and all(isinstance(error, Corrupt) for error in found)
    )
    assert world.is_as_before()
    world.recover(tally("lake: half of each object stored, and called good"))


def test_the_server_alone_takes_half_an_object_for_a_whole_one(world: World, tally: Line) -> None:
    """The negative control: the SDK is content with what it stored and what it reads back."""
    client = Minio(
        f"127.0.0.1:{world.s3.port}",
        access_key=world.project.s3.access_key,
        secret_key=world.project.s3.secret_key,
        secure=False,
    )
    world.s3.decide = lambda method, path: Trouble("truncated") if method == "PUT" else None
    client.put_object(world.project.bucket, "naive", io.BytesIO(b"1\n2\n3\n4\n"), 8)
    assert client.get_object(world.project.bucket, "naive").data == b"1\n2\n"
    tally("lake: half of each object stored, and called good").control("lost 2 of 4 rows")


@pytest.mark.timeout(scaled(600, 7200))
def test_any_trouble_with_any_request_loses_no_row(
    world: World, chance: random.Random, tally: Line
) -> None:
    line = tally("lake: random trouble with a third of all requests")
    kinds = [
        *(Trouble("status", status) for status in (429, 500, 502, 503, 504)),
        Trouble("lost"),
        Trouble("short"),
    ]
    kinds += [Trouble("shortened"), Trouble("truncated"), Trouble("slow", seconds=0.1)]
    for _ in range(scaled(2, 200)):
        world.trouble(lambda method, path: chance.choice(kinds) if chance.random() < 0.3 else None)
        found = errors(world.run())
        assert not any(isinstance(error, Refused) for error in found), found
        world.judge_what_changed()
        world.recover(line)
