"""What differs between two versions of a pipeline: its settings, tables, transforms and SQL."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import timedelta
from typing import Any, Literal

from loadsheet.diff import consequences
from loadsheet.diff.consequences import Consequence
from loadsheet.plan.describe import describe_upstream
from loadsheet.plan.steps import Kind, build_plan, step_id
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pattern, Pipeline, Table, Transform

What = Literal["added", "removed", "changed"]

# Fields that are compared separately, or that do not concern the data.
_NOT_COMPARED = {"name", "file", "sql", "tables", "patterns", "transforms", "matched"}
# Fields whose place in the pipeline file is another one.
_NAME_IN_FILE = {
    "assets": "schedule.assets",
    "include": "columns.include",
    "exclude": "columns.exclude",
}


@dataclass(frozen=True, kw_only=True)
class Change:
    """How a table, a transform or the pipeline's own settings differ."""

    what: What
    name: str
    """`table orders`, `transform sales`, `pipeline`."""
    steps: tuple[str, ...] = ()
    """The steps of the DAG that are added, removed, or work differently."""
    details: tuple[str, ...] = ()
    """`primary_key: id -> id, line`, one per setting."""
    sql: tuple[str, ...] = ()
    """A unified diff of the SQL file."""
    consequences: tuple[Consequence, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All changes since `revision`, in the order of the file."""

    pipeline: str
    revision: str
    is_new: bool
    changes: tuple[Change, ...]
    built_again: tuple[str, ...] = ()
    """Unchanged transforms that read something that changed."""

    @property
    def head(self) -> str:
        """One line: how much differs."""
        if self.is_new:
            return f"{self.pipeline} is new since {self.revision}: there was no such pipeline"
        if not self.changes:
            return f"{self.pipeline} since {self.revision}: nothing changed"
        counts = []
        for what in ("added", "removed", "changed"):
            count = sum(change.what == what for change in self.changes)
            if count:
                counts.append(f"{count} {what}")
        return f"{self.pipeline} since {self.revision}: {', '.join(counts)}"

    def as_dict(self) -> dict[str, Any]:
        """The comparison as plain values; a diff is one text."""
        changes = [{**asdict(change), "sql": "\n".join(change.sql)} for change in self.changes]
        return {
            "revision": self.revision,
            "new": self.is_new,
            "changes": changes,
            "built_again": self.built_again,
        }


def compare_pipelines(old: Pipeline | None, new: Pipeline, revision: str) -> Comparison:
    """What changed from `old` (None if there was no such pipeline) to `new`."""
    changes: list[Change] = []
    if old:
        details = list(_settings_diff(old, new))
        if old.name != new.name:
            details.insert(0, f"pipeline: {old.name} -> {new.name}")
        if details:
            own = Change(
                what="changed",
                name="pipeline",
                details=tuple(details),
                consequences=tuple(consequences.pipeline_consequences(old, new)),
            )
            changes.append(own)
    changes += _table_changes(old, new)
    changes += _transform_changes(old, new)
    return Comparison(
        pipeline=new.name,
        revision=revision,
        is_new=old is None,
        changes=tuple(changes),
        built_again=_transforms_built_again(old, changes, new),
    )


def _table_changes(old: Pipeline | None, new: Pipeline) -> Iterator[Change]:
    """The changes of tables and patterns."""
    before: dict[str, Table] = {}
    if old:
        before = {table.name: table for table in old.entries}
    for table in new.entries:
        if old is None:
            yield _added_table(new, table)
            continue
        if table.name in before:
            yield from _changed_table(old, new, before.pop(table.name), table)
            continue
        # A table that is listed by name only now may have been loaded before, by a pattern.
        pattern: Pattern | None = None
        if table in new.tables:
            pattern = old.pattern_of(table.name)
        if pattern is None:
            yield _added_table(new, table)
            continue
        detail = f"listed by name now, no longer matched by {pattern.name}"
        yield from _changed_table(old, new, old.table(table.name), table, detail)
    if old is None:
        return
    for table in before.values():
        # Likewise, a pattern may still load a table that is no longer listed.
        pattern = new.pattern_of(table.name)
        if pattern and table in old.tables:
            detail = f"matched by {pattern.name} now, no longer listed by name"
            yield from _changed_table(old, new, table, new.table(table.name), detail)
            continue
        target = f"{old.warehouse.schema}.{table.name}"
        yield Change(
            what="removed",
            name=f"table {table.name}",
            steps=_steps(old, table),
            consequences=tuple(consequences.removal_consequences(target, "loaded")),
        )


def _added_table(new: Pipeline, table: Table) -> Change:
    return Change(
        what="added",
        name=f"table {table.name}",
        steps=_steps(new, table),
        consequences=tuple(consequences.new_table_consequences(new, table)),
    )


def _pattern_exclude(pipeline: Pipeline, name: str) -> tuple[str, ...]:
    """What the pattern of this name excludes; empty for a table."""
    for pattern in pipeline.patterns:
        if pattern.name == name:
            return pattern.exclude
    return ()


def _changed_table(
    old: Pipeline, new: Pipeline, before: Table, now: Table, detail: str = ""
) -> Iterator[Change]:
    """The change of one table or pattern, with one more `detail`; nothing if nothing differs."""
    details = list(_own_settings_diff(before, now, old, new))
    old_exclude = _pattern_exclude(old, now.name)
    new_exclude = _pattern_exclude(new, now.name)
    if old_exclude != new_exclude:
        details.append(f"exclude: {_value_text(old_exclude)} -> {_value_text(new_exclude)}")
    if detail:
        details.append(detail)
    if not details:
        return
    effects: list[Consequence] = []
    # Where everything is loaded for the first time, the pipeline's own change covers it.
    if not consequences.starts_over(old, new):
        effects += consequences.table_consequences(new, before, now)
    effects += consequences.pattern_consequences(new, now.name, old_exclude, new_exclude)
    yield Change(
        what="changed",
        name=f"table {now.name}",
        steps=_steps(new, now),
        details=tuple(details),
        consequences=tuple(effects),
    )


def _steps(pipeline: Pipeline, table: Table) -> tuple[str, ...]:
    kinds: tuple[Kind, ...] = ("extract", "load")
    if any(pattern.table is table for pattern in pipeline.patterns):
        kinds = ("resolve", "extract", "load")
    return tuple(step_id(kind, table.name) for kind in kinds)


def _transform_changes(old: Pipeline | None, new: Pipeline) -> Iterator[Change]:
    before: dict[str, Transform] = {}
    old_upstream: dict[str, str] = {}
    if old:
        before = {transform.name: transform for transform in old.transforms}
        old_upstream = _upstream_texts(old)
    new_upstream = _upstream_texts(new)
    for transform in new.transforms:
        step = step_id("transform", transform.name)
        if old and transform.name in before:
            was = before.pop(transform.name)
            waited, waits = old_upstream.get(step, ""), new_upstream.get(step, "")
            more = (f"after: {waited} -> {waits}",) if waited != waits else ()
            yield from _changed_transform(old, new, was, transform, more)
        else:
            target = f"{new.warehouse.mart_schema}.{transform.name}"
            yield Change(
                what="added",
                name=f"transform {transform.name}",
                steps=(step,),
                consequences=tuple(consequences.new_transform_consequences(target, transform)),
            )
    if old:
        for transform in before.values():
            target = f"{old.warehouse.mart_schema}.{transform.name}"
            yield Change(
                what="removed",
                name=f"transform {transform.name}",
                steps=(step_id("transform", transform.name),),
                consequences=tuple(consequences.removal_consequences(target, "built")),
            )


def _changed_transform(
    old: Pipeline,
    new: Pipeline,
    before: Transform,
    now: Transform,
    more_details: tuple[str, ...],
) -> Iterator[Change]:
    details = _own_settings_diff(before, now, old, new) + more_details
    sql: list[str] = []
    if before.sql != now.sql:
        old_lines = before.sql.splitlines()
        diff = difflib.unified_diff(old_lines, now.sql.splitlines(), n=2, lineterm="")
        # Its header would name two files, and there is only one.
        sql = [line for line in diff if not line.startswith(("---", "+++"))]
        if not sql:
            sql.append("(only line endings differ)")
    if not details and not sql:
        return
    # Where every transform is built in another place, the pipeline's own change covers it.
    own: tuple[Consequence, ...] = ()
    if not consequences.moves_marts(old, new):
        target = f"{new.warehouse.mart_schema}.{now.name}"
        own = tuple(consequences.transform_consequences(target, before, now))
    yield Change(
        what="changed",
        name=f"transform {now.name}",
        steps=(step_id("transform", now.name),),
        details=details,
        sql=tuple(sql),
        consequences=own,
    )


def _upstream_texts(pipeline: Pipeline) -> dict[str, str]:
    """For each transform's step, the steps that it waits for, as text."""
    steps = {step.id: step for step in build_plan(pipeline)}
    texts = {}
    for name, step in steps.items():
        if step.kind == "transform":
            texts[name] = describe_upstream(step, steps) or "nothing"
    return texts


def _transforms_built_again(
    old: Pipeline | None, changes: Iterable[Change], new: Pipeline
) -> tuple[str, ...]:
    """Transforms that did not change themselves, but read something that is loaded or built
    again."""
    affected = set()
    for change in changes:
        if any(c.kind in consequences.AFFECTS_READERS for c in change.consequences):
            affected.add(change.name)
    # A table that is read whole is compared by the hash of what COPY sent, which another format
    # changes even if no row did.
    if old and old.lake.format != new.lake.format:
        affected |= {f"table {table.name}" for table in new.entries if not table.incremental}
    everything = False
    if old:
        everything = consequences.starts_over(old, new) or consequences.moves_marts(old, new)
    again: list[str] = []
    # In the order of the plan, so that a transform's own inputs are decided before it.
    for name, inputs in transform_inputs(new).items():
        reads = {f"transform {mart}" for mart in inputs.transforms}
        for table in inputs.tables:
            # A table that a pattern matches changes with the pattern.
            pattern = new.pattern_of(table)
            reads.add(f"table {pattern.name if pattern else table}")
        reads_rebuilt = everything or reads & affected or set(inputs.transforms) & set(again)
        if reads_rebuilt and f"transform {name}" not in affected:
            again.append(name)
    return tuple(again)


def _own_settings_diff(
    old: Table | Transform, new: Table | Transform, before: Pipeline, now: Pipeline
) -> tuple[str, ...]:
    """The differing settings of a table or a transform, without those that it inherits from the
    pipeline's `tasks`."""
    # A default that changes in `tasks` is one change of the pipeline, not one of every table.
    inherited = set()
    for part in fields(old.tasks):
        inherits_before = getattr(old.tasks, part.name) == getattr(before.tasks, part.name)
        inherits_now = getattr(new.tasks, part.name) == getattr(now.tasks, part.name)
        if inherits_before and inherits_now:
            inherited.add(f"tasks.{part.name}")
    lines = _settings_diff(old, new)
    return tuple(line for line in lines if line.partition(":")[0] not in inherited)


def _settings_diff(old: Any, new: Any) -> Iterator[str]:
    """`primary_key: id -> id, line` for each setting that differs between two dataclasses of one
    kind."""
    before, now = dict(_settings(old)), dict(_settings(new))
    # A part such as `incremental` may be in only one of them, so the names come from both.
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            old_text, new_text = _value_text(before.get(name)), _value_text(now.get(name))
            yield f"{name}: {old_text} -> {new_text}"


def _settings(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting and its value, by its dotted name in the file."""
    for part in fields(value):
        if not path and part.name in _NOT_COMPARED:
            continue
        inner = getattr(value, part.name)
        name = f"{path}{part.name}"
        if is_dataclass(inner):
            yield from _settings(inner, f"{name}.")
        else:
            yield _NAME_IN_FILE.get(name, name), inner


def _value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    return "none" if value is None or value == "" else str(value)
