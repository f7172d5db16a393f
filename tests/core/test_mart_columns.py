"""A mart's columns follow its SELECT, whatever hangs on the mart: it is swapped, altered in place,
or refused with the names of what is in the way.

One pipeline has a mart for each change of columns, kind of mart and thing that hangs on it; the
oracle is a table made from the new SELECT.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import psycopg
import pytest

from demo.servers import PostgresServer, S3Server
from loadsheet.engine.runner import StepResult
from loadsheet.errors import Refused
from tests.core.planned import found, plan
from tests.project import Project

SOURCE = """
CREATE TABLE t (id int PRIMARY KEY, val int, name text, extra numeric(10, 2));
INSERT INTO t VALUES (1, 10, 'a', 1.5), (2, 20, 'B', NULL), (3, NULL, 'c', 3);
"""
BEFORE = "t.id, t.val, t.name, 1 AS one"
CHANGES = {
    "added": f"{BEFORE}, t.extra",
    "added_within": "t.id, t.extra, t.val, t.name, 1 AS one",
    "dropped": "t.id, t.name, 1 AS one",
    "wider": "t.id, t.val::bigint, t.name, 1 AS one",
    "narrower": "t.id, t.val::smallint, t.name, 1 AS one",
    # An INSERT into the old column would round it.
    "with_a_fraction": "t.id, t.val + 0.7 AS val, t.name, 1 AS one",
    "other_type": "t.id, 'x' || t.val AS val, t.name, 1 AS one",
    "reordered": "t.name, t.val, t.id, 1 AS one",
    "renamed": "t.id, t.val AS value, t.name, 1 AS one",
    "other_case": 't.id, t.val AS "Val", t.name, 1 AS one',
    "many": 't.id::bigint + 0 AS id, t.name AS "Name", 1.5 AS one, t.extra',
}
KINDS: dict[str, dict[str, Any]] = {
    "table": {},
    "increment": {"materialized": "merge", "unique_key": "id"},
}
HANGS = ("nothing", "own", "used", "unused", "belongings")
CASES = list(product(CHANGES, KINDS, HANGS))
# `used` reads `val` and `name`, and keeps PostgreSQL from altering or dropping them. A key's type
# can be widened in place.
REFUSED = frozenset(CHANGES) - {"added", "added_within", "reordered"}


def select(columns: str, kind: str) -> str:
    where = " WHERE t._load_id > :since_load" if kind == "increment" else ""
    return f"SELECT {columns} FROM staging.t{where}"


def mart_of(case: tuple[str, str, str]) -> str:
    return "_".join(case)


def spec(project: Project, changed: bool) -> None:
    transforms: dict[str, Any] = {}
    for change, kind, hang in CASES:
        name = mart_of((change, kind, hang))
        columns = CHANGES[change] if changed else BEFORE
        transforms[name] = (select(columns, kind), dict(KINDS[kind]))
        if hang == "own":
            transforms[f"on_{name}"] = (f"SELECT * FROM mart.{name}", {"materialized": "view"})
    project.spec({"t": None}, transforms)


def hang_things(role: str) -> Iterator[str]:
    """The SQL that hangs each mart's thing on it."""
    for case in CASES:
        name, hang = f"mart.{mart_of(case)}", case[2]
        if hang == "own":
            view = f"mart.on_{mart_of(case)}"
            yield f"ALTER VIEW {view} SET (security_invoker = true, security_barrier = true)"
            yield f"GRANT SELECT ON {view} TO {role}; GRANT UPDATE (id) ON {view} TO {role}"
            yield f"COMMENT ON VIEW {view} IS 'ours'; COMMENT ON COLUMN {view}.id IS 'the key'"
        elif hang == "used":
            yield f"CREATE VIEW report.{mart_of(case)} AS SELECT val, name FROM {name}"
        elif hang == "unused":
            yield f"CREATE VIEW report.{mart_of(case)} AS SELECT one FROM {name} WHERE false"
        elif hang == "belongings":
            yield f"CREATE INDEX {mart_of(case)}_val ON {name} (val)"
            yield f"CREATE INDEX {mart_of(case)}_one ON {name} (one)"
            yield f"COMMENT ON COLUMN {name}.val IS 'v'; COMMENT ON COLUMN {name}.one IS 'n'"
            yield f"COMMENT ON TABLE {name} IS 'mine'"
            yield f"GRANT SELECT (val) ON {name} TO {role}; GRANT SELECT (one) ON {name} TO {role}"
            yield f"GRANT INSERT ON {name} TO {role}"


