"""Whatever hangs on a staging table or a mart is there after the next load as it was before.

The oracle is pg_dump: it knows every kind of thing that PostgreSQL can hang on a table, and none of
ours. Before, a swap carried over what it knew, and dropped the rest.
"""

from __future__ import annotations

import copy
import random
import secrets
from typing import Any

import psycopg
import pytest

from loadsheet.sql.text import Relation
from loadsheet.warehouse import belongings
from loadsheet.warehouse.belongings import Belonging
from tests.core.hanging import *  # noqa: F403
from tests.core.hanging import CARRIED, COLUMNS, KEPT, ROWS, add_row, dumped, hang
from tests.faults.scale import scaled
from tests.project import Project

# These need a primary key.
KEYED = {
    "a comment on the key": "COMMENT ON CONSTRAINT {n}_pkey ON {t} IS 'x'",
    "cluster on the key": "ALTER TABLE {t} CLUSTER ON {n}_pkey",
    "an own column": "ALTER TABLE {t} ADD own text; UPDATE {t} SET own = 'mine ' || id",
    "a foreign key of another": "CREATE TABLE public.{n}_kid (id int REFERENCES {t});"
    " INSERT INTO public.{n}_kid VALUES (1)",
}
# A mart's columns are those of its SELECT, so an own column has a default or is generated.
NOT_ON_MARTS = ("an own column",)
# The first cannot be on one table with the others.
AT_ODDS = {
    "cluster": {"cluster on the key"},
    "unlogged": {"a foreign key of another", "a publication", "a foreign key"},
    # The server looks the key up as the table's owner.
    "a foreign key of another": {"another owner", "nothing for the owner"},
}
# They keep the table from being altered further.
HUNG_LAST = ("a column of its type", "another owner")

QUIET = "CREATE FUNCTION public.quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"


def listed(project: Project, targets: list[str]) -> dict[str, list[Belonging]]:
    """The product's own inventory of each target."""
    found = {}
    with psycopg.connect(project.warehouse, autocommit=True) as session:
        session.execute("SET search_path = pg_catalog")
        for target in targets:
            found[target] = belongings.inventory(session, Relation(*target.split(".")))
    return found


def test_every_kind_of_belonging_is_seen_and_known_to_be_carried_or_not(
    project: Project, roles: dict[str, str]
) -> None:
    # It takes no other columns.
    typed = "CREATE TYPE staging.{n}_type AS (id int, what text, _load_id bigint);"
    typed += " ALTER TABLE {t} OF staging.{n}_type"
    child = "CREATE TABLE staging.{n}_child () INHERITS ({t})"
    kinds = {**CARRIED, **KEPT, **KEYED, "a type": typed, "a child": child}
    with psycopg.connect(project.warehouse, autocommit=True) as session:
        session.execute(f"CREATE SCHEMA staging; {QUIET}")
        for number, (kind, statement) in enumerate(kinds.items()):
            target = Relation("staging", f"t{number}")
            session.execute(
                f"CREATE TABLE {target} (id int PRIMARY KEY, what text, _load_id bigint NOT NULL);"
                f"INSERT INTO {target} SELECT i, 'x', 1 FROM generate_series(1, 20) i"
            )
            plain = belongings.inventory(session, target)
            assert all(one.is_carried for one in plain), kind
            hang(session, statement, str(target), roles)
            kept = ["own"] if kind == "an own column" else []
            assert kept or belongings.inventory(session, target) != plain, f"{kind} is not seen"
            keeping = belongings.obstacles(session, target, kept)
            assert bool(keeping) == (kind not in CARRIED), (kind, keeping)


def dealt(chance: random.Random, kinds: list[str], hands: int) -> list[list[str]]:
    """The kinds in a random order, each to one of the hands where it is at odds with nothing, if
    there is one."""
    chance.shuffle(kinds)
    # First those that do not go with every other one.
    kinds.sort(key=lambda kind: kind not in AT_ODDS)
    given: list[list[str]] = [[] for _ in range(hands)]
    for number, kind in enumerate(kinds):
        for turn in range(hands):
            hand = given[(number + turn) % hands]
            pairs = {(kind, other) for other in hand} | {(other, kind) for other in hand}
            if not any(other in AT_ODDS.get(one, ()) for one, other in pairs):
                hand.append(kind)
                break
    return given


HANDS = scaled(1, 3)
MODES: dict[str, tuple[str, Any]] = {
    "replaced": ("PRIMARY KEY", None),
    "keyless": ("", None),
    "merged": ("PRIMARY KEY", {"incremental": "at"}),
    "log": ("", {"incremental": "at", "mode": "append"}),
}
MARTS = {
    "whole": {"unique_key": "id"},
    "plain": {},
    "steady": {"materialized": "merge", "unique_key": "id"},
}


def world(project: Project) -> list[str]:
    """A pipeline with some tables of every mode and some marts of every kind; their targets."""
    tables: dict[str, Any] = {"base": None}
    marts: dict[str, Any] = {}
    create = ["CREATE TABLE base (id int PRIMARY KEY, what text)", ROWS.format("base")]
    for number in range(HANDS + 1):
        for mode, (key, spec) in MODES.items():
            name = f"{mode}_{number}"
            create += [f"CREATE TABLE {name} {COLUMNS.format(key=key)}", ROWS.format(name)]
            tables[name] = copy.deepcopy(spec)
        for kind, settings in MARTS.items():
            select = "SELECT id, what, 0 AS _load_id FROM staging.base"
            marts[f"{kind}_{number}"] = (select, dict(settings))
    project.in_source("; ".join(create))
    project.in_warehouse(QUIET)
    project.spec(tables, marts)
    project.succeed()
    staging = [f"staging.{name}" for name in tables if name != "base"]
    return [*staging, *(f"mart.{name}" for name in marts)]


