"""Compares expected rows with actual ones: missing rows, extra rows, and cells that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadsheet.errors import InputError
from loadsheet.postgres import Session
from loadsheet.sql.text import ident
from loadsheet.sqltest.given import relation
from loadsheet.sqltest.models import Row
from loadsheet.sqltest.values import comparable, row_texts, text_sql
from loadsheet.warehouse import tables

Texts = dict[str, str | None]
"""A row's values as text, by column."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One row that is not as expected: `expected` is None for an extra row, `actual` for a missing
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
        """The columns that differ; none for a missing or extra row."""
        if self.expected is None or self.actual is None:
            return []
        actual = self.actual
        return [column for column, text in self.expected.items() if text != actual[column]]


def compare(
    session: Session, name: str, expected: Sequence[Row], key: tuple[str, ...]
) -> list[Difference]:
    """How the table `name` differs from the `expected` rows, in the columns that these have and in
    any order.

    Raises InputError if the table does not exist, lacks a column, or an expected value does not fit
    its column's type.
    """
    types = tables.columns_of(session, relation(name))
    if not types:
        raise InputError(f"{name} was not built")
    # In the order of the file: a dict serves as an ordered set.
    columns: dict[str, None] = {}
    for row in expected:
        for column in row.values:
            if column not in types:
                raise InputError(
                    f"{row.where} {name} has no column {column!r}; it has {', '.join(types)}"
                )
            columns[column] = None
    # Without an expected row, all columns are read, so that an extra row is shown in full.
    actual = _rows_in(session, name, types, list(columns or types))
    expected_texts = [row_texts(session, row, types) for row in expected]
    candidates = []
    for texts in expected_texts:
        # An expected row without some columns may fit several actual rows.
        places: list[int] = []
        for place, actual_row in enumerate(actual):
            if all(actual_row[column] == text for column, text in texts.items()):
                places.append(place)
        candidates.append(places)
    place_of = assign_places(candidates)
    missing = []
    for number, row in enumerate(expected):
        if number not in place_of:
            missing.append((row, expected_texts[number]))
    taken = set(place_of.values())
    extra = [row for place, row in enumerate(actual) if place not in taken]
    # Rows can be paired by the key only if all of its columns are compared.
    if not set(key) <= set(columns or types):
        key = ()
    return _paired(name, missing, extra, key)


def _rows_in(
    session: Session, name: str, types: Mapping[str, str], columns: list[str]
) -> list[Texts]:
    select = ", ".join(text_sql(ident(column), types[column]) for column in columns)
    rows: list[Texts] = []
    for values in session.execute(f"SELECT {select} FROM {relation(name).sql}"):
        row: Texts = {}
        for column, text in zip(columns, values, strict=True):
            row[column] = comparable(text, types[column])
        rows.append(row)
    return rows


def _paired(
    name: str, missing: list[tuple[Row, Texts]], extra: list[Texts], key: tuple[str, ...]
) -> list[Difference]:
    """Each missing row with the extra row that it most likely should have been, then the other
    extra rows."""
    differences = []
    for row, texts in missing:
        actual = _most_alike(texts, extra, key)
        if actual is not None:
            extra.remove(actual)
        difference = Difference(table=name, expected=texts, actual=actual, where=row.where, key=key)
        differences.append(difference)
    for actual in extra:
        differences.append(Difference(table=name, expected=None, actual=actual))
    return differences


def _most_alike(texts: Texts, rows: list[Texts], key: tuple[str, ...]) -> Texts | None:
    """The row with the same key; without a key, the one that agrees in most columns, and in at
    least half of them."""
    if key and set(key) <= texts.keys():
        for row in rows:
            if all(row[column] == texts[column] for column in key):
                return row
        return None

    def agreeing(row: Texts) -> int:
        return sum(row[column] == text for column, text in texts.items())

    best = max(rows, key=agreeing, default=None)
    if best is None or len(texts) < 2 or 2 * agreeing(best) < len(texts):
        return None
    return best


def assign_places(fits: Sequence[Sequence[int]]) -> Mapping[int, int]:
    """A place for as many rows as possible, no place twice; `fits[row]` are the places that suit a
    row."""
    place_of: dict[int, int] = {}
    row_at: dict[int, int] = {}
    for row in range(len(fits)):
        for moved, place in _moves_for(row, fits, row_at):
            place_of[moved] = place
            row_at[place] = moved
    return place_of


def _moves_for(
    row: int, fits: Sequence[Sequence[int]], row_at: Mapping[int, int]
) -> list[tuple[int, int]]:
    """The fewest rows that have to move, each with its new place, so that `row` has one; empty if
    there is no way.

    This is the search for a shortest augmenting path in a bipartite matching.
    """
    wanted_by: dict[int, int] = {}
    rows = [row]
    # The list grows while it is walked: a row whose place is wanted may take another one.
    for candidate in rows:
        for place in fits[candidate]:
            if place in wanted_by:
                continue
            wanted_by[place] = candidate
            if place not in row_at:
                return _moves_to(place, wanted_by, row_at)
            rows.append(row_at[place])
    return []


def _moves_to(
    free: int, wanted_by: Mapping[int, int], row_at: Mapping[int, int]
) -> list[tuple[int, int]]:
    """The moves that end with a row in the place `free`, back to the row without a place."""
    place_of = {row_at[place]: place for place in wanted_by if place in row_at}
    moves = []
    place: int | None = free
    while place is not None:
        row = wanted_by[place]
        moves.append((row, place))
        place = place_of.get(row)
    return moves
