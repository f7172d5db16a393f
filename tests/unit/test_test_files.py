"""Test files of transforms: what is read, and what is said of those that are wrong."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from loadsheet.errors import SpecError
from loadsheet.spec.files import SCHEMA_FILE
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.sql.substitute import at, in_schemas
from loadsheet.sqltest.files import read_tests
from loadsheet.sqltest.models import Case, Declared
from tests.project import ROOT

SPEC = """\
version: 1
pipeline: shop
source: {conn_id: source}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse}
external: [elsewhere.*, staging.theirs]
tables: {orders: , customers: , "*_*": {exclude: [tmp_*]}}
transforms: {sales: }
"""
CSV_CASE = "  one: {given: {staging.orders: {csv: orders.csv}}"
GOOD = """\
tables: {staging.orders: {columns: {id: "numeric(10, 2)", tags: "text[]"}, key: id}}
tests:
  one: {given: {staging.orders: [{id: 1}]}, expect: {mart.sales: [{id: 1}]},
        as_of: "2026-01-31 12:00Z"}
  two:
    steps:
      - given: {staging.orders: {csv: orders.csv}, elsewhere.rates: []}
      - {full_refresh: true, interval: ["2026-01-01", "2026-02-01"], expect: {mart.sales: []}}
"""


def read(
    folder: Path, text: str, rows: str = "id,name\n1,a\n2,\n"
) -> tuple[list[Case], dict[str, Declared]]:
    home = folder / "shop"
    (home / "sql").mkdir(parents=True)
    (home / "tests").mkdir()
    (home / "pipeline.yml").write_text(SPEC)
    (home / "sql" / "sales.sql").write_text("SELECT id FROM staging.orders")
    (home / "tests" / "a.yml").write_text(text)
    files = {"orders": rows, "twice": "id,id\n", "empty": "", "quote": 'id\n"1"2\n'}
    for name, lines in files.items():
        (home / "tests" / f"{name}.csv").write_text(lines)
    return read_tests(load_pipeline(home / "pipeline.yml"))


def problems(folder: Path, text: str, rows: str = "id\n1\n") -> list[str]:
    with pytest.raises(SpecError) as caught:
        read(folder, text, rows)
    return [str(problem).removeprefix(f"{folder}/shop/tests/") for problem in caught.value.problems]


def test_a_file_holds_tests_and_what_tables_are_made_of(tmp_path: Path) -> None:
    (one, two), tables = read(tmp_path, GOOD)
    assert tables == {
        "staging.orders": Declared({"id": "numeric(10,2)", "tags": "text[]"}, ("id",))
    }
    assert one.as_of == "2026-01-31 12:00:00+00:00" and one.where.endswith("a.yml:3:3")
    assert one.steps[0].expect["mart.sales"][0].where.endswith("a.yml:3:67")
    first, second = two.steps
    assert [row.values for row in first.given["staging.orders"]] == [
        {"id": 1, "name": "a"},
        {"id": 2, "name": None},
    ]
    assert first.given["staging.orders"][1].where.endswith("orders.csv:3:1")
    assert second.full_refresh and second.interval == ("2026-01-01", "2026-02-01")


WRONG = [
    (
        "test: {}",
        (
            "a.yml:1:1 test: unknown key 'test'\n  hint: did you mean 'tests'? allowed here: tests,"
            " tables"
        ),
    ),
    ("tests: [a]", "a.yml:1:8 tests: expected a mapping, found a list"),
    ("tests: {a: {given: {staging.orders: []}}}", "a.yml:1:12 tests.a: this test expects nothing"),
    (
        "tests: {a: {expect: {mart.sale: []}}}",
        "mart.sale is not a mart of shop\n  hint: did you mean 'mart.sales'",
    ),
    (
        "tests: {a: {given: {orders: []}, expect: {mart.sales: []}}}",
        "hint: did you mean 'staging.orders'?",
    ),
    (
        "tests: {a: {given: {staging.orders: 3}, expect: {mart.sales: []}}}",
        "expected rows, found the number 3",
    ),
    (
        "tests: {a: {steps: {}, expect: {mart.sales: []}}}",
        "a.yml:1:20 tests.a.steps: a test has either steps or the keys of a step",
    ),
    (
        "tests: {a: {interval: [1], expect: {mart.sales: []}}}",
        "expected a list of two times, found a list",
    ),
    (
        "tests: {a: {full_refresh: all, expect: {mart.sales: []}}}",
        "expected true or false, found 'all'",
    ),
    (
        "tests: {a: {as_of: 3, expect: {mart.sales: []}}}",
        "tests.a.as_of: expected text, found the number 3",
    ),
    (
        "tests: {a: {as_of: then, expect: {mart.sales: []}}}",
        "tests.a.as_of: expected a time, found 'then'",
    ),
    (
        "tests: {a: {expect: {mart.sales: {csv: ../../pipeline.yml}}}}",
        "is outside of the folder of the tests",
    ),
    ("tests: {a: {expect: {mart.sales: {csv: none.csv}}}}", "none.csv:1:1 there is no such file"),
    (
        "tests: {a: {expect: {mart.sales: {csv: orders.csv}}}}",
        "orders.csv: line 2 has other columns than",
    ),
    (
        'tables: {staging.orders: {columns: {id: "int); DROP TABLE x; --"}}}',
        "expected a type of PostgreSQL",
    ),
    *(
        (
            f"tables: {{staging.orders: {{columns: {{id: {kind}}}}}}}",
            "expected a type of PostgreSQL",
        )
        for kind in ("int default 1", "int primary key", "text collate pg_catalog", "mood")
    ),
    ("tables: {staging.order: {columns: {}}}", "staging.order is not a table, a mart or"),
    (
        "tables: {staging.orders: {key: 3}}",
        "expected a column, or a list of columns, found the number 3",
    ),
    ("tests: {a: *b}", "aliases are not allowed"),
    (
        "tests: {a: {expect: {mart.sales: [{id: 12345678901234567.25}]}}}",
        'quote it: "12345678901234567.25"',
    ),
    (
        "tests: {a: {given: {stagign.orders: []}, expect: {mart.sales: []}}}",
        "did you mean 'staging.orders'?",
    ),
    (
        "tests: {a: {given: {public.x: []}, expect: {mart.sales: []}}}",
        "a mart or an `external` table of shop",
    ),
    (
        "tests: {a: {given: {mart.sales: []}, expect: {mart.sales: []}}}",
        "mart.sales is given in this test, so it",
    ),
    (
        "tests: {a: {steps: [{given: {mart.sales: []}}, {expect: {mart.sales: []}}]}}",
        "steps[1].expect.",
    ),
    ("# nothing", "a.yml:1:1 the file is empty\n  hint: a test file has the keys tests and tables"),
    (
        "tests: {a: {interval: [then, 3], expect: {mart.sales: []}}}",
        "tests.a.interval[0]: expected a time, found",
    ),
    (
        "tests: {a: {interval: [1, null], expect: {mart.sales: []}}}",
        "tests.a.interval[1]: expected a time",
    ),
    (
        "tests: {a: {expect: {mart.sales: {csv: twice.csv}}}}",
        "twice.csv: line 1 must name each column once",
    ),
    (
        "tests: {a: {expect: {mart.sales: {csv: empty.csv}}}}",
        "empty.csv: line 1 must name each column once",
    ),
    ("tests: {a: {expect: {mart.sales: {csv: quote.csv}}}}", "quote.csv: line 2 is not csv: "),
    (
        "tests: {a: {given: {staging.tmp_x: []}, expect: {mart.sales: []}}}",
        "staging.tmp_x is not a table, a m",
    ),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    found = "\n".join(problems(tmp_path, text, "id\n1,2\n"))
    assert expected in found


def test_a_table_that_a_pattern_matches_can_be_given(tmp_path: Path) -> None:
    (case,), _ = read(
        tmp_path, "tests: {a: {given: {staging.log_web: [{id: 1}]}, expect: {mart.sales: []}}}"
    )
    assert case.given == {"staging.log_web"}


def test_a_table_that_others_make_can_be_given(tmp_path: Path) -> None:
    text = (
        "tests: {a: {given: {elsewhere.rates: [], staging.theirs: []}, expect: {mart.sales: []}}}"
    )
    (case,), _ = read(tmp_path, text)
    assert case.given == {"elsewhere.rates", "staging.theirs"}


def test_a_column_of_a_csv_file_holds_numbers_where_all_its_fields_are_some(tmp_path: Path) -> None:
    rows = "id,amount,code,ok,mixed\n1,2.50,007,true,1\n-2,3,042,false,x\n0,,100,,2\n"
    (case, _), _ = read(
        tmp_path, GOOD.replace("  one: {given: {staging.orders: [{id: 1}]}", CSV_CASE), rows
    )
    values = [tuple(row.values.values()) for row in case.steps[0].given["staging.orders"]]
    assert values == [
        (1, Decimal("2.50"), "007", True, "1"),
        (-2, Decimal(3), "042", False, "x"),
        (0, None, "100", None, "2"),
    ]


def test_a_file_that_links_out_of_the_pipelines_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.yml").write_text("s3cret: [1")
    read(tmp_path, GOOD)
    (tmp_path / "shop" / "tests" / "link.yml").symlink_to(tmp_path / "secret.yml")
    with pytest.raises(SpecError, match="this link leads out of the pipelines folder") as caught:
        read_tests(load_pipeline(tmp_path / "shop" / "pipeline.yml"))
    assert "s3cret" not in str(caught.value)


SCHEMA = json.loads(SCHEMA_FILE.with_name("tests.schema.json").read_text())


# Names, times, files and digits; what steps may not stand beside.
BEYOND_A_SCHEMA = (
    "mart.sale: {orders: csv stagign public.x {mart.sales: [then DROP order: tmp_x 678".split()
    + [
        "# nothing",
        "as_of: then",
        "steps: {}",
        "{columns: {id: ",
    ]
)


def accepted(text: str) -> bool:
    """Whether an editor marks nothing."""
    Draft202012Validator.check_schema(SCHEMA)
    return Draft202012Validator(SCHEMA).is_valid(yaml.safe_load(text))


def test_an_editor_accepts_what_is_right_and_marks_what_has_the_wrong_shape() -> None:
    good = [GOOD, *(file.read_text() for file in (ROOT / "pipelines").glob("*/tests/*.yml"))]
    assert all(map(accepted, good)) and len(good) > 3
    wrong = [text for text, _ in WRONG if not text.startswith("tests: {a: *b")]
    by_shape = [text for text in wrong if not accepted(text)]
    assert len(by_shape) >= 9
    # The negative control: names, times and files are beyond a schema, and only those.
    for text in set(wrong) - set(by_shape):
        assert any(word in text for word in BEYOND_A_SCHEMA), text


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    assert (
        len(
            problems(
                tmp_path, "test: 1\ntests: {a: {givn: 1, expect: {mart.no: []}}}\ntables: [1]\n"
            )
        )
        == 4
    )


def test_now_is_replaced_where_it_is_called_and_nowhere_else() -> None:
    sql = "SELECT now ( ), x.now(), 'now()', current_date, \"current_date\", now -- now()"
    moment = "CAST('2026-01-31' AS timestamptz)"
    replaced = (
        f"SELECT {moment}, x.now(), 'now()', CAST({moment} AS date), \"current_date\", now -- now()"
    )
    assert at(sql, "2026-01-31") == replaced


def test_schemas_are_replaced_where_they_qualify_a_known_table_and_nowhere_else() -> None:
    sql = (
        "SELECT 'staging.orders', staging.orders.id, staging.id FROM Staging.orders,"
        ' "staging".orders, staging.x'
    )
    moved = '"staging_sample"'
    assert (
        in_schemas(sql, {"staging": ("staging_sample", {"orders"})})
        == f"SELECT 'staging.orders', {moved}.orders.id, staging.id FROM {moved}.orders,"
        f" {moved}.orders, staging.x"
    )
