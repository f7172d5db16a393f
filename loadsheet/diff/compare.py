"""What differs between two versions of a pipeline."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import timedelta
from typing import Any, Literal

from loadsheet.diff import consequences
from loadsheet.diff.consequences import Consequence
from loadsheet.plan.describe import after
from loadsheet.plan.steps import Kind, build_plan, step_id
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline, Table, Transform

What = Literal["added", "removed", "changed"]


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
    """All changes since `revision`, in the order of the file; `built_again` are transforms that
    follow from them."""

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
            (what, sum(change.what == what for change in self.changes))
            for what in ("added", "removed", "changed")
        ]
        return f"{self.pipeline} since {self.revision}: {', '.join(f'{n} {what}' for what, n in counts if n)}"

    def as_dict(self) -> dict[str, Any]:
        """The comparison as plain values; a diff as one text."""
        changes = [{**asdict(change), "sql": "\n".join(change.sql)} for change in self.changes]
        return {
            "revision": self.revision,
            "new": self.is_new,
            "changes": changes,
            "built_again": self.built_again,
        }


def compare(old: Pipeline | None, new: Pipeline, revision: str) -> Comparison:
    """What changed from `old` (None: there was none) to `new`."""
    changes = [*(_pipeline(old, new) if old else ()), *_tables(old, new), *_transforms(old, new)]
    again = _built_again(old, changes, new)
    return Comparison(
        pipeline=new.name,
        revision=revision,
        is_new=old is None,
        changes=tuple(changes),
        built_again=again,
    )


def _pipeline(old: Pipeline, new: Pipeline) -> Iterator[Change]:
    renamed = [f"pipeline: {old.name} -> {new.name}"] if old.name != new.name else []
    if details := (*renamed, *of_settings(old, new)):
        found = tuple(consequences.of_pipeline(old, new))
        yield Change(what="changed", name="pipeline", details=details, consequences=found)


def _tables(old: Pipeline | None, new: Pipeline) -> Iterator[Change]:
    """Tables and patterns. A table that is named now, or no longer, may be one that a pattern
    meant, or means."""
    before: dict[str, Table] = {}
    if old:
        before = {table.name: table for table in old.entries}
    for table in new.entries:
        was = before.pop(table.name, None)
        by = None
        if old and not was and table in new.tables:
            by = old.pattern_of(table.name)
        if old and by:
            details = (f"a table of its own now, not one of {by.name}",)
            yield from _changed(old, new, old.table(table.name), table, details)
        elif old and was:
            left_out = _left_out(old, table.name), _left_out(new, table.name)
            kept = tuple(consequences.of_pattern(new, table.name, *left_out))
            yield from _changed(old, new, was, table, of_left_out(*left_out), kept)
        else:
            found = tuple(consequences.of_new_table(new, table))
            yield Change(
                what="added",
                name=f"table {table.name}",
                steps=_steps(new, table),
                consequences=found,
            )
    for was in before.values():
        assert old
        if (by := new.pattern_of(was.name)) and was in old.tables:
            yield from _changed(
                old,
                new,
                was,
                new.table(was.name),
                (f"one of {by.name} now, not a table of its own",),
            )
            continue
        found = tuple(consequences.of_gone(f"{old.warehouse.schema}.{was.name}", "loaded"))
        yield Change(
            what="removed", name=f"table {was.name}", steps=_steps(old, was), consequences=found
        )


def _changed(
    old: Pipeline,
    new: Pipeline,
    was: Table,
    table: Table,
    more: tuple[str, ...],
    kept: tuple[Consequence, ...] = (),
) -> Iterator[Change]:
    """The change of one table, with `more` details; none where nothing differs."""
    if details := of_part(was, table, old, new) + more:
        found = (
            ()
            if consequences.begins_anew(old, new)
            else tuple(consequences.of_table(new, was, table))
        )
        steps, name = _steps(new, table), f"table {table.name}"
        yield Change(
            what="changed", name=name, steps=steps, details=details, consequences=found + kept
        )


def _steps(pipeline: Pipeline, table: Table) -> tuple[str, ...]:
    is_pattern = any(pattern.table is table for pattern in pipeline.patterns)
    kinds: tuple[Kind, ...] = ("resolve", "extract", "load") if is_pattern else ("extract", "load")
    return tuple(step_id(kind, table.name) for kind in kinds)


def _left_out(pipeline: Pipeline, name: str) -> tuple[str, ...]:
    return next((pattern.exclude for pattern in pipeline.patterns if pattern.name == name), ())


def _transforms(old: Pipeline | None, new: Pipeline) -> Iterator[Change]:
    before: dict[str, Transform] = {}
    old_order: dict[str, str] = {}
    if old:
        before = {transform.name: transform for transform in old.transforms}
        old_order = _upstream(old)
    orders = (old_order, _upstream(new))
    for transform in new.transforms:
        steps = (step_id("transform", transform.name),)
        name = f"transform {transform.name}"
        target = f"{new.warehouse.mart_schema}.{transform.name}"
        was = before.pop(transform.name, None)
        if was is None or old is None:
            found = tuple(consequences.of_new_transform(target, transform))
            yield Change(what="added", name=name, steps=steps, consequences=found)
            continue
        moved = [order.get(steps[0], "") for order in orders]
        waits = (f"after: {moved[0]} -> {moved[1]}",) if moved[0] != moved[1] else ()
        details = of_part(was, transform, old, new) + waits
        sql = tuple(of_sql(was, transform))
        if details or sql:
            found = (
                ()
                if consequences.moves_marts(old, new)
                else tuple(consequences.of_transform(target, was, transform))
            )
            yield Change(
                what="changed", name=name, steps=steps, details=details, sql=sql, consequences=found
            )
    for was in before.values():
        assert old
        steps = (step_id("transform", was.name),)
        found = tuple(consequences.of_gone(f"{old.warehouse.mart_schema}.{was.name}", "built"))
        yield Change(what="removed", name=f"transform {was.name}", steps=steps, consequences=found)


def _upstream(pipeline: Pipeline) -> dict[str, str]:
    steps = {step.id: step for step in build_plan(pipeline)}
    return {
        name: after(step, steps) or "nothing"
        for name, step in steps.items()
        if step.kind == "transform"
    }


def _built_again(old: Pipeline | None, changes: Iterable[Change], new: Pipeline) -> tuple[str, ...]:
    """Transforms that did not change themselves, but read what is made anew."""
    anew = {
        change.name
        for change in changes
        if any(c.kind in consequences.ANEW for c in change.consequences)
    }
    everything = old is not None and (
        consequences.begins_anew(old, new) or consequences.moves_marts(old, new)
    )
    if old and old.lake.format != new.lake.format:
        anew |= {f"table {table.name}" for table in new.entries if not table.incremental}
    found: dict[str, None] = {}
    for name, inputs in transform_inputs(new).items():
        reads = {_entry(new, table) for table in inputs.tables} | {
            f"transform {mart}" for mart in inputs.transforms
        }
        if f"transform {name}" not in anew and (
            everything or reads & anew or set(inputs.transforms) & set(found)
        ):
            found[name] = None
    return tuple(found)


def _entry(pipeline: Pipeline, table: str) -> str:
    """What a change of the table is called by: its own name, or that of the pattern that means it."""
    pattern = pipeline.pattern_of(table)
    return f"table {pattern.name if pattern else table}"


# Their own changes are shown apart, or are none of the data's business.
_NOT_COMPARED = {"name", "file", "sql", "tables", "patterns", "transforms", "matched"}


def of_part(
    old: Table | Transform, new: Table | Transform, before: Pipeline, now: Pipeline
) -> tuple[str, ...]:
    """Those of a table or a transform, but for what it takes from the pipeline's `tasks`."""
    inherited = {
        f"tasks.{f.name}"
        for f in fields(old.tasks)
        if getattr(old.tasks, f.name) == getattr(before.tasks, f.name)
        and getattr(new.tasks, f.name) == getattr(now.tasks, f.name)
    }
    return tuple(line for line in of_settings(old, new) if line.partition(":")[0] not in inherited)


