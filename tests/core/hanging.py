"""What the tests of belongings share: what can hang on a table, a pipeline with a table and a mart,
and the oracle."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.debian import VERSION
from tests.project import Project, client_programs

__all__ = [
    "CARRIED",
    "COLUMNS",
    "KEPT",
    "PUBLISHED",
    "ROWS",
    "SECRET",
    "add_row",
    "dumped",
    "hang",
    "roles",
    "shop",
]


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