def change_source(project: Project, targets: list[str]) -> None:
    """Change, add and delete rows; only add where rows are appended."""
    change = []
    for target in ["staging.base", *targets]:
        schema, name = target.split(".")
        if schema == "mart":
            continue
        change.append(f"INSERT INTO {name} (id, what) VALUES (21, 'new')")
        if name.startswith("log"):
            continue
        stamp = ", at = clock_timestamp()" if name != "base" else ""
        change.append(f"UPDATE {name} SET what = 'changed'{stamp} WHERE id = 7")
        if not name.startswith("merged"):
            change.append(f"DELETE FROM {name} WHERE id = 8")
    project.in_source("; ".join(change))


def wrong_rows(project: Project, targets: list[str]) -> list[str]:
    wrong = []
    for target in targets:
        schema, name = target.split(".")
        if schema == "staging" and project.differences(name):
            wrong.append(target)
        both = "SELECT id, what FROM staging.base", f"SELECT id, what FROM {target}"
        if schema == "mart":
            for one, other in (both, both[::-1]):
                if project.in_warehouse(f"{one} EXCEPT ALL {other}"):
                    wrong.append(target)
    return wrong


@pytest.mark.parametrize("round_no", range(scaled(1, 20)))
def test_random_belongings_of_every_target_stay_as_they_were(
    project: Project, roles: dict[str, str], round_no: int
) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    targets = world(project)
    # What it needs for tables under row level security, and to swap those of another owner.
    project.in_warehouse(
        f"ALTER ROLE {project.loader} BYPASSRLS; GRANT {roles['role']} TO {project.loader};"
        f"GRANT USAGE, CREATE ON SCHEMA staging, mart TO {roles['role']}"
    )
    hung: dict[str, list[str]] = {}
    everything = {**CARRIED, **KEPT, **KEYED}
    for mode in [*MODES, *MARTS]:
        kinds = [*CARRIED, *KEPT]
        has_key = mode not in ("keyless", "log", "plain")
        if has_key:
            kinds += [kind for kind in KEYED if mode in MODES or kind not in NOT_ON_MARTS]
        if not has_key:
            # DELETE needs a replica identity (see the test of published tables).
            kinds.remove("a publication")
        schema = "staging" if mode in MODES else "mart"
        hands = dealt(chance, kinds, HANDS)
        # A target that is swapped.
        with psycopg.connect(project.warehouse, autocommit=True) as session:
            for number, hand in enumerate([*hands, list(CARRIED)]):
                target = f"{schema}.{mode}_{number}"
                hung[target] = sorted(hand, key=lambda kind: kind in HUNG_LAST)
                for kind in hung[target]:
                    hang(session, everything[kind], target, roles)
    project.in_warehouse(
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;"
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA mart GRANT SELECT ON TABLES TO {roles['other']}"
    )
    before, inventory = dumped(project), listed(project, targets)
    own = {
        target: project.in_warehouse(f"SELECT own FROM {target} WHERE id NOT IN (7, 8) ORDER BY id")
        for target in targets
        if "an own column" in hung[target]
    }
    oids = "SELECT oid::regclass::text, oid FROM pg_class WHERE relname ~ '^(replaced|whole)_'"
    old = dict(project.in_warehouse(oids))
    change_source(project, targets)
    project.succeed()
    assert wrong_rows(project, targets) == []
    after = listed(project, targets)
    for target, was in inventory.items():
        assert after[target] == was, (seed, target, hung[target])
    assert dumped(project) == before, seed
    for target, values in own.items():
        kept = f"SELECT own FROM {target} WHERE id NOT IN (7, 8, 21) ORDER BY id"
        assert project.in_warehouse(kept) == values, (seed, target)
    swapped = {name for name, oid in project.in_warehouse(oids) if old[name] != oid}
    assert {f"staging.replaced_{HANDS}", f"mart.whole_{HANDS}"} <= swapped


def test_what_a_new_type_takes_from_a_column_is_given_back(
    project: Project, roles: dict[str, str]
) -> None:
    """ALTER COLUMN TYPE resets the storage, and makes what uses the column again."""
    columns = "(id int PRIMARY KEY, what varchar(20), at timestamptz DEFAULT clock_timestamp())"
    project.in_source(f"CREATE TABLE item {columns}; {ROWS.format('item')}")
    project.spec({"item": {"incremental": "at"}})
    project.succeed()
    lost = (
        *("storage", "compression", "an index on an expression", "statistics"),
        "an index of an extension",
    )
    with psycopg.connect(project.warehouse, autocommit=True) as session:
        for kind in lost:
            hang(session, KEPT[kind], "staging.item", roles)
    before = listed(project, ["staging.item"])
    project.in_source("ALTER TABLE item ALTER what TYPE varchar(40), ALTER id TYPE bigint")
    add_row(project)
    project.succeed()
    types = "SELECT string_agg(format_type(atttypid, atttypmod), ', ' ORDER BY attnum)"
    types += " FROM pg_attribute WHERE attrelid = 'staging.item'::regclass AND attname IN"
    assert project.in_warehouse(f"{types} ('id', 'what')") == [("bigint, character varying(40)",)]
    assert listed(project, ["staging.item"]) == before
