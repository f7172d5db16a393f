"""A source whose every answer may be a lie: nothing that it says becomes a statement of the
warehouse, and its lies end in words, not in a traceback."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from loadsheet.engine.diagnosis import diagnose
from loadsheet.errors import LoadsheetError
from loadsheet.postgres import connect_source
from loadsheet.source import catalog, origins
from loadsheet.spec.models import Incremental, Table
from tests.faults.liar import Liar
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.project import Project

DROP = "DROP TABLE public.canary; --"
# What may stand around a text that is pasted into a statement, ended.
ENDS = ("; ", "); ", "'; ", "'); ", '"; ', '"); ')
# What stands in a text's place: it may be parsed, and be recorded and parsed by the next run.
OTHERS = ("", "x", "v", "9" * 30)
TABLES = """
CREATE TABLE public.sale (id int PRIMARY KEY, note text, at timestamptz DEFAULT now(),
    amount numeric(10,2));
CREATE TYPE public.mood AS ENUM ('sad', 'glad');
CREATE DOMAIN public.percent AS numeric(5,1);
CREATE TABLE public.item (id bigserial PRIMARY KEY, m public.mood, p public.percent[], day date);
INSERT INTO public.sale SELECT n, 'x', now() - interval '1 day', n FROM generate_series(1, 9) n;
INSERT INTO public.item (m, p, day) SELECT 'sad', '{1.5}', '2026-01-01' FROM generate_series(1, 9);
CREATE VIEW public.cheap AS SELECT id, amount, at FROM public.sale WHERE amount < 5;
"""
SPEC: dict[str, Any] = {
    "sale": {"incremental": "at"},
    "item": {"incremental": "id", "mode": "append"},
    "cheap": {"primary_key": "id"},
}
TREES = """
CREATE TABLE public.visit (id int, at timestamptz, seen timestamptz,
    number bigint GENERATED ALWAYS AS (CAST(id AS bigint)) STORED);
CREATE TABLE public.guest (id int, at timestamptz);
CREATE VIEW public.part AS SELECT id, at FROM visit WHERE at > '2020-01-01' LIMIT ALL OFFSET 0;
CREATE VIEW public.both AS SELECT id, at FROM visit UNION SELECT id, at FROM guest
    UNION ALL SELECT 1, at FROM visit;
CREATE VIEW public.named AS WITH a AS (SELECT id, at FROM visit) SELECT id, at FROM a;
CREATE VIEW public.latest AS SELECT id, greatest(at, seen) AS at
    FROM (SELECT * FROM visit WHERE id > 3) s;
CREATE VIEW public.filled AS SELECT id, coalesce(at, seen) AS at FROM visit;
CREATE VIEW public.listed AS SELECT v.id, v.at FROM visit v
    JOIN (VALUES (1, 'a'), (2, 'b')) x (id, name) ON x.id = v.id;
CREATE VIEW public.drawn AS SELECT id, at AT TIME ZONE 'UTC' AS at
    FROM visit JOIN LATERAL generate_series(1, 2) ON true;
CREATE VIEW public.day AS SELECT id, CAST(at AS date) AS at FROM visit ORDER BY 1;
CREATE VIEW public.counted AS SELECT id, CAST(id AS bigint) AS at FROM guest;
CREATE VIEW public.joined AS SELECT j.a AS id, j.b AS at
    FROM (visit JOIN guest USING (id)) AS j (a, b, c, d, e);
