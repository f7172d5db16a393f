"""`loadsheet status --prometheus`: the text, without servers. Its values are compared with those of
`--json` in tests/core/test_status.py."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadsheet.status.models import (
    Failure,
    Lag,
    LastCommit,
    PipelineStatus,
    RowCount,
    TableStatus,
    TransformStatus,
)
from loadsheet.status.prometheus import HELP, exposition
from tests.gauges import parse
from tests.unit.test_docs import ROOT

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def table(name: str, **more: Any) -> TableStatus:
    facts: dict[str, Any] = {
        "target": f"staging.{name}",
        "rows": RowCount(number=5, exact=True),
        "last": None,
        "failure": None,
        "in_spec": True,
        "watermark": None,
        "cursor": None,
    }
    return TableStatus(name=name, **{**facts, **more})


def pipeline(*tables: TableStatus, **more: Any) -> PipelineStatus:
    return PipelineStatus(pipeline="shop", at=NOW, tables=list(tables), transforms=[], **more)


def told(status: PipelineStatus | None, gauge: str, /, **labels: str) -> float | None:
    """The value of a gauge of the pipeline, which has these labels and no others."""
    wanted = frozenset({"pipeline": "shop", **labels}.items())
    return parse(exposition({"shop": status})).get(f"loadsheet_{gauge}", {}).get(wanted)


def test_the_state_is_one_of_all_there_are() -> None:
    failure = Failure(
        kind="table",
        name="orders",
        step="load",
        run_id="run",
        code="",
        message="away",
        since=NOW - timedelta(hours=1),
        at=NOW,
        worked_at=None,
    )
    status = pipeline(table("orders", failure=failure))
    gauges = parse(exposition({"shop": status}))
    states = {dict(labels)["state"]: value for labels, value in gauges["loadsheet_state"].items()}
    assert [state for state, value in states.items() if value] == ["failed"]
    assert sum(states.values()) == 1 and len(states) == 8
    of_orders = {"kind": "table", "name": "orders"}
    assert told(status, "failed", **of_orders) == 1
    since = told(status, "failed_since_timestamp_seconds", **of_orders)
    assert since == (NOW - timedelta(hours=1)).timestamp()
    assert told(pipeline(table("orders")), "failed", **of_orders) == 0


def test_what_is_not_known_is_left_out_and_not_zero() -> None:
    gauges = parse(exposition({"shop": pipeline(table("orders"))}))
    assert set(gauges) == {
        f"loadsheet_{name}"
        for name in (
            "up",
            "source_up",
            "status_timestamp_seconds",
            "state",
            "failed",
            "rows",
            "missing_intervals",
        )
    }
    view = table("orders", rows=RowCount(number=None))
    assert "loadsheet_rows" not in parse(exposition({"shop": pipeline(view)}))
    behind = table("orders", lag=Lag(newest="7", ahead=True, distance=None))
    assert "loadsheet_lag_distance" not in parse(exposition({"shop": pipeline(behind)}))


def test_a_pipeline_whose_state_is_not_known_is_down_and_hides_no_other() -> None:
    text = exposition({"shop": pipeline(table("orders")), "pipelines/bad/pipeline.yml": None})
    up = parse(text)["loadsheet_up"]
    assert {dict(labels)["pipeline"]: value for labels, value in up.items()} == {
        "shop": 1,
        "pipelines/bad/pipeline.yml": 0,
    }
    assert told(pipeline(source_unknown="it is away"), "source_up") == 0
    assert parse(exposition({})) == {}


def test_a_load_a_build_and_a_watermark_are_told() -> None:
    facts: dict[str, Any] = {
        "name": "x",
        "target": "x",
        "at": NOW - timedelta(minutes=5),
        "run_id": "run",
        "number": 3,
        "how": "merge",
        "inserted": 2,
        "updated": 3,
        "deleted": 0,
        "seconds": 1.5,
        "held_by": "",
    }
    load = LastCommit(**facts, extracted=6, bytes=1000)
    orders = table("orders", last=load, watermark="2026-03-01 11:59:00+00", cursor="at")
    build = LastCommit(**facts, extracted=None, bytes=None)
    status = pipeline(orders)
    mart = TransformStatus(
        name="orders",  # as a table may be called, too
        target="mart.orders",
        rows=RowCount(number=1),
        last=build,
        failure=None,
        materialized="table",
    )
    status.transforms.append(mart)
    names = {"kind": "table", "name": "orders"}
    assert told(status, "last_load_age_seconds", **names) == 300
    assert told(status, "last_load_timestamp_seconds", **names) == NOW.timestamp() - 300
    assert told(status, "last_load_duration_seconds", **names) == 1.5
    assert told(status, "last_load_rows", **names, change="extracted") == 6
    assert told(status, "last_load_rows", **names, change="updated") == 3
    assert told(status, "last_load_bytes", **names) == 1000
    assert told(status, "watermark_age_seconds", **names) == 60
    assert told(status, "watermark_timestamp_seconds", **names) == NOW.timestamp() - 60
    names["kind"] = "transform"
    assert told(status, "last_load_rows", **names, change="inserted") == 2
    assert told(status, "last_load_rows", **names, change="extracted") is None
    assert told(status, "last_load_bytes", **names) is None


HOSTILE = [
    'a"b',
    "a\\b",
    "a\nb",
    "a\\nb",
    "a\x1b[31mb",
    "a\\x1b[31mb",
    "a\u202eb",
    '",state="current"} 1',
    "é 漢",
    "a\rb",
    " ",
]


def test_hostile_names_break_no_line_and_are_told_apart() -> None:
    status = pipeline(*map(table, HOSTILE))
    text = exposition({"shop": status})
    assert len(parse(text)["loadsheet_rows"]) == len(HOSTILE)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)
    # The control: as they are, the same names break the document.
    lines = [f'loadsheet_rows{{name="{name}"}} 1\n' for name in HOSTILE]
    for line in lines[:3]:
        with pytest.raises(ValueError, match=r"labels|no sample"):
            parse(f"# HELP loadsheet_rows x\n# TYPE loadsheet_rows gauge\n{line}")


@given(st.lists(st.text(min_size=1), unique=True, max_size=5))
def test_any_names_come_back(names: list[str]) -> None:
    found = parse(exposition({"shop": pipeline(*map(table, names))}))
    assert len(found.get("loadsheet_rows", {})) == len(names)


def test_a_file_whose_name_is_no_utf_8_leaves_the_document_readable() -> None:
    """As Python reads such a name from the disk; as it is, it cannot even be encoded."""
    files = ["pipelines/\udcff/pipeline.yml", "pipelines/\udcfe/pipeline.yml"]
    text = exposition(dict.fromkeys(files))
    assert len(parse(text)["loadsheet_up"]) == 2 and text.encode("utf-8")
    with pytest.raises(UnicodeEncodeError):
        files[0].encode("utf-8")


def test_the_page_has_every_gauge() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    assert re.findall(r"^\| `loadsheet_(\w+)` ", text, re.M) == list(HELP)
