"""What must be true of the runs; the demo's exit code depends on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo.flights.day import Counts
from demo.ledger import Run
from demo.slack_view import links

UNCHANGED = {"aircrafts_data", "seats"}


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    name: str
    passed: bool
    detail: str = ""


def run_checks(first: Run, second: Run, idle: Run, day: Mapping[str, Counts]) -> Iterator[Check]:
    """The first run loads everything, the second the changes of the `day`, an idle run nothing."""
    unlike = [t.task_id for t in first.tasks if t.state != "success"]
    yield Check(
        "the first run loads every table and builds every mart", not unlike, ", ".join(unlike)
    )
    skipped = {name for name, state in second.states("load").items() if state == "skipped"}
    title = "the second run skips the tables without changes"
    yield Check(title, skipped == UNCHANGED, ", ".join(sorted(skipped)))
    changed = {table: counts.inserted + counts.updated for table, counts in day.items()}
    read = {line.name: line.work.extracted for line in second.tables if line.work}
    detail = (
        f"{sum(changed.values()):,} rows" if read == changed else f"{read} instead of {changed}"
    )
    yield Check("the second run reads exactly the rows of that day", read == changed, detail)
    done = [t.task_id for t in idle.tasks if t.state == "success" and t.task_id != "look"]
    yield Check(
        "a run with nothing new skips every table and every mart", not done, ", ".join(done)
    )


def slack_checks(
    messages: Sequence[Mapping[str, Any]], run: Run, task_id: str, address: str, log: str
) -> Iterator[Check]:
    """Slack gets one message about the failure and one about the recovery.

    The first links to the log at `address`. The log contains the reason.
    """
    about = [m for m in messages if task_id in str(m) and run.run_id in str(m)]
    failures = [m for m in about if " failed at " in str(m.get("text"))]
    title = "Slack received one message about the failure"
    yield Check(title, len(failures) == 1, f"messages: {len(failures)}")
    recovered = len(about) - len(failures)
    title = "Slack received one message about the recovery"
    yield Check(title, recovered == 1, f"messages: {recovered}")
    targets = [link for m in failures for link in links(dict(m))]
    yield Check(
        "the message links to the log",
        any(link.startswith(address) for link in targets),
        *targets[:1],
    )
    yield Check("the log contains the reason", "boarding_passes" in log)
