"""Servers whose answers may be garbled, each value of them: every command ends with a message that
names the server or the table, never in a traceback, nor with a verdict that the rows do not
have."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from loadsheet.errors import Unreadable
from loadsheet.postgres import ask_together, connect_source
from tests.faults.liar import Liar
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.forked import command_line
from tests.project import Project

SOURCE = """
CREATE TABLE sale (id int PRIMARY KEY, note text, at timestamptz NOT NULL DEFAULT now(),
    amount numeric(10,2));
CREATE TABLE pair (code numeric, day date, seen timestamptz DEFAULT now(), PRIMARY KEY (code, day));
CREATE TABLE free (note text, amount int);
CREATE TABLE item (day date, name text, seen timestamptz DEFAULT now(), PRIMARY KEY (day, name));
CREATE INDEX ON sale (at);
INSERT INTO item SELECT '2026-01-01', n, now() - interval '1 day' FROM generate_series(1, 9) n;
INSERT INTO sale SELECT n, 'x', now() - interval '1 day', n FROM generate_series(1, 40) n;
INSERT INTO pair SELECT n, '2026-01-01', now() - interval '1 day' FROM generate_series(1, 9) n;
INSERT INTO free SELECT 'x', n % 3 FROM generate_series(1, 9) n;
"""
SPEC: dict[str, Any] = {
    "sale": {"incremental": "at", "deletes": "hard"},
    "pair": {"incremental": "seen"},
    "free": None,
    "item": {"incremental": "seen", "deletes": "report"},
}
MARTS: dict[str, Any] = {
    "total": "SELECT note, sum(amount) AS amount, count(*) AS sales FROM staging.sale GROUP BY 1",
    "seen": "SELECT p.code, s.note FROM staging.pair p JOIN staging.sale s ON s.id = p.code",
}
# Both sides differ, and so do the mart and its SELECT.
CHANGES = (
    "DELETE FROM sale WHERE id IN (7, 8); INSERT INTO sale (id, note) VALUES (99, 'new');"
    " DELETE FROM pair WHERE code = 3; DELETE FROM item WHERE name = '3'; UPDATE free SET"
    " note = 'y' WHERE amount = 0",
    "UPDATE staging.sale SET note = 'other' WHERE id IN (1, 2); DELETE FROM staging.sale WHERE id ="
    " 3; UPDATE staging.pair SET code = 5.00 WHERE code = 5; DELETE FROM staging.free WHERE amount"
    " = 1; UPDATE mart.total SET amount = amount + 1",
)
# What makes both sides differ again, whatever a trial has loaded or repaired.
AGAIN = (
    "DELETE FROM sale WHERE id = (SELECT max(id) FROM sale WHERE at < now() - interval '1 second');"
    " INSERT INTO sale (id, note) SELECT max(id) + 1, 'new' FROM sale;"
    " UPDATE free SET amount = amount + 10",
    "UPDATE staging.sale SET note = md5(random()::text) WHERE id BETWEEN 10 AND 19;"
    " UPDATE mart.total SET amount = amount + 1",
)
# `{}` is the value itself.
LIES = ("x", "", "9" * 30, "-1", "{}{}", "0", "[]", "{}")
# Of six rows that differ, a sample of half of them may miss each.
COMMANDS: dict[str, tuple[str, ...]] = {
    "verify": ("verify", "shop", "--values"),
    "gentle": ("verify", "shop", "sale", "--gentle", "--sample", "90%"),
    "since": ("verify", "shop", "sale", "--since", "2020-01-01"),
    "plan": ("plan", "shop", "--connect"),
    "run": ("run", "shop"),
    "repair": ("verify", "shop", "--repair"),
    "sample": ("run", "shop", "--sample", "20"),
    "status": ("status", "shop"),
    "status json": ("status", "shop", "--json"),
    "lineage": ("lineage", "shop"),
    "doctor": ("doctor", "shop"),
    "restore": ("restore", "shop", "sale", "--list"),
    "docs": ("docs", "--out", "OUT"),
    "add": ("add", "shop", "public.*", "--dry-run"),
    "gc": ("gc", "shop", "--dry-run"),
}
# Each ended in a traceback before: a sum, a key, an array, a row that nobody asked for, a plan, a
# time, a range, what the ledger has recorded, a number in a table of the ledger.
WANTED = [
    ("verify", "source", "sum", "x"),
    ("verify", "warehouse", "sum", ""),
    ("verify", "warehouse", "array", "[]"),
    ("verify", "source", "inside", "x"),
    ("since", "source", "json_build_array", "0"),
    ("since", "warehouse", "json_build_array", "x"),
    ("since", "warehouse", "hashtextextended", ""),
    ("since", "warehouse", "columns", "-1"),
    ("sample", "source", "QUERY PLAN", "[]"),
    ("plan", "warehouse", "seen_load", "[]"),
    ("status json", "warehouse", "intervals", "-1"),
    ("status json", "warehouse", "at", "{}{}"),
    ("lineage", "warehouse", "attnum", "{}{}"),
    ("restore", "warehouse", "duplicates", "x"),
    ("docs", "source", "relname", "x"),
]
NAMED = re.compile(
    "shop_source|'warehouse'|the source|role extractor|schema 'public'"
    "|sale|item|pair|free|total|seen"
)


@pytest.fixture
def liars(project: Project) -> Iterator[dict[str, Liar]]:
    """Lines to both servers, which the project takes, with all loaded once, and changes since."""
    project.in_source(SOURCE)
    # Retries of what other runs seem to have overtaken would wait for a minute.
    project.spec(SPEC, MARTS, tasks={"retries": 0})
    project.succeed()
    project.in_source(CHANGES[0])
    project.in_warehouse(CHANGES[1])
    with ExitStack() as stack:
        found = {}
        for name in ("source", "warehouse"):
            uri = getattr(project, name)
            at = psycopg.conninfo.conninfo_to_dict(uri)
            place = (str(at["host"]), int(at["port"]))
            liar = found[name] = stack.enter_context(Liar(place, every_type=True))
            setattr(project, name, uri.replace(f":{at['port']}/", f":{liar.port}/"))
        project.grant()
        yield found


@pytest.mark.timeout(scaled(600, 14_400))
def test_every_command_ends_with_words_whatever_value_of_an_answer_is_garbled(
    project: Project, liars: dict[str, Liar], chance: random.Random, tally: Callable[[str], Tally]
) -> None:
    line = tally("a value in an answer of either server, garbled")
    trials = list(WANTED)
    for name in COMMANDS:
        assert _ends_in_words(project, name) == "", name
        columns = [(end, column) for end, liar in liars.items() for column in sorted(liar.seen)]
        both = [(name, *place, said) for place in columns for said in LIES]
        trials += chance.sample(both, scaled(1, min(len(both), 300)))
        for liar in liars.values():
            liar.seen.clear()
    told: set[tuple[str, ...]] = set()
    for trial in trials:
        name, end, *_ = trial

        def lie(asked: str, value: bytes, trial: tuple[str, ...] = trial) -> bytes:
            if asked != trial[2]:
                return value
            told.add(trial)
            return trial[3].encode().replace(b"{}", value)

        project.in_source(AGAIN[0])
        project.in_warehouse(AGAIN[1])
        line.tried += 1
        liars[end].lie = lie
        try:
            wrong = _ends_in_words(project, name)
        finally:
            liars[end].lie = lambda asked, value: value
        line.hit += trial in told
        assert wrong == "", (trial, wrong)
    assert told >= set(WANTED)


def _ends_in_words(project: Project, name: str) -> str:
    """What is wrong with the end of a command; empty where nothing is."""
    given = [one.replace("OUT", str(project.folder / "out")) for one in COMMANDS[name]]
    arguments = ["--project", str(project.folder), *given]
    done = command_line(arguments, project.environment(), 60)
    said = done.stdout + done.stderr
    if done.returncode not in (0, 1, 2, 5) or "Traceback" in said:
        return said
    if done.returncode and not NAMED.search(said):
        return f"it names neither server nor table: {said}"
    if name in ("verify", "gentle", "since") and re.search("^(sale|total): equal", said, re.M):
        return f"it takes different rows for equal: {said}"
    return ""


def test_a_value_that_is_not_of_its_type_is_told_with_the_server(
    project: Project, liars: dict[str, Liar]
) -> None:
    questions = {
        "SELECT CAST(1 AS int) AS lie": "x",
        "SELECT CAST(1.5 AS numeric) AS lie": "",
        "SELECT CAST('{1}' AS int[]) AS lie": "[]",
        "SELECT CAST('{}' AS jsonb) AS lie": "[" * 100_000,
        "SELECT CAST('2026-01-01' AS timestamptz) AS lie": "soon",
    }
    with connect_source(project.connections("shop_source")) as session:
        for question, said in questions.items():
            liars["source"].lie = lambda name, value, said=said: said.encode()  # type: ignore[misc]
            for fetch in (
                lambda cursor: cursor.fetchone(),
                lambda cursor: cursor.fetchall(),
                lambda cursor: cursor.fetchmany(1),
                list,
            ):
                with pytest.raises(Unreadable, match=r"the source \(connection 'shop_source'\): "):
                    fetch(session.execute(question))
            with session.transaction(), session.cursor("on_the_server") as cursor:
                cursor.execute(question)
                with pytest.raises(Unreadable, match="not of its type"):
                    list(cursor)
        liars["source"].lie = lambda name, value: b"[1]"
        with pytest.raises(Unreadable, match="rows were asked for"):
            ask_together(session, ("SELECT 1 AS number", ()))
        liars["source"].lie = lambda name, value: value
        assert session.execute("SELECT 1 AS lie").fetchall() == [(1,)]
    # The control: what the driver makes of it.
    liars["source"].lie = lambda name, value: b"x"
    with psycopg.connect(project.uri("shop_source")) as plain, pytest.raises(ValueError):
        plain.execute("SELECT 1 AS lie").fetchone()
