"""What users hang on a target meets the rows that are written: foreign keys, triggers, privileges
and values of columns that come from elsewhere now."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.errors import Refused
from loadsheet.warehouse import side_effects
from tests.faults.oracle import judge
from tests.project import Project


def failure(project: Project, step: str) -> str:
    error = project.run()[step].result
    assert isinstance(error, Refused), error
    return str(error)


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT", "NO ACTION"])
def test_rows_of_another_table_do_not_go_with_rows_that_are_written_again(
    project: Project, action: str
) -> None:
    """CASCADE deleted them, the run was done."""
    project.in_source("CREATE TABLE t (id int, what text)")
    project.in_source("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    project.spec({"t": None}, {"m": "SELECT id, what FROM t"})
    project.succeed()
    project.in_warehouse(
        "ALTER TABLE staging.t ADD UNIQUE (id); ALTER TABLE mart.m ADD UNIQUE (id);"
        f" CREATE TABLE public.kid (id int REFERENCES staging.t (id) ON DELETE {action});"
        f" CREATE TABLE public.kid_of_m (id int REFERENCES mart.m (id) ON DELETE {action});"
        " INSERT INTO public.kid VALUES (3); INSERT INTO public.kid_of_m VALUES (3)"
    )
    project.in_source("UPDATE t SET what = 'changed' WHERE id = 1")
    said = failure(project, "load.load_t")
    assert "the foreign key kid_id_fkey of public.kid refers to it" in said
    project.in_warehouse("DROP TABLE public.kid")
    said = failure(project, "transform.transform_m")
    assert "the foreign key kid_of_m_id_fkey of public.kid_of_m refers to it" in said
    assert project.in_warehouse("SELECT id FROM public.kid_of_m") == [(3,)]
    project.in_warehouse("DROP TABLE public.kid_of_m")
    project.succeed()
    assert not judge(project, "t")


def test_a_foreign_key_to_rows_that_are_found_by_their_key_stays(project: Project) -> None:
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, what text)")
    project.in_source("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    project.spec({"t": None})
    project.succeed()
    project.in_warehouse(
        "CREATE TABLE kid (id int REFERENCES staging.t ON DELETE CASCADE);"
        " INSERT INTO kid VALUES (1), (2)"
    )
    project.in_source("UPDATE t SET what = 'changed'; DELETE FROM t WHERE id = 2")
    project.succeed()
    assert not judge(project, "t")
    assert project.in_warehouse("SELECT id FROM kid") == [(1,)]


@pytest.mark.parametrize("event", ["INSERT", "UPDATE", "DELETE"])
@pytest.mark.parametrize("table", [None, {"incremental": "n"}, {"primary_key": "id"}])
def test_a_trigger_that_suppresses_rows_is_named(
    project: Project, table: dict[str, str] | None, event: str
) -> None:
    """Rows were doubled, stale or missing, and the run was done."""
    key = "" if table is None else "PRIMARY KEY"
    project.in_source(f"CREATE TABLE t (id int {key}, n int NOT NULL, what text)")
    project.in_source("INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c')")
    project.spec({"t": table})
    project.succeed()
    project.in_warehouse(
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RETURN NULL; END'; CREATE TRIGGER quiet"
        f" BEFORE {event} ON staging.t FOR EACH ROW EXECUTE FUNCTION nothing()"
    )
    project.in_source("UPDATE t SET what = 'changed', n = 4 WHERE id = 1")
    project.in_source("DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (5, 5, 'd')")
    increments = table is not None and "incremental" in table
    touches = {"INSERT", "UPDATE"} if increments else {"INSERT", "UPDATE", "DELETE"}
    if table is None:
        touches = {"INSERT", "DELETE"}
    if event in touches:
        said = failure(project, "load.load_t")
        assert "because a trigger (quiet) has suppressed it" in said
        project.in_warehouse("DROP TRIGGER quiet ON staging.t")
    project.succeed()
    assert not judge(project, "t", where="TRUE" if not increments else "id <> 2") or increments


KEEPS_NEW_ROWS = (
    "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
    " CREATE TRIGGER quiet BEFORE INSERT ON staging.t FOR EACH ROW EXECUTE FUNCTION nothing()"
)


@pytest.mark.parametrize("case", ["new rows of long values", "rows that exchange unique values"])
@pytest.mark.parametrize("is_seen", [True, False])
def test_a_trigger_that_suppresses_rows_is_named_whichever_statement_inserts_them(
    project: Project, monkeypatch: pytest.MonkeyPatch, case: str, is_seen: bool
) -> None:
    """Rows were missing, and the run was done. The control does not look for triggers."""
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, what text)")
    project.in_source("ALTER TABLE t ALTER what SET STORAGE EXTERNAL")
    project.in_source("INSERT INTO t SELECT i, i, repeat('x', 3000) FROM generate_series(1, 9) i")
    project.spec({"t": {"incremental": "n"}})
    project.succeed()
    if case == "new rows of long values":
        project.in_warehouse("ALTER TABLE staging.t ALTER what SET STORAGE EXTERNAL")
        project.in_warehouse("UPDATE staging.t SET what = repeat('x', 3000)")
        project.in_source("INSERT INTO t VALUES (10, 10, 'new')")
    else:
        project.in_source("UPDATE t SET what = id")
        project.succeed(full_refresh="all")
        project.in_warehouse("CREATE UNIQUE INDEX ON staging.t (what)")
        project.in_source("UPDATE t SET what = 10 - id, n = n + 10")
    project.in_warehouse(KEEPS_NEW_ROWS)
    if not is_seen:
        monkeypatch.setattr(side_effects, "suppressing_triggers", lambda *_: [])
        project.succeed()
        assert judge(project, "t")
        return
    said = failure(project, "load.load_t")
    assert "because a trigger (quiet) has suppressed it" in said
    project.in_warehouse("DROP TRIGGER quiet ON staging.t")
    project.succeed()
    assert not judge(project, "t")


def test_a_column_privilege_does_not_move_to_the_values_of_another_column(
    project: Project,
) -> None:
    role = f"reader_{project.source.rsplit('/', 1)[1]}"
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, pub text, secret text)")
    project.in_source("INSERT INTO t VALUES (1, 'p', 's')")
    project.spec({"t": None})
    project.succeed()
    project.in_warehouse(f"CREATE ROLE {role}; GRANT SELECT (id, pub) ON staging.t TO {role}")
    try:
        project.in_source("ALTER TABLE t DROP pub; ALTER TABLE t RENAME secret TO pub")
        plan = project.cli("plan", "shop", "--connect").stdout
        said = failure(project, "load.load_t")
        revoke = f'REVOKE ALL ("pub") ON "staging"."t" FROM {role};'
        assert revoke in said and "roles have privileges on it" in plan.replace("\n", " ")
        project.in_warehouse(revoke)
        project.succeed()
        assert not judge(project, "t", columns=["id", "pub"])
    finally:
        project.in_warehouse(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("table", [None, {"incremental": "id"}])
def test_values_of_the_users_own_column_are_not_overwritten_by_a_new_one_of_the_source(
    project: Project, table: dict[str, str] | None
) -> None:
    project.in_source("CREATE TABLE t (id int PRIMARY KEY)")
    project.in_source("INSERT INTO t VALUES (1)")
    project.spec({"t": table})
    project.succeed()
    project.in_warehouse("ALTER TABLE staging.t ADD note text; UPDATE staging.t SET note = 'mine'")
    project.in_source("ALTER TABLE t ADD note text; INSERT INTO t VALUES (2)")
    request = {"full_refresh": "all"} if table else {}
    error = project.run(**request)["load.load_t"].result
    assert isinstance(error, Refused)
    assert "column note was added to the table and has values" in str(error)
    project.in_warehouse("ALTER TABLE staging.t RENAME COLUMN note TO mine")
    project.succeed(**request)
    assert not judge(project, "t", columns=["id", "note"])
    assert project.in_warehouse("SELECT mine FROM staging.t WHERE id = 1") == [("mine",)]


OTHERS = {
    "a policy": "CREATE POLICY p ON other USING (id IN (SELECT id FROM staging.t))",
    "a trigger's condition": "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN RETURN NEW; END'; ALTER TABLE other ADD r staging.t; CREATE TRIGGER g BEFORE INSERT"
    " ON other FOR EACH ROW WHEN ((NEW.r).id > 0) EXECUTE FUNCTION f()",
}


@pytest.mark.parametrize("create", OTHERS.values(), ids=OTHERS)
def test_what_other_tables_have_upon_the_target_keeps_it_from_being_swapped(
    project: Project, create: str
) -> None:
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, what text)")
    project.in_source("INSERT INTO t VALUES (1, 'a')")
    project.spec({"t": None})
    project.succeed()
    project.in_warehouse(f"CREATE TABLE other (id int); {create}")
    project.in_source("UPDATE t SET what = 'changed'")
    project.succeed()
    assert not judge(project, "t")


# The SELECT and the key before, the SELECT and the key after.
KEYS = {
    "narrower": ("id, g, n", ["id", "g"], "id, n", ["id"]),
    "another": ("id, g, n", ["id", "g"], "g, n", ["n"]),
    "renamed": ("id, g, n", ["id", "g"], "id, g AS g2, n", ["id", "g2"]),
    "in another order": ("id, g, n", ["id", "g"], "id, g, n, 1 AS one", ["g", "id"]),
    "back": ("id, n", ["id"], "id, g, n", ["id", "g"]),
}


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("name", KEYS)
def test_a_mart_whose_key_and_columns_change_is_built(
    project: Project, name: str, view: bool
) -> None:
    """Its old key left NOT NULL behind, and the mart was never built again."""
    before, key, after, new_key = KEYS[name]
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, g int NOT NULL, n int NOT NULL)")
    project.in_source("INSERT INTO t VALUES (1, 10, 100), (2, 20, 200)")

    def spec(columns: str, unique: list[str]) -> None:
        merged = {"materialized": "merge", "unique_key": unique}
        project.spec({"t": {"incremental": "n"}}, {"m": (f"SELECT {columns} FROM t", merged)})

    spec(before, key)
    project.succeed()
    if view:
        project.in_warehouse("CREATE VIEW seen AS SELECT n FROM mart.m")
    spec(after, new_key)
    project.succeed()
    wanted = project.in_source(f"SELECT {after} FROM t ORDER BY n")
    assert project.in_warehouse("SELECT * FROM mart.m ORDER BY n") == wanted or view
    [(definition,)] = project.in_warehouse(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid = 'mart.m'::regclass AND contype = 'p'"
    )
    if not view:
        assert definition == f"PRIMARY KEY ({', '.join(new_key)})"


@pytest.mark.parametrize("mart", [{}, {"materialized": "merge", "unique_key": ["id"]}])
@pytest.mark.parametrize("more", ["", ", 1 AS one"])
def test_a_marts_collation_is_that_of_its_select(
    project: Project, mart: dict[str, object], more: str
) -> None:
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, what text)")
    project.in_source("INSERT INTO t VALUES (1, 'a')")
    for select in ("id, what", f'id, what COLLATE "C" AS what{more}', "id, what"):
        project.spec({"t": None}, {"m": (f"SELECT {select} FROM t", mart)})
        project.succeed()
        [(collation,)] = project.in_warehouse(
            "SELECT collname FROM pg_attribute JOIN pg_collation c ON c.oid = attcollation"
            " WHERE attrelid = 'mart.m'::regclass AND attname = 'what'"
        )
        assert collation == ("C" if "COLLATE" in select else "default")


HUNG = """
CREATE TABLE public.kid (id int REFERENCES staging.t ON DELETE CASCADE);
CREATE TABLE public.cousin (id int REFERENCES staging.t ON DELETE SET NULL);
CREATE TABLE public.log (id int);
INSERT INTO public.kid VALUES (1), (2);
INSERT INTO public.cousin VALUES (1), (2);
-- A rule has the rights of the owner of its table.
GRANT INSERT ON public.log TO PUBLIC;
CREATE RULE note_it AS ON DELETE TO staging.t DO ALSO INSERT INTO public.log VALUES (old.id);
"""


def warnings(project: Project) -> list[str]:
    """What `loadsheet plan --connect` warns of."""
    arguments = ["--project", str(project.folder), "plan", "shop", "--connect", "--json"]
    plan = CliRunner().invoke(app, arguments, env=project.environment())
    steps = [step["now"] for step in json.loads(plan.stdout)["steps"]]
    remarks = [remark for step in steps for remark in step["remarks"]]
    return [remark["message"] for remark in remarks if remark["severity"] == "warning"]


def test_what_follows_deleted_rows_is_said_before_and_after(project: Project) -> None:
    """`deletes: hard` with foreign keys, triggers and rules that somebody has made for it."""
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, at timestamptz DEFAULT now())")
    project.in_source("INSERT INTO t VALUES (1), (2), (3)")
    project.spec({"t": {"incremental": "at", "deletes": {"action": "hard", "max_delete": 1}}})
    project.succeed()
    project.in_warehouse(HUNG)
    project.in_source("DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (4, clock_timestamp())")
    effects = (
        "rows of public.cousin get NULL (foreign key cousin_id_fkey)",
        "rows of public.kid are deleted with them (foreign key kid_id_fkey)",
        "rule note_it runs",
    )
    assert warnings(project) == [f"when deleted rows leave staging.t, {', '.join(effects)}"]
    outcome = project.run()["load.load_t"].result
    assert "; ".join(("1 deleted", *effects)) in str(getattr(outcome, "message", outcome))
    assert project.in_warehouse("SELECT id FROM public.kid") == [(1,)]
    assert project.in_warehouse("SELECT id FROM public.cousin ORDER BY 1") == [(1,), (None,)]
    project.in_source("DELETE FROM t WHERE id = 1")
    project.in_warehouse("ALTER TABLE public.kid DROP CONSTRAINT kid_id_fkey")
    project.in_warehouse("ALTER TABLE public.kid ADD FOREIGN KEY (id) REFERENCES staging.t")
    assert "a row of public.kid that refers to one stops the load" in warnings(project)[0]
    assert project.run()["load.load_t"].state == "failed"
    assert not project.in_warehouse("SELECT FROM public.log WHERE id = 1")