"""
CURSORS = {
    "visit": "number",
    **dict.fromkeys(re.findall(r"VIEW public\.(\w+)", TREES), "at"),
}
"""The cursor of the table that has a generated column, and of each view."""
ASKED = ("action", "ev_action", "case")
"""The rule of a view, as two queries ask for it, and the expression of a generated column."""
_TREE = re.compile(rb"\(?\{[A-Z]+ :")
_TOKEN = re.compile(rb"[(){}]|(?:\\.|[^\s(){}\\])+", re.DOTALL)
ODD = (b"<>", b"0", b"1", b"-1", b"2", b"9" * 25, b"x", b"{VAR}", b"()", b"({X :a 1})", b"true")


@pytest.fixture
def liar(project: Project) -> Iterator[Liar]:
    """A line to the source, which the project takes; a canary sits in the warehouse."""
    project.in_source(TABLES)
    project.in_warehouse("CREATE TABLE public.canary (id int)")
    project.spec(SPEC)
    # The loader could drop it.
    project.in_warehouse(f"ALTER TABLE public.canary OWNER TO {project.loader}")
    at = psycopg.conninfo.conninfo_to_dict(project.source)
    with Liar((str(at["host"]), int(at["port"]))) as liar:
        project.source = project.source.replace(f":{at['port']}/", f":{liar.port}/")
        yield liar


def run(project: Project) -> None:
    """Run the pipeline; a step that fails does so with a message."""
    for result in project.run().values():
        if isinstance(result.result, Exception):
            assert isinstance(result.result, LoadsheetError), repr(result.result)


def forget(project: Project) -> None:
    """The warehouse as it was before the first run."""
    project.in_warehouse(
        "DROP SCHEMA IF EXISTS staging CASCADE; DROP SCHEMA IF EXISTS loadsheet CASCADE"
    )


@pytest.mark.timeout(scaled(600, 14_400))
def test_no_answer_of_the_source_becomes_a_statement_of_the_warehouse(
    project: Project, liar: Liar, chance: random.Random, tally: Callable[[str], Tally]
) -> None:
    line = tally("hostile text in an answer of the source")
    project.succeed()
    project.succeed()
    columns = sorted(liar.seen)
    assert {"declared", "base_type", "qualified", "modified", "element"} <= liar.seen
    # `{}` is the text itself.
    said_instead = [*(f"{{}}{end}{DROP}" for end in ENDS), *OTHERS]
    pairs = [(name, said) for name in columns for said in said_instead]
    chance.shuffle(pairs)
    # Always tried: the text that ends up in CREATE TABLE, and those that ended in a traceback.
    wanted = [
        ("base_type", "{}); " + DROP),
        ("base_type", "{}; " + DROP),
        ("oldest_transaction", "x"),
        ("kind", "v"),
    ]
    told = 0

    def lie(name: str, text: bytes) -> bytes:
        nonlocal told
        if name != chosen:
            return text
        told += 1
        return said.encode().replace(b"{}", text)

    for number, (chosen, said) in enumerate([*wanted, *pairs[: scaled(6, len(pairs))]]):
        line.tried += 1
        forget(project)
        liar.lie = lie
        run(project)
        # What it has recorded may be a lie, too.
        liar.lie = lambda name, text: text
        run(project)
        # And where all was well until the second run.
        forget(project)
        project.succeed()
        project.in_source(f"ALTER TABLE public.sale ADD c{number} int; UPDATE sale SET at = now()")
        liar.lie = lie
        run(project)
        liar.lie = lambda name, text: text
        found = project.in_warehouse("SELECT to_regclass('public.canary')::text")
        assert found == [("canary",)], (chosen, said)
    assert told > len(wanted)


@pytest.mark.timeout(scaled(600, 14_400))
def test_a_tree_of_the_catalogs_that_postgresql_does_not_write_ends_in_words(
    project: Project, liar: Liar, chance: random.Random, tally: Callable[[str], Tally]
) -> None:
    line = tally("a tree of the source's catalogs, garbled")
    project.in_source(TREES)
    tables = [
        Table(name=name, incremental=Incremental(cursor=cursor)) for name, cursor in CURSORS.items()
    ]
    project.grant()
    garbled: set[str] = set()

    def lie(name: str, text: bytes) -> bytes:
        if name != chosen or not _TREE.match(text):
            return text
        garbled.add(name)
        return _garbled(text, chance)

    with connect_source(project.connections("shop_source")) as session:

        def walk(table: Table) -> None:
            assert table.incremental
            found = catalog.describe(session, "public", table)
            origins.refuse_shifted(session, found, table.incremental)

        for _ in range(scaled(100, 10_000)):
            line.tried += 1
            chosen = chance.choice(ASKED)
            table = tables[0] if chosen == "case" else chance.choice(tables[1:])
            liar.lie = lie
            try:
                walk(table)
            except (LoadsheetError, psycopg.Error) as error:
                assert isinstance(error, LoadsheetError) or diagnose(error), repr(error)
                line.hit += 1
        # It was the lies: what is true is walked to its end.
        liar.lie = lambda name, text: text
        walk(next(table for table in tables if table.name == "part"))
    assert garbled == set(ASKED)


def _garbled(text: bytes, chance: random.Random) -> bytes:
    """A tree with some of its words replaced, missing, or too many."""
    words = _TOKEN.findall(text)
    for _ in range(chance.choice([1, 1, 2, 5])):
        place = chance.randrange(len(words))
        if chance.random() < 0.5:
            # What the walk decides by: kinds, numbers of tables, columns and functions.
            numbers = [at for at, word in enumerate(words) if word.isdigit()]
            place = chance.choice(numbers or [place])
        how = chance.choice(["replace", "replace", "copy", "delete", "insert"])
        if how == "replace":
            words[place] = chance.choice(ODD)
        elif how == "copy":
            words[place] = chance.choice(words)
        elif how == "delete":
            del words[place]
        else:
            words.insert(place, chance.choice(ODD))
    return b" ".join(words)
