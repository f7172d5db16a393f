"""The pipelines of the tests have the roles of `loadsheet grants`: what it prints and no more."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from loadsheet.errors import LoadsheetError
from tests import granted
from tests.project import Project

SOURCE = """
CREATE TABLE item (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO item DEFAULT VALUES;
CREATE TABLE other (id int PRIMARY KEY)
"""
SPEC: dict[str, Any] = {"item": {"incremental": "at"}}


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    project.spec(SPEC, {"ids": "SELECT id FROM staging.item"})
    return project


def test_the_roles_are_no_superusers_and_have_what_is_printed(shop: Project) -> None:
    shop.succeed()
    for end, role in ((shop.in_source, shop.extractor), (shop.in_warehouse, shop.loader)):
        attributes = "rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication"
        asked = f"SELECT {attributes} FROM pg_roles WHERE rolname = %s"
        assert end(asked, role) == [(False,) * 5]
    made = "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relkind IN ('r', 'S')"
    made += " AND relnamespace IN ('loadsheet'::regnamespace, 'staging'::regnamespace,"
    made += " 'mart'::regnamespace)"
    assert shop.in_warehouse(made) == [(shop.loader,)]
    may_read = "SELECT has_table_privilege(%s, %s, 'SELECT')"
    assert shop.in_source(may_read, shop.extractor, "item") == [(True,)]
    assert shop.in_source(may_read, shop.extractor, "other") == [(False,)]


def test_a_table_that_is_added_is_granted_when_the_spec_names_it(shop: Project) -> None:
    shop.succeed()
    shop.spec({**SPEC, "other": None})
    assert shop.succeed()["load.load_other"] == "done"
    shop.in_source("DROP TABLE item CASCADE; CREATE TABLE item (LIKE other)")
    shop.spec({"item": {"max_shrink": 1}})
    assert shop.succeed(full_refresh="all")["load.load_item"] == "done"


def test_a_right_that_a_test_takes_stays_away(shop: Project) -> None:
    shop.succeed()
    shop.in_source(f"REVOKE SELECT ON item FROM {shop.extractor}")
    with pytest.raises(LoadsheetError, match="permission denied for table item"):
        shop.succeed()


def test_without_what_is_printed_the_roles_can_do_nothing(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: it is not the administrator who runs the tests."""
    nothing = {"source": lambda *given: [], "warehouse": lambda *given: []}
    monkeypatch.setattr(granted, "_STATEMENTS", nothing)
    with pytest.raises(LoadsheetError, match=r"permission denied|may not"):
        shop.succeed()
    with (
        psycopg.connect(shop.uri("shop_source")) as session,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        session.execute("SELECT id FROM item")
