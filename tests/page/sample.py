"""Documents as the server gives them, without a server behind them: hostile, or many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadsheet.errors import InputError
from loadsheet.page import documents

HOSTILE = '<img src=x onerror="window.harmed=1">'
RUN = "scheduled__2026-11-30T00:00:00+00:00"
STATES = ("current", "failed", "held_back", "behind", "due", "never", "gone", "loaded")


def entry(number: int, name: str = "") -> dict[str, Any]:
    """A table of the overview."""
    state = STATES[number % len(STATES)] if number % 5 == 0 else "current"
    name = name or f"table_{number:04}"
    failed = state == "failed"
    return {
        "kind": "table",
        "name": name,
        "target": f"staging.{name}",
        "state": state,
        "loaded_at": None if state == "never" else f"2026-11-{29 - number % 29:02}T08:00:00+00:00",
        "age_seconds": None if state == "never" else number * 3.5,
        "run_id": None if state == "never" else RUN,
        "lag": {"newest": "x", "ahead": state == "behind", "seconds": 90.0, "distance": None},
        "lag_unknown": None,
        "watermark": "2026-11-30 07:59:59.123456+00",
        "watermark_age_seconds": 3600.0,
        "cursor": "updated_at",
        "rows": number * 997,
        "rows_exact": number % 2 == 0,
        "history": [number * step % 997 for step in range(20)],
        "blocker": {"who": "pid 4711 (till)", "now": True, "open_seconds": 900.0}
        if state == "held_back"
        else None,
        "due": None,
        "in_spec": True,
        "error": {
            "at": "2026-11-30T08:00:00+00:00",
            "since": "2026-11-30T07:00:00+00:00",
            "step": "load",
            "run_id": RUN,
            "code": "SQLSTATE 55P03",
            "message": f"{HOSTILE} canceling statement due to lock timeout",
        }
        if failed
        else None,
        "verified": {
            "at": "2026-11-30T08:00:00+00:00",
            "age_seconds": 4000.0,
            "verdict": "equal",
            "part": None,
            "missing": 0,
            "extra": 0,
            "different": 0,
            "through": 3,
            "loaded_since": number % 3 == 0,
        },
        "unverified": number == 3,
        "freshness": {
            "level": "late",
            "as_of": "2026-11-30T06:00:00+00:00",
            "late": state == "behind",
            "cause": f"{HOSTILE} holds it back",
        },
    }


def load(number: int, name: str) -> dict[str, Any]:
    """A load of a table."""
    return {
        "kind": "table",
        "name": name,
        "target": f"staging.{name}",
        "number": number,
        "run_id": RUN,
        "at": f"2026-11-30T08:00:{number % 60:02}+00:00",
        "how": "merge",
        "extracted": 100,
        "inserted": 100_000 if number == 1 else 60,
        "updated": 40,
        "deleted": number % 3,
        "replaced": False,
        "bytes": 12_345,
        "seconds": 1.5,
        "extract_seconds": 1.0,
        "load_seconds": 0.5,
        "held_by": HOSTILE,
        "manifest": f"shop/{name}/x/{number}/manifest.json",
    }


def run(run_id: str) -> dict[str, Any]:
    """A run in the list of a pipeline's."""
    times = {"first_at": "2026-11-30T08:00:01+00:00", "last_at": "2026-11-30T08:00:02+00:00"}
    counts = {"tables": 2, "marts": 1, "inserted": 120, "updated": 80, "deleted": 3}
    return {"run_id": run_id, **times, **counts, "bytes": 24_690, "failures": 1}


def column(table: str, name: str) -> dict[str, Any]:
    """A column, as an end of an edge."""
    kind = {"public": "source", "staging": "staging", "mart": "mart"}[table.partition(".")[0]]
    return {"kind": kind, "table": table, "column": name}


