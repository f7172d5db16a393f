// What a table is made of and what is made of it, as layers from left to right.
import { h, scrolling, svg } from "./dom.js";
import { targetUrl } from "./format.js";

const WIDTH = 230;
const GAP = 90;
const HEAD = 40;
const LINE = 18;
const SPACE = 16;
const MOST_COLUMNS = 8;
const MOST_LETTERS = 30;
const KINDS = { source: "source", staging: "staging", external: "of others", mart: "mart" };

const keyOf = (one) => `${one.kind} ${one.name ?? one.table}`;
const columnKey = (end) => `${keyOf(end)} ${end.column ?? "*"}`;

// Both directions as one graph: tables by key, and edges between columns.
export function graphOf(one) {
  const tables = new Map();
  const edges = [];
  for (const lineage of [one.upstream, one.downstream]) {
    for (const table of lineage?.tables ?? []) tables.set(keyOf(table), table);
    edges.push(...(lineage?.edges ?? []));
  }
  return { tables, edges };
}

// The columns that a column is made of, and that are made of it; by the key of their table.
export function traced(one, kind, column) {
  const start = columnKey({ kind, table: one.target, column });
  const found = new Map([[keyOf({ kind, table: one.target }), new Set([column])]]);
  follow(one.upstream?.edges ?? [], start, "to", "from", found);
  follow(one.downstream?.edges ?? [], start, "from", "to", found);
  return found;
}

function follow(edges, start, near, far, found) {
  const by = new Map();
  for (const edge of edges) {
    const key = columnKey(edge[near]);
    if (!by.has(key)) by.set(key, []);
    by.get(key).push(edge);
  }
  const seen = new Set([start]);
  const left = [start];
  while (left.length) {
    for (const edge of by.get(left.pop()) ?? []) {
      if (!edge.direct) continue;
      const end = edge[far];
      const key = keyOf(end);
      if (!found.has(key)) found.set(key, new Set());
      found.get(key).add(end.column ?? "its rows");
      if (!seen.has(columnKey(end))) {
        seen.add(columnKey(end));
        left.push(columnKey(end));
      }
    }
  }
}

// The direct sources of a column, as text.
export function comesFrom(one, kind, column) {
  const wanted = columnKey({ kind, table: one.target, column });
  const edges = (one.upstream?.edges ?? []).filter((edge) => columnKey(edge.to) === wanted);
  const names = (some) => some.map(
    ({ from }) => (from.column ? `${from.table}.${from.column}` : `rows of ${from.table}`));
  return {
    values: names(edges.filter((edge) => edge.direct)),
    decides: names(edges.filter((edge) => !edge.direct)),
  };
}

export function drawing(pipeline, graph, here, columns) {
  const between = new Map();
  for (const edge of graph.edges) {
    const [from, to] = [keyOf(edge.from), keyOf(edge.to)];
    if (from === to) continue;
    const key = `${from} > ${to}`;
    const known = between.get(key) ?? { from, to, direct: false };
    known.direct ||= edge.direct || edge.how.includes("reads") || edge.how.includes("unknown");
    between.set(key, known);
  }
  const layers = layersOf(graph.tables, [...between.values()]);
  const places = new Map();
  const ends = [];
  for (const [key, layer] of layers) {
    const names = columns ? [...(columns.get(key) ?? [])] : [];
    const lines = Math.min(names.length, MOST_COLUMNS + 1);
    const top = ends[layer] ?? SPACE;
    const height = HEAD + (lines ? lines * LINE + 8 : 0);
    places.set(key, { left: SPACE + layer * (WIDTH + GAP), top, height, names });
    ends[layer] = top + height + SPACE;
  }
  const width = SPACE * 2 + ends.length * (WIDTH + GAP) - GAP;
  const height = Math.max(...ends.filter(Boolean), 0);
  const lines = [...between.values()].map((edge) => {
    const [from, to] = [places.get(edge.from), places.get(edge.to)];
    const dim = columns && !(columns.has(edge.from) && columns.has(edge.to));
    const [x1, x2] = [from.left + WIDTH, to.left];
    const [y1, y2] = [from.top + HEAD / 2, to.top + HEAD / 2];
    const half = Math.max((x2 - x1) / 2, 30);
    return svg("path", {
      class: `${edge.direct ? "" : "decides"} ${dim ? "dim" : ""}`,
      d: `M${x1},${y1} C${x1 + half},${y1} ${x2 - half},${y2} ${x2},${y2}`,
    });
  });
  const boxes = [...places].map(([key, place]) =>
    box(pipeline, graph.tables.get(key), place, key === here, columns && !columns.has(key)));
  return scrolling("Lineage, from left to right", svg("svg", {
    class: "lineage", width, height, viewBox: `0 0 ${width} ${height}`, role: "group",
    "aria-label": "Tables and marts, and what they are made of",
  }, svg("g", { "aria-hidden": "true" }, lines), boxes));
}

