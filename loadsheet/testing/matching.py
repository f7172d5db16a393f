"""As many pairs as possible of things of which each fits some others (a maximum bipartite matching). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def matched(fits: Sequence[Sequence[int]]) -> Mapping[int, int]:
    """A place for as many rows as possible, no place twice; `fits[row]` are the places that a row can have."""
    place_of: dict[int, int] = {}
    row_at: dict[int, int] = {}
    for row in range(len(fits)):
        for taken, place in _path(row, fits, row_at):
            place_of[taken], row_at[place] = place, taken
    return place_of


def _path(row: int, fits: Sequence[Sequence[int]], row_at: Mapping[int, int]) -> list[tuple[int, int]]:
    """The fewest rows that have to move, each with its new place, so that `row` has one; empty where none can."""
    wished: dict[int, int] = {}
    asking = [row]
    for asker in asking:  # grows while it is walked: whoever has a place that is wished for may have another
        for place in fits[asker]:
            if place in wished:
                continue
            wished[place] = asker
            if place not in row_at:
                return _back(place, wished, {row_at[at]: at for at in wished if at in row_at})
            asking.append(row_at[place])
    return []


def _back(place: int, wished: Mapping[int, int], place_of: Mapping[int, int]) -> list[tuple[int, int]]:
    moves = [(wished[place], place)]
    while (left := place_of.get(moves[-1][0])) is not None:
        moves.append((wished[left], left))
    return moves
