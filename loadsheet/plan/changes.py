"""What differs between two states of a pipeline file, and what that means for the data."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import timedelta
from typing import Any, Literal

from loadsheet.plan import consequences
from loadsheet.plan.consequences import Consequence
from loadsheet.plan.inputs import transform_inputs
from loadsheet.plan.steps import build_plan, step_id
from loadsheet.plan.words import after
from loadsheet.spec.models import Pipeline, Table, Transform

What = Literal["added", "removed", "changed"]
# Their own changes are shown apart, or are none of the data's business.
_NOT_COMPARED = {"name", "file", "sql", "tables", "patterns", "transforms"}


@dataclass(frozen=True, kw_only=True)
class Change:
    """A table, a transform or the pipeline's own settings, and how they differ."""

    what: What
    name: str
    """`table orders`, `transform sales`, `pipeline`."""
    steps: tuple[str, ...] = ()
    """The steps of the DAG that come, go, or work otherwise."""
    details: tuple[str, ...] = ()
    """`primary_key: id -> id, line`, one per setting."""
    sql: tuple[str, ...] = ()
    """A unified diff of the SQL file."""
    consequences: tuple[Consequence, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All changes since `revision`, in the order of the file; `built_again` are transforms that follow from them."""

    pipeline: str
    revision: str
    is_new: bool
    changes: tuple[Change, ...]
    built_again: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """One line: how much differs."""
        if self.is_new:
            return f"{self.pipeline} is new since {self.revision}: there was no such pipeline"
        if not self.changes:
            return f"{self.pipeline} since {self.revision}: nothing changed"
        counts = [
            (what, sum(change.what == what for change in self.changes)) for what in ("added", "removed", "changed")
        ]
        return f"{self.pipeline} since {self.revision}: {', '.join(f'{n} {what}' for what, n in counts if n)}"

    def as_dict(self) -> dict[str, Any]:
        """The comparison as plain values; a diff as one text."""
        changes = [{**asdict(change), "sql": "\n".join(change.sql)} for change in self.changes]
        return {
            "revision": self.revision, "new": self.is_new, "changes": changes, "built_again": self.built_again,
        }  # fmt: skip


def compare(old: Pipeline | None, new: Pipeline, revision: str) -> Comparison:
    """What changed from `old` (None: there was none) to `new`."""
    changes = [*(_pipeline(old, new) if old else ()), *_tables(old, new), *_transforms(old, new)]
    again = _built_again(changes, new)
    return Comparison(
        pipeline=new.name, revision=revision, is_new=old is None, changes=tuple(changes), built_again=again
    )


def _pipeline(old: Pipeline, new: Pipeline) -> Iterator[Change]:
    details = [*([f"pipeline: {old.name} -> {new.name}"] if old.name != new.name else []), *_differences(old, new)]
    if details:
        yield Change(
            what="changed",
            name="pipeline",
            details=tuple(details),
            consequences=tuple(consequences.of_pipeline(old, new)),
        )


def _tables(old: Pipeline | None, new: Pipeline) -> Iterator[Change]:
    before = {table.name: table for table in old.entries} if old else {}
    left_out = [{p.name: p.exclude for p in pipeline.patterns} if pipeline else {} for pipeline in (old, new)]
    for table in new.entries:
        steps = (step_id("extract", table.name), step_id("load", table.name))
        name = f"table {table.name}"
        was = before.pop(table.name, None)
        if was is None or old is None:
            found = tuple(consequences.of_new_table(new, table))
            yield Change(what="added", name=name, steps=steps, consequences=found)
        elif details := _own(was, table, old, new) + _left_out(*(names.get(table.name, ()) for names in left_out)):
            found = tuple(consequences.of_table(new, was, table))
            yield Change(what="changed", name=name, steps=steps, details=details, consequences=found)
    for was in before.values():
        steps = (step_id("extract", was.name), step_id("load", was.name))
        found = tuple(consequences.of_gone(f"{new.warehouse.schema}.{was.name}", "loaded"))
        yield Change(what="removed", name=f"table {was.name}", steps=steps, consequences=found)


def _left_out(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    return () if old == new else (f"exclude: {_shown(old)} -> {_shown(new)}",)


def _transforms(old: Pipeline | None, new: Pipeline) -> Iterator[Change]:
    before = {transform.name: transform for transform in old.transforms} if old else {}
    orders = (_upstream(old) if old else {}, _upstream(new))
    for transform in new.transforms:
        steps, name = (step_id("transform", transform.name),), f"transform {transform.name}"
        target = f"{new.warehouse.mart_schema}.{transform.name}"
        was = before.pop(transform.name, None)
        if was is None or old is None:
            found = tuple(consequences.of_new_transform(target, transform))
            yield Change(what="added", name=name, steps=steps, consequences=found)
            continue
        moved = [order.get(steps[0], "") for order in orders]
        details = _own(was, transform, old, new) + (
            (f"after: {moved[0]} -> {moved[1]}",) if moved[0] != moved[1] else ()
        )
        sql = tuple(_sql(was, transform))
        if details or sql:
            found = tuple(consequences.of_transform(target, was, transform))
            yield Change(what="changed", name=name, steps=steps, details=details, sql=sql, consequences=found)
    for was in before.values():
        found = tuple(consequences.of_gone(f"{new.warehouse.mart_schema}.{was.name}", "built"))
        yield Change(
            what="removed", name=f"transform {was.name}", steps=(step_id("transform", was.name),), consequences=found
        )


def _upstream(pipeline: Pipeline) -> dict[str, str]:
    steps = {step.id: step for step in build_plan(pipeline)}
    return {name: after(step, steps) or "nothing" for name, step in steps.items() if step.kind == "transform"}


def _own(old: Table | Transform, new: Table | Transform, before: Pipeline, now: Pipeline) -> tuple[str, ...]:
    """Differences but for those that it takes from the pipeline's `tasks`."""
    inherited = {
        f"tasks.{f.name}"
        for f in fields(old.tasks)
        if getattr(old.tasks, f.name) == getattr(before.tasks, f.name)
        and getattr(new.tasks, f.name) == getattr(now.tasks, f.name)
    }
    return tuple(line for line in _differences(old, new) if line.partition(":")[0] not in inherited)


def _differences(old: Any, new: Any) -> Iterator[str]:
    before, now = dict(_flat(old)), dict(_flat(new))
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            yield f"{name}: {_shown(before.get(name))} -> {_shown(now.get(name))}"


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name, as in the file."""
    for part in fields(value):
        if not path and part.name in _NOT_COMPARED:
            continue
        inner, name = getattr(value, part.name), f"{path}{part.name}"
        if is_dataclass(inner):
            yield from _flat(inner, f"{name}.")
        else:
            yield {"include": "columns.include", "exclude": "columns.exclude"}.get(name, name), inner


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    return "none" if value is None or value == "" else str(value)


def _sql(old: Transform, new: Transform) -> Iterable[str]:
    lines = difflib.unified_diff(old.sql.splitlines(), new.sql.splitlines(), n=2, lineterm="")
    found = [line for line in lines if not line.startswith(("---", "+++"))]
    return found or ([] if old.sql == new.sql else ["(only line ends differ)"])


def _built_again(changes: Iterable[Change], new: Pipeline) -> tuple[str, ...]:
    """Transforms that did not change themselves, but read what is made anew."""
    anew = {change.name for change in changes if any(c.kind in consequences.ANEW for c in change.consequences)}
    everything = "pipeline" in anew
    found: dict[str, None] = {}
    for name, inputs in transform_inputs(new).items():
        reads = {f"table {table}" for table in inputs.tables} | {f"transform {mart}" for mart in inputs.transforms}
        if f"transform {name}" not in anew and (everything or reads & anew or set(inputs.transforms) & set(found)):
            found[name] = None
    return tuple(found)
