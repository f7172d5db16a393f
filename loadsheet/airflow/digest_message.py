"""The message of a digest: one line where all is well, else counts and the worst pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from loadsheet.airflow.alerts.message import Message, message_of
from loadsheet.freshness.day import Day
from loadsheet.redact import on_one_line
from loadsheet.wording import counted, listed, shortened

_MOST_LINES = 10
_LONGEST_REASON = 150
_MOST_NAMES = 3


def digest_message(
    days: Sequence[Day], broken: Sequence[str], start: datetime, end: datetime, page: str = ""
) -> Message:
    """The digest of pipelines for the time from `start` to `end`. `broken` are the files that have
    problems, `page` is the address that it links to."""
    troubled = [day for day in days if day.troubles]
    troubled.sort(key=lambda day: (-day.troubles, day.pipeline))
    number = counted(len(days) + len(broken), "pipeline")
    done = _done(days)
    if troubled or broken:
        need = "needs" if len(troubled) + len(broken) == 1 else "need"
        title = f"Daily digest: {len(troubled) + len(broken):,} of {number} {need} a look"
    else:
        title = f"Daily digest: all well in {number}, {done}"
    sections: dict[str, list[str]] = {}
    lines = [f"{file}: has problems, and does not run" for file in broken]
    lines += map(_line, troubled)
    if lines:
        sections["Needs a look"] = _first(lines)
    changes = [f"{day.pipeline}: {change}" for day in days for change in day.drift]
    if changes:
        sections["Changes"] = _first(changes)
    return message_of(
        event="digest",
        state="note",
        title=title,
        source="Daily digest",
        facts=_facts(days, broken, start, end, done),
        sections=sections,
        # A relative address leads nowhere from a message.
        link=page if page.startswith(("https://", "http://")) else "",
        link_text="Open Loadsheet",
    )


def _facts(
    days: Sequence[Day], broken: Sequence[str], start: datetime, end: datetime, done: str
) -> dict[str, str]:
    """At most nine, with the time ten: Slack takes no more. What is nothing is left out."""
    failing = sum(len(day.failing) for day in days)
    checks = sum(failure.is_check for day in days for failure in day.failing)
    by_check = f", {checks:,} of them by a check" if checks else ""
    unknown = [day for day in days if day.unknown]
    away = f"{counted(len(unknown), 'pipeline')} not known" if unknown else ""
    files = f"{counted(len(broken), 'file')} with problems" if broken else ""
    facts = {
        "Period": f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC",
        "Done": done,
        "Failing": f"{failing:,}{by_check}" if failing else "",
        "Late": _number(sum(len(day.late) for day in days)),
        "Recovered": _number(sum(len(day.recovered) for day in days)),
        "Verified": _verdicts(days),
        "Held back": _number(sum(len(day.waiting) for day in days)),
        "Changed columns": _number(sum(len(day.drift) for day in days)),
        "Not judged": ", ".join(filter(None, (files, away))),
    }
    return {name: value for name, value in facts.items() if value}


def _done(days: Sequence[Day]) -> str:
    tables, marts = sum(day.tables for day in days), sum(day.marts for day in days)
    done = [f"{counted(tables, 'table')} loaded"] if tables else []
    done += [f"{counted(marts, 'mart')} built"] if marts else []
    if not done:
        return "nothing new"
    runs, rows = sum(day.runs for day in days), sum(day.rows for day in days)
    return f"{', '.join(done)} in {counted(runs, 'run')}, {counted(rows, 'row')} changed"


def _verdicts(days: Sequence[Day]) -> str:
    equal, differing = sum(day.equal for day in days), sum(len(day.differing) for day in days)
    not_proven = sum(day.not_proven for day in days)
    found = [f"{equal:,} equal"] if equal else []
    found += [f"{counted(differing, 'differs', 'differ')}"] if differing else []
    found += [f"{not_proven:,} not proven"] if not_proven else []
    return ", ".join(found)


def _line(day: Day) -> str:
    """What is wrong in a pipeline, in one line."""
    if day.unknown:
        return f"{on_one_line(day.pipeline)}: {_reason(day.unknown)}"
    parts: list[str] = []
    if day.failing:
        first = day.failing[0]
        what = "does not pass a check" if first.is_check else "fails"
        more = f", and {len(day.failing) - 1:,} more" if len(day.failing) > 1 else ""
        parts.append(f"{on_one_line(first.target)} {what} ({_reason(first.reason)}){more}")
    if day.late:
        parts.append(f"late: {on_one_line(listed(day.late, _MOST_NAMES))}")
    if day.differing:
        parts.append(f"differs: {on_one_line(listed(day.differing, _MOST_NAMES))}")
    return f"{on_one_line(day.pipeline)}: {'; '.join(parts)}"


def _reason(text: str) -> str:
    return on_one_line(shortened(text.partition("\n")[0], _LONGEST_REASON))


def _first(lines: Sequence[str]) -> list[str]:
    shown = list(lines[:_MOST_LINES])
    if len(lines) > _MOST_LINES:
        shown.append(f"and {len(lines) - _MOST_LINES:,} more")
    return shown


def _number(count: int) -> str:
    return f"{count:,}" if count else ""
