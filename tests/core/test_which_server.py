"""Whatever SQLSTATE a server answers with, in whichever step: the message says which server it was
and which table it was about."""

from __future__ import annotations

import json

import pytest

from loadsheet.errors import LoadsheetError
from loadsheet.pinned import PinnedSession
from tests.core.test_look import look_at
from tests.faults.scale import LONG
from tests.project import Project

# What users meet: cancelled, no connection left, disk full, shut down, locked, deadlock, collision,
# read-only, no right, no login, no database, out of memory, of a foreign table, of a trigger.
CODES = (
    *("57014", "53300", "53100", "57P01", "55P03", "40P01", "40001", "25006", "42501", "28P01"),
    *("3D000", "53200", "HV000", "P0001", "XX000"),
)
THE_SOURCE = "the source (connection 'shop_source'"
THE_WAREHOUSE = "the warehouse (connection 'warehouse'"
TROUBLE = """
CREATE TABLE public.trouble (is_there bool);
INSERT INTO public.trouble VALUES (false);
GRANT SELECT ON public.trouble TO PUBLIC;
CREATE FUNCTION public.fine(code text) RETURNS bool LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF (SELECT is_there FROM public.trouble) THEN
        RAISE EXCEPTION 'as if it had happened' USING ERRCODE = code;
    END IF;
    RETURN true;
END $$;
"""
SOURCE = """
CREATE TABLE public.row (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO public.row SELECT generate_series(1, 10);
"""
VIEW = "CREATE VIEW public.{} AS SELECT id, at FROM public.row WHERE public.fine('{}');"
TRIGGERS = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.fine(TG_ARGV[0]);
    RETURN NEW;
END $$;
"""
TRIGGER = (
    "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON staging.{} FOR EACH ROW"
    " EXECUTE FUNCTION public.refuse('{}');"
)
TABLES = {f"item_{code.lower()}": code for code in CODES}


@pytest.fixture
def shop(project: Project) -> Project:
    """For each SQLSTATE a view of the source, a target and a mart that may answer with it; loaded
    once, with a row that is new."""
    project.in_source(TROUBLE + SOURCE + "".join(VIEW.format(*pair) for pair in TABLES.items()))
    project.in_warehouse(TROUBLE)
    project.spec(
        {
            # A row of these views may appear late: a lookback is asked for.
            name: {"primary_key": "id", "incremental": {"cursor": "at", "lookback": "1h"}}
            for name in TABLES
        },
        {
            f"mart_{name}": f"SELECT id, public.fine('{code}') AS fine FROM staging.{name}"
            for name, code in TABLES.items()
        },
    )
    project.succeed()
    project.in_source("INSERT INTO row VALUES (11)")
    return project


def told(shop: Project, step: str) -> dict[str, str]:
    """What the steps of each table say, which all fail; {} is its name."""
    results = shop.run()
    said = {}
    for name, code in TABLES.items():
        error = results[step.format(name)].result
        assert isinstance(error, LoadsheetError), repr(error)
        assert error.code == f"SQLSTATE {code}"
        said[code] = str(error)
    return said


def trouble(shop: Project, end: str) -> None:
    """From now on a server answers with the SQLSTATEs."""
    ask = shop.in_source if end == "source" else shop.in_warehouse
    ask("UPDATE public.trouble SET is_there = true")


def test_the_source_and_the_table_are_named(
    shop: Project, caplog: pytest.LogCaptureFixture
) -> None:
    trouble(shop, "source")
    for code, text in told(shop, "extract.extract_{}").items():
        assert text.startswith(f"shop.item_{code.lower()}: extract failed in run ")
        assert THE_SOURCE in text and THE_WAREHOUSE not in text and "Next: " in text

    for name in TABLES if LONG else list(TABLES)[:3]:
        done = shop.cli("verify", "shop", name)
        assert done.returncode == 1, done
        assert done.stderr.startswith(f"error: {name}: {THE_SOURCE}"), done.stderr
        assert f"(SQLSTATE {TABLES[name]})" in done.stderr and "Next: " in done.stderr

    with caplog.at_level("INFO"):
        look_at(shop)
    for name, code in TABLES.items():
        [line] = [one for one in caplog.messages if f"{name}: runs; the look could not tell" in one]
        assert THE_SOURCE in line, (code, line)

    # An error that may be of more than one table ends the questions to this source.
    [status] = json.loads(shop.cli("status", "shop", "--json").stdout)["pipelines"]
    assert status["source"]["why_not"].startswith(f"item_53300: {THE_SOURCE}")
    assert f"within 2s: {THE_SOURCE}" in status["tables"][0]["lag_unknown"]


def test_the_warehouse_and_the_table_are_named(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = "".join(TRIGGER.format(*pair) for pair in TABLES.items())
    shop.in_warehouse(TRIGGERS + made)
    trouble(shop, "warehouse")
    for code, text in told(shop, "load.load_{}").items():
        assert text.startswith(f"shop.item_{code.lower()}: load failed in run ")
        assert THE_WAREHOUSE in text and THE_SOURCE not in text and "Next: " in text

    for name in TABLES:
        shop.in_warehouse(f"DROP TRIGGER refuse ON staging.{name}")
    for code, text in told(shop, "transform.transform_mart_{}").items():
        assert text.startswith(f"shop.mart_item_{code.lower()}: transform failed in run ")
        assert THE_WAREHOUSE in text and THE_SOURCE not in text and "Next: " in text

    # The control: it is the session that says so.
    monkeypatch.setattr(PinnedSession, "name", lambda session, error: None)
    for text in told(shop, "transform.transform_mart_{}").values():
        assert THE_WAREHOUSE not in text
