"""Trees of nodes from a server's catalogs, whole and broken."""

from __future__ import annotations

import pytest

from loadsheet.errors import Refused
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
