"""A plan as a tree of lines that read well at 80 columns and in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table as Grid
from rich.text import Text
from rich.tree import Tree

from loadsheet.cli.output import console
from loadsheet.plan.describe import after, does
from loadsheet.plan.steps import Kind, Step
from loadsheet.preview.models import StepPreview, preview_summary
from loadsheet.redact import on_one_line, visible
from loadsheet.spec.models import Pipeline

if TYPE_CHECKING:
    from loadsheet.diff.compare import Comparison

# These are paid by `loadsheet plan` alone, which imports this module when it prints.


_STYLES = {
    "error": "bold red",
    "warning": "yellow",
    "note": "cyan",
    "now": "bold",
    "+": "green",
    "-": "red",
}
_WIDEST = 40


def plan_text(
    pipeline: Pipeline, steps: Sequence[Step], previews: Mapping[str, StepPreview]
) -> str:
    """The steps in the order in which they run, with what they would do now where that is known."""
    width = min(max(len(step.name) for step in steps), _WIDEST)
    by_id = {step.id: step for step in steps}
    tree = Tree(Text(_head(pipeline), style="bold"), guide_style="dim")
    for kind, members in _kinds(steps).items():
        if kind == "create_bucket":
            text = f"{members[0].name} ({pipeline.lake.conn_id}), {does(members[0], pipeline)}"
            _remark(tree.add(_pair(kind, text)), previews.get(members[0].id))
            continue
        branch = tree.add(_pair(kind, _way(kind, pipeline)))
        _remark(branch, previews.get(kind))
        for step in members:
            upstream = after(step, by_id) if kind == "transform" and not previews else ""
            text = does(step, pipeline) + (f"\nafter {upstream}" if upstream else "")
            _remark(branch.add(_pair(step.name, text, width)), previews.get(step.id))
    return _rendered(tree)


def summary_text(previews: Mapping[str, StepPreview]) -> str:
    """The last line: what all steps would do together."""
    found = preview_summary(previews.values())
    problems = ", ".join(
        _count(found[f"{name}s"], name) for name in ("error", "warning") if found[f"{name}s"]
    )
    unsure = f", {found['maybe']} more may" if found["maybe"] else ""
    does = (
        f"{_count(found['changes'], 'step')} would change something{unsure}; about"
        f" {found['rows']:,} rows to read"
    )
    return f"{does}; {problems or 'nothing is in the way'}"


def since_text(since: Comparison) -> str:
    """What changed since a revision, each change with what it means for the data."""
    tree = Tree(Text(since.head, style="bold"), guide_style="dim")
    for change in since.changes:
        branch = tree.add(_pair(change.what, change.name, 9))
        for line in change.details:
            branch.add(Text(visible(line)))
        if change.sql:
            branch.add(_diff(change.sql))
        for consequence in change.consequences:
            branch.add(_pair(consequence.kind, consequence.text))
    if since.built_again:
        tree.add(
            _pair("then", f"built again, because of what they read: {', '.join(since.built_again)}")
        )
    return _rendered(tree)


def _diff(lines: Iterable[str]) -> Text:
    styled = [Text(visible(line), style=_STYLES.get(line[:1], "")) for line in lines]
    return Text("\n").join(styled)


def _remark(branch: Tree, found: StepPreview | None) -> None:
    if found is None:
        return
    if found.does:
        branch.add(_pair("now", found.does))
    if found.held_by:
        branch.add(
            _pair("held back", f"the watermark stays below what is still open: {found.held_by}")
        )
    for statement in found.ddl:
        branch.add(_pair("runs", on_one_line(statement)))
    for remark in found.remarks:
        leaf = branch.add(_pair(remark.severity, on_one_line(remark.message)))
        if remark.fix and remark.fix not in remark.message:
            leaf.add(_pair("fix", on_one_line(remark.fix)))


def _pair(label: str, text: str, least: int = 0) -> Grid:
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(min_width=least, no_wrap=len(label) <= _WIDEST, overflow="fold")
    grid.add_column(overflow="fold")
    grid.add_row(Text(on_one_line(label), style=_STYLES.get(label, "")), Text(visible(text)))
    return grid


def _rendered(tree: Tree) -> str:
    out = console()
    with out.capture() as captured:
        out.print(tree)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _head(pipeline: Pipeline) -> str:
    schedule = f"schedule {pipeline.schedule}" if pipeline.schedule else "no schedule"
    patterns = f"{_count(len(pipeline.patterns), 'pattern')}, " if pipeline.patterns else ""
    tables, transforms = (
        _count(len(pipeline.tables), "table"),
        _count(len(pipeline.transforms), "transform"),
    )
    return f"{pipeline.name}: {tables}, {patterns}{transforms}, {schedule}"


def _kinds(steps: Sequence[Step]) -> dict[Kind, list[Step]]:
    return {
        kind: [step for step in steps if step.kind == kind]
        for kind in dict.fromkeys(step.kind for step in steps)
    }


def _way(kind: Kind, pipeline: Pipeline) -> str:
    source, lake, warehouse = pipeline.source, pipeline.lake, pipeline.warehouse
    if kind == "resolve":
        return f"in {source.schema} ({source.conn_id})"
    if kind == "extract":
        return f"{source.schema} ({source.conn_id}) to {lake.bucket}/{lake.prefix}".rstrip("/")
    if kind == "load":
        return f"to {warehouse.schema} ({warehouse.conn_id}), each after its extract"
    return f"to {warehouse.mart_schema} ({warehouse.conn_id}), each after what it reads"
