"""Which loads a target's rows come from, after each of its loads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from loadsheet.wording import MOST_NAMES


class Linked(Protocol):
    """A committed load of a target."""

    @property
    def load_no(self) -> int:
        """Rises in the order of the loads."""

    @property
    def whole(self) -> bool:
        """All rows that the target had after it are its own: no earlier load is needed."""

    @property
    def restored(self) -> int | None:
        """The load whose rows it has brought back; None unless it is a restore."""


Load = TypeVar("Load", bound=Linked)


@dataclass(frozen=True)
class Missing:
    """Loads that are needed and not there."""

    count: int = 0
    first: tuple[int, ...] = ()
    """The numbers of the oldest: as many as messages show."""

    def and_also(self, load_no: int) -> Missing:
        """These and a later load."""
        return Missing(self.count + 1, (*self.first, load_no)[:MOST_NAMES])


class History(Generic[Load]):
    """All loads of one target."""

    def __init__(self, loads: Iterable[Load]):
        self.loads = sorted(loads, key=lambda load: load.load_no)
        self._places = {load.load_no: place for place, load in enumerate(self.loads)}

    def get(self, load_no: int) -> Load | None:
        """The load of this number; None where there is none."""
        place = self._places.get(load_no)
        return None if place is None else self.loads[place]

    def chain(self, load_no: int) -> list[Load]:
        """The loads that the target's rows came from after the load `load_no`, oldest first: a
        whole load and what came after it. A restore stands for the chain that it has replayed."""
        return list(self._back_from(load_no))[::-1]

    def needed(self, numbers: Iterable[int]) -> set[int]:
        """The numbers of all loads in the chains of the loads `numbers`."""
        found: set[int] = set()
        for number in numbers:
            for load in self._back_from(number):
                # What comes before it was found with it.
                if load.load_no in found:
                    break
                found.add(load.load_no)
        return found

    def missing(self, is_there: Callable[[Load], bool]) -> dict[int, Missing]:
        """By the number of each load, those of its chain that are not there.

        A table that runs every five minutes has 100,000 loads a year, and their chains are as long:
        each is found from the one before it.
        """
        found: dict[int, Missing] = {}
        for load in self.loads:
            before = self._before(load)
            missing = found[before.load_no] if before else Missing()
            if load.restored is None and not is_there(load):
                missing = missing.and_also(load.load_no)
            found[load.load_no] = missing
        return found

    def _back_from(self, load_no: int) -> Iterator[Load]:
        load = self.get(load_no)
        while load:
            if load.restored is None:
                yield load
            load = self._before(load)

    def _before(self, load: Load) -> Load | None:
        """The load whose rows the target had before this one built on them, or that this one has
        restored; None: it needs none."""
        if load.restored is not None:
            return self.get(load.restored)
        place = self._places[load.load_no]
        return None if load.whole or place == 0 else self.loads[place - 1]
