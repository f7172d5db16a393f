"""Whatever hangs on a staging table or a mart is there after the next load as it was before.

The oracle is pg_dump: it knows every kind of thing that PostgreSQL can hang on a table, and none of
ours. Before, a swap carried over what it knew, and dropped the rest.
"""

from __future__ import annotations

import copy
import random
import secrets
import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from loadsheet.errors import Refused
from loadsheet.sql.text import Relation
from loadsheet.warehouse import belongings, load_transaction, unique_indexes
from loadsheet.warehouse.belongings import Belonging
from tests.core.planned import as_role, plan
from tests.debian import VERSION
from tests.faults.scale import scaled
from tests.project import Project, client_programs

# From 18 on, a published table with REPLICA IDENTITY FULL and a generated column that is not
# published takes no UPDATE and no DELETE, whoever asks.
PUBLISHED = " WITH (publish_generated_columns = stored)" if VERSION == "18" else ""
# What a swap carries over. {t} is the table, {n} a name, {role} and {other} are roles.
CARRIED = {
    "a grant": "GRANT SELECT, INSERT ON {t} TO {role}",
    "a grant with its option": "GRANT UPDATE ON {t} TO {role} WITH GRANT OPTION",
    "a grant on a column": "GRANT SELECT (what), UPDATE (id) ON {t} TO {other}",
    "a grant on a system column": "GRANT SELECT (ctid) ON {t} TO {role}",
    "nothing for the owner": "REVOKE ALL ON {t} FROM {owner}; GRANT ALL ON {t} TO {role}",
    "another owner": "ALTER TABLE {t} OWNER TO {role}",
    "a comment": "COMMENT ON TABLE {t} IS 'it''s'; COMMENT ON COLUMN {t}.what IS 'x'",
    "options": "ALTER TABLE {t} SET (fillfactor = 70, toast.autovacuum_enabled = false)",
    "an index": "CREATE INDEX {n}_i ON {t} (what DESC, id) INCLUDE (_load_id) WITH (fillfactor=70)",
    "a unique index": "CREATE UNIQUE INDEX {n}_u ON {t} (id, what)",
}
# What keeps a table from being swapped. {owner} is the table's.
KEPT = {
    "row level security": "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY",
    "forced row level security": "ALTER TABLE {t} FORCE ROW LEVEL SECURITY",
    "a policy": "CREATE POLICY {n}_p ON {t} TO {role} USING (id > 5)",
    "a grant by another": "GRANT USAGE ON SCHEMA {s} TO {role};"
    " GRANT INSERT ON {t} TO {role} WITH GRANT OPTION; SET ROLE {role};"
    " GRANT INSERT ON {t} TO {other}",
    "NOT NULL": "ALTER TABLE {t} ALTER what SET NOT NULL",
    "a default": "ALTER TABLE {t} ALTER what SET DEFAULT 'none'",
    "replica identity": "ALTER TABLE {t} REPLICA IDENTITY FULL",
    "a statistics target": "ALTER TABLE {t} ALTER what SET STATISTICS 500",
    "options of a column": "ALTER TABLE {t} ALTER what SET (n_distinct = 5)",
    "storage": "ALTER TABLE {t} ALTER what SET STORAGE EXTERNAL",
    "compression": "ALTER TABLE {t} ALTER what SET COMPRESSION pglz",
    "unlogged": "ALTER TABLE {t} SET UNLOGGED",
    "cluster": "CREATE INDEX {n}_c ON {t} (what); ALTER TABLE {t} CLUSTER ON {n}_c",
    "an index's comment": "CREATE INDEX {n}_m ON {t} (what); COMMENT ON INDEX {s}.{n}_m IS 'x'",
    "an index on an expression": "CREATE INDEX {n}_e ON {t} (lower(what));"
    " COMMENT ON INDEX {s}.{n}_e IS 'x'; ALTER INDEX {s}.{n}_e ALTER COLUMN 1 SET STATISTICS 700",
    "a partial index": "CREATE INDEX {n}_w ON {t} (what) WHERE id > 3",
    "an index of an extension": "CREATE INDEX {n}_x ON {t} (id);"
    " ALTER INDEX {s}.{n}_x DEPENDS ON EXTENSION plpgsql",
    "an identity column": "ALTER TABLE {t} ADD own_id int GENERATED ALWAYS AS IDENTITY",
    "a generated column": "ALTER TABLE {t} ADD twice int GENERATED ALWAYS AS (id * 2) STORED",
    "a column with a default": "ALTER TABLE {t} ADD since date DEFAULT '2026-01-01'",
    "a trigger": "CREATE TRIGGER {n}_t AFTER UPDATE OR DELETE ON {t} FOR EACH ROW EXECUTE FUNCTION"
    " public.quiet(); CREATE TRIGGER {n}_d BEFORE INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION"
    " public.quiet(); ALTER TABLE {t} DISABLE TRIGGER {n}_d",
    "a rule": "CREATE RULE {n}_r AS ON UPDATE TO {t} DO ALSO NOTIFY changed",
    "a check": "ALTER TABLE {t} ADD CONSTRAINT {n}_k CHECK (id > 0) NOT VALID",
    "a unique constraint": "ALTER TABLE {t} ADD CONSTRAINT {n}_q UNIQUE (id, what)",
    "an exclusion": "ALTER TABLE {t} ADD CONSTRAINT {n}_xc EXCLUDE USING btree (id WITH =)",
    "a foreign key": "CREATE TABLE public.{n}_ref (id int PRIMARY KEY); INSERT INTO public.{n}_ref"
    " SELECT generate_series(1, 99); ALTER TABLE {t} ADD CONSTRAINT {n}_f FOREIGN KEY (id)"
    " REFERENCES public.{n}_ref",
    # A new type of a column makes them again, and PostgreSQL gives them to the role that does it.
    "statistics": "SET ROLE {owner}; CREATE STATISTICS {s}.{n}_s ON id, what FROM {t};"
    " ALTER STATISTICS {s}.{n}_s SET STATISTICS 300; COMMENT ON STATISTICS {s}.{n}_s IS 'x'",
    "a publication": "CREATE PUBLICATION {n}_p FOR TABLE {t}" + PUBLISHED,
    "a parent": "CREATE TABLE public.{n}_base (what text); ALTER TABLE {t} INHERIT public.{n}_base",
    "a view": "CREATE VIEW public.{n}_v WITH (security_barrier) AS SELECT id FROM {t};"
    " GRANT SELECT ON public.{n}_v TO {role}",
    "a materialized view": "CREATE MATERIALIZED VIEW public.{n}_mv AS SELECT id FROM {t}",
    "a function": "CREATE FUNCTION public.{n}_f(old {t}) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "a column of its type": "CREATE TABLE public.{n}_log (old {t}[])",
    "a sequence": "SET ROLE {owner}; CREATE SEQUENCE {s}.{n}_seq OWNED BY {t}.id",
}
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
COLUMNS = "(id int {key}, what text, at timestamptz NOT NULL DEFAULT clock_timestamp())"
ROWS = "INSERT INTO {} (id, what) SELECT i, 'row ' || i FROM generate_series(1, 20) i"