@dataclass
class Swept:
    """The marts before and after their SELECTs changed, and what plan and run said."""

    project: Project
    role: str
    before: dict[str, Any]
    planned: dict[str, Any]
    results: dict[str, StepResult]
    after: dict[str, Any]
    expected: dict[str, Any]


def look(project: Project, schema: str) -> dict[str, Any]:
    """Of each table and view, its columns and types in order, and its rows without an order."""
    seen = {}
    with psycopg.connect(project.warehouse) as session:
        relations = session.execute(
            "SELECT relname, array_agg(attname || ' ' || format_type(atttypid, atttypmod)"
            " ORDER BY attnum) FROM pg_class c JOIN pg_attribute ON attrelid = c.oid"
            " WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'v') AND attnum > 0"
            " AND NOT attisdropped GROUP BY 1",
            (schema,),
        )
        for name, columns in relations.fetchall():
            rows = session.execute(
                f"SELECT to_jsonb(m) FROM {schema}.{name} m ORDER BY to_jsonb(m)::text"
            )
            seen[name] = {"columns": columns, "rows": rows.fetchall()}
    return seen


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, s3: S3Server
) -> Iterator[Swept]:
    databases = ["marts_source", "marts_warehouse"]
    source, warehouse = (postgres.create_database(name) for name in databases)
    project = Project(tmp_path_factory.mktemp("marts"), source, warehouse, s3)
    project.in_source(SOURCE)
    spec(project, changed=False)
    project.succeed()
    role = "mart_reader"
    project.in_warehouse(f"CREATE ROLE {role}; CREATE SCHEMA report; CREATE SCHEMA expected")
    project.in_warehouse("; ".join(hang_things(role)))
    before = look(project, "mart")
    spec(project, changed=True)
    planned = plan(project, code=None)
    # Half of them by a full refresh, which must end the same.
    results = project.run(full_refresh=frozenset(mart_of(case) for case in CASES[::2]))
    for change, columns in CHANGES.items():
        project.in_warehouse(f"CREATE TABLE expected.{change} AS SELECT {columns} FROM staging.t")
    after = look(project, "mart")
    yield Swept(project, role, before, planned, results, after, look(project, "expected"))
    for name in databases:
        postgres.drop_database(name)
    with psycopg.connect(source.replace(databases[0], "postgres"), autocommit=True) as session:
        session.execute(f"DROP ROLE {role}")


def is_refused(change: str, hang: str) -> bool:
    if hang == "unused":
        return change == "many"
    return hang == "used" and change in REFUSED


@pytest.mark.parametrize(("change", "kind", "hang"), CASES)
def test_a_mart_is_its_select_run_fresh_or_what_it_was(
    swept: Swept, change: str, kind: str, hang: str
) -> None:
    """Before, a view on the mart ended in a KeyError (`added`, `renamed`, `other_case`), a rounded
    value (`with_a_fraction`) or a column that stayed (`dropped`); a comment, a grant or an index on
    a dropped column kept the mart from being built again; the plan passed all of them."""
    name = mart_of((change, kind, hang))
    step = f"transform.transform_{name}"
    result = swept.results[step].result
    now = swept.after[name]
    told = swept.planned["steps"][step]
    if is_refused(change, hang):
        assert isinstance(result, Refused), result
        assert f'run DROP VIEW "report"."{name}";' in str(result)
        [message] = found(swept.planned, step)
        assert message in str(result)
        assert now == swept.before[name]
        return
    assert not isinstance(result, Exception), result
    assert found(swept.planned, step) == []
    expected = swept.expected[change]
    assert now["rows"] == expected["rows"]
    if hang in ("used", "unused"):
        # In place, a column that is new comes last.
        assert sorted(now["columns"]) == sorted(expected["columns"])
    else:
        assert now["columns"] == expected["columns"]
    if change != "reordered":
        assert any(remark["code"] == "drift" for remark in told["remarks"])
        assert told["ddl"]
    if hang in KEPT:
        KEPT[hang](swept, change, name)


def columns_after(swept: Swept, change: str) -> list[str]:
    return [column.split()[0] for column in swept.expected[change]["columns"]]


def keeps_its_view(swept: Swept, change: str, name: str) -> None:
    view = f"mart.on_{name}"
    assert swept.after[f"on_{name}"] == swept.expected[change]
    rights = swept.project.in_warehouse(
        "SELECT has_table_privilege(%s, %s, 'SELECT'), has_table_privilege(%s, %s, 'INSERT'),"
        " has_column_privilege(%s, %s, 'id', 'UPDATE')",
        *[swept.role, view] * 3,
    )
    assert rights == [(True, False, True)]
    properties = swept.project.in_warehouse(
        "SELECT reloptions, obj_description(oid), (SELECT description FROM pg_description"
        " WHERE objoid = c.oid AND objsubid > 0) FROM pg_class c WHERE oid = %s::regclass",
        view,
    )
    options = ["security_invoker=true", "security_barrier=true"]
    assert properties == [(options, "ours", "the key")]


