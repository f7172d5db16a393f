"""The lineage as a page: tables as boxes from left to right, lines between columns, and
the same as a list. It loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from loadsheet.lineage.models import Column, Dataset, Lineage
from loadsheet.redact import on_one_line

_WIDTH, _GAP = 260, 130
_HEAD, _ROW, _SPACE = 34, 22, 26
_KINDS = {"source": "source", "staging": "staging", "external": "of others", "mart": "mart"}
_STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1c2430; --quiet: #5b6675; --line: #cfd6df;
  --head: #eef2f7; --on: #0b63ce; --mark: #fff1c2; --edge: #8592a3; }
@media (prefers-color-scheme: dark) { :root { --back: #12161c; --ink: #e4e9f0; --quiet: #a3aebd;
  --line: #37414e; --head: #1d242d; --on: #79b4ff; --mark: #4a3d12; --edge: #6b7788; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem; background: var(--back); color: var(--ink);
  font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
p { margin: 0 0 1rem; color: var(--quiet); max-width: 70ch; }
.scroll { overflow: auto; border: 1px solid var(--line); border-radius: 6px;
  margin-bottom: 1.5rem; }
.canvas { position: relative; }
svg { position: absolute; inset: 0; }
path { fill: none; stroke: var(--edge); stroke-width: 1.2; opacity: .55; }
path.decides { stroke-dasharray: 4 4; opacity: .22; }
path.on { stroke: var(--on); stroke-width: 2; opacity: 1; }
section { position: absolute; border: 1px solid var(--line); border-radius: 6px; overflow: hidden;
  background: var(--back); }
section h2 { margin: 0; padding: 0 8px; height: 34px; line-height: 34px; font-size: 13px;
  background: var(--head); white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
section h2 small { font-weight: normal; color: var(--quiet); }
section ul { list-style: none; margin: 0; padding: 0; }
section button { display: block; width: 100%; height: 22px; padding: 0 8px; border: 0;
  font: inherit; font-size: 12.5px; text-align: left; color: inherit;
  background: none; cursor: pointer; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; }
section button.rows { font-style: italic; color: var(--quiet); }
section button.on { background: var(--mark); color: inherit; }
button:focus-visible { outline: 2px solid var(--on); outline-offset: -2px; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
td code { font-size: 12.5px; }
.unknown { font-weight: 600; }
@media (max-width: 700px) { thead { display: none; } tr, td, tbody th { display: block; border: 0;
  padding: .1rem 0; } tr { border-bottom: 1px solid var(--line); padding: .5rem 0; } }
"""
_SCRIPT = """
const edges = [...document.querySelectorAll("path")];
const buttons = new Map([...document.querySelectorAll("section button")].map(b => [b.id, b]));
function follow(start, from, to) {
  const seen = new Set([start]), left = [start];
  while (left.length) {
    const one = left.pop();
    for (const edge of edges) {
      if (edge.dataset[from] !== one) continue;
      edge.classList.add("on");
      const next = edge.dataset[to];
      if (!seen.has(next)) { seen.add(next); left.push(next); }
    }
  }
  return seen;
}
function choose(button) {
  const was = button && button.getAttribute("aria-pressed") === "true";
  for (const one of [...edges, ...buttons.values()]) one.classList.remove("on");
  for (const one of buttons.values()) one.setAttribute("aria-pressed", "false");
  if (!button || was) return;
  button.setAttribute("aria-pressed", "true");
  for (const id of [...follow(button.id, "from", "to"), ...follow(button.id, "to", "from")])
    buttons.get(id).classList.add("on");
}
for (const button of buttons.values()) button.addEventListener("click", () => choose(button));
document.addEventListener("keydown", event => { if (event.key === "Escape") choose(null); });
"""


def page(lineage: Lineage, title: str) -> str:
    """The page as HTML."""
    shown = {column for edge in lineage.edges for column in (edge.source, edge.target)}
    places = _Places(lineage)
    lines = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
        " style-src 'unsafe-inline'; script-src 'unsafe-inline'\">",
        f"<title>Lineage of {_text(title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>Lineage of {_text(title)}</h1>",
        "<p>A solid line carries values; a dashed one decides which values or rows there are."
        " Choose a column to see where it comes from and what it reaches; Esc ends that.</p>",
        '<div class="scroll" tabindex="0" role="region" aria-label="Tables and their columns">',
        f'<div class="canvas" style="width:{places.width}px;height:{places.height}px">',
        f'<svg width="{places.width}" height="{places.height}" aria-hidden="true">',
        *_paths(lineage, places),
        "</svg>",
        *_boxes(lineage, places),
        "</div></div>",
        *_list(lineage, shown),
        f"</main><script>{_SCRIPT}</script></body></html>",
    ]
    return "\n".join(lines) + "\n"