@pytest.fixture
def roles(two_databases: tuple[str, str]) -> Iterator[dict[str, str]]:
    """Two roles without rights, as names for the statements above."""
    names = {"role": f"r_{secrets.token_hex(4)}", "other": f"o_{secrets.token_hex(4)}"}
    warehouse = two_databases[1]
    with psycopg.connect(warehouse, autocommit=True) as session:
        for name in names.values():
            session.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
        yield names
        for name in names.values():
            session.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}")
            session.execute(f"DROP ROLE {name}")


def hang(
    session: psycopg.Connection[Any], statement: str, target: str, roles: dict[str, str]
) -> None:
    schema, name = target.split(".")
    owners = "SELECT relowner::regrole FROM pg_class WHERE oid = %s::regclass"
    (owner,) = session.execute(owners, (target,)).fetchone()
    session.execute(statement.format(t=target, n=name, s=schema, owner=owner, **roles))
    session.execute("RESET ROLE")


def dumped(project: Project) -> str:
    """All that the warehouse has, without rows."""
    program = str(client_programs(project.warehouse) / "pg_dump")
    command = [program, project.warehouse, "--schema-only", "--exclude-schema=loadsheet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("\\")]
    return "\n".join(lines)


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


SECRET = "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY; REVOKE ALL ON {t} FROM PUBLIC"


@pytest.fixture
def shop(project: Project) -> Project:
    """A replaced table with a key and a mart, loaded once."""
    project.in_source(
        f"CREATE TABLE item {COLUMNS.format(key='PRIMARY KEY')}; {ROWS.format('item')}"
    )
    project.spec({"item": None}, {"copy": "SELECT id, what FROM staging.item"})
    project.succeed()
    return project


def add_row(project: Project) -> None:
    project.in_source("INSERT INTO item (id, what) SELECT max(id) + 1, 'new' FROM item")


def test_a_swap_that_does_not_look_drops_what_hangs_on_the_table(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the table is dropped and the new one renamed."""
    shop.in_warehouse(
        f"{SECRET.format(t='staging.item')}; {KEPT['NOT NULL'].format(t='mart.copy')}"
    )
    before = dumped(shop)
    monkeypatch.setattr(belongings, "inventory", lambda *_: [])
    add_row(shop)
    shop.succeed()
    assert dumped(shop) != before


def test_a_role_without_rights_can_never_read_a_row(
    shop: Project, roles: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two statements of the swap, although default privileges open every new table.

    The old swap took the REVOKE back.
    """
    role = roles["role"]
    shop.in_warehouse(f"GRANT USAGE ON SCHEMA staging, mart TO {role}")
    shop.in_warehouse("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")
    login = as_role(shop.warehouse, role)
    refused = []

    def look(session: psycopg.Connection[Any]) -> None:
        for (table,) in session.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace IN ('staging'::regnamespace, 'mart'::regnamespace)"
        ).fetchall():
            try:
                session.execute(f"SELECT FROM {table}")
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable) as error:
                refused.append(type(error))
            else:
                raise AssertionError(f"{table} can be read")

    with psycopg.connect(login, autocommit=True) as session:
        session.execute("SET lock_timeout = '10ms'")
        execute = psycopg.Connection.execute

        def watched(self: Any, *args: Any, **options: Any) -> Any:
            done = execute(self, *args, **options)
            if self is not session and str(args[0]).startswith(
                ("ALTER", "DROP", "GRANT", "REVOKE")
            ):
                look(session)
            return done

        add_row(shop)
        with monkeypatch.context() as patch:
            patch.setattr(psycopg.Connection, "execute", watched)
            shop.succeed()
        look(session)
    assert {psycopg.errors.InsufficientPrivilege} <= set(refused) and len(refused) > 10


