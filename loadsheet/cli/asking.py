"""What the options of `loadsheet run` ask for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import Literal

from loadsheet.errors import InputError
from loadsheet.options import with_fed_transforms
from loadsheet.outcome import RunRequest, Sample
from loadsheet.spec.models import Pipeline


def run_request(
    pipeline: Pipeline,
    *,
    tables: str | None,
    full_refresh: bool,
    accept_source: bool,
    start: str | None,
    end: str | None,
    sample: str | None = None,
) -> RunRequest:
    """The request of one run from the command line.

    `tables` is a list with commas. Raises InputError for a table the pipeline does not have, half an interval, an
    interval that is none, a full refresh of an interval, and a sample that is none or is asked for an interval.
    """
    only = _tables(pipeline, tables) if tables is not None else None
    if full_refresh and (start or end):
        raise InputError("--full-refresh replaces a table, so it must read all of it: leave out --from and --to")
    interval = _interval(start, end)
    if sample is not None and (start or end):
        raise InputError("--sample reads its tables anew each time: leave out --from and --to")
    full: frozenset[str] | Literal["all"] = (only or "all") if full_refresh or sample else frozenset()
    return RunRequest(
        run_id=f"cli__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        full_refresh=with_fed_transforms(pipeline, full),
        only=only,
        interval_start=interval[0],
        interval_end=interval[1],
        explicit_interval=interval != (None, None),
        accept_source=accept_source,
        sample=_sample(sample) if sample is not None else None,
    )


def _tables(pipeline: Pipeline, text: str) -> frozenset[str]:
    known = [table.name for table in pipeline.tables]
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError(f"--tables names no table; {pipeline.name} has {', '.join(known)}")
    for name in names:
        if name not in known:
            raise InputError(f"--tables: {pipeline.name} has no table {name!r}{_suggestion(name, known)}")
    return frozenset(names)


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f"; it has {', '.join(known)}"


def _sample(text: str) -> Sample:
    number = text.removesuffix("%")
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", number) and (share := float(number)):
        if number != text and share <= 100:
            return Sample(share=share / 100)
        if number == text and share.is_integer():
            return Sample(rows=int(share))
    raise InputError(f"--sample {text} is neither a share, such as 1% or 0.1%, nor a number of rows per table")


def _interval(start: str | None, end: str | None) -> tuple[str | None, str | None]:
    if start is None and end is None:
        return None, None
    if start is None or end is None:
        raise InputError("--from and --to go together: rows from the first are read, rows from the second are not")
    first, last = _bound(start, "--from"), _bound(end, "--to")
    if isinstance(first, Decimal) and isinstance(last, Decimal):
        is_interval, bounds = first < last, (start, end)
    elif isinstance(first, datetime) and isinstance(last, datetime):
        is_interval, bounds = first < last, (first.isoformat(), last.isoformat())
    else:
        raise InputError(f"--from {start} and --to {end} must both be times or both be numbers")
    if not is_interval:
        raise InputError(f"--to {end} must come after --from {start}")
    return bounds


def _bound(text: str, option: str) -> datetime | Decimal:
    if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text):
        return Decimal(text)
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):  # overflow: in UTC it is before the year 1 or after 9999
        raise InputError(
            f"{option} {text} is neither a time such as 2026-01-31 or 2026-01-31T12:00:00+00:00 nor a number"
        ) from None
