"""When a table is swapped and when it is built again in place, and what others see meanwhile."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from loadsheet.warehouse import belongings, load_transaction
from tests.core.hanging import *  # noqa: F403
from tests.core.hanging import CARRIED, COLUMNS, KEPT, ROWS, SECRET, add_row, dumped, hang
from tests.core.planned import as_role, plan
from tests.project import Project


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


def test_a_mart_that_another_session_has_locked_is_no_error_of_the_plan(shop: Project) -> None:
    shop.in_warehouse("CREATE RULE r AS ON UPDATE TO mart.copy DO ALSO NOTIFY changed")
    add_row(shop)
    with psycopg.connect(shop.warehouse) as session:
        session.execute("LOCK TABLE mart.copy IN ACCESS EXCLUSIVE MODE")
        step = plan(shop)["steps"]["transform.transform_copy"]
    assert step["does"] == "built in full: item is rebuilt"
    assert any("another session has locked" in remark["message"] for remark in step["remarks"])


def test_no_constraint_is_named_after_the_table_that_rows_arrived_in(project: Project) -> None:
    """From PostgreSQL 18 on, NOT NULL has a name."""
    project.in_source(
        "CREATE TABLE item (id int, part text, PRIMARY KEY (id, part));"
        "INSERT INTO item VALUES (1, 'a')"
    )
    project.spec({"item": None})
    for _ in range(2):  # a first load, and one that replaces the table
        project.succeed(full_refresh="all")
        version = project.in_warehouse("SELECT current_setting('server_version_num')::int")[0][0]
        not_null = ["item__load_id_not_null", "item_id_not_null", "item_part_not_null"]
        expected = [*(not_null if version >= 180000 else []), "item_pkey"]
        assert constraints(project, "item") == expected


def test_a_table_whose_names_leave_no_room_for_those_of_constraints_is_loaded(
    project: Project,
) -> None:
    """The key's two columns begin alike: cut to 63 bytes, their constraints had the same name."""
    table, first, second = "t" * 63, f"{'c' * 62}1", f"{'c' * 62}2"
    project.in_source(
        f"CREATE TABLE {table} ({first} int, {second} int, PRIMARY KEY ({first}, {second}));"
        f"INSERT INTO {table} VALUES (1, 1)"
    )
    project.spec({table: None})
    for _ in range(2):
        project.succeed(full_refresh="all")
        assert f"{'t' * 58}_pkey" in constraints(project, table)
        assert project.differences(table) == 0


def constraints(project: Project, table: str) -> list[str]:
    """The names of the constraints of a staging table."""
    names = project.in_warehouse(
        "SELECT conname::text FROM pg_constraint WHERE conrelid = %s::regclass ORDER BY 1",
        f"staging.{table}",
    )
    return [name for (name,) in names]
