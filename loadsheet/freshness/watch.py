"""The incidents that make tables and marts late: each has one alarm, and one message at its end.

An incident belongs to a pipeline and has one cause: a paused DAG makes many tables late, one after
the other, and is one incident. What is late stays in its incident until it is fresh, also where the
cause changes meanwhile. What is late later joins an open incident with the same cause, or one that
keeps the whole pipeline from being loaded. Rows that differ from their source join neither: a
paused DAG is no reason for them.

`look` is a function of what was remembered, what is seen now, and the time: it reads nothing and
sends nothing. A pipeline that cannot be judged now, because its file or its warehouse is gone, is
late when the first of its promises is broken: what was remembered tells when that is, as nothing
loads it meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from loadsheet.freshness.models import Age, Cause

Explain = Callable[[str, Cause | None], Cause]
"""Why a pipeline is late: from its name, and from what the ledger tells about one target."""


@dataclass(frozen=True, kw_only=True)
class Late:
    """A target that is late."""

    pipeline: str
    target: str
    age: timedelta | None
    """None for one that was never loaded or built."""
    limit: timedelta
    cause: Cause | None


@dataclass(frozen=True, kw_only=True)
class Incident:
    """What has made targets of a pipeline late."""

    pipeline: str
    key: str
    cause: str
    since: datetime
    """When the first of its targets was found late."""
    targets: tuple[str, ...]
    """Those that are late now."""
    affected: tuple[str, ...]
    """All that it has made late."""
    whole: bool = False
    """Whether it keeps the whole pipeline from being loaded."""
    told: bool = False
    """Whether its alarm was sent."""
    places: tuple[str, ...] = ()
    """Those that were told of what it is now, while others could not be."""
    heard: tuple[str, ...] = ()
    """Those that have its alarm, and are to be told of its end."""
    over: bool = False
    """Whether none of its targets is late any more; then it has no targets."""
    threads: Mapping[str, Mapping[str, str]] = field(default_factory=dict, hash=False)
    """By the places of routes: where the message about its end follows that of its alarm."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What became of the message about an incident."""

    places: Sequence[str] = ()
    """Those that have it, also from an earlier look."""
    is_complete: bool = True
    """Whether none is left that is to be told."""
    threads: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Those that it has begun, by the places of routes."""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What is remembered of a pipeline, to judge it without its file and its warehouse."""

    due: datetime | None
    """When the first of its targets is late; None where that is not known."""
    target: str = ""
    """That target."""
    limit: timedelta | None = None
    missing: Mapping[str, datetime] = field(default_factory=dict)
    """The targets that were never loaded or built, and since when that is known."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What one look leaves to the next."""

    promises: Mapping[str, Promise] = field(default_factory=dict)
    """By pipeline."""
    incidents: tuple[Incident, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a look sees: the ages of each pipeline that can be judged, and why another cannot. A
    pipeline that is in neither is forgotten."""

    ages: Mapping[str, Iterable[Age]]
    unjudged: Mapping[str, Cause] = field(default_factory=dict)


def look(memory: Memory, seen: Seen, now: datetime, explain: Explain) -> tuple[Memory, list[Late]]:
    """What to remember from now on, whose incidents have what is to be told (`to_tell`), and all
    that is late."""
    incidents = [one for one in memory.incidents if _is_known(one.pipeline, seen)]
    promises: dict[str, Promise] = {}
    found: list[Late] = []
    for name, ages in seen.ages.items():
        judged = list(ages)
        promises[name] = _promise(judged, memory.promises.get(name), now)
        late = list(_late(name, judged, promises[name], now))
        incidents = _with_late(incidents, name, late, {age.target for age in judged}, now, explain)
        found += late
    for name, cause in seen.unjudged.items():
        promise = memory.promises.get(name)
        if promise is None:
            continue
        promises[name] = promise
        is_open = any(one.pipeline == name and not one.over for one in incidents)
        if promise.due and promise.due <= now and promise.limit and not is_open:
            late = [
                Late(
                    pipeline=name,
                    target=promise.target,
                    age=now - promise.due + promise.limit,
                    limit=promise.limit,
                    cause=cause,
                )
            ]
            incidents = _with_late(incidents, name, late, set(), now, _as_given)
            found += late
    return Memory(promises=promises, incidents=tuple(incidents)), found


def to_tell(memory: Memory) -> tuple[list[Incident], list[Incident]]:
    """The incidents whose alarm is to be sent, and those of which is to be told that they are
    over."""
    alarms = [one for one in memory.incidents if not one.told and not one.over]
    over = [one for one in memory.incidents if one.told and one.over]
    return alarms, over


def after_telling(memory: Memory, told: Mapping[Incident, Told]) -> Memory:
    """The memory once messages about these incidents were sent. What they have not reached is for
    the next look."""
    left: list[Incident] = []
    for one in memory.incidents:
        news = told.get(one)
        if news is None:
            left.append(one)
            continue
        threads = {**one.threads, **news.threads}
        if not news.is_complete:
            left.append(replace(one, places=tuple(news.places), threads=threads))
        elif not one.over:
            heard = tuple(news.places)
            left.append(replace(one, told=True, places=(), heard=heard, threads=threads))
    return replace(memory, incidents=tuple(left))


def _as_given(_: str, cause: Cause | None) -> Cause:
    assert cause
    return cause


def _is_known(pipeline: str, seen: Seen) -> bool:
    return pipeline in seen.ages or pipeline in seen.unjudged


def _promise(ages: list[Age], before: Promise | None, now: datetime) -> Promise:
    missing: dict[str, datetime] = {}
    first: tuple[datetime, Age] | None = None
    for age in ages:
        due = age.due
        if age.as_of is None and age.limits.fail:
            since = before.missing.get(age.target, now) if before else now
            missing[age.target] = since
            due = since + age.limits.fail
        if due and (first is None or due < first[0]):
            first = (due, age)
    if first is None:
        return Promise(due=None)
    due, age = first
    return Promise(due=due, target=age.target, limit=age.limits.fail, missing=missing)


def _late(pipeline: str, ages: list[Age], promise: Promise, now: datetime) -> Iterable[Late]:
    for age in ages:
        limit = age.limits.fail
        if limit is None:
            continue
        is_missing = age.as_of is None and promise.missing[age.target] + limit <= now
        if is_missing or age.level == "late":
            yield Late(
                pipeline=pipeline, target=age.target, age=age.age, limit=limit, cause=age.cause
            )


def _with_late(
    incidents: list[Incident],
    pipeline: str,
    late: list[Late],
    judged: set[str],
    now: datetime,
    explain: Explain,
) -> list[Incident]:
    """The incidents, with what is late now in the pipeline. Of the targets that are `judged`, those
    that are not late have recovered."""
    names = {one.target for one in late}
    kept: list[Incident] = []
    covered: set[str] = set()
    for incident in incidents:
        if incident.pipeline != pipeline or incident.over:
            kept.append(incident)
            continue
        targets = tuple(name for name in incident.targets if name in names)
        covered.update(targets)
        if targets:
            kept.append(replace(incident, targets=targets))
        # What is no longer promised has not recovered, and of what was never told, nothing is.
        elif (incident.told or incident.places) and judged.intersection(incident.targets):
            heard = incident.heard if incident.told else incident.places
            end = replace(incident, targets=(), told=True, places=(), heard=heard, over=True)
            kept.append(end)
    causes: dict[str, Cause] = {}
    added: dict[str, list[str]] = {}
    for one in late:
        if one.target not in covered:
            cause = explain(pipeline, one.cause)
            causes.setdefault(cause.key, cause)
            added.setdefault(cause.key, []).append(one.target)
    for key, cause in causes.items():
        kept = _with_more(kept, pipeline, cause, tuple(added[key]), now)
    return kept


def _with_more(
    incidents: list[Incident], pipeline: str, cause: Cause, targets: tuple[str, ...], now: datetime
) -> list[Incident]:
    """The incidents, with the targets in an open one of the pipeline or in a new one."""
    for place, incident in enumerate(incidents):
        if incident.pipeline != pipeline or incident.over:
            continue
        if (incident.whole and not cause.own) or incident.key == cause.key:
            joined = replace(
                incident,
                targets=(*incident.targets, *targets),
                affected=tuple(dict.fromkeys((*incident.affected, *targets))),
            )
            return [*incidents[:place], joined, *incidents[place + 1 :]]
    new = Incident(
        pipeline=pipeline,
        key=cause.key,
        cause=cause.text,
        since=now,
        targets=targets,
        affected=targets,
        whole=cause.whole,
    )
    return [*incidents, new]
