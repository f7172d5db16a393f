// One table or mart: its state, loads, columns, lineage, SQL and objects in the lake.
import { facts, h, notice, scrolling, section, table } from "./dom.js";
import { bars, isLogarithmic, roundRows, rowsOf, secondsOf, shortDuration } from "./charts.js";
import { ago, bytes, duration, lag, number, pipelineUrl, runUrl, time } from "./format.js";
import { blockerText, stateCell, verifiedCell } from "./overview.js";
import { comesFrom, drawing, graphOf, namesOf, traced } from "./lineage.js";
import { buttons } from "./buttons.js";

const MOST_BARS = 60;
const MOST_LOADS = 20;

export function targetPage(one, options) {
  const isTable = one.kind === "table";
  const what = isTable ? "load" : "build";
  return [
    h("h1", null, one.name, " ", one.state && stateCell(one)),
    one.comment && h("p", { class: "comment" }, one.comment),
    one.unknown && notice("bad", `The warehouse could not be asked: ${one.unknown}`),
    one.error && failure(one),
    blockerText(one) && notice("warn", blockerText(one)),
    one.due && notice("warn", `The next run builds it: ${one.due}`),
    targetFacts(one, what),
    buttons(one.actions ?? options.session.actions, one.pipeline, one),
    section(isTable ? "Loads" : "Builds", loads(one, what)),
    section("Columns and lineage", lineage(one, isTable ? "staging" : "mart")),
    section("SQL", one.file && h("p", null, h("code", null, one.file)),
      one.sql ? scrolling("SQL", h("pre", null, h("code", null, one.sql)))
        : notice("", "It has no SQL of its own.")),
    isTable && section("Objects in the lake", lake(one)),
  ];
}

function failure(one) {
  const { step, run_id: run, at, since, code, message } = one.error;
  return h("div", { class: "notice bad" },
    h("p", null, `${step} failed at ${time(at)}`, since !== at && `, first at ${time(since)}`,
      ", in ", h("a", { href: runUrl(one.pipeline, run) }, run), code && ` (${code})`, ":"),
    h("pre", null, message));
}

function targetFacts(one, what) {
  const last = one.loads[0];
  return facts([
    ["Pipeline", h("a", { href: pipelineUrl(one.pipeline) }, one.pipeline)],
    ["In the warehouse", h("code", null, one.target)],
    ["Kind", one.kind === "table" ? "table" : one.materialized],
    ["Rows", number(one.rows, one.rows_exact)],
    [`Last ${what}`, last && [ago(one.age_seconds), " in ",
      h("a", { href: runUrl(one.pipeline, last.run_id) }, last.run_id)]],
    ["Watermark", one.watermark && [h("code", null, one.watermark),
      one.cursor && ` of ${one.cursor}`]],
    ["Lag", one.kind === "table" && (lag(one) || one.lag_unknown)],
    ["Verified", verifiedCell(one)],
  ]);
}

function loads(one, what) {
  if (!one.loads.length) return notice("", `No ${what} is in the ledger yet.`);
  const drawn = one.loads.slice(0, MOST_BARS).reverse();
  const more = h("div");
  const show = (most) => {
    const rest = one.loads.length - most;
    more.replaceChildren(loadTable(one, one.loads.slice(0, most), what));
    if (rest > 0) {
      more.append(h("button", { type: "button", onclick: () => show(one.loads.length) },
        `Show ${rest} more`));
    }
  };
  show(MOST_LOADS);
  return [
    h("div", { class: "charts" },
      chart("Rows", drawn, rowsOf, roundRows),
      chart("Seconds", drawn, one.kind === "table" ? secondsOf : secondsOf.slice(1), shortDuration)),
    more,
  ];
}

function chart(title, loads, parts, written) {
  const totals = loads.map((load) => parts.reduce((sum, part) => sum + part.of(load), 0));
  return h("figure", null,
    h("figcaption", null, title, isLogarithmic(totals) && " (logarithmic)",
      h("span", { class: "legend" }, parts.map((part, place) =>
        h("span", null, h("i", { class: `part-${place}`, "aria-hidden": "true" }), part.name)))),
    bars(title, loads, parts, written));
}

