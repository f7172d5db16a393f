"""Compares expected rows with actual ones: missing rows, extra rows, and cells that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadsheet.errors import InputError
from loadsheet.postgres import Session
from loadsheet.sql.text import ident
from loadsheet.sqltest.given import relation
from loadsheet.sqltest.models import Row
from loadsheet.sqltest.values import as_text, comparable, shown
from loadsheet.warehouse import tables

Texts = dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One row that is not as expected: `expected` is None for one too many, `actual` for a missing
    one.

    `where` is the expected row's place in the file, `key` the columns by which the two were paired.
    """

    table: str
    expected: Texts | None
    actual: Texts | None
    where: str = ""
    key: tuple[str, ...] = ()

    @property
    def cells(self) -> list[str]:
        """The columns that differ."""
        return [
            c
            for c in self.expected or {}
            if self.actual and (self.expected or {})[c] != self.actual[c]
        ]


def compare(
    session: Session, name: str, expected: Sequence[Row], key: tuple[str, ...]
) -> list[Difference]:
    """How the table `name` differs from the `expected` rows, in the columns that they name; in
    whatever order.

    Raises InputError when the table is not there, lacks a column, or an expected value is none of
    its column's type.
    """
    types = tables.columns_of(session, relation(name))
    if not types:
        raise InputError(f"{name} was not built")
    for row in expected:
        for column in row.values:
            if column not in types:
                raise InputError(
                    f"{row.where} {name} has no column {column!r}; it has {', '.join(types)}"
                )
    named = dict.fromkeys(column for row in expected for column in row.values)
    columns = list(named or types)
    select = ", ".join(as_text(ident(column), types[column]) for column in columns)
    actual = [
        {column: comparable(text, types[column]) for column, text in zip(columns, row, strict=True)}
        for row in session.execute(f"SELECT {select} FROM {relation(name).sql}")
    ]
    wanted = [shown(session, row, types) for row in expected]
    # A row that leaves a column out says nothing of it, so it may be several.
    candidates = []
    for texts in wanted:
        candidates.append([place for place, row in enumerate(actual) if _is(texts, row)])
    same = matched(candidates)
    missing = []
    for place, (row, texts) in enumerate(zip(expected, wanted, strict=True)):
        if place not in same:
            missing.append((row, texts))
    taken = set(same.values())
    left = [row for place, row in enumerate(actual) if place not in taken]
    compared_by_key = set(key) <= set(columns)
    return _paired(name, missing, left, key if compared_by_key else ())


def _is(texts: Texts, actual: Texts) -> bool:
    return all(actual[column] == text for column, text in texts.items())


def _paired(
    name: str, missing: list[tuple[Row, Texts]], left: list[Texts], key: tuple[str, ...]
) -> list[Difference]:
    found = []
    for row, texts in missing:
        other = _most_alike(texts, left, key)
        if other is not None:
            left.remove(other)
        found.append(Difference(table=name, expected=texts, actual=other, where=row.where, key=key))
    return found + [Difference(table=name, expected=None, actual=actual) for actual in left]


def _most_alike(texts: Texts, left: list[Texts], key: tuple[str, ...]) -> Texts | None:
    """The row of the same key; without a key, the one that agrees in most columns, and in at least
    half of them."""
    if key and set(key) <= texts.keys():
        return next(
            (actual for actual in left if all(actual[c] == texts.get(c) for c in key)), None
        )

    def agreeing(actual: Texts) -> int:
        return sum(actual[c] == text for c, text in texts.items())

    best = max(left, key=agreeing, default=None)
    return best if best is not None and 2 * agreeing(best) >= len(texts) > 1 else None


def matched(fits: Sequence[Sequence[int]]) -> Mapping[int, int]:
    """A place for as many rows as possible, no place twice; `fits[row]` are the places that a row
    can have."""
    place_of: dict[int, int] = {}
    row_at: dict[int, int] = {}
    for row in range(len(fits)):
        for taken, place in _path(row, fits, row_at):
            place_of[taken], row_at[place] = place, taken
    return place_of


def _path(
    row: int, fits: Sequence[Sequence[int]], row_at: Mapping[int, int]
) -> list[tuple[int, int]]:
    """The fewest rows that have to move, each with its new place, so that `row` has one; empty
    where none can."""
    wished: dict[int, int] = {}
    asking = [row]
    # It grows while it is walked: the holder of a wanted place may take another one.
    for asker in asking:
        for place in fits[asker]:
            if place in wished:
                continue
            wished[place] = asker
            if place not in row_at:
                return _back(place, wished, {row_at[at]: at for at in wished if at in row_at})
            asking.append(row_at[place])
    return []


def _back(
    place: int, wished: Mapping[int, int], place_of: Mapping[int, int]
) -> list[tuple[int, int]]:
    moves = [(wished[place], place)]
    while (left := place_of.get(moves[-1][0])) is not None:
        moves.append((wished[left], left))
    return moves
