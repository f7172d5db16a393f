"""A place in SQL, shown with a caret that stands under it."""

from __future__ import annotations

import pytest

from loadsheet.sql.excerpt import excerpt

LONG = f"SELECT {', '.join(f'column_{number}' for number in range(40))}, nope FROM t"


@pytest.mark.parametrize(
    ("sql", "word", "place"),
    [
        ("SELECT a,\n\tnope FROM t", "nope", (2, 2)),
        ("SELECT a,\r\n  nope\r\nFROM t", "nope", (2, 3)),
        ("SELECT 'a\x1b[2Kb', nope", "nope", (1, 18)),
        ('SELECT "no pe"', '"no pe"', (1, 8)),
        (LONG, "nope", (1, LONG.index("nope") + 1)),
        ("nope", "nope", (1, 1)),
    ],
)
def test_the_caret_stands_under_the_word(sql: str, word: str, place: tuple[int, int]) -> None:
    found = excerpt(sql, sql.index(word))
    assert (found.line, found.column) == place
    line, caret = found.text.split("\n")
    start = caret.index("^")
    assert line[start : start + caret.count("^")] == word
    assert len(line) <= 80 and "\x1b" not in line


def test_a_secret_in_the_line_is_masked() -> None:
    sql = "SELECT dblink('password=hunter22 host=x'), nope"
    assert "hunter22" not in excerpt(sql, sql.index("dblink")).text


def test_a_place_at_the_end_has_a_caret_too() -> None:
    assert excerpt("SELECT", 6).text == "   1 | SELECT\n     |       ^"
