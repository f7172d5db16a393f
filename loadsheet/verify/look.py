"""What part of the rows a comparison looks at, and how."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from loadsheet.comparison.digest import BUCKETS
from loadsheet.errors import InputError
from loadsheet.wording import counted

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Look:
    """All rows, unless it says otherwise."""

    since: str | None = None
    """The lowest cursor of the rows to compare; None for all."""
    share: float = 1.0
    """How much of the buckets to compare."""
    gentle: bool = False
    """Whether to read the source in ranges, with pauses between them."""

    @property
    def is_whole(self) -> bool:
        """Whether all rows are compared."""
        return self.since is None and self.share == 1

    @cached_property
    def buckets(self) -> Sequence[int]:
        """The buckets to compare: others in each look, so that many looks see all rows."""
        if self.share == 1:
            return range(BUCKETS)
        return sorted(random.sample(range(BUCKETS), self._count))

    @property
    def part(self) -> str:
        """Which rows are compared, for messages; empty for all."""
        parts = []
        if self.share < 1:
            parts.append(f"{self.share * 100:g}% of the rows")
        if self.since is not None:
            parts.append(f"rows from {self.since} on")
        return ", ".join(parts)

    @property
    def enough_rows(self) -> int:
        """So many differing rows, or more, would show with a probability of CONFIDENCE.

        A row's bucket is a hash of its key, so each differing row is in one of the n chosen of N
        buckets with the probability s = n / N, whatever rows differ. None of k rows is with the
        probability (1 - s)^k, which is at most 1 - CONFIDENCE from

            k = log(1 - CONFIDENCE) / log(1 - s)

        rows on: 59 for 5 %, 299 for 1 %. 1 for all buckets.
        """
        share = self._count / BUCKETS
        if share == 1:
            return 1
        return math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - share))

    @property
    def confidence(self) -> str:
        """What a look at a share of the rows shows, for messages; empty for all."""
        if self.share == 1:
            return ""
        return (
            f"if {counted(self.enough_rows, 'row')} or more of a table differ, one of them is found"
            f" with a probability of {CONFIDENCE:.0%}"
        )

    @property
    def _count(self) -> int:
        return math.ceil(self.share * BUCKETS)


ALL_ROWS = Look()


def share_of(text: str) -> float:
    """The share that `--sample` asks for: `5%` is 0.05. Raises InputError for any other text."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)%", text)
    share = float(match[1]) / 100 if match else 0
    if not 0 < share <= 1:
        raise InputError(f"--sample {text} is no share, such as 5% or 0.1%")
    return share