def lineage(tables: Sequence[tuple[str, str]], edges: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A lineage of one column, `id`, which each table has."""
    return {
        "tables": [
            {
                "name": table,
                "kind": kind,
                "file": None,
                "not_traced": None,
                "rows_unknown": [],
                "columns": [
                    {"name": "id", "type": "int", "expressions": [], "unknown": [], "note": HOSTILE}
                ],
            }
            for table, kind in tables
        ],
        "edges": [
            {
                "from": column(before, "id"),
                "to": column(after, "id"),
                "how": ["copy"],
                "direct": True,
            }
            for before, after in edges
        ],
    }


def target(name: str) -> dict[str, Any]:
    """A table's page."""
    staging, source = f"staging.{name}", f"public.{name}"
    return {
        "pipeline": "shop",
        **entry(25, name),
        "unknown": None,
        "at": "2026-11-30T08:00:00+00:00",
        "loads": [load(number, name) for number in range(30, 0, -1)],
        "file": "pipelines/shop/pipeline.yml",
        "sql": f"SELECT 1 -- {HOSTILE}</script><script>window.harmed=1</script>",
        "comment": HOSTILE,
        "primary_key": ["id", HOSTILE],
        "mode": "merge",
        "reads_by": HOSTILE,
        "deletes": "soft",
        "source": {
            "name": HOSTILE,
            "comment": f"{HOSTILE} in the source",
            "primary_key": ["id"],
            "columns": [
                {"name": "id", "type": "integer", "nullable": False, "comment": "the only one"},
                {"name": HOSTILE, "type": HOSTILE, "nullable": True, "comment": HOSTILE},
                {"name": "left_out", "type": "text", "nullable": True, "comment": None},
            ],
        },
        "source_unknown": None,
        "checks": [
            {"kind": "limit", "text": "removes at most 20% of the rows", "where": None},
            {"kind": "freshness", "text": "late from 2h on", "where": None},
            {"kind": "comparison", "text": "equals its source", "where": None},
            {"kind": "test", "text": HOSTILE, "where": f"{HOSTILE}:3"},
        ],
        "tests_unknown": HOSTILE,
        "columns": [
            {"name": "id", "type": "integer", "nullable": False, "comment": HOSTILE},
            {"name": HOSTILE, "type": HOSTILE, "nullable": True, "comment": "a\u202eb"},
        ],
        "lake": [{"kind": "prefix", "name": f"s3://lake/{HOSTILE}", "load": None}],
        "upstream": lineage([(source, "source"), (staging, "staging")], [(source, staging)]),
        "downstream": lineage([(staging, "staging"), ("mart.m", "mart")], [(staging, "mart.m")]),
        "lineage_unknown": None,
    }


class Sample:
    """Answers as `ProjectDocuments` does, with `count` tables, one of them of a hostile name."""

    def __init__(self, count: int = 12):
        targets = [entry(number) for number in range(count - 1)]
        targets.append({**entry(25, HOSTILE)})
        self.actions: list[str] = []
        """What the reader may start: nothing where the page is not part of Airflow."""
        self.overview: dict[str, Any] = {
            "at": "2026-11-30T08:00:00+00:00",
            "asked_source": True,
            "pipelines": [
                {
                    "name": "shop",
                    "description": HOSTILE,
                    "schedule": "@daily",
                    "owner": HOSTILE,
                    "tags": [HOSTILE, "sales"],
                    "file": "pipelines/shop/pipeline.yml",
                    "error": None,
                    "unknown": None,
                    "source_unknown": HOSTILE,
                    "notes": [HOSTILE],
                    "targets": targets,
                },
                {
                    "name": HOSTILE,
                    "description": "",
                    "schedule": None,
                    "owner": None,
                    "tags": [],
                    "file": HOSTILE,
                    "error": f"pipeline.yml:1:1 {HOSTILE}",
                    "unknown": None,
                    "source_unknown": None,
                    "notes": [],
                    "targets": [],
                },
            ],
        }

    def divide(self, count: int) -> None:
        """Make `count` pipelines of the tables, whose warehouse is away, instead of the two."""
        shop, _ = self.overview["pipelines"]
        targets, away = shop["targets"], "the server does not answer"
        self.overview["pipelines"] = [
            {**shop, "name": f"p{number:03}", "unknown": away, "targets": targets[number::count]}
            for number in range(count)
        ]

    def answer(self, path: Sequence[str], asks_source: bool) -> dict[str, Any]:
        """The document of a path."""
        match path:
            case ["session"]:
                return documents.session("local")
            case ["pipelines"]:
                return self.overview
            case ["pipelines", _, "targets", kind, "nothing"]:
                raise InputError(f"there is no {kind} 'nothing'")
            case ["pipelines", _, "targets", _, name]:
                return {**target(name), "actions": self.actions}
            case ["pipelines", pipeline, "runs"]:
                return {"pipeline": pipeline, "unknown": None, "runs": [run(RUN), run(HOSTILE)]}
            case ["pipelines", pipeline, "runs", run_id]:
                failure = {**target("orders")["error"], "kind": "table", "name": HOSTILE}
                return {
                    "pipeline": pipeline,
                    "run_id": run_id,
                    "unknown": None,
                    "at": "2026-11-30T08:00:00+00:00",
                    "loads": [load(1, "orders"), load(2, HOSTILE)],
                    "builds": [],
                    "failures": [{**failure, "worked_at": None}],
                }
        raise InputError("nothing")


def site(count: int = 12) -> dict[str, Any]:
    """The documents of a static site of the same tables, and of a mart that is made of one of
    them: without ages, and without what only a server knows."""
    overview = Sample(count).overview
    shop, _ = overview["pipelines"]
    mart = {**entry(25, "m"), "kind": "transform", "target": "mart.m", "materialized": "table"}
    shop["targets"] += [entry(25, "orders"), mart]
    for one in shop["targets"]:
        one |= {"age_seconds": None, "watermark_age_seconds": None}
        one["verified"]["age_seconds"] = None
    state = entry(1)
    for one in shop["targets"]:
        about = target(one["name"])
        one |= {key: about[key] for key in about if key not in state}
        one |= {"loads": [], "lake": []}
    names = [("public.orders", "source"), ("staging.orders", "staging"), ("mart.m", "mart")]
    steps = [("public.orders", "staging.orders"), ("staging.orders", "mart.m")]
    for one in shop["targets"][:count]:
        names += [(f"public.{one['name']}", "source"), (one["target"], "staging")]
        steps.append((names[-2][0], names[-1][0]))
    shop["lineage"] = lineage(names, steps)
    for one in shop["targets"]:
        one |= {"upstream": {"tables": [0, 1], "edges": [0]}, "downstream": None}
    mart["upstream"] = {"tables": [0, 1, 2], "edges": [0, 1]}
    return {"session": documents.session("recorded"), "overview": overview}
