"""What no command shows as it is: names, keys, labels and errors of the source, names of objects in
the lake, rows of the ledger, names of programs. None steers a terminal, forges a line, or is
markup."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator

import psycopg
import pytest
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.lake.store import Lake
from loadsheet.sql.text import ident, literal
from tests.project import Project

STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069]"
)
FORGED = "ok all is well"
FORGES = re.compile(rf"^{FORGED}", re.MULTILINE)
EVIL = f"\x1b[2J\u202e\x9b[red]<!channel>[/]\n{FORGED}"
SHOWN = r"\x1b[2J\u202e\x9b[red]<!channel>[/]\n" + FORGED


def named(what: str) -> str:
    return ident(what + EVIL)


SOURCE = f"""
CREATE TABLE {named("key")} ({named("id")} text PRIMARY KEY, {named("v")} text,
    at timestamptz DEFAULT now());
INSERT INTO {named("key")} VALUES ({literal("k" + EVIL)}, 'x'), ({literal("m" + EVIL)}, 'y');
CREATE TYPE {named("mood")} AS ENUM ({literal("sad" + EVIL)});
CREATE TABLE {named("typed")} (id int PRIMARY KEY, mood {named("mood")});
INSERT INTO {named("typed")} VALUES (1, {literal("sad" + EVIL)});
CREATE TABLE held (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
INSERT INTO held VALUES (1);
CREATE FUNCTION fails() RETURNS int LANGUAGE plpgsql AS
    $$BEGIN RAISE {literal("%")}, {literal("said" + EVIL)}; END$$;
CREATE VIEW broken AS SELECT fails() AS id;
CREATE TABLE {named("no_key")} (x int)
"""
TABLES = {
    "key*": None,
    "typed*": None,
    "no_key*": {"mode": "merge", "incremental": "at"},
    "held": {"incremental": "at"},
    "broken": {"primary_key": "id"},
}
COMMANDS = [
    ("check",),
    ("plan", "shop"),
    ("plan", "shop", "--verbose"),
    ("plan", "shop", "--connect"),
    ("plan", "shop", "--connect", "--json"),
    ("run", "shop"),
    ("run", "shop", "--verbose"),
    ("run", "shop", "--json"),
    ("run", "shop", "--tables", "nothing" + EVIL),
    ("status", "shop"),
    ("status", "shop", "--verbose"),
    ("status", "shop", "--json"),
    ("verify", "shop"),
    ("verify", "shop", "--values"),
    ("verify", "shop", "--values", "--json"),
    ("verify", "shop", "nothing" + EVIL),
    ("doctor",),
    ("doctor", "shop", "--json"),
    ("gc", "shop", "--dry-run", "--older-than", "0d"),
    ("gc", "shop", "--dry-run", "--older-than", "0d", "--json"),
    ("add", "shop", "*", "--dry-run"),
    ("add", "shop", "nothing" + EVIL),
    ("new", "second", "--source", "shop_source", "--schema", "public", "--dry-run"),
    ("new", "third", "--source", "shop_source", "--schema", "nothing" + EVIL),
    ("adopt", "old" + EVIL, "shop"),
    ("grants", "shop", "--reader", "r" + EVIL),
    ("docs", "shop", "--out", "/dev/null/nothing" + EVIL),
    ("render", "shop"),
    ("render", "nothing" + EVIL),
]


@pytest.fixture
def shop(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Loaded once, damaged since then, and held back by a program with an odd name (the server
    itself escapes it)."""
    monkeypatch.setenv("COLUMNS", "2000")  # nothing is wrapped
    project.in_source(SOURCE)
    project.spec(TABLES, tasks={"retries": 0})
    shown(project, "run", "shop")
    project.in_warehouse(f"UPDATE staging.{named('key')} SET {named('v')} = {literal('z' + EVIL)}")
    odd = f"shop/held/{'0' * 20}{EVIL}/00000001-00000001/part-00000.bin"
    Lake(project.connections("lake"), project.bucket).put(odd, b"x")
    with psycopg.connect(project.source, application_name=f"till{EVIL}") as till:
        till.execute("INSERT INTO held VALUES (2)")
        project.in_source("INSERT INTO held VALUES (3)")
        yield project


def shown(project: Project, *arguments: str) -> str:
    """What the command prints, on both streams."""
    environment = project.environment()
    done = CliRunner().invoke(app, ["--project", str(project.folder), *arguments], env=environment)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    if "--json" in arguments and done.stdout:
        json.loads(done.stdout)
    return done.stdout + done.stderr


def harm(text: str) -> list[str]:
    """What is wrong with a text that a terminal or a reader of lines gets."""
    found = [f"steers: {match[0]!r}" for match in STEERING.finditer(text)]
    found += [f"forges a line: {match[0]!r}" for match in FORGES.finditer(text)]
    if text.count("<!channel>") != text.count("[red]<!channel>[/]"):
        found.append("took a name for markup")
    return found


def test_no_command_shows_a_text_from_outside_as_it_is(shop: Project) -> None:
    texts = {" ".join(command): shown(shop, *command) for command in COMMANDS}
    assert {command: harm(text) for command, text in texts.items() if harm(text)} == {}
    # Each of them came by, so there was something to escape.
    everything = "\n".join(texts.values())
    for what in ("key", "typed", "no_key", "id", "k", "z", "said", "nothing", "old"):
        assert f"{what}{SHOWN[:12]}" in everything, what


def test_without_the_escaping_each_of_them_would_be_seen(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    for module in [module for name, module in sys.modules.items() if name.startswith("loadsheet")]:
        for name in ("visible", "on_one_line", "json_safe"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, str)
    found = {" ".join(command): harm(shown(shop, *command)) for command in COMMANDS}
    assert {kind.partition(":")[0] for harms in found.values() for kind in harms} >= {
        "steers",
        "forges a line",
    }
