"""What a server answers is read as PostgreSQL writes it, or refused with the server's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from loadsheet import answers
from loadsheet.errors import Unreadable
from loadsheet.warehouse import unfilled


class Session:
    """What a message needs to know of a session."""

    end, conn_id = "source", "shop_source"


SESSION: Any = Session()
PLAN = {"Node Type": "Seq Scan", "Total Cost": 1.5, "Plan Rows": 10, "Plan Width": 4}
COLUMN = {"name": "id", "type": "integer", "attnum": 1}
DEEP = "[" * 100_000
LIES: list[tuple[Callable[..., Any], list[tuple[Any, ...]]]] = [
    (
        answers.whole_number,
        [("x",), ("",), ("1_0",), (" 1",), ("1.5",), ("\u0663",), ("NaN",), (None,), (True,)],
    ),
    (
        answers.key_texts,
        [("x", 1), ("", 1), ("0", 1), ("[]", 1), ('["a", "b"]', 1), ("[1]", 1), ("{}", 1), (7, 1)]
        + [(DEEP, 1), (None, 1), ('[["a"]]', 1)],
    ),
    (answers.texts, [("x",), ([],), ({"a": 1},), ({"a": None},), (0,)]),
    (answers.names, [("x",), ("{}",), ("[1]",), ("0",), (DEEP,)]),
    (
        answers.columns,
        [({},), ([1],), ([{"name": "id"}],), (-1,), ([COLUMN | {"attnum": True}],)]
        + [([COLUMN | {"name": None}],)],
    ),
    (answers.at, [("ab", 2), ("ab", -1), ("ab", "0"), ("ab", True), ((), 0)]),
    (answers.take_once, [({1, 2}, 3), (set(), 0), ({1}, -1)]),
    (answers.known, [({1: "a"}, 2), ({1: "a"}, []), ({}, None)]),
    (
        answers.plan,
        [(None,), ((),), ((0,),), (([],),), (([{}],),), (([{"Plan": []}],),)]
        + [(([{"Plan": PLAN | {"Plan Rows": "x"}}],),), (([{"Plan": PLAN | {"Plans": [0]}}],),)],
    ),
    (
        unfilled.checked,
        [(0,), ([],), ({},), ({"source_oid": "1", "attnums": []},)]
        + [({"source_oid": 1, "attnums": [1], "through": 5},)]
        + [({"source_oid": 1, "attnums": [1], "order": 5},)],
    ),
]


@pytest.mark.parametrize(
    ("read", "lie"),
    [(read, lie) for read, lies in LIES for lie in lies],
    ids=lambda one: one.__name__ if callable(one) else repr(one)[:20],
)
def test_an_answer_that_postgresql_does_not_give_is_refused_with_the_server(
    read: Callable[..., Any], lie: tuple[Any, ...]
) -> None:
    with pytest.raises(Unreadable) as refused:
        read(SESSION, *lie)
    text = str(refused.value)
    assert text.startswith("the source (connection 'shop_source'): its answer cannot be read: ")
    assert "Next: " in text


def test_what_postgresql_answers_is_read() -> None:
    assert answers.whole_number(SESSION, "-12345678901234567890123") == -12345678901234567890123
    assert answers.key_texts(SESSION, '["a", null]', 2) == ["a", None]
    assert answers.texts(SESSION, {"a": "b"}) == {"a": "b"} and answers.texts(SESSION, None) is None
    assert answers.names(SESSION, '["id"]') == ["id"] and answers.names(SESSION, "null") is None
    assert answers.columns(SESSION, [COLUMN]) == [COLUMN]
    assert answers.at(SESSION, "ab", 1) == "b"
    assert answers.known(SESSION, {1: "a"}, 1) == "a"
    deeper = PLAN | {"Plans": [PLAN]}
    assert answers.plan(SESSION, ([{"Plan": deeper}],)) == deeper
    assert all(map(answers.is_number, ("1", "-1.50", "1e+10", "0.1")))
    assert not any(map(answers.is_number, ("", "x", "NaN", "Infinity", "1_0", None, 1)))
    kept = unfilled.Unfilled(source_oid=1, attnums=(2,), through=("7",), order=("id",))
    recorded = json.loads(kept.to_json())
    assert unfilled.read(unfilled.checked(SESSION, recorded)) == kept
