"""Trees of nodes from a server's catalogs, whole and broken."""

from __future__ import annotations

import pytest

from loadsheet.errors import Refused
from loadsheet.source.late_rows import View, why_late
from loadsheet.source.nodes import expression_of, query_of

VAR = "{VAR :varno 1 :varattno 2}"
QUERY = f"({{QUERY :commandType 1 :rtable <> :targetList ({VAR})}})"


def test_an_expression_and_a_query_are_read_as_trees() -> None:
    assert expression_of(VAR).number("varattno") == 2
    (var,) = query_of(QUERY).nodes("targetList")
    assert var.kind == "VAR"


@pytest.mark.parametrize("behind", ["); DROP TABLE t", "} ", "(", "{", " x", "; DROP TABLE t"])
@pytest.mark.parametrize("read", [expression_of, query_of])
def test_a_tree_with_anything_behind_it_is_refused(read: object, behind: str) -> None:
    assert callable(read)
    with pytest.raises(Refused, match="not as PostgreSQL stores it"):
        read(QUERY + behind)


@pytest.mark.parametrize("text", [QUERY[:cut] for cut in range(len(QUERY))] + ["{}", "({})", "()"])
def test_a_cut_or_empty_tree_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="not as PostgreSQL stores it"):
        query_of(text)


def query(entry: str, place: str) -> str:
    """A view's rule, with one entry of FROM and a reference to the entry at a place."""
    return (
        f"({{QUERY :rtable ({entry}) :jointree {{FROMEXPR :fromlist ({{RANGETBLREF"
        f" :rtindex {place}}})}}}})"
    )


TABLE = "{RANGETBLENTRY :rtekind 0 :relid 16384}"


def test_a_view_of_one_table_shows_no_row_late() -> None:
    assert why_late([View("sale", query(TABLE, "1"), {})]) == ""


@pytest.mark.parametrize(
    ("entry", "place"),
    [
        (TABLE, "7"),
        (TABLE, "-1"),
        (TABLE, "9" * 30),
        (TABLE, "<>"),
        ("{RANGETBLENTRY :rtekind 3}", "1"),
        ("{RANGETBLENTRY :rtekind 5 :functions ()}", "1"),
    ],
)
def test_a_view_that_names_an_entry_which_it_lacks_is_not_known(entry: str, place: str) -> None:
    assert "not known" in why_late([View("sale", query(entry, place), {})])


def test_a_view_whose_queries_are_nested_too_deeply_is_not_known() -> None:
    text = query(TABLE, "1")
    for _ in range(2_000):
        text = query(f"{{RANGETBLENTRY :rtekind 1 :subquery {text[1:-1]}}}", "1")
    assert "nested too deeply" in why_late([View("sale", text, {})])
