"""What hangs on a table and keeps it from being loaded is named, with the statement that helps."""

from __future__ import annotations

import pytest

from loadsheet.errors import Refused
from tests.core.hanging import *  # noqa: F403
from tests.core.hanging import COLUMNS, ROWS, SECRET, add_row
from tests.core.planned import as_role, plan
from tests.project import Project


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
