"""A source whose every answer may be a lie: nothing that it says becomes a statement of the
warehouse, and its lies end in words, not in a traceback."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from loadsheet.errors import LoadsheetError
from tests.faults.liar import Liar
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.project import Project

DROP = "DROP TABLE public.canary; --"
# What may stand around a text that is pasted into a statement, ended.
ENDS = ("; ", "); ", "'; ", "'); ", '"; ', '"); ')
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


def test_no_answer_of_the_source_becomes_a_statement_of_the_warehouse(
    project: Project, liar: Liar, chance: random.Random, tally: Callable[[str], Tally]
) -> None:
    line = tally("hostile text in an answer of the source")
    project.succeed()
    project.succeed()
    columns = sorted(liar.seen)
    assert {"declared", "base_type", "qualified", "modified", "element"} <= liar.seen
    pairs = [(name, end) for name in columns for end in ENDS]
    chance.shuffle(pairs)
    # The text that ends up in CREATE TABLE is always tried.
    wanted = [("base_type", "); "), ("base_type", "; ")]
    told = 0

    def lie(name: str, text: bytes) -> bytes:
        nonlocal told
        if name != chosen:
            return text
        told += 1
        return text + (end + DROP).encode()

    for number, (chosen, end) in enumerate([*wanted, *pairs[: scaled(6, len(pairs))]]):
        line.tried += 1
        forget(project)
        liar.lie = lie
        run(project)
        # And where all was well until the second run.
        liar.lie = lambda name, text: text
        forget(project)
        project.succeed()
        project.in_source(f"ALTER TABLE public.sale ADD c{number} int; UPDATE sale SET at = now()")
        liar.lie = lie
        run(project)
        liar.lie = lambda name, text: text
        found = project.in_warehouse("SELECT to_regclass('public.canary')::text")
        assert found == [("canary",)], (chosen, end)
    assert told > len(wanted)