@pytest.mark.parametrize("what", [KEPT["a statistics target"], "SELECT 'only values'"])
def test_what_is_hung_on_a_table_while_it_is_loaded_stays(
    shop: Project, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The load looks again under its lock. Before, the table was swapped all the same."""
    shop.in_warehouse("ALTER TABLE staging.item ADD own text")
    reach = load_transaction.reach
    during: list[str] = []

    def harden(point: str) -> None:
        if point == "load.filled":
            # The load has read the table, so nothing that locks it whole gets in.
            shop.in_warehouse(what.format(t="staging.item"))
            shop.in_warehouse("UPDATE staging.item SET own = 'mine'")
            during.append(dumped(shop))
        reach(point)

    monkeypatch.setattr(load_transaction, "reach", harden)
    add_row(shop)
    shop.succeed()
    assert shop.differences("item") == 0
    assert [dumped(shop)] == during
    assert shop.in_warehouse("SELECT count(own), count(*) FROM staging.item") == [(20, 21)]


def test_an_event_trigger_that_changes_new_tables_keeps_them_from_being_swapped(
    shop: Project,
) -> None:
    """The swap compares what came of it with what was there."""
    shop.in_warehouse(
        "CREATE FUNCTION harden() RETURNS event_trigger LANGUAGE plpgsql AS $$DECLARE t text; BEGIN"
        " SELECT object_identity INTO t FROM pg_event_trigger_ddl_commands() LIMIT 1;"
        " EXECUTE format('ALTER TABLE %s ALTER what SET STATISTICS 9', t); END$$;"
        "CREATE EVENT TRIGGER harden ON ddl_command_end WHEN TAG IN ('CREATE TABLE')"
        " EXECUTE FUNCTION harden()"
    )
    add_row(shop)
    before = dumped(shop)
    shop.succeed()
    assert shop.differences("item") == 0
    assert dumped(shop) == before


@pytest.mark.parametrize("everything", ["FOR TABLE {}", "FOR ALL TABLES"])
def test_a_published_table_without_a_replica_identity_is_built_again(
    project: Project, everything: str
) -> None:
    """It was dropped from its publication. DELETE is refused for it, so it is truncated."""
    project.in_source(f"CREATE TABLE item {COLUMNS.format(key='')}; {ROWS.format('item')}")
    project.spec({"item": None}, {"copy": "SELECT id, what FROM staging.item"})
    project.succeed()
    publication = f"CREATE PUBLICATION p {everything.format('staging.item, mart.copy')}"
    project.in_warehouse(publication)
    before = dumped(project)
    add_row(project)
    project.succeed()
    assert project.differences("item") == 0
    assert project.in_warehouse("SELECT count(*) FROM mart.copy") == [(21,)]
    assert dumped(project) == before


def test_values_that_could_not_be_kept_are_not_dropped(project: Project) -> None:
    """Without a key no row is known again. Before, the values were gone."""
    project.in_source(f"CREATE TABLE item {COLUMNS.format(key='')}; {ROWS.format('item')}")
    project.spec({"item": None})
    project.succeed()
    project.in_warehouse("ALTER TABLE staging.item ADD own text")
    add_row(project)
    # It has no values yet.
    project.succeed()
    project.in_warehouse("UPDATE staging.item SET own = 'mine'")
    add_row(project)
    error = project.run()["load.load_item"].result
    assert isinstance(error, Refused) and "column own is not part of what is loaded" in str(error)
    project.spec({"item": {"primary_key": "id"}})
    error = project.run()["load.load_item"].result
    assert isinstance(error, Refused) and "remove values in column own" in str(error)
    project.in_warehouse("ALTER TABLE staging.item ADD PRIMARY KEY (id)")
    project.succeed()
    assert project.in_warehouse("SELECT count(own), count(*) FROM staging.item") == [(21, 22)]


def test_row_level_security_that_applies_to_the_loading_role_is_named(
    shop: Project, roles: dict[str, str]
) -> None:
    role = roles["role"]
    shop.spec({"item": None})
    shop.in_warehouse(
        f"GRANT ALL ON ALL TABLES IN SCHEMA loadsheet, staging TO {role};"
        f" GRANT ALL ON ALL SEQUENCES IN SCHEMA loadsheet TO {role};"
        f" GRANT USAGE ON SCHEMA loadsheet, staging TO {role}; {SECRET.format(t='staging.item')}"
    )
    add_row(shop)
    owner = shop.warehouse
    shop.warehouse = as_role(owner, role)
    error = shop.run()["extract.extract_item"].result
    assert isinstance(error, Refused) and f"run: ALTER ROLE {role} BYPASSRLS;" in str(error)
    shop.warehouse = owner
    shop.in_warehouse(f"ALTER ROLE {role} BYPASSRLS")
    shop.warehouse = as_role(owner, role)
    shop.succeed()
    shop.warehouse = owner
    assert shop.differences("item") == 0


UNSAFE = {
    "a child": (
        "CREATE TABLE public.{n}_kid () INHERITS ({t});"
        " INSERT INTO public.{n}_kid SELECT * FROM {t}",
        "ALTER TABLE public.{n}_kid NO INHERIT {t}",
    ),
    "a rule": ("CREATE RULE r AS ON INSERT TO {t} DO INSTEAD NOTHING", "DROP RULE r ON {t}"),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_a_table_that_cannot_be_written_to_is_refused_with_the_statement_that_helps(
    shop: Project, kind: str
) -> None:
    """Before, rows of the child were deleted, and rows that the rule took were missing."""
    for target, step in (
        ("staging.item", "extract.extract_item"),
        ("mart.copy", "transform.transform_copy"),
    ):
        names = {"t": target, "n": target.split(".")[1]}
        harm, remedy = UNSAFE[kind]
        shop.in_warehouse(harm.format(**names))
        add_row(shop)
        error = shop.run()[step].result
        assert isinstance(error, Refused) and remedy.format(**names) in str(error)
        told = [remark["message"] for remark in plan(shop, code=1)["steps"][step]["remarks"]]
        assert any(remedy.format(**names) in message for message in told)
        shop.in_warehouse(remedy.format(**names))
        shop.succeed()
    assert shop.differences("item") == 0


def test_rows_that_do_not_fit_the_bounds_of_a_partition_name_the_way_on(shop: Project) -> None:
    """The message spoke of a constraint to drop, and there is none."""
    shop.in_warehouse(
        "CREATE TABLE staging.whole (LIKE staging.item) PARTITION BY RANGE (id); ALTER TABLE"
        " staging.whole ATTACH PARTITION staging.item FOR VALUES FROM (-1) TO (1000)"
    )
    shop.in_source("INSERT INTO item VALUES (1001)")
    assert "ALTER TABLE ... DETACH PARTITION" in str(shop.run()["load.load_item"].result)
    shop.in_warehouse("ALTER TABLE staging.whole DETACH PARTITION staging.item")
    shop.succeed()
    assert shop.differences("item") == 0


ATTACHED = {
    "a partition": (
        "CREATE TABLE staging.whole (LIKE staging.{t}) PARTITION BY RANGE (id); ALTER TABLE"
        " staging.whole ATTACH PARTITION staging.{t} FOR VALUES FROM (-1) TO (1000)",
        "it is a partition of staging.whole",
        'ALTER TABLE staging.whole DETACH PARTITION "staging"."{t}";',
    ),
    "a child": (
        "CREATE TABLE staging.whole (LIKE staging.{t});"
        " ALTER TABLE staging.{t} INHERIT staging.whole",
        "it inherits from staging.whole",
        'ALTER TABLE "staging"."{t}" NO INHERIT staging.whole;',
    ),
}
FOLLOWED = {
    "added": "ALTER TABLE {t} ADD more int DEFAULT 1",
    "renamed": "ALTER TABLE {t} RENAME what TO which",
    "widened": "ALTER TABLE {t} ALTER id TYPE bigint",
}


@pytest.mark.parametrize("change", FOLLOWED)
@pytest.mark.parametrize("form", ATTACHED)
def test_columns_of_an_attached_table_that_change_name_what_it_is_attached_to(
    project: Project, form: str, change: str
) -> None:
    """Before: "cannot add column to a partition", or the advice to drop what uses the column."""
    tables = {"swapped": None, "merged": {"incremental": "at"}}
    for table in tables:
        create = f"CREATE TABLE {table} {COLUMNS.format(key='PRIMARY KEY')}"
        project.in_source(f"{create}; {ROWS.format(table)}")
    project.spec(tables)
    project.succeed()
    attach, what, statement = ATTACHED[form]
    for table in tables:
        project.in_warehouse(attach.replace("whole", f"whole_{table}").format(t=table))
        project.in_source(FOLLOWED[change].format(t=table))
        project.in_source(f"UPDATE {table} SET at = now() WHERE id = 7")
    is_refused = (form, change) != ("a child", "added")
    steps = plan(project, code=1 if is_refused else 0)["steps"]
    results = project.run()
    for table in tables:
        said = f"{what}_{table}", statement.replace("whole", f"whole_{table}").format(t=table)
        found = str(results[f"load.load_{table}"].result)
        told = " ".join(one["message"] for one in steps[f"load.load_{table}"]["remarks"])
        for text in said if is_refused else ():
            assert text in found and text in told, (found, told)
        if is_refused:
            project.in_warehouse(said[1])
    # Older rows have no value in an added column until then.
    project.succeed(full_refresh="all")
    assert [project.differences(table) for table in tables] == [0, 0]


def test_the_plan_says_whether_a_table_is_swapped(project: Project, roles: dict[str, str]) -> None:
    kinds = ["row level security", "a grant by another", "options", "a view"]
    tables, marts = {}, {}
    for number in range(len(kinds)):
        create = f"CREATE TABLE t{number} {COLUMNS.format(key='PRIMARY KEY')}"
        project.in_source(f"{create}; {ROWS.format(f't{number}')}")
        tables[f"t{number}"] = None
        marts[f"m{number}"] = f"SELECT id, what FROM staging.t{number}"
        # What follows from a swap is a build in full, from another change one of new rows.
        select = f"SELECT id FROM mart.m{number} WHERE :since_load >= 0"
        marts[f"on{number}"] = (select, {"materialized": "merge", "unique_key": "id"})
    project.spec(tables, marts)
    project.succeed()
    with psycopg.connect(project.warehouse, autocommit=True) as session:
        for number, kind in enumerate(kinds):
            for target in (f"staging.t{number}", f"mart.m{number}"):
                hang(session, {**CARRIED, **KEPT}[kind], target, roles)
            project.in_source(f"INSERT INTO t{number} (id, what) VALUES (21, 'new')")
    steps = plan(project)["steps"]
    oids = "SELECT relname, oid FROM pg_class WHERE relname ~ '^[tm][0-9]$'"
    before = dict(project.in_warehouse(oids))
    project.succeed()
    after = dict(project.in_warehouse(oids))
    for number, kind in enumerate(kinds):
        is_swapped = kind in CARRIED
        assert ("swapped in" in steps[f"load.load_t{number}"]["does"]) == is_swapped
        told = steps[f"transform.transform_on{number}"]["does"]
        assert (f"m{number} is rebuilt" in told) == is_swapped, (kind, told)
        for name in (f"t{number}", f"m{number}"):
            assert (before[name] != after[name]) == is_swapped, (kind, name)


def test_a_mart_that_has_other_columns_and_cannot_be_swapped_is_altered_in_place(
    shop: Project,
) -> None:
    shop.in_warehouse("ALTER TABLE mart.copy ENABLE ROW LEVEL SECURITY")
    shop.spec({"item": None}, {"copy": "SELECT id, what, 1 AS n FROM staging.item"})
    shop.succeed()
    assert shop.in_warehouse("SELECT min(n), max(n) FROM mart.copy") == [(1, 1)]
    assert shop.in_warehouse(
        "SELECT relrowsecurity FROM pg_class WHERE oid = 'mart.copy'::regclass"
    ) == [(True,)]


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


EXCHANGE = """
UPDATE item SET at = clock_timestamp(), what = CASE id WHEN 3 THEN 'row 4' WHEN 4 THEN 'row 3'
    WHEN 5 THEN 'row 6' ELSE 'row 5' END WHERE id IN (3, 4, 5, 6);
UPDATE item SET what = 'moved', at = clock_timestamp() WHERE id = 9;
INSERT INTO item (id, what) VALUES (21, 'row 9')
"""
UNIQUE = {
    "index": ("CREATE UNIQUE INDEX one ON {t} (what)", 'DROP INDEX "{s}"."one"'),
    "constraint": (
        "ALTER TABLE {t} ADD CONSTRAINT one UNIQUE (what)",
        'ALTER TABLE "{s}"."{n}" DROP CONSTRAINT "one"',
    ),
}


def with_unique(project: Project, spec: Any, kind: str) -> None:
    """A table with a unique index and own columns, loaded once."""
    project.in_source(
        f"CREATE TABLE item {COLUMNS.format(key='PRIMARY KEY')}; {ROWS.format('item')}"
    )
    copy = ("SELECT id, what FROM staging.item", {"materialized": "merge", "unique_key": "id"})
    project.spec({"item": spec}, {"copy": copy})
    project.succeed()
    for target in ("staging.item", "mart.copy"):
        schema, name = target.split(".")
        project.in_warehouse(UNIQUE[kind][0].format(t=target, s=schema, n=name))
    project.in_warehouse(
        "ALTER TABLE staging.item ADD own text, ADD no int GENERATED ALWAYS AS IDENTITY,"
        " ADD twice int GENERATED ALWAYS AS (id * 2) STORED;"
        "UPDATE staging.item SET own = 'mine ' || id"
    )


@pytest.mark.parametrize(
    ("spec", "kind"), [({"incremental": "at"}, "index"), (None, "constraint")], ids=str
)
def test_rows_exchange_the_values_of_a_unique_index(
    project: Project, monkeypatch: pytest.MonkeyPatch, spec: Any, kind: str
) -> None:
    """Updated one after the other, the first would take a value that the second still has."""
    with_unique(project, spec, kind)
    own = "SELECT id, own, no, twice FROM staging.item WHERE id < 21 ORDER BY id"
    before = project.in_warehouse(own)
    project.in_source(EXCHANGE)
    with monkeypatch.context() as patch:
        patch.setattr(unique_indexes, "besides_key_and_triggers", lambda *_: ({}, []))
        error = project.run()["load.load_item"].result
        assert isinstance(error, Refused) and "duplicate key value" in str(error)
    project.succeed()
    assert project.differences("item") == 0
    assert project.in_warehouse(own) == before
    assert (
        project.in_warehouse(
            "SELECT id, what FROM mart.copy EXCEPT SELECT id, what FROM staging.item"
        )
        == []
    )


@pytest.mark.parametrize("kind", UNIQUE)
def test_rows_that_break_a_unique_index_name_it_and_the_statement_that_drops_it(
    project: Project, kind: str
) -> None:
    with_unique(project, {"incremental": "at"}, kind)
    project.in_source("INSERT INTO item (id, what) VALUES (21, 'row 9')")
    error = project.run()["load.load_item"].result
    statement = UNIQUE[kind][1].format(s="staging", n="item")
    assert isinstance(error, Refused) and "its unique index one" in str(error)
    assert statement in str(error) and "row 9" not in str(error)
    project.in_warehouse(statement)
    error = project.run()["transform.transform_copy"].result
    statement = UNIQUE[kind][1].format(s="mart", n="copy")
    assert isinstance(error, Refused) and statement in str(error)
    project.in_warehouse(statement)
    project.succeed()
    assert project.differences("item") == 0


def test_rows_that_a_foreign_key_refers_to_are_not_deleted_to_exchange_values(
    project: Project,
) -> None:
    with_unique(project, {"incremental": "at"}, "index")
    project.in_warehouse(
        "CREATE TABLE kid (id int REFERENCES staging.item ON DELETE CASCADE);"
        " INSERT INTO kid VALUES (3)"
    )
    project.in_source(EXCHANGE)
    error = project.run()["load.load_item"].result
    assert isinstance(error, Refused) and "exchange values of a unique index (one)" in str(error)
    assert project.in_warehouse("SELECT id FROM kid") == [(3,)]


def test_an_invalid_index_is_left_as_it_is(shop: Project) -> None:
    """The swap made it again, and failed for an index of its own naming."""
    shop.in_source("UPDATE item SET what = 'same' WHERE id IN (1, 2)")
    shop.succeed()
    with pytest.raises(psycopg.errors.UniqueViolation):
        shop.in_warehouse("CREATE UNIQUE INDEX CONCURRENTLY one ON staging.item (what)")
    add_row(shop)
    shop.succeed()
    assert shop.differences("item") == 0
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'staging.one'::regclass"
    assert shop.in_warehouse(valid) == [(False,)]


# The index, the change of the source, the advice.
INDEXES_OF_A_TYPE = {
    "an expression": (
        "CREATE INDEX odd ON staging.item (public.half(id))",
        "ALTER TABLE item ALTER id TYPE bigint",
        "DROP INDEX staging.odd;",
    ),
    "an expression, and another type": (
        "CREATE INDEX odd ON staging.item (public.half(id))",
        "ALTER TABLE item ALTER id TYPE text",
        "drop index staging.odd",
    ),
    "an operator class": (
        "CREATE INDEX odd ON staging.item (what text_pattern_ops)",
        "ALTER TABLE item ALTER what TYPE int USING id",
        'DROP INDEX "staging"."odd";',
    ),
    "unique values": (
        "CREATE UNIQUE INDEX odd ON staging.item (what)",
        "ALTER TABLE item ALTER what TYPE int USING id / 2",
        'DROP INDEX "staging"."odd";',
    ),
}


def test_an_index_that_does_not_take_the_new_rows_is_named(project: Project) -> None:
    names = dict(zip([f"item{number}" for number in range(9)], INDEXES_OF_A_TYPE, strict=False))
    for name in names:
        create = f"CREATE TABLE {name} {COLUMNS.format(key='PRIMARY KEY')}"
        project.in_source(f"{create}; {ROWS.format(name)}")
    project.spec(dict.fromkeys(names))
    project.succeed()
    project.in_warehouse(
        "CREATE FUNCTION public.half(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 / 2'"
    )
    for name, kind in names.items():
        create, change, _ = INDEXES_OF_A_TYPE[kind]
        project.in_warehouse(create.replace("odd", f"{name}_odd").replace("item ", f"{name} "))
        project.in_source(change.replace("item ", f"{name} "))
    results = project.run()
    for name, kind in names.items():
        error = results[f"load.load_{name}"].result
        advice = INDEXES_OF_A_TYPE[kind][2].replace("odd", f"{name}_odd")
        assert isinstance(error, Refused) and advice in str(error), (kind, error)
        project.in_warehouse(f"DROP INDEX staging.{name}_odd")
    project.succeed()
    assert [project.differences(name) for name in names] == [0] * len(names)


def test_a_mart_that_another_session_has_locked_is_no_error_of_the_plan(shop: Project) -> None:
    shop.in_warehouse("CREATE RULE r AS ON UPDATE TO mart.copy DO ALSO NOTIFY changed")
    add_row(shop)
    with psycopg.connect(shop.warehouse) as session:
        session.execute("LOCK TABLE mart.copy IN ACCESS EXCLUSIVE MODE")
        step = plan(shop)["steps"]["transform.transform_copy"]
    assert step["does"] == "built in full: item is rebuilt"
    assert any("another session has locked" in remark["message"] for remark in step["remarks"])