function loadTable(one, shown, what) {
  const columns = [
    { head: "Number", row: true, numeric: true, cell: (load) => String(load.number) },
    { head: "Committed", cell: (load) => time(load.at) },
    { head: "Run", cell: (load) => h("a", { href: runUrl(one.pipeline, load.run_id) }, load.run_id) },
    { head: "How", cell: (load) => load.how },
    ...rowColumns(one.kind === "table"),
  ];
  if (one.kind === "table") columns.push({ head: "Held back by", cell: (load) => load.held_by });
  return scrolling(`The ${what}s`, table(`The newest ${what}s`, columns, shown));
}

export function rowColumns(areLoads) {
  const columns = [
    { head: "Inserted", numeric: true, cell: (load) => number(load.inserted) },
    { head: "Updated", numeric: true, cell: (load) => number(load.updated) },
    { head: "Deleted", numeric: true, cell: (load) => number(load.deleted) },
  ];
  if (!areLoads) {
    return [...columns, { head: "Took", numeric: true, cell: (load) => duration(load.seconds) }];
  }
  return [
    { head: "Extracted", numeric: true, cell: (load) => number(load.extracted) },
    ...columns,
    { head: "Bytes", numeric: true, cell: (load) => bytes(load.bytes) },
    { head: "Extract", numeric: true, cell: (load) => duration(load.extract_seconds) },
    { head: "Load", numeric: true, cell: (load) => duration(load.load_seconds) },
  ];
}

function lineage(one, kind) {
  const graph = graphOf(one);
  const here = `${kind} ${one.target}`;
  const picture = h("div");
  const known = new Map((graph.tables.get(here)?.columns ?? []).map((column) => [column.name, column]));
  let chosen = null;
  const draw = () => {
    const columns = chosen === null ? null : traced(one, kind, chosen);
    picture.replaceChildren(drawing(one.pipeline, graph, here, columns));
    for (const button of rows.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", button.dataset.column === chosen);
    }
  };
  const choose = (name) => {
    chosen = chosen === name ? null : name;
    draw();
  };
  const rows = columnTable(one, kind, known, choose);
  const names = namesOf(one.pipeline, one, kind);
  const found = [];
  if (one.lineage_unknown) {
    found.push(notice("warn", `The lineage is not known: ${one.lineage_unknown}`));
  }
  const reason = graph.tables.get(here)?.not_traced;
  if (reason) found.push(notice("warn", `Its columns are not traced: ${reason}`));
  if (graph.tables.size) {
    draw();
    found.push(facts([["Made of", names.up], ["Feeds", names.down]]), picture);
  }
  return [...found, rows];
}

function columnTable(one, kind, known, choose) {
  if (!one.columns.length) return notice("", "The warehouse has no such table yet.");
  const traceable = known.size > 0;
  const columns = [
    { head: "Column", row: true, cell: (column) => (traceable
      ? h("button", {
        type: "button", class: "plain", "data-column": column.name, "aria-pressed": "false",
        title: "show its lineage", onclick: () => choose(column.name),
      }, column.name) : column.name) },
    { head: "Type", cell: (column) => `${column.type}${column.nullable ? "" : ", not null"}` },
    { head: "Comes from", cell: (column) => origin(one, kind, column, known) },
    { head: "Comment", cell: (column) => [column.comment, known.get(column.name)?.note]
      .filter(Boolean).join("; ") },
  ];
  const text = traceable ? "Columns: choose one to see its lineage" : "Columns";
  return scrolling("Columns", table(text, columns, one.columns));
}

function origin(one, kind, column, known) {
  const { values, decides } = comesFrom(one, kind, column.name);
  const details = known.get(column.name);
  const expressions = (details?.expressions ?? []).filter((each) => each.text !== column.name);
  return [
    h("span", null, values.join(", ")),
    decides.length > 0 && h("span", { class: "sub" }, `decided by ${decides.join(", ")}`),
    expressions.slice(0, 1).map((each) => h("code", { class: "sub" }, each.text)),
    (details?.unknown ?? []).map((each) => h("span", { class: "sub" }, `not known: ${each}`)),
  ];
}

function lake(one) {
  if (!one.lake.length) return notice("", "Nothing of it is in the lake.");
  const columns = [
    { head: "Load", row: true, cell: (place) => (place.load ? String(place.load) : "all loads") },
    { head: "Object", cell: (place) => h("code", null, place.name) },
  ];
  return scrolling("Objects in the lake",
    table("Where its objects are; old ones may have been removed by loadsheet gc", columns, one.lake));
}
