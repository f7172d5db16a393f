"""Two states of a pipeline file beside each other: tables, patterns and transforms, each with its own of before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loadsheet.plan import consequences, differences, table_consequences
from loadsheet.plan.changes import Change, Comparison
from loadsheet.plan.consequences import Consequence
from loadsheet.plan.inputs import transform_inputs
from loadsheet.plan.steps import Kind, build_plan, step_id
from loadsheet.plan.words import after
from loadsheet.spec.models import Pipeline, Table


def compare(old: Pipeline | None, new: Pipeline, revision: str) -> Comparison:
    """What changed from `old` (None: there was none) to `new`."""
    changes = [*(_pipeline(old, new) if old else ()), *_tables(old, new), *_transforms(old, new)]
    again = _built_again(old, changes, new)
    return Comparison(
        pipeline=new.name, revision=revision, is_new=old is None, changes=tuple(changes), built_again=again
    )


def _pipeline(old: Pipeline, new: Pipeline) -> Iterator[Change]:
    renamed = [f"pipeline: {old.name} -> {new.name}"] if old.name != new.name else []
    if details := (*renamed, *differences.of_settings(old, new)):
        found = tuple(consequences.of_pipeline(old, new))
        yield Change(what="changed", name="pipeline", details=details, consequences=found)


def _tables(old: Pipeline | None, new: Pipeline) -> Iterator[Change]:
    """Tables and patterns. A table that is named now, or no longer, may be one that a pattern meant, or means."""
    before = {table.name: table for table in old.entries} if old else {}
    for table in new.entries:
        was = before.pop(table.name, None)
        by = old.pattern_of(table.name) if old and not was and table in new.tables else None
        if old and by:
            details = (f"a table of its own now, not one of {by.name}",)
            yield from _changed(old, new, old.table(table.name), table, details)
        elif old and was:
            left_out = _left_out(old, table.name), _left_out(new, table.name)
            kept = tuple(table_consequences.of_pattern(new, table.name, *left_out))
            yield from _changed(old, new, was, table, differences.of_left_out(*left_out), kept)
        else:
            found = tuple(table_consequences.of_new_table(new, table))
            yield Change(what="added", name=f"table {table.name}", steps=_steps(new, table), consequences=found)
    for was in before.values():
        assert old
        if (by := new.pattern_of(was.name)) and was in old.tables:
            yield from _changed(old, new, was, new.table(was.name), (f"one of {by.name} now, not a table of its own",))
            continue
        found = tuple(consequences.of_gone(f"{old.warehouse.schema}.{was.name}", "loaded"))
        yield Change(what="removed", name=f"table {was.name}", steps=_steps(old, was), consequences=found)


def _changed(
    old: Pipeline, new: Pipeline, was: Table, table: Table, more: tuple[str, ...], kept: tuple[Consequence, ...] = ()
) -> Iterator[Change]:
    """The change of one table, with `more` details; none where nothing differs."""
    if details := differences.of_part(was, table, old, new) + more:
        found = () if consequences.begins_anew(old, new) else tuple(table_consequences.of_table(new, was, table))
        steps, name = _steps(new, table), f"table {table.name}"
        yield Change(what="changed", name=name, steps=steps, details=details, consequences=found + kept)


def _steps(pipeline: Pipeline, table: Table) -> tuple[str, ...]:
    is_pattern = any(pattern.table is table for pattern in pipeline.patterns)
    kinds: tuple[Kind, ...] = ("resolve", "extract", "load") if is_pattern else ("extract", "load")
    return tuple(step_id(kind, table.name) for kind in kinds)


def _left_out(pipeline: Pipeline, name: str) -> tuple[str, ...]:
    return next((pattern.exclude for pattern in pipeline.patterns if pattern.name == name), ())


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
        waits = (f"after: {moved[0]} -> {moved[1]}",) if moved[0] != moved[1] else ()
        details = differences.of_part(was, transform, old, new) + waits
        sql = tuple(differences.of_sql(was, transform))
        if details or sql:
            found = (
                () if consequences.moves_marts(old, new) else tuple(consequences.of_transform(target, was, transform))
            )
            yield Change(what="changed", name=name, steps=steps, details=details, sql=sql, consequences=found)
    for was in before.values():
        assert old
        steps = (step_id("transform", was.name),)
        found = tuple(consequences.of_gone(f"{old.warehouse.mart_schema}.{was.name}", "built"))
        yield Change(what="removed", name=f"transform {was.name}", steps=steps, consequences=found)


def _upstream(pipeline: Pipeline) -> dict[str, str]:
    steps = {step.id: step for step in build_plan(pipeline)}
    return {name: after(step, steps) or "nothing" for name, step in steps.items() if step.kind == "transform"}


def _built_again(old: Pipeline | None, changes: Iterable[Change], new: Pipeline) -> tuple[str, ...]:
    """Transforms that did not change themselves, but read what is made anew."""
    anew = {change.name for change in changes if any(c.kind in consequences.ANEW for c in change.consequences)}
    everything = old is not None and (consequences.begins_anew(old, new) or consequences.moves_marts(old, new))
    if old and old.lake.format != new.lake.format:
        anew |= {f"table {table.name}" for table in new.entries if not table.incremental}
    found: dict[str, None] = {}
    for name, inputs in transform_inputs(new).items():
        reads = {_entry(new, table) for table in inputs.tables} | {f"transform {mart}" for mart in inputs.transforms}
        if f"transform {name}" not in anew and (everything or reads & anew or set(inputs.transforms) & set(found)):
            found[name] = None
    return tuple(found)


def _entry(pipeline: Pipeline, table: str) -> str:
    """What a change of the table is called by: its own name, or that of the pattern that means it."""
    pattern = pipeline.pattern_of(table)
    return f"table {pattern.name if pattern else table}"
