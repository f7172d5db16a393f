"""How far a step is, and how fast, in words."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Pace:
    """How far something is, and how fast."""

    since: float = field(default_factory=time.monotonic)
    rows: int | None = None
    bytes: int = 0

    def moved(self, rows: int | None, size: int) -> None:
        """So far `rows` (None: nobody has counted) and `size` bytes have moved."""
        self.rows, self.bytes = rows, size

    @property
    def amount(self) -> str:
        """The rows."""
        return "" if self.rows is None else f"{self.rows:,} rows"

    @property
    def size(self) -> str:
        """The bytes."""
        return f"{self.bytes / 1e6:,.1f} MB" if self.bytes else ""

    @property
    def speed(self) -> str:
        """Rows a second; where nobody has counted rows yet, bytes."""
        seconds = max(time.monotonic() - self.since, 0.001)
        if self.rows is not None:
            return f"{self.rows / seconds:,.0f} rows/s"
        return f"{self.bytes / 1e6 / seconds:,.1f} MB/s" if self.bytes else ""
