"""Test files of transforms: what is read, and what is said of those that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadsheet.errors import SpecError
from loadsheet.spec.load import load_pipeline
from loadsheet.sql.clock import at
from loadsheet.sql.schemas import in_schemas
from loadsheet.testing.files import read_tests
from loadsheet.testing.models import Case, Declared

SPEC = """\
version: 1
pipeline: shop
source: {conn_id: source}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse}
tables: {orders: , customers: }
transforms: {sales: }
"""
GOOD = """\
tables: {staging.orders: {columns: {id: "numeric(10, 2)", tags: "text[]"}, key: id}}
tests:
  one: {given: {staging.orders: [{id: 1}]}, expect: {mart.sales: [{id: 1}]}, as_of: "2026-01-31 12:00Z"}
  two:
    steps:
      - given: {staging.orders: {csv: orders.csv}, elsewhere.rates: []}
      - {full_refresh: true, interval: ["2026-01-01", "2026-02-01"], expect: {mart.sales: []}}
"""


def read(folder: Path, text: str, rows: str = "id,name\n1,a\n2,\n") -> tuple[list[Case], dict[str, Declared]]:
    home = folder / "shop"
    (home / "sql").mkdir(parents=True)
    (home / "tests").mkdir()
    (home / "pipeline.yml").write_text(SPEC)
    (home / "sql" / "sales.sql").write_text("SELECT id FROM staging.orders")
    (home / "tests" / "a.yml").write_text(text)
    (home / "tests" / "orders.csv").write_text(rows)
    return read_tests(load_pipeline(home / "pipeline.yml"))


def problems(folder: Path, text: str, rows: str = "id\n1\n") -> list[str]:
    with pytest.raises(SpecError) as caught:
        read(folder, text, rows)
    return [str(problem).removeprefix(f"{folder}/shop/tests/") for problem in caught.value.problems]


def test_a_file_holds_tests_and_what_tables_are_made_of(tmp_path: Path) -> None:
    (one, two), tables = read(tmp_path, GOOD)
    assert tables == {"staging.orders": Declared({"id": "numeric(10, 2)", "tags": "text[]"}, ("id",))}
    assert one.as_of == "2026-01-31 12:00:00+00:00" and one.where.endswith("a.yml:3:3")
    assert one.steps[0].expect["mart.sales"][0].where.endswith("a.yml:3:67")
    first, second = two.steps
    assert [row.values for row in first.given["staging.orders"]] == [
        {"id": "1", "name": "a"},
        {"id": "2", "name": None},
    ]
    assert first.given["staging.orders"][1].where.endswith("orders.csv:3:1")
    assert second.full_refresh and second.interval == ("2026-01-01", "2026-02-01")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("test: {}", "a.yml:1:1 test: unknown key 'test'\n  hint: did you mean 'tests'? allowed here: tests, tables"),
        ("tests: [a]", "a.yml:1:8 tests: expected a mapping, found a list"),
        ("tests: {a: {given: {staging.orders: []}}}", "a.yml:1:12 tests.a: this test expects nothing"),
        ("tests: {a: {expect: {mart.sale: []}}}", "mart.sale is not a mart of shop\n  hint: did you mean 'mart.sales'"),
        ("tests: {a: {given: {orders: []}, expect: {mart.sales: []}}}", "hint: did you mean 'staging.orders'?"),
        ("tests: {a: {given: {staging.orders: 3}, expect: {mart.sales: []}}}", "expected rows, found the number 3"),
        ("tests: {a: {steps: {}, expect: {mart.sales: []}}}", "a.yml:1:20 tests.a.steps: a test has steps, or is one"),
        ("tests: {a: {interval: [1], expect: {mart.sales: []}}}", "expected a list of two times, found a list"),
        ("tests: {a: {full_refresh: all, expect: {mart.sales: []}}}", "expected true or false, found 'all'"),
        ("tests: {a: {as_of: 3, expect: {mart.sales: []}}}", "tests.a.as_of: expected text, found the number 3"),
        ("tests: {a: {as_of: then, expect: {mart.sales: []}}}", "tests.a.as_of: expected a time, found 'then'"),
        ("tests: {a: {expect: {mart.sales: {csv: ../../pipeline.yml}}}}", "is outside of the folder of the tests"),
        ("tests: {a: {expect: {mart.sales: {csv: none.csv}}}}", "none.csv:1:1 there is no such file"),
        ("tests: {a: {expect: {mart.sales: {csv: orders.csv}}}}", "orders.csv: line 2 has other columns than"),
        ("tables: {staging.orders: {columns: {id: \"int); DROP TABLE x; --\"}}}", "expected a type of PostgreSQL"),
        ("tables: {staging.order: {columns: {}}}", "staging.order is not a table or a mart of shop"),
        ("tables: {staging.orders: {key: 3}}", "expected a column, or a list of columns, found the number 3"),
        ("tests: {a: *b}", "aliases are not allowed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    found = "\n".join(problems(tmp_path, text, "id\n1,2\n"))
    assert expected in found


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    assert len(problems(tmp_path, "test: 1\ntests: {a: {givn: 1, expect: {mart.no: []}}}\ntables: [1]\n")) == 4


def test_now_is_replaced_where_it_is_called_and_nowhere_else() -> None:
    sql = "SELECT now ( ), x.now(), 'now()', current_date, \"current_date\", now -- now()"
    moment = "CAST('2026-01-31' AS timestamptz)"
    replaced = f"SELECT {moment}, x.now(), 'now()', CAST({moment} AS date), \"current_date\", now -- now()"
    assert at(sql, "2026-01-31") == replaced


def test_schemas_are_replaced_where_they_qualify_a_known_table_and_nowhere_else() -> None:
    sql = "SELECT 'staging.orders', staging.orders.id, staging.id FROM Staging.orders, \"staging\".orders, staging.x"
    moved = '"staging_sample"'
    assert in_schemas(sql, {"staging": ("staging_sample", {"orders"})}) == (
        f"SELECT 'staging.orders', {moved}.orders.id, staging.id FROM {moved}.orders, {moved}.orders, staging.x"
    )
