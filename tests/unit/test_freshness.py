"""How old something is, which is late, and the incidents that a watch makes of it: judged by pure
functions and a clock of the test's own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from loadsheet.freshness.ages import moment
from loadsheet.freshness.models import Age, Cause, Level
from loadsheet.freshness.watch import Incident, Memory, Seen, Told, after_telling, look, to_tell
from loadsheet.spec.models import FreshWithin

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
PAUSED = Cause(key="paused", text="the DAG is paused", whole=True)


def age(
    minutes: float | None,
    name: str = "orders",
    warn: timedelta | None = None,
    fail: timedelta | None = 2 * HOUR,
    cause: Cause | None = None,
    at: datetime = NOW,
    **more: Any,
) -> Age:
    return Age(
        kind="table",
        name=name,
        target=f"staging.{name}",
        limits=FreshWithin(warn=warn, fail=fail),
        as_of=None if minutes is None else at - minutes * MINUTE,
        at=at,
        cause=cause,
        **more,
    )


@pytest.mark.parametrize(
    ("minutes", "warn", "fail", "level"),
    [
        (0, 30, 120, "fresh"),
        (29.9, 30, 120, "fresh"),
        (30, 30, 120, "warn"),
        (119.9, 30, 120, "warn"),
        (120, 30, 120, "late"),
        (1e6, 30, None, "warn"),
        (30, None, 120, "fresh"),
        (120, None, 120, "late"),
        # The source's clock is ahead.
        (-10, 30, 120, "fresh"),
        (None, 30, 120, "never"),
    ],
)
def test_the_level_is_that_of_the_age(
    minutes: float | None, warn: float | None, fail: float | None, level: Level
) -> None:
    found = age(
        minutes,
        warn=None if warn is None else warn * MINUTE,
        fail=None if fail is None else fail * MINUTE,
    )
    assert found.level == level


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2026-03-01 11:00:00.5+00", datetime(2026, 3, 1, 11, 0, 0, 500_000, UTC)),
        ("2026-03-01 11:00:00", datetime(2026, 3, 1, 10, tzinfo=UTC)),
        ("2026-03-01", datetime(2026, 2, 28, 23, tzinfo=UTC)),
        ("20260301", None),
        ("12", None),
        ("infinity", None),
        ("2026-03-01x", None),
        ("12026-03-01 11:00:00+00", None),
        ("0044-03-15 00:00:00+00 BC", None),
        ("", None),
        (None, None),
    ],
)
def test_a_watermark_has_an_age_where_it_is_a_time(
    text: str | None, found: datetime | None
) -> None:
    assert moment(text, ZoneInfo("Europe/Berlin")) == found


class Watch:
    """A watch with a clock, and what it has told."""

    def __init__(self) -> None:
        self.now = NOW
        self.memory = Memory()
        self.told: list[tuple[str, Incident]] = []
        self.airflow: Cause | None = None
        self.slack_works = True

    def see(
        self,
        ages: Mapping[str, list[Age]] | None = None,
        unjudged: Mapping[str, Cause] | None = None,
    ) -> list[str]:
        """What is told now."""
        before = len(self.told)
        seen = Seen(ages=ages or {}, unjudged=unjudged or {})
        self.memory, _ = look(self.memory, seen, self.now, self._explain)
        alarms, over = to_tell(self.memory)
        if self.slack_works:
            self.told += [("alarm", one) for one in alarms] + [("over", one) for one in over]
            self.memory = after_telling(self.memory, dict.fromkeys([*alarms, *over], Told()))
        return [f"{kind} {one.key}" for kind, one in self.told[before:]]

    def shop(self, *minutes: float | None, cause: Cause | None = None) -> list[str]:
        """What is told when the tables a, b, ... of the pipeline are that old."""
        tables = [
            age(old, name, cause=cause, at=self.now)
            for name, old in zip("abcdef", minutes, strict=False)
        ]
        return self.see({"shop": tables})

    def _explain(self, pipeline: str, cause: Cause | None) -> Cause:
        return self.airflow or cause or Cause(key="idle", text="no run has started", whole=True)


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_who_could_not_be_told_is_told_later_or_hears_of_no_end(watch: Watch) -> None:
    seen = Seen(ages={"shop": [age(121, "a", at=NOW)]})
    memory, _ = look(Memory(), seen, NOW, watch._explain)
    ((alarm,), _) = to_tell(memory)
    memory = after_telling(memory, {alarm: Told(places=["pager"], is_complete=False)})
    ((alarm,), _) = to_tell(memory)
    assert alarm.places == ("pager",)
    fresh = Seen(ages={"shop": [age(5, "a", at=NOW)]})
    over, _ = look(memory, fresh, NOW, watch._explain)
    (none, (end,)) = to_tell(over)
    assert not none and end.places == () and end.heard == ("pager",)
    memory = after_telling(memory, {alarm: Told(places=["pager", "team"])})
    assert to_tell(memory) == ([], [])
    over, _ = look(memory, fresh, NOW, watch._explain)
    (_, (end,)) = to_tell(over)
    assert end.places == () and end.heard == ("pager", "team")


def test_an_incident_has_one_alarm_and_one_message_at_its_end(watch: Watch) -> None:
    told = [watch.shop(old) for old in (5, 119, 120, 125, 500, 5, 5, 121)]
    assert told == [[], [], ["alarm idle"], [], [], ["over idle"], [], ["alarm idle"]]
    assert watch.told[1][1].affected == ("staging.a",)


def test_tables_that_become_late_one_after_the_other_are_one_incident(watch: Watch) -> None:
    watch.airflow = PAUSED
    told = [watch.shop(*old) for old in ((120, 5, 5), (125, 120, 5), (1, 130, 120), (6, 1, 1))]
    assert told == [["alarm paused"], [], [], ["over paused"]]
    assert watch.told[1][1].affected == ("staging.a", "staging.b", "staging.c")


def test_what_is_late_stays_in_its_incident_while_its_cause_changes(watch: Watch) -> None:
    watch.shop(120, cause=Cause(key="failed x", text="load of a failed"))
    watch.airflow = PAUSED
    assert watch.shop(150) == []
    watch.airflow = None
    assert watch.shop(180) == []
    assert watch.shop(0) == ["over failed x"]


def test_two_causes_are_two_incidents(watch: Watch) -> None:
    failed = Cause(key="failed x", text="load of a failed")
    held = Cause(key="held", text="held back by pid 7")

    def see(first: float, second: float) -> list[str]:
        return watch.see({"shop": [age(first, "a", cause=failed), age(second, "b", cause=held)]})

    assert see(121, 5) == ["alarm failed x"]
    assert see(125, 120) == ["alarm held"]
    assert see(5, 125) == ["over failed x"]
    assert see(5, 5) == ["over held"]


def test_two_pipelines_are_two_incidents(watch: Watch) -> None:
    watch.airflow = PAUSED
    assert watch.see({"shop": [age(121)], "till": [age(5)]}) == ["alarm paused"]
    assert watch.see({"shop": [age(125)], "till": [age(121)]}) == ["alarm paused"]
    assert watch.see({"shop": [age(5)], "till": [age(126)]}) == ["over paused"]


def test_what_was_never_loaded_is_late_from_when_it_was_first_seen(watch: Watch) -> None:
    assert watch.shop(None) == []
    watch.now += 119 * MINUTE
    assert watch.shop(None) == []
    watch.now += MINUTE
    assert watch.shop(None) == ["alarm idle"]
    watch.now += 5 * MINUTE
    assert watch.shop(1) == ["over idle"]


DIFFERS = Cause(key="differs", text="2 rows differ", own=True)


def test_rows_that_differ_are_late_at_any_age_and_fresh_when_they_are_equal_again(
    watch: Watch,
) -> None:
    def see(differs: bool) -> list[str]:
        cause = DIFFERS if differs else None
        return watch.see({"shop": [age(1, of="verify", differs=differs, cause=cause)]})

    told = [see(differs) for differs in (False, True, True, False, False)]
    assert told == [[], ["alarm differs"], [], ["over differs"], []]


def test_rows_that_differ_are_an_incident_of_their_own_while_the_dag_is_paused(
    watch: Watch,
) -> None:
    def see(*, late: bool, differs: bool) -> list[str]:
        rows = age(121 if late else 1, cause=PAUSED)
        proof = age(1, "orders (verify)", of="verify", differs=differs, cause=DIFFERS)
        return watch.see({"shop": [rows, proof]})

    assert see(late=True, differs=False) == ["alarm paused"]
    assert see(late=True, differs=True) == ["alarm differs"]
    assert see(late=False, differs=True) == ["over paused"]
    assert see(late=False, differs=False) == ["over differs"]


@pytest.mark.parametrize("key", ["gone", "broken", "warehouse"])
def test_a_pipeline_that_cannot_be_judged_is_late_when_its_first_promise_is(
    watch: Watch, key: str
) -> None:
    cause = Cause(key=key, text="cannot be judged", whole=True)
    watch.shop(20, 50)
    told = []
    for _ in range(5):
        watch.now += 35 * MINUTE
        told.append(watch.see(unjudged={"shop": cause}))
    # 50 minutes old, and late 70 minutes later.
    assert told == [[], [f"alarm {key}"], [], [], []]
    assert watch.told[0][1].targets == ("staging.b",)
    # The other table became late meanwhile, and nothing was loaded yet: the same incident.
    assert watch.shop(195, 225) == []
    assert watch.shop(200, 1) == []
    assert watch.shop(1, 1) == [f"over {key}"]


def test_a_pipeline_that_promises_nothing_any_more_is_forgotten(watch: Watch) -> None:
    watch.shop(121)
    assert watch.see({}) == [] and watch.memory == Memory()


def test_a_table_that_leaves_the_file_ends_its_incident_silently(watch: Watch) -> None:
    watch.shop(121, 1)
    assert watch.see({"shop": [age(1, "b")]}) == []
    assert watch.memory.incidents == ()


def test_a_message_that_could_not_be_sent_is_sent_later_and_once(watch: Watch) -> None:
    watch.slack_works = False
    assert watch.shop(121) == watch.shop(125) == []
    watch.slack_works = True
    assert [watch.shop(130), watch.shop(135)] == [["alarm idle"], []]
    watch.slack_works = False
    assert watch.shop(1) == []
    watch.slack_works = True
    assert [watch.shop(1), watch.shop(1)] == [["over idle"], []]


def test_an_incident_that_was_over_before_it_could_be_told_is_never_told(watch: Watch) -> None:
    watch.slack_works = False
    watch.shop(121)
    watch.shop(1)
    watch.slack_works = True
    assert watch.shop(1) == []


# A simulation: pipelines with tables that runs make younger, and incidents that keep them from it.


@dataclass
class Table:
    """A table and what keeps it from being loaded."""

    as_of: datetime
    limit: timedelta
    cause: Cause | None = None
    proof: Cause | None = None
    """Why it is not proven to be equal: it differs, or nothing compares it any more."""
    compared: datetime = NOW


KINDS = ("paused", "gone", "broken", "warehouse", "idle", "failed", "held", "differs", "unverified")
WHOLE = {kind: Cause(key=kind, text=kind, whole=True) for kind in KINDS[:5]}


class World:
    """One pipeline whose runs come every 20 minutes; the watch looks every 10."""

    def __init__(self, chance: random.Random):
        self.chance = chance
        self.watch = Watch()
        limits = [HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR]
        self.tables = {name: Table(self.watch.now, chance.choice(limits)) for name in "abcde"}
        self.stopped: Cause | None = None
        self.naive = 0
        """The alarms of a watch that tells of all that is late whenever it looks."""

    def live(self, minutes: int) -> list[str]:
        """What is told in that time."""
        told: list[str] = []
        for _ in range(minutes // 10):
            self.watch.now += 10 * MINUTE
            self._run()
            told += self._look()
        return told

    def _run(self) -> None:
        if self.watch.now.minute % 20 or self.stopped:
            return
        for table in self.tables.values():
            if table.cause is None:
                # A run takes a while, and some tables are held back for a moment.
                table.as_of = self.watch.now - self.chance.uniform(0, 10) * MINUTE
            if table.proof is None or table.proof.own:
                table.compared = self.watch.now

    def _look(self) -> list[str]:
        ages = []
        for name, table in self.tables.items():
            limits = FreshWithin(fail=table.limit)
            one = age(0, name, cause=table.cause, at=self.watch.now)
            ages.append(replace(one, as_of=table.as_of, limits=limits))
            differs = table.proof is not None and table.proof.own
            proof = age(0, f"{name} (verify)", cause=table.proof, at=self.watch.now, of="verify")
            limits = FreshWithin(fail=4 * HOUR)
            ages.append(replace(proof, as_of=table.compared, limits=limits, differs=differs))
        self.naive += sum(one.level == "late" for one in ages)
        self.watch.airflow = self.stopped
        if self.stopped and self.stopped.key in ("gone", "broken", "warehouse"):
            return self.watch.see(unjudged={"shop": self.stopped})
        return self.watch.see({"shop": ages})


def test_of_1000_incidents_each_has_one_alarm_and_there_is_none_while_all_is_well() -> None:
    chance = random.Random(19)
    world = World(chance)
    alarms: Counter[str] = Counter()
    for number in range(1000):
        kind = chance.choice(KINDS)
        assert world.live(chance.randrange(20, 60)) == [], f"all is well before incident {number}"
        hit = list(world.tables.values())
        if kind in WHOLE:
            world.stopped = WHOLE[kind]
        else:
            # One cause may hit several tables.
            hit = chance.sample(hit, chance.randrange(1, 4))
            for table in hit:
                if kind in ("differs", "unverified"):
                    table.proof = Cause(key=kind, text=kind, own=kind == "differs")
                else:
                    table.cause = Cause(key=kind, text=kind)
        # Long enough for all that it hits to be late, and some of it at other times than the rest.
        told = world.live(chance.choice([270, 270, 400]))
        assert told == [f"alarm {kind}"], f"incident {number}"
        alarms[kind] += 1
        world.stopped = None
        for table in hit:
            table.cause = table.proof = None
        assert world.live(60) == [f"over {kind}"], f"the end of incident {number}"
    assert alarms.total() == 1000 and set(alarms) == set(KINDS)
    # The control: without incidents there would be a message for each table at each look.
    assert world.naive > 20_000