def keeps_its_belongings(swept: Swept, change: str, name: str) -> None:
    """Those of a dropped column are gone."""
    keeps_its_indexes(swept, change, name)
    keeps_its_comments(swept, change, name)
    keeps_its_grants(swept, change, name)


def keeps_its_indexes(swept: Swept, change: str, name: str) -> None:
    indexes = swept.project.in_warehouse(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = %s::regclass"
        " AND NOT indisprimary ORDER BY 1",
        f"mart.{name}",
    )
    kept = [column for column in ("one", "val") if column in columns_after(swept, change)]
    assert indexes == [(f"mart.{name}_{column}",) for column in kept]


def keeps_its_comments(swept: Swept, change: str, name: str) -> None:
    comments = swept.project.in_warehouse(
        "SELECT attname, description FROM pg_description LEFT JOIN pg_attribute"
        " ON attrelid = objoid AND attnum = objsubid AND attnum > 0"
        " WHERE objoid = %s::regclass ORDER BY 2",
        f"mart.{name}",
    )
    wanted = [(None, "mine"), ("one", "n")]
    if "val" in columns_after(swept, change):
        wanted.append(("val", "v"))
    assert comments == wanted


def keeps_its_grants(swept: Swept, change: str, name: str) -> None:
    readable = swept.project.in_warehouse(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
        " AND NOT attisdropped AND has_column_privilege(%s, attrelid, attnum, 'SELECT') ORDER BY 1",
        f"mart.{name}",
        swept.role,
    )
    kept = [column for column in ("one", "val") if column in columns_after(swept, change)]
    assert readable == [(column,) for column in kept]


KEPT = {"own": keeps_its_view, "belongings": keeps_its_belongings}


def test_what_a_new_type_takes_from_a_mart_is_given_back(project: Project) -> None:
    """ALTER COLUMN TYPE makes the column, its indexes and its statistics anew."""
    project.in_source(SOURCE)
    table = {"materialized": "table"}
    columns = "t.id, t.name::varchar(9) AS name, t.name::varchar(9) AS gone, t.name AS number"
    project.spec({"t": None}, {"m": (f"SELECT {columns} FROM staging.t", table)})
    project.succeed()
    project.in_warehouse(
        "CREATE VIEW public.ids AS SELECT id FROM mart.m;"
        " ALTER TABLE mart.m ALTER name SET STORAGE EXTERNAL, ALTER name SET COMPRESSION pglz,"
        " ALTER gone SET STORAGE MAIN, ALTER number SET STORAGE MAIN;"
        " CREATE INDEX by_gone ON mart.m ((gone || 'x'));"
        " ALTER INDEX mart.by_gone ALTER COLUMN 1 SET STATISTICS 66;"
        " CREATE INDEX by_name ON mart.m ((name || 'x'));"
        " ALTER INDEX mart.by_name ALTER COLUMN 1 SET STATISTICS 77;"
        " ALTER INDEX mart.by_name DEPENDS ON EXTENSION plpgsql;"
        " CREATE STATISTICS mart.both (ndistinct) ON id, name FROM mart.m;"
        " ALTER STATISTICS mart.both SET STATISTICS 55"
    )
    question = (
        "SELECT attstorage, attcompression, (SELECT attstattarget FROM pg_attribute"
        " WHERE attrelid = 'mart.by_name'::regclass), (SELECT stxstattarget FROM pg_statistic_ext),"
        " (SELECT count(*) FROM pg_depend WHERE objid = 'mart.by_name'::regclass"
        " AND deptype = 'x')"
        " FROM pg_attribute WHERE attrelid = 'mart.m'::regclass AND attname = 'name'"
    )
    before = [("e", "p", 77, 55, 1)]
    assert project.in_warehouse(question) == before
    for type_name in ("varchar(20)", "char(20)"):
        changed = f"SELECT t.id, t.name::{type_name} AS name, length(t.name) AS number"
        project.spec({"t": None}, {"m": (f"{changed} FROM staging.t", table)})
        project.succeed()
        assert project.in_warehouse(question) == before
    rows = "SELECT id, rtrim(name), number FROM mart.m ORDER BY id"
    assert project.in_warehouse(rows) == [(1, "a", 1), (2, "B", 1), (3, "c", 1)]
