"""Which loads a target's rows come from, after each of its loads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar


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

    def _back_from(self, load_no: int) -> Iterator[Load]:
        place = self._places.get(load_no, -1)
        while place >= 0:
            load = self.loads[place]
            if load.restored is not None:
                place = self._places.get(load.restored, -1)
                continue
            yield load
            if load.whole:
                return
            place -= 1
