"""What staging must hold, in memory: a twin of one table, which lives through the same operations
as the real one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Value = Any
Row = dict[str | int, Value]
"""A row's `id`, `v` and `at`, and its extra columns by their attnum: a renamed column stays the
same one."""


@dataclass
class Twin:
    """One table. `rows` is the committed source, `staging` what was loaded (None before the first
    load)."""

    name: str
    mode: str
    nulls: str = "fail"
    is_time: bool = False
    rows: dict[int, Row] = field(default_factory=dict)
    extras: dict[int, str] = field(default_factory=dict)
    """The source's extra columns: attnum -> name."""
    next_attnum: int = 4
    staging: list[Row] | None = None
    staged: dict[int, str] = field(default_factory=dict)
    """The extra columns of the last load: attnum -> name."""
    held: set[str] = field(default_factory=set)
    """Names of all extra columns staging has, dropped ones too."""
    watermark: Value = None
    seen: dict[int, Row] = field(default_factory=dict)
    """The rows as they were when the watermark was last read from. Each write makes a new one."""

    def run(
        self,
        full: bool = False,
        interval: tuple[Value, Value] | None = None,
        open_since: Value = None,
    ) -> bool:
        """What a run does; False when it must be refused, and then nothing changes.

        `interval` bounds it as `--from --to` do; `open_since` is the start of a transaction that is
        open meanwhile.
        """
        if self.mode == "replace":
            self._replace(self.rows.values())
            return True
        if interval and self.mode == "append":
            return False
        if self.nulls == "fail" and any(row["at"] is None for row in self.rows.values()):
            return False
        if interval:
            rows = self._with_nulls()
            return self._take(
                [r for r in rows if r["at"] is None or interval[0] <= r["at"] < interval[1]]
            )
        upper = self._upper(open_since)
        if full or self.staging is None:
            self._replace(self._readable(None, upper))
            self.watermark = upper
            self.seen = dict(self.rows)
            return True
        rows = list(self._readable(self.watermark, upper))
        taken = self._take(rows)
        if taken and rows:
            self.seen = dict(self.rows)
        if taken and upper is not None and (self.watermark is None or upper > self.watermark):
            self.watermark = upper
        return taken

    def shown(self) -> Counter[tuple[Value, ...]]:
        """The rows staging must show: id, v, at and the extra columns of the last load, in the
        order of their names."""
        places = sorted(self.staged, key=lambda attnum: self.staged[attnum])
        return Counter(
            (r["id"], r["v"], r["at"], *(r.get(p) for p in places)) for r in self.staging or []
        )

    def _with_nulls(self) -> Iterable[Row]:
        return (r for r in self.rows.values() if r["at"] is not None or self.nulls == "include")

    def _upper(self, open_since: Value) -> Value:
        """The highest cursor; while a transaction is open, only what it cannot undercut. An append
        by number stops below the highest, which later rows may share."""
        values = [r["at"] for r in self.rows.values() if r["at"] is not None]
        if open_since is not None:
            values = [value for value in values if value < open_since] if self.is_time else []
        if self.mode == "append" and not self.is_time:
            values = [value for value in values if value < max(values)]
        return max(values, default=None)

    def _readable(self, above: Value, upper: Value) -> Iterable[Row]:
        """The rows above the watermark; an append stops at `upper`, a merge takes what there is,
        also what was written since with the watermark's value."""
        for row in self._with_nulls():
            at = row["at"]
            is_new = at is None or above is None or at > above
            if at is not None and at == above and self.mode == "merge":
                is_new = self.seen.get(row["id"]) is not row
            if is_new and (
                at is None or self.mode == "merge" or (upper is not None and at <= upper)
            ):
                yield row

    def _take(self, rows: list[Row]) -> bool:
        """Merge or append; False when a column is another one than staging's of that name."""
        if self.staging is None:
            self._replace(rows)
            return True
        if not rows:
            return True
        if any(
            name in self.held and self.staged.get(place) != name
            for place, name in self._arriving().items()
        ):
            return False
        if self.mode == "merge":
            arriving = {row["id"]: row for row in rows}
            kept = [arriving.pop(row["id"], row) for row in self.staging]
            self.staging = [dict(row) for row in (*kept, *arriving.values())]
        else:
            self.staging += [dict(row) for row in rows]
        self._remember()
        return True

    def _arriving(self) -> dict[int, str]:
        """The source's extra columns but for those that staging can follow by renaming its own."""
        return {p: n for p, n in self.extras.items() if p not in self.staged or n == self.staged[p]}

    def _replace(self, rows: Iterable[Row]) -> None:
        self.staging = [dict(row) for row in rows]
        self._remember()

    def _remember(self) -> None:
        renamed = {
            self.staged[p]
            for p, n in self.extras.items()
            if p in self.staged and self.staged[p] != n
        }
        self.held = (self.held - renamed) | set(self.extras.values())
        self.staged = dict(self.extras)
