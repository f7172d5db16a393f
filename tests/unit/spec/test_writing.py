"""New tables come into a pipeline file as lines of their own; every other byte stays."""

from __future__ import annotations

from difflib import ndiff
from pathlib import Path
from typing import Any

import pytest

from loadsheet.spec.edit import fit_to_defaults, with_tables
from loadsheet.spec.pipeline_file import check_text
from loadsheet.spec.strict_yaml import read_document
from loadsheet.spec.view import inherit

ENTRIES: dict[str, dict[str, Any]] = {
    "countries": {},
    "lines": {
        "primary_key": ["order_id", "line_no"],
        "incremental": {"cursor": "updatedAt", "nulls": "include"},
        "columns": {"exclude": ["api token"]},
    },
}
ODD = """\
# yaml-language-server: $schema=../../schemas/pipeline.schema.json
   # An indented comment, with a tab	inside
version:   1       # the only one

source:    {conn_id:   shop,   schema: 'public' }
lake:
        conn_id: "lake"
        bucket:   lake   # eight blanks
warehouse: { conn_id: warehouse,


             schema: landing }   # over three lines
tables :   # a blank before the colon


   # first comment \U0001f600 é
   seats  :         # nothing said
   "odd: name":   {primary_key: [ a ,b ],   mode:   merge}  # kept
   bookings:
         # above the cursor
         incremental:    'updated_at'    # single quotes

         # inside bookings
   # tickets: {incremental: updated_at}    not yet

# What follows the tables
tasks:   {   retries: 1}
"""


def data(text: str) -> Any:
    return read_document(Path("shop/pipeline.yml"), text).data


def assert_only_added(old: str, new: str, entries: dict[str, dict[str, Any]]) -> None:
    assert not [
        line for line in ndiff(old.splitlines(True), new.splitlines(True)) if line[0] == "-"
    ]
    added = {name: entry or None for name, entry in entries.items()}
    assert data(new) == {**data(old), "tables": {**data(old)["tables"], **added}}
    assert list(data(new)["tables"]) == [*data(old)["tables"], *entries]
    assert check_text(Path("shop/pipeline.yml"), new)[0], check_text(
        Path("shop/pipeline.yml"), new
    )[1]


def test_a_commented_file_of_odd_shape_differs_only_by_added_lines() -> None:
    new = with_tables(ODD, ENTRIES)
    assert_only_added(ODD, new, ENTRIES)
    assert (
        "   # tickets: {incremental: updated_at}    not yet\n   countries:\n   lines: {primary_key:"
        " [order_id, line_no], incremental: {cursor: updatedAt, nulls: include}, columns: {exclude:"
        ' ["api token"]}}\n\n# What follows' in new
    )


def test_a_yaml_library_that_keeps_comments_would_have_changed_such_a_file() -> None:
    """The negative control: why the text is not loaded, extended and dumped."""
    import io

    from ruamel.yaml import YAML

    library = YAML()
    library.preserve_quotes = True
    out = io.StringIO()
    library.dump(library.load(ODD), out)
    assert out.getvalue() != ODD


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(ODD.replace("\n", "\r\n"), id="lines end as in Windows"),
        pytest.param(
            ODD.partition("# What follows")[0].rstrip(),
            id="the file ends in a comment without a newline",
        ),
        pytest.param(ODD.partition("   # tickets")[0].rstrip() + "\n", id="the tables come last"),
        pytest.param(
            ODD.replace("\n\n   # tickets", "\n   # tickets") + "\n\n\n",
            id="blank lines at the end",
        ),
        pytest.param(
            "# only\n" + ODD.replace("   bookings:", "   bookings: # {"), id="a brace in a comment"
        ),
    ],
)
def test_whatever_surrounds_the_tables_stays(text: str) -> None:
    new = with_tables(text, ENTRIES)
    plain = [line.rstrip("\r\n") for line in text.splitlines(True)]
    assert [line for line in new.splitlines() if line in plain] == plain
    assert data(new)["tables"].keys() == {*data(text)["tables"], *ENTRIES}
    assert new.count("\r\n") in (0, new.count("\n"))


