"""Named parameters are found where SQL has them and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadsheet.sql.params import PARAMS, Param, placeholders, split_params, uses_since_load
from loadsheet.sql.tokens import Unparsable

SINCE, RUN = Param("since_load"), Param("run_id")


def joined(pieces: list[str | Param]) -> str:
    return "".join(piece if isinstance(piece, str) else f":{piece.name}" for piece in pieces)


@pytest.mark.parametrize(
    ("sql", "pieces"),
    [
        ("SELECT 1", ["SELECT 1"]),
        ("", []),
        ("x > :since_load", ["x > ", SINCE]),
        (":run_id", [RUN]),
        ("x>:since_load and y=:run_id;", ["x>", SINCE, " and y=", RUN, ";"]),
        (":run_id::text", [RUN, "::text"]),
        ("f(a=>:run_id)", ["f(a=>", RUN, ")"]),
        ("a-:since_load", ["a-", SINCE]),
        ("ARRAY[:run_id, 'x', :run_id]", ["ARRAY[", RUN, ", 'x', ", RUN, "]"]),
        ("ARRAY[[:run_id], [1]]", ["ARRAY[[", RUN, "], [1]]"]),
        ("a[1 + :since_load]", ["a[1 + ", SINCE, "]"]),
        ("a[(:since_load):3]", ["a[(", SINCE, "):3]"]),
        ("é = :run_id", ["é = ", RUN]),
        ("x -- why\n = :run_id", ["x -- why\n = ", RUN]),
    ],
)
def test_parameters_are_cut_out(sql: str, pieces: list[str | Param]) -> None:
    assert split_params(sql) == pieces


@pytest.mark.parametrize(
    "sql",
    [
        "':run_id'",
        "'it''s :run_id'",
        "'back\\' || ':run_id'",
        "E'\\':run_id'",
        '":run_id"',
        "$$ :run_id $$",
        "$q$ :run_id $q$",
        "-- :run_id",
        "/* :run_id /* :run_id */ :run_id */",
        "x::run_id",
        "a[1:run_id]",
        "a[:run_id]",
        "a[f(1):run_id]",
        "a[b[1]:run_id]",
        ":run_idx",
        ":Run_Id",
        ": run_id",
        ':"run_id"',
        "a := run_id",
    ],
)
def test_what_is_no_parameter_stays_text(sql: str) -> None:
    assert split_params(sql) == [sql]


def test_unknown_names_are_listed_but_not_cut() -> None:
    assert list(placeholders("SELECT :run_id, :start")) == [("run_id", 7), ("start", 16)]
    assert split_params("SELECT :start") == ["SELECT :start"]


@pytest.mark.parametrize(
    ("sql", "uses"), [("x > :since_load", True), ("x > ':since_load'", False), ("1", False)]
)
def test_since_load_makes_a_transform_incremental(sql: str, uses: bool) -> None:
    assert uses_since_load(sql) is uses


def test_an_open_quote_is_refused() -> None:
    with pytest.raises(Unparsable, match="never ends"):
        split_params("SELECT 'x :run_id")


MARKS = (
    "'",
    '"',
    "$$",
    "--",
    "/*",
    "*/",
    "[",
    "]",
    "(",
    ")",
    "::",
    ":",
    "a",
    "1",
    "é",
    ",",
    "ARRAY",
    "\\",
    "E'",
    "%",
)
FRAGMENTS = st.sampled_from([*(f":{name}" for name in PARAMS), *MARKS, " ", "\n"])


@given(st.lists(FRAGMENTS, max_size=30).map("".join))
def test_pieces_joined_give_the_text_back(sql: str) -> None:
    try:
        pieces = split_params(sql)
    except Unparsable:
        return
    assert joined(pieces) == sql


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("CALL mart.load(:run_id)", ["run_id"]),
        (
            "-- first\nCALL mart.load(':run_id', :since_load) ; SELECT :run_id",
            ["since_load", "run_id"],
        ),
        ("EXPLAIN EXECUTE q(:interval_start) \n", ["interval_start"]),
        ("DECLARE c CURSOR FOR SELECT * FROM t WHERE _load_id > :since_load  ", ["since_load"]),
        ("DO $$ BEGIN PERFORM :run_id; END $$ ", []),
        ("VACUUM t \n\n", []),
        ("CALL f('10:30') ", []),
    ],
)
def test_parameters_are_found_in_what_no_parser_reads(sql: str, names: list[str]) -> None:
    pieces = split_params(sql)
    assert [piece.name for piece in pieces if isinstance(piece, Param)] == names
    assert (
        "".join(f":{piece.name}" if isinstance(piece, Param) else piece for piece in pieces) == sql
    )
