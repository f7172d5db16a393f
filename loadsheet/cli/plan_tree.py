"""A plan as a tree of lines that read well at 80 columns and in a pipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table as Grid
from rich.text import Text
from rich.tree import Tree

from loadsheet.cli.output import console, rendered
from loadsheet.cli.summary import MOST_LINES
from loadsheet.plan.dag_tasks import describe_tasks
from loadsheet.plan.describe import describe_step, describe_upstream
from loadsheet.plan.steps import Kind, Step
from loadsheet.preview.models import StepPreview, preview_summary
from loadsheet.redact import on_one_line, visible
from loadsheet.spec.models import Pipeline
from loadsheet.wording import counted, listed

if TYPE_CHECKING:
    from loadsheet.diff.compare import Comparison

# Rich is imported at the top: `loadsheet plan` imports this module only when it prints.

_STYLES = {
    "error": "bold red",
    "warning": "yellow",
    "note": "cyan",
    "now": "bold",
    "+": "green",
    "-": "red",
}
# Columns for a label: longer ones are wrapped.
_WIDEST = 40
MOST_STEPS = 50
"""Steps of a kind that have a line each unless all are asked for."""
_NOUNS = {"transform": "transform", "resolve": "pattern"}


def plan_text(
    pipeline: Pipeline,
    steps: Sequence[Step],
    previews: Mapping[str, StepPreview],
    see_all: str = "",
) -> str:
    """The steps in the order in which they run, with what they would do now where that is known.

    `see_all` is the command that lists all steps. With it, the steps of a very large kind that
    change nothing share lines, and those with problems come last. Without it, each has its line.
    """
    width = min(max(len(step.name) for step in steps), _WIDEST)
    by_id = {step.id: step for step in steps}
    by_kind: dict[Kind, list[Step]] = {}
    for step in steps:
        by_kind.setdefault(step.kind, []).append(step)
    parts = [counted(len(pipeline.tables), "table")]
    if pipeline.patterns:
        parts.append(counted(len(pipeline.patterns), "pattern"))
    parts.append(counted(len(pipeline.transforms), "transform"))
    parts.append(_schedule(pipeline))
    head = f"{pipeline.name}: {', '.join(parts)}"
    tree = Tree(Text(head, style="bold"), guide_style="dim")
    for kind, members in by_kind.items():
        # A single step: as a branch with one leaf it would only show its name twice.
        if members[0].is_of_pipeline:
            (step,) = members
            text = f"{_direction(kind, pipeline)}, {describe_step(step, pipeline)}"
            _add_preview(tree.add(_pair(kind, text)), previews.get(step.id))
            continue
        branch = tree.add(_pair(kind, _direction(kind, pipeline)))
        _add_preview(branch, previews.get(kind))
        shown = members
        alike: dict[str, int] = {}
        if see_all and len(members) > MOST_STEPS:
            shown, alike = _summarized(members, previews, pipeline)
        for text, number in alike.items():
            branch.add(_pair(counted(number, _NOUNS.get(kind, "table")), text, width))
        for step in shown:
            text = describe_step(step, pipeline)
            if kind == "transform" and not previews:
                upstream = describe_upstream(step, by_id)
                text += f"\nafter {upstream}" if upstream else ""
            _add_preview(branch.add(_pair(step.name, text, width)), previews.get(step.id))
        left_out = len(members) - len(shown) - sum(alike.values())
        if left_out:
            branch.add(Text(f"{left_out:,} more: {see_all}"))
    return rendered(console(), tree)


def _schedule(pipeline: Pipeline) -> str:
    if not pipeline.assets:
        return f"schedule {pipeline.schedule}" if pipeline.schedule else "no schedule"
    times = f"{pipeline.schedule} and " if pipeline.schedule else ""
    return f"schedule {times}after changes of {listed(pipeline.assets)}"


def _summarized(
    members: Sequence[Step], previews: Mapping[str, StepPreview], pipeline: Pipeline
) -> tuple[list[Step], dict[str, int]]:
    """The steps that have lines of their own, those with problems last; and how many of the others
    are described alike."""
    ranked: list[tuple[int, Step]] = []
    alike: Counter[str] = Counter()
    for step in members:
        rank = _rank(previews.get(step.id))
        if rank:
            ranked.append((rank, step))
        elif previews:
            alike[_quiet_text(previews[step.id])] += 1
        else:
            alike[describe_step(step, pipeline)] += 1
    # Steps that each have a text of their own would make a list as long as the steps'.
    alike = Counter(dict(alike.most_common(MOST_LINES)))
    # What is left out is of the least interest, and the worst is the last.
    chosen = sorted(ranked, key=lambda pair: -pair[0])[:MOST_LINES]
    chosen.sort(key=lambda pair: pair[0])
    return [step for _, step in chosen], dict(alike)


def _rank(preview: StepPreview | None) -> int:
    """How much a step deserves a line: 0 where it would change nothing."""
    if preview is None:
        return 0
    if preview.fails:
        return 3
    if any(remark.severity == "warning" for remark in preview.remarks):
        return 2
    return 0 if preview.changes == "no" else 1


def _quiet_text(preview: StepPreview) -> str:
    """What such a step does, without what only it has, such as a watermark."""
    if preview.is_cut_off:
        return "not reached: an earlier step would fail"
    return "nothing would change"


def summary_text(previews: Mapping[str, StepPreview]) -> str:
    """The last line: what all steps would do together."""
    totals = preview_summary(previews.values())
    changes = f"{counted(totals['changes'], 'step')} would change something"
    if totals["maybe"]:
        changes += f", {totals['maybe']} more may"
    problems = []
    for noun in ("error", "warning"):
        number = totals[f"{noun}s"]
        if number:
            problems.append(counted(number, noun))
    result = ", ".join(problems) or "no problems found"
    return f"{changes}; about {counted(totals['rows'], 'row')} to read; {result}"


def since_text(since: Comparison) -> str:
    """What changed since a revision, each change with what it means for the data."""
    tree = Tree(Text(since.head, style="bold"), guide_style="dim")
    for change in since.changes:
        branch = tree.add(_pair(change.what, change.name, 9))
        for line in change.details:
            branch.add(Text(visible(line)))
        if change.sql:
            lines = [Text(visible(line), _STYLES.get(line[:1], "")) for line in change.sql]
            branch.add(Text("\n").join(lines))
        for consequence in change.consequences:
            branch.add(_pair(consequence.kind, consequence.text))
    if since.built_again:
        tree.add(
            _pair("then", f"built again, because of what they read: {', '.join(since.built_again)}")
        )
    return rendered(console(), tree)


def _add_preview(branch: Tree, preview: StepPreview | None) -> None:
    """Add below a step what it would do now, with its SQL and remarks."""
    if preview is None:
        return
    if preview.does:
        branch.add(_pair("now", preview.does))
    if preview.held_by:
        text = f"the watermark stays below open transactions: {preview.held_by}"
        branch.add(_pair("held back", text))
    for statement in preview.ddl:
        branch.add(_pair("runs", on_one_line(statement)))
    for remark in preview.remarks:
        leaf = branch.add(_pair(remark.severity, on_one_line(remark.message)))
        if remark.fix and remark.fix not in remark.message:
            leaf.add(_pair("fix", on_one_line(remark.fix)))


def _pair(label: str, text: str, min_width: int = 0) -> Grid:
    """A label and its text in two columns, so that a wrapped text stays in its own."""
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(min_width=min_width, no_wrap=len(label) <= _WIDEST, overflow="fold")
    grid.add_column(overflow="fold")
    grid.add_row(Text(on_one_line(label), style=_STYLES.get(label, "")), Text(visible(text)))
    return grid


def _direction(kind: Kind, pipeline: Pipeline) -> str:
    """What the steps of a kind read from, write to or compare."""
    source = pipeline.source
    lake = pipeline.lake
    warehouse = pipeline.warehouse
    if kind == "create_bucket":
        return f"{lake.bucket} ({lake.conn_id})"
    if kind == "verify":
        return (
            f"{warehouse.schema} ({warehouse.conn_id}) against {source.schema} ({source.conn_id})"
        )
    if kind == "resolve":
        return f"in {source.schema} ({source.conn_id})"
    if kind == "extract":
        return f"{source.schema} ({source.conn_id}) to {lake.bucket}/{lake.prefix}".rstrip("/")
    if kind == "load":
        text = f"to {warehouse.schema} ({warehouse.conn_id}), each after its extract"
        grouped = describe_tasks(pipeline)
        return f"{text}; in Airflow {grouped}" if grouped else text
    return f"to {warehouse.mart_schema} ({warehouse.conn_id}), each after what it reads"
