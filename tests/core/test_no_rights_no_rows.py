"""A role that may read nothing reads no row of a staging table or a mart, at any moment of a load,
a build, a swap, a full refresh or a failed one, while it tries all the time."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import pytest

from tests.project import Project

TABLES = ("replaced", "merged", "appended")
NAMES = (
    *(f"staging.{name}" for name in TABLES),
    *("mart.plain", "mart.found", "mart.shown", "staging.hidden", "mart.hidden_too"),
)
SPEC = {
    "replaced": {},
    "merged": {"incremental": "at"},
    "appended": {"mode": "append", "incremental": "at"},
    "hidden": {},
}
MARTS: dict[str, str | tuple[str, dict[str, object]]] = {
    "plain": "SELECT id, v FROM staging.replaced",
    "found": ("SELECT id, v FROM staging.merged", {"materialized": "merge", "unique_key": "id"}),
    "shown": ("SELECT id, v FROM staging.appended", {"materialized": "view"}),
    "hidden_too": "SELECT id, v FROM staging.hidden",
}


@dataclass
class Reader:
    """What a role has tried to read, and what it has read."""

    tries: int = 0
    rows: int = 0
    seen: set[str] = field(default_factory=set)


@contextmanager
def reading(project: Project, role: str, names: tuple[str, ...]) -> Iterator[Reader]:
    """Within, the role reads these tables in a loop."""
    found = Reader()
    stop = threading.Event()

    def read() -> None:
        with psycopg.connect(project.warehouse, autocommit=True) as session:
            session.execute(f"SET ROLE {role}")
            while not stop.is_set():
                for name in names:
                    found.tries += 1
                    try:
                        rows = session.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
                    except psycopg.Error:  # no right; or the table is not there yet
                        continue
                    if rows:
                        found.rows += rows
                        found.seen.add(name)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join(60)


@pytest.fixture
def roles(project: Project) -> Iterator[tuple[str, str]]:
    """One role whose grants were revoked, though default privileges give it every new table; and
    one that row security shows nothing."""
    for name in SPEC:
        project.in_source(
            f"CREATE TABLE public.{name} (id int PRIMARY KEY, v text, at timestamptz DEFAULT"
            f" clock_timestamp()); INSERT INTO public.{name} (id, v) SELECT n, 'x' FROM"
            " generate_series(1, 500) n"
        )
    token = secrets.token_hex(4)
    nothing, under_rls = f"nothing_{token}", f"under_rls_{token}"
    project.in_warehouse(f"CREATE ROLE {nothing}; CREATE ROLE {under_rls}")
    project.spec(SPEC, MARTS)
    project.succeed()
    loader = project.loader
    both = f"{nothing}, {under_rls}"
    project.in_warehouse(
        f"GRANT USAGE ON SCHEMA staging, mart TO {both};"
        # Also for what the administrator makes, who is the one in the control.
        f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {both};"
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {loader} GRANT SELECT ON TABLES TO {both};"
        f"GRANT SELECT ON ALL TABLES IN SCHEMA staging, mart TO {both};"
        f"REVOKE SELECT ON ALL TABLES IN SCHEMA staging, mart FROM {nothing};"
        "ALTER TABLE staging.hidden ENABLE ROW LEVEL SECURITY;"
        "ALTER TABLE mart.hidden_too ENABLE ROW LEVEL SECURITY"
    )
    yield nothing, under_rls
    project.in_warehouse(f"DROP OWNED BY {both}; DROP ROLE {both}")


def change(project: Project, number: int) -> None:
    for name in SPEC:
        project.in_source(
            f"INSERT INTO public.{name} (id, v) VALUES ({1000 + number}, 'y');"
            f"UPDATE public.{name} SET v = 'z{number}' WHERE id = {number + 1}"
        )


def test_a_role_without_rights_never_reads_a_row(project: Project, roles: tuple[str, str]) -> None:
    nothing, under_rls = roles
    hidden = ("staging.hidden", "mart.hidden_too")
    with reading(project, nothing, NAMES) as one, reading(project, under_rls, hidden) as other:
        for number in range(3):  # 4 tables each: loads, merges, swaps, builds
            change(project, number)
            project.succeed()
        project.succeed(full_refresh="all")
        # Columns that come and go, in staging and in marts; one mart's SELECT that fails.
        for name in SPEC:
            project.in_source(f"ALTER TABLE public.{name} ADD COLUMN more int DEFAULT 1")
        project.succeed(full_refresh="all")
        wider = {
            name: (text.replace("id, v", "id, v, 1 AS n"), settings)
            for name, (text, settings) in {
                name: given if isinstance(given, tuple) else (given, {})
                for name, given in MARTS.items()
            }.items()
        }
        project.spec(SPEC, wider)
        project.succeed()
        project.spec(SPEC, {**wider, "plain": "SELECT id, 1 / (id - 7) AS v FROM staging.replaced"})
        change(project, 9)
        assert "failed" in {result.state for result in project.run().values()}
        project.spec({**SPEC, "replaced": {"primary_key": "v"}}, MARTS)
        failed = project.run(full_refresh="all")
        assert "failed" in {result.state for result in failed.values()}
    loads = project.in_warehouse("SELECT count(*) FROM loadsheet.load")[0][0]
    assert loads >= 20
    assert one.tries > 500 and other.tries > 100
    assert (one.rows, one.seen) == (0, set())
    assert (other.rows, other.seen) == (0, set())


def naive(project: Project, nothing: str) -> None:
    """A swap as one would write it: the new table first, its grants afterwards."""
    for step in (
        "DROP TABLE IF EXISTS staging.fresh",
        "CREATE TABLE staging.fresh AS SELECT * FROM staging.replaced",
        "BEGIN; DROP TABLE staging.replaced CASCADE;"
        " ALTER TABLE staging.fresh RENAME TO replaced; COMMIT",
        f"REVOKE ALL ON staging.replaced FROM {nothing}",
    ):
        project.in_warehouse(step)


def test_the_reader_catches_a_swap_that_takes_the_grants_back_late(
    project: Project, roles: tuple[str, str]
) -> None:
    """The control: the same reader, and what default privileges give to a new table."""
    nothing, _ = roles
    with reading(project, nothing, ("staging.replaced", "staging.fresh")) as found:
        for _ in range(40):
            naive(project, nothing)
            if found.rows:
                break
    assert found.rows > 0