def of_settings(old: Any, new: Any) -> Iterator[str]:
    """`primary_key: id -> id, line` for each setting of two dataclasses of one kind, by its dotted
    name."""
    before, now = dict(_flat(old)), dict(_flat(new))
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            yield f"{name}: {_shown(before.get(name))} -> {_shown(now.get(name))}"


def of_left_out(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    """Those of what a pattern does not mean."""
    return () if old == new else (f"exclude: {_shown(old)} -> {_shown(new)}",)


def of_sql(old: Transform, new: Transform) -> Iterable[str]:
    """A unified diff of the two files, without its head."""
    lines = difflib.unified_diff(old.sql.splitlines(), new.sql.splitlines(), n=2, lineterm="")
    found = [line for line in lines if not line.startswith(("---", "+++"))]
    return found or ([] if old.sql == new.sql else ["(only line ends differ)"])


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name, as in the file."""
    for part in fields(value):
        if not path and part.name in _NOT_COMPARED:
            continue
        inner, name = getattr(value, part.name), f"{path}{part.name}"
        if is_dataclass(inner):
            yield from _flat(inner, f"{name}.")
        else:
            yield (
                {"include": "columns.include", "exclude": "columns.exclude"}.get(name, name),
                inner,
            )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    return "none" if value is None or value == "" else str(value)