class _Places:
    """Where each box and each column is, in pixels."""

    def __init__(self, lineage: Lineage):
        layers = _layers(lineage)
        self.boxes: dict[Dataset, tuple[int, int]] = {}
        self.rows: dict[Column, tuple[int, int]] = {}
        self.ids: dict[Column, str] = {}
        self.height = 0
        ends = [_SPACE] * (max(layers.values(), default=0) + 1)
        self.width = _SPACE + len(ends) * (_WIDTH + _GAP) - _GAP + _SPACE
        for dataset, layer in layers.items():
            left, top = _SPACE + layer * (_WIDTH + _GAP), ends[layer]
            self.boxes[dataset] = left, top
            columns = lineage.columns_of(dataset)
            for number, column in enumerate(columns):
                self.ids[column] = f"c{len(self.ids)}"
                self.rows[column] = left, top + _HEAD + number * _ROW + _ROW // 2
            ends[layer] = top + _HEAD + len(columns) * _ROW + _SPACE
            self.height = max(self.height, ends[layer])


def _layers(lineage: Lineage) -> dict[Dataset, int]:
    """How far to the right each table is: behind all that it is made of."""
    above: dict[Dataset, set[Dataset]] = {dataset: set() for dataset in lineage.datasets}
    for edge in lineage.edges:
        if edge.source.dataset != edge.target.dataset:
            above[edge.target.dataset].add(edge.source.dataset)
    layers: dict[Dataset, int] = {}
    left = list(lineage.datasets)
    # Marts cannot read each other in a circle, so each round places one at least.
    while left:
        ready = [dataset for dataset in left if above[dataset] <= layers.keys()]
        for dataset in ready:
            layers[dataset] = 1 + max((layers[one] for one in above[dataset]), default=-1)
        left = [dataset for dataset in left if dataset not in layers]
    return layers


def _paths(lineage: Lineage, places: _Places) -> Iterator[str]:
    for edge in lineage.edges:
        left, top = places.rows[edge.source]
        right, bottom = places.rows[edge.target]
        start, half = left + _WIDTH, max((right - left - _WIDTH) // 2, 30)
        kind = "" if edge.is_direct else ' class="decides"'
        yield (
            f'<path{kind} data-from="{places.ids[edge.source]}" data-to="{places.ids[edge.target]}"'
            f' d="M{start},{top} C{start + half},{top} {right - half},{bottom} {right},{bottom}"/>'
        )


def _boxes(lineage: Lineage, places: _Places) -> Iterator[str]:
    for dataset, (left, top) in places.boxes.items():
        name = _text(str(dataset))
        yield f'<section aria-label="{name}" style="left:{left}px;top:{top}px;width:{_WIDTH}px">'
        yield f'<h2 title="{name}">{name} <small>{_KINDS[dataset.kind]}</small></h2><ul>'
        for column in lineage.columns_of(dataset):
            label = "its rows" if column.is_rows else _text(column.name)
            rows = ' class="rows"' if column.is_rows else ""
            yield (
                f'<li><button type="button" id="{places.ids[column]}" aria-pressed="false"{rows}'
                f' title="{label}">{label}</button></li>'
            )
        yield "</ul></section>"


def _list(lineage: Lineage, shown: set[Column]) -> Iterator[str]:
    """Each column of a mart, its expression, and what it is made of: for those who read and do not
    look."""
    yield "<table><caption>The columns of the marts</caption><thead><tr><th scope=col>column"
    yield "<th scope=col>expression<th scope=col>comes from</tr></thead><tbody>"
    for dataset in lineage.datasets:
        for column in lineage.columns_of(dataset):
            if dataset.kind != "mart" or (column.is_rows and column not in shown):
                continue
            name = f"the rows of {dataset}" if column.is_rows else str(column)
            codes = [
                f"<code>{_text(one.within + ': ' if one.within else '')}{_text(one.text)}</code>"
                for one in lineage.expressions.get(column, ())
                if not (one.within and one.is_name)
            ]
            yield f"<tr><th scope=row>{_text(name)}<td>{'<br>'.join(codes)}"
            yield f"<td>{'<br>'.join(_comes_from(lineage, column))}</tr>"
    yield "</tbody></table>"


def _comes_from(lineage: Lineage, column: Column) -> Iterator[str]:
    for edge in lineage.into.get(column, ()):
        source = edge.source
        text = f"the rows of {source.dataset}" if source.is_rows else str(source)
        hows = "" if edge.is_direct else f" ({', '.join(edge.hows).replace('_', ' ')})"
        yield _text(text + hows)
    reasons = list(lineage.unknown.get(column, ()))
    if column.dataset in lineage.not_traced:
        reasons.append(lineage.not_traced[column.dataset])
    for reason in reasons:
        yield f'<span class="unknown">not known: {_text(reason)}</span>'


def _text(text: str) -> str:
    return escape(on_one_line(text))