@pytest.mark.parametrize(
    "tables", ["{a: , b: {mode: merge}}", "{a: null,\n  b: {mode: merge},\n}", '{"a": null}']
)
def test_tables_in_braces_get_more_of_them(tables: str) -> None:
    old = ODD.partition("tables :")[0] + f"tables: {tables}   # end\n"
    new = with_tables(old, ENTRIES)
    assert data(new)["tables"] == {
        **data(old)["tables"],
        "countries": None,
        "lines": ENTRIES["lines"],
    }
    assert new.endswith("   # end\n")


@pytest.mark.parametrize(
    "name",
    [
        "no",
        "ON",
        "null",
        "y",
        "~",
        "1:30",
        "010",
        "2026-01-01",
        "1e3",
        "a b",
        "a: b",
        "#a",
        "- a",
        "{a}",
        "*",
        "&a",
        "été",
        'say "hi"',
        "back\\slash",
        "tab\there",
        "line\nbreak",
        "del\x7f",
        "nel\x85",
        "sep\u2028",
        "😀",
        "",
        " a",
        "%a",
        "@a",
        "`a`",
        "!a",
        "<<",
        "=",
    ],
)
def test_any_name_of_a_table_or_a_column_comes_back_as_it_was(name: str) -> None:
    entries = {f"{name}": {"incremental": name or "x", "columns": {"exclude": [f"{name}2"]}}}
    assert data(with_tables(ODD, entries))["tables"][name] == entries[name]


@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        ({}, {"incremental": "updated_at", "columns": {"exclude": ["token"]}}),
        ({"incremental": "updated_at"}, {"columns": {"exclude": ["token"]}}),
        ({"incremental": "at"}, {"columns": {"exclude": ["token"]}}),
        (
            {"incremental": "changed"},
            {"incremental": "updated_at", "columns": {"exclude": ["token"]}},
        ),
        ({"primary_key": "id"}, {"incremental": "updated_at", "columns": {"exclude": ["token"]}}),
        (
            {"primary_key": "nr"},
            {"primary_key": None, "incremental": "updated_at", "columns": {"exclude": ["token"]}},
        ),
        ({"columns": {"exclude": ["token"]}}, {"incremental": "updated_at"}),
        (
            {"columns": {"exclude": ["gone"]}},
            {"incremental": "updated_at", "columns": {"exclude": ["token"]}},
        ),
        (
            {"columns": {"exclude": ["at"]}},
            {"incremental": "updated_at", "columns": {"exclude": ["at", "token"]}},
        ),
        ({"columns": {"include": ["id", "updated_at"]}}, {"incremental": "updated_at"}),
        (
            {"mode": "replace"},
            {"incremental": "updated_at", "columns": {"exclude": ["token"]}, "mode": None},
        ),
        ({"mode": "merge"}, {"incremental": "updated_at", "columns": {"exclude": ["token"]}}),
    ],
)
def test_an_entry_fits_the_files_defaults(
    defaults: dict[str, Any], expected: dict[str, Any]
) -> None:
    entry = {"incremental": "updated_at", "columns": {"exclude": ["token"]}}
    assert fit_to_defaults(entry, ["id"], ["id", "at", "updated_at", "token"], defaults) == expected


def test_a_table_without_a_cursor_takes_an_inherited_one_back() -> None:
    defaults = {
        "incremental": "updated_at",
        "mode": "append",
        "columns": {"exclude": ["note"]},
        "lookback": "1h",
    }
    own = fit_to_defaults({}, [], ["a"], defaults)
    assert own == {"incremental": None, "mode": None, "columns": None}
    assert inherit(own, defaults) == {}
    log = fit_to_defaults({"incremental": "id", "mode": "append"}, ["id"], ["id"], defaults)
    assert inherit(log, defaults) == {
        "incremental": {"cursor": "id", "lookback": None},
        "mode": "append",
    }
