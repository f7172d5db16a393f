"""How long ago tables and marts were last compared with what they are made of, and which differ:
what `fresh_within.verified` limits.

What was never compared counts from its first load. A comparison of a part of the rows proves
nothing about the rest, but what it finds is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from psycopg.rows import class_row

from loadsheet.freshness.models import Age, Cause
from loadsheet.postgres import Session
from loadsheet.spec.models import FreshWithin, Pipeline, Table, Transform
from loadsheet.warehouse.ledger import Kind

_VERDICTS = """
SELECT pipeline, target, is_whole, verdict, missing, extra, different, verified_at
FROM loadsheet.verified WHERE pipeline = ANY(%s)
"""
# By the indexes on the target, from their beginning.
_FIRST = """
SELECT wanted.target, min(first.at)
FROM unnest(%(targets)s::text[]) AS wanted (target),
    LATERAL (
        (SELECT committed_at AS at FROM loadsheet.load l WHERE l.target = wanted.target
         ORDER BY load_no LIMIT 1)
        UNION ALL
        (SELECT committed_at FROM loadsheet.transform_run r WHERE r.target = wanted.target
         ORDER BY run_no LIMIT 1)
    ) AS first
GROUP BY wanted.target
"""


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    pipeline: str
    target: str
    is_whole: bool
    verdict: str
    missing: int
    extra: int
    different: int
    verified_at: datetime


class Verdicts:
    """The last verdicts on what the pipelines write."""

    def __init__(self, verdicts: Iterable[_Verdict], first: Mapping[str, datetime]):
        self._first = first
        self._whole: dict[tuple[str, str], _Verdict] = {}
        self._differing: dict[tuple[str, str], _Verdict] = {}
        for one in verdicts:
            if one.is_whole:
                self._whole[one.pipeline, one.target] = one
            if one.verdict == "differs":
                self._differing[one.pipeline, one.target] = one

    def age(
        self, pipeline: Pipeline, kind: Kind, spec: Table | Transform, target: str, at: datetime
    ) -> Age | None:
        """How long ago the target was compared; None where nothing limits that, and where it was
        never loaded or built."""
        limit = spec.fresh_within.verified if spec.fresh_within else None
        whole = self._whole.get((pipeline.name, target))
        since = whole.verified_at if whole else self._first.get(target)
        if limit is None or since is None:
            return None
        differing = self._differing.get((pipeline.name, target))
        return Age(
            of="verify",
            kind=kind,
            name=spec.name,
            target=f"{target} (verify)",
            limits=FreshWithin(fail=limit),
            as_of=differing.verified_at if differing else since,
            at=at,
            cause=_difference(differing) if differing else _neglect(whole),
            differs=differing is not None,
        )


def _difference(found: _Verdict) -> Cause:
    counts = {"missing": found.missing, "extra": found.extra, "different": found.different}
    rows = ", ".join(f"{number:,} {kind}" for kind, number in counts.items() if number)
    text = "its last comparison found that it differs"
    if rows:
        text += f" (rows: {rows})"
    return Cause(key="differs", text=text, own=True)


def _neglect(last: _Verdict | None) -> Cause:
    text = "it was never compared"
    if last:
        text = f"it was not compared since {last.verified_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return Cause(key="unverified", text=text)


def read_verdicts(
    session: Session, pipelines: Sequence[Pipeline], targets: Sequence[str]
) -> Verdicts:
    """The verdicts on the targets of the pipelines. Raises psycopg errors where the warehouse
    fails."""
    with session.cursor(row_factory=class_row(_Verdict)) as cursor:
        names = [pipeline.name for pipeline in pipelines]
        verdicts = cursor.execute(_VERDICTS, (names,)).fetchall()
    first = dict(session.execute(_FIRST, {"targets": [*targets]}).fetchall())
    return Verdicts(verdicts, first)