function box(pipeline, table, place, isHere, isDim) {
  const { left, top, height, names } = place;
  const shown = names.slice(0, MOST_COLUMNS);
  if (names.length > MOST_COLUMNS) shown.push(`${names.length - MOST_COLUMNS} more`);
  const content = [
    svg("title", null, `${table.name} (${KINDS[table.kind]})`),
    svg("rect", { x: left, y: top, width: WIDTH, height, rx: 6 }),
    svg("text", { x: left + 10, y: top + 17, class: "name" }, shortened(table.name)),
    svg("text", { x: left + 10, y: top + 32, class: "kind" }, KINDS[table.kind]),
    shown.map((name, place) => svg("text", {
      x: left + 10, y: top + HEAD + 12 + place * LINE, class: "column",
    }, shortened(name))),
  ];
  const looks = `box ${table.kind} ${isHere ? "here" : ""} ${isDim ? "dim" : ""}`;
  const kind = { staging: "table", mart: "transform" }[table.kind];
  if (!kind || isHere) return svg("g", { class: looks }, content);
  const name = table.name.slice(table.name.indexOf(".") + 1);
  return svg("a", { class: looks, href: targetUrl(pipeline, kind, name) }, content);
}

const shortened = (name) =>
  (name.length > MOST_LETTERS ? `${name.slice(0, MOST_LETTERS - 1)}…` : name);

// How far to the right each table is: behind all that it is made of.
function layersOf(tables, edges) {
  const before = new Map([...tables.keys()].map((key) => [key, []]));
  for (const edge of edges) before.get(edge.to)?.push(edge.from);
  const layers = new Map();
  let left = [...tables.keys()];
  while (left.length) {
    let ready = left.filter((key) => before.get(key).every((one) => layers.has(one)));
    if (!ready.length) ready = left; // a circle, which marts cannot have: it ends here
    for (const key of ready) {
      const behind = before.get(key).map((one) => layers.get(one) ?? -1);
      layers.set(key, 1 + Math.max(-1, ...behind));
    }
    left = left.filter((key) => !layers.has(key));
  }
  // A source is drawn right before what it is loaded into, not far to the left of it.
  for (const [key, table] of tables) {
    if (table.kind !== "source") continue;
    const after = edges.filter((edge) => edge.from === key).map((edge) => layers.get(edge.to));
    if (after.length) layers.set(key, Math.max(0, Math.min(...after) - 1));
  }
  return layers;
}

export function namesOf(pipeline, one, kind) {
  const here = keyOf({ kind, table: one.target });
  const list = (lineage) => (lineage?.tables ?? []).filter((table) => keyOf(table) !== here);
  const item = (table) => {
    const target = { staging: "table", mart: "transform" }[table.kind];
    const name = table.name.slice(table.name.indexOf(".") + 1);
    const text = `${table.name} (${KINDS[table.kind]})`;
    return target ? h("a", { href: targetUrl(pipeline, target, name) }, text) : text;
  };
  const joined = (tables) => tables.flatMap((table, place) => [place ? ", " : "", item(table)]);
  return { up: joined(list(one.upstream)), down: joined(list(one.downstream)) };
}
