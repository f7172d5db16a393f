"""What a source answers is data for the warehouse: its own catalogs may lie, and nothing that they
say runs there."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from loadsheet.errors import LoadsheetError, Refused
from loadsheet.sql.text import literal
from tests.project import Project

CANARY = "CREATE TABLE public.canary (id int); INSERT INTO public.canary VALUES (1)"
DROP = "DROP TABLE public.canary; --"
TABLE = """
CREATE TABLE public.sale (id int PRIMARY KEY, at timestamptz DEFAULT now(), amount numeric(10,2));
INSERT INTO public.sale SELECT n, now() - interval '1 day', n FROM generate_series(1, 10) n;
"""
INCREMENTAL = {"sale": {"incremental": {"cursor": "at", "lookback": "1h"}}}


@pytest.fixture
def attacked(project: Project) -> Iterator[Project]:
    """A source whose superuser is the attacker, and a warehouse with a table that must stay."""
    project.in_source(TABLE)
    project.in_warehouse(CANARY)
    yield project
    assert project.in_warehouse("TABLE public.canary") == [(1,)]


def as_granted(project: Project) -> None:
    """The canary is the pipeline's own: it could drop it."""
    project.in_warehouse(f"ALTER TABLE public.canary OWNER TO {project.loader}")


def lie(project: Project, type_name: str, answer: str) -> None:
    """From now on the source's format_type answers this for the type."""
    honest = "(oid, integer) RETURNS text LANGUAGE internal STABLE PARALLEL SAFE AS 'format_type'"
    project.in_source(
        "SET allow_system_table_mods = on;"
        f"CREATE OR REPLACE FUNCTION public.honest_type{honest};"
        "CREATE OR REPLACE FUNCTION pg_catalog.format_type(oid, integer) RETURNS text"
        " LANGUAGE sql STABLE AS"
        f" $lie$SELECT CASE WHEN $1 = {literal(type_name)}::pg_catalog.regtype THEN"
        f" {literal(answer)} ELSE public.honest_type($1, $2) END$lie$"
    )


@pytest.mark.parametrize(
    "answer",
    [
        f"numeric(10,2)); {DROP}",
        f"numeric(10,2) DEFAULT 1); {DROP}",
        f'"x"; {DROP}',
        "numeric(10,2) CHECK (pg_catalog.pg_sleep(0) IS NOT NULL)",
        'numeric(10,2) COLLATE "C"',
    ],
)
def test_a_type_s_name_from_the_source_runs_nothing_in_the_warehouse(
    attacked: Project, answer: str
) -> None:
    attacked.spec({"sale": {}})
    as_granted(attacked)
    lie(attacked, "numeric", answer)
    with pytest.raises(Refused, match="the source gives column 'amount' a type that"):
        attacked.succeed()
    assert attacked.in_warehouse("SELECT to_regclass('staging.sale')") == [(None,)]


@pytest.mark.parametrize("answer", [f"smallint; {DROP}", "smallint DEFAULT 3"])
def test_nor_does_one_that_changes_later(attacked: Project, answer: str) -> None:
    """It would be pasted into ALTER TABLE."""
    attacked.spec(INCREMENTAL)
    as_granted(attacked)
    attacked.succeed()
    attacked.in_source(
        "ALTER TABLE public.sale ADD COLUMN more smallint; UPDATE sale SET at = now()"
    )
    lie(attacked, "smallint", answer)
    with pytest.raises(Refused, match="the source gives column"):
        attacked.succeed()
    assert attacked.in_warehouse("SELECT count(*) FROM staging.sale") == [(10,)]


def test_a_type_that_is_called_like_a_statement_is_a_name(attacked: Project) -> None:
    """Quotes in names of types, columns, labels, collations, domains, comments, sequences."""
    evil = f'x"; {DROP}'
    quoted = '"' + evil.replace('"', '""') + '"'
    attacked.in_source(
        f"CREATE TYPE {quoted} AS ENUM ({literal(evil)}, 'b');"
        f'CREATE DOMAIN {quoted[:-1]}d" AS numeric(5,1) CHECK (VALUE > 0);'
        f'CREATE COLLATION {quoted[:-1]}c" FROM "C";'
        f'CREATE SEQUENCE {quoted[:-1]}s";'
        f'CREATE TABLE public.odd (id int PRIMARY KEY, {quoted} {quoted}, d {quoted[:-1]}d"[],'
        f' t text COLLATE {quoted[:-1]}c" DEFAULT {literal(evil)},'
        f" n bigint DEFAULT nextval({literal(quoted[:-1] + 's' + chr(34))}));"
        f"COMMENT ON TABLE public.odd IS {literal(evil)};"
        f"INSERT INTO public.odd VALUES (1, {literal(evil)}, '{{1.5}}', {literal(evil)})"
    )
    attacked.spec({"odd": {}, "sale": {}})
    as_granted(attacked)
    attacked.succeed()
    assert attacked.differences("odd") == 0


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("scope", "watermark = 'x''); DROP TABLE public.canary; --'"),
        ("scope", "cursor = 'at\") OR true; DROP TABLE public.canary; --'"),
        ("scope", 'source = source || \'{"ties": "0); DROP TABLE public.canary; --"}\''),
        ("scope", 'source = source || \'{"oldest_transaction": "0; DROP TABLE canary; --"}\''),
        ("scope", 'source = source || \'{"next_transaction": "0; DROP TABLE canary; --"}\''),
        ("scope", 'source = source || \'{"leaves": "0; DROP TABLE public.canary; --"}\''),
        (
            "scope",
            'columns = \'[{"name": "x\\"; DROP TABLE public.canary; --", "attnum": 1,'
            ' "type": "int; DROP TABLE public.canary; --"}]\'',
        ),
        ("scope", "content_sha256 = 'x''; DROP TABLE public.canary; --'"),
        ("scope", "storage = 'x''; DROP TABLE public.canary; --'"),
        ("load", "clock = 'x''); DROP TABLE public.canary; --'"),
        ("load", "pipeline = 'x''; DROP TABLE public.canary; --'"),
        ("load", "manifest = 'x''; DROP TABLE public.canary; --'"),
        ("load", "source = '{\"database\": \"x''; DROP TABLE public.canary; --\"}'"),
    ],
)
def test_a_row_of_the_ledger_is_data(attacked: Project, table: str, change: str) -> None:
    """The canary stands on both sides: what the ledger keeps goes to the source as well."""
    attacked.in_source(CANARY)
    attacked.spec(INCREMENTAL)
    as_granted(attacked)
    attacked.succeed()
    attacked.in_warehouse(f"UPDATE loadsheet.{table} SET {change}")
    attacked.in_source("UPDATE public.sale SET at = now() WHERE id < 3")
    # A process takes a second: not each command for each row.
    command = (("status", "shop"), ("plan", "shop", "--connect"))[len(change) % 2]
    said = attacked.cli(*command)
    assert "Traceback" not in said.stdout + said.stderr, said.stderr
    for result in attacked.run().values():
        if isinstance(result.result, Exception):
            assert isinstance(result.result, LoadsheetError), result.result
    assert attacked.in_source("TABLE public.canary") == [(1,)]


def test_the_canary_would_have_been_dropped(attacked: Project) -> None:
    """The control: the first of these answers, pasted into a statement."""
    with psycopg.connect(attacked.warehouse) as session:
        session.execute(f"CREATE TABLE public.x (a numeric(10,2)); {DROP})")
        assert session.execute("SELECT to_regclass('public.canary')").fetchone() == (None,)
        session.rollback()
