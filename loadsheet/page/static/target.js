// One table or mart: its state, loads, columns, lineage, SQL and objects in the lake.
import { facts, h, notice, scrolling, section, table } from "./dom.js";
import { bars, isLogarithmic, roundRows, rowsOf, secondsOf, shortDuration } from "./charts.js";
import { ago, bytes, duration, lag, number, pipelineUrl, runUrl, time } from "./format.js";
import { blockerText, lateText, stateCell, verifiedCell } from "./overview.js";
import { comesFrom, drawing, graphOf, namesOf, traced } from "./lineage.js";
import { buttons } from "./buttons.js";

const DELETES = {
  hard: "are deleted here, too", soft: "are marked here", report: "are only counted",
};
const MOST_BARS = 60;
const MOST_LOADS = 20;
const KINDS = {
  limit: "limit", freshness: "freshness", comparison: "loadsheet verify", test: "test",
};

export function targetPage(one, options) {
  const isTable = one.kind === "table";
  const isRecorded = options.session.mode === "recorded";
  const what = isTable ? "load" : "build";
  const comment = one.comment ?? one.source?.comment;
  return [
    h("h1", null, one.name, " ", one.state && stateCell(one)),
    comment && h("p", { class: "comment" }, comment),
    one.unknown && notice(isRecorded ? "warn" : "bad", `The warehouse could not be asked: ${one.unknown}`),
    one.error && failure(one, isRecorded),
    blockerText(one) && notice("warn", blockerText(one)),
    lateText(one) && notice("bad", lateText(one)),
    one.due && notice("warn", `The next run builds it: ${one.due}`),
    targetFacts(one, what),
    buttons(one.actions ?? [], one.pipeline, one),
    !isRecorded && section(isTable ? "Loads" : "Builds", loads(one, what)),
    section("Columns and lineage", lineage(one, isTable ? "staging" : "mart")),
    isTable && one.in_spec !== false && section("Source table", sourceTable(one)),
    section("Checks", checks(one)),
    section("SQL", one.file && h("p", null, h("code", null, one.file)),
      one.sql ? scrolling("SQL", h("pre", null, h("code", null, one.sql)))
        : notice("", "It has no SQL of its own.")),
    isTable && !isRecorded && section("Objects in the lake", lake(one)),
  ];
}

function failure(one, isRecorded) {
  const { step, run_id: run, at, since, code, message } = one.error;
  return h("div", { class: "notice bad" },
    h("p", null, `${step} failed at ${time(at)}`, since !== at && `, first at ${time(since)}`,
      ", in ", isRecorded ? run : h("a", { href: runUrl(one.pipeline, run) }, run),
      code && ` (${code})`, ":"),
    h("pre", null, message));
}

function targetFacts(one, what) {
  const last = one.loads[0];
  return facts([
    ["Pipeline", h("a", { href: pipelineUrl(one.pipeline) }, one.pipeline)],
    ["In the warehouse", h("code", null, one.target)],
    ["Kind", one.kind === "table" ? "table" : one.materialized],
    ["Rows", number(one.rows, one.rows_exact)],
    ["Primary key", one.primary_key?.length > 0 && h("code", null, one.primary_key.join(", "))],
    ["Mode", one.mode],
    ["Read by", one.reads_by && h("code", null, one.reads_by)],
    ["Deleted rows", DELETES[one.deletes]],
    [`Last ${what}`, last ? [ago(one.age_seconds), " in ",
      h("a", { href: runUrl(one.pipeline, last.run_id) }, last.run_id)]
      : one.loaded_at && `${time(one.loaded_at)} in ${one.run_id}`],
    ["Watermark", one.watermark && [h("code", null, one.watermark),
      one.cursor && ` of ${one.cursor}`]],
    ["Lag", one.kind === "table" && (lag(one) || one.lag_unknown)],
    ["Freshness", one.freshness && freshness(one.freshness)],
    ["Verified", verifiedCell(one)],
  ]);
}

function freshness({ level, as_of: asOf }) {
  return asOf ? `${level}: has what the source had at ${time(asOf)}` : level;
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
    { head: "How", cell: (load) => h("span", { class: "word" }, load.how) },
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
  if (!one.columns.length && one.unknown) return notice("", "The columns are not known.");
  if (!one.columns.length) return notice("", "The warehouse has no such table yet.");
  const keys = new Set(one.primary_key);
  const sources = new Map((one.source?.columns ?? []).map((each) => [each.name, each.comment]));
  const traceable = known.size > 0;
  const columns = [
    { head: "Column", row: true, cell: (column) => (traceable
      ? h("button", {
        type: "button", class: "plain", "data-column": column.name, "aria-pressed": "false",
        title: "show its lineage", onclick: () => choose(column.name),
      }, column.name) : column.name) },
    { head: "Type", cell: (column) => typeOf(column, keys) },
    { head: "Comes from", cell: (column) => origin(one, kind, column, known) },
    { head: "Comment", cell: (column) => texts(
      column.comment, sources.get(column.name), known.get(column.name)?.note) },
  ];
  const text = traceable ? "Columns: choose one to see its lineage" : "Columns";
  return scrolling("Columns", table(text, columns, one.columns));
}

function typeOf(column, keys) {
  const key = keys.has(column.name) ? ", primary key" : "";
  return `${column.type}${column.nullable ? "" : ", not null"}${key}`;
}

// Each text once.
const texts = (...all) => [...new Set(all.filter(Boolean))].join("; ");

function sourceTable(one) {
  if (one.source_unknown) {
    return notice("warn", `The source could not be asked: ${one.source_unknown}`);
  }
  if (!one.source) return notice("", one.unknown ? "It is not known." : "The source has no such table.");
  const keys = new Set(one.source.primary_key);
  const loaded = new Set(one.columns.map((column) => column.name));
  const isLoaded = (column) => !loaded.size || loaded.has(column.name);
  const columns = [
    { head: "Column", row: true, cell: (column) => column.name },
    { head: "Type", cell: (column) => typeOf(column, keys) },
    { head: "Comment", cell: (column) => texts(column.comment, !isLoaded(column) && "not loaded") },
  ];
  const isShownAbove = !one.comment || one.comment === one.source.comment;
  return [
    facts([["In the source", h("code", null, one.source.name)],
      ["Comment", !isShownAbove && one.source.comment]]),
    scrolling("Columns of the source table",
      table("Columns of the source table", columns, one.source.columns)),
  ];
}

function checks(one) {
  const found = (one.checks ?? []).length > 0
    ? scrolling("Checks", table("What is checked, and the last result", [
      { head: "Check", row: true, cell: (check) => check.text },
      { head: "Kind", cell: (check) => KINDS[check.kind] },
      { head: "Last result", cell: (check) => resultOf(one, check) },
    ], one.checks))
    : notice("", "Nothing of it is checked.");
  const unread = one.tests_unknown && notice("warn", `Its tests cannot be read: ${one.tests_unknown}`);
  return [unread, found];
}

function resultOf(one, check) {
  if (check.kind === "comparison") return verifiedCell(one) || (one.unknown ? "not known" : "not compared yet");
  if (check.kind === "freshness") return one.freshness?.level ?? "not known";
  if (check.kind === "test") {
    return [h("code", null, check.where), h("span", { class: "sub" }, "loadsheet test runs it")];
  }
  return "part of each load";
}

function origin(one, kind, column, known) {
  const { values, decides } = comesFrom(one, kind, column.name);
  const details = known.get(column.name);
  const expressions = (details?.expressions ?? []).filter((each) => each.text !== column.name);
  return [
    values.length > 0 && h("span", null, values.join(", ")),
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
