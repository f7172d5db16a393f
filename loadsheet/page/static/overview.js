// All tables and marts of all pipelines, or of one: filtered, sorted, a hundred at a time.
import { append, facts, h, notice, scrolling, section, table, tableRow } from "./dom.js";
import { sparkline } from "./charts.js";
import { drawing, graphOf } from "./lineage.js";
import {
  STATES, ago, lag, number, pipelineUrl, runUrl, targetUrl, time, watermark,
} from "./format.js";
import { buttons } from "./buttons.js";
import { runs } from "./runs.js";

const PAGE = 100;
const ATTENTION = Object.keys(STATES);
const MOST_DRAWN = 150;
const MOST_MATCHES = 4;
const MOST_TROUBLES = 10;
const MOST_NAMES = 3;
const HEALTHY = new Set(["current", "loaded"]);

const COLUMNS = [
  { key: "name", head: "Table or mart", row: true, cell: nameCell, by: (one) => one.name },
  { key: "state", head: "State", cell: stateCell, by: (one) => urgency(one) },
  { key: "age", head: "Loaded", cell: ageCell, by: (one) => newestFirst(one.loaded_at) },
  { key: "lag", head: "Lag", numeric: true, cell: (one) => lag(one), by: lagOf },
  { key: "watermark", head: "Watermark", cell: watermarkCell, by: (one) => one.watermark },
  { key: "rows", head: "Rows", numeric: true, cell: rowsCell, by: (one) => one.rows },
  { key: "note", head: "Held back by, last error", cell: noteCell, by: (one) => noteOf(one) },
  { key: "verified", head: "Verified", cell: verifiedCell, by: (one) => newestFirst(one.verified?.at) },
];

const newestFirst = (text) => text && -Date.parse(text);

export function stateCell(one) {
  if (one.asking) return h("span", { class: "state quiet" }, "asking…");
  return h("span", { class: `state ${one.state}` }, STATES[one.state] ?? one.state);
}

export function verifiedCell(one) {
  const look = one.verified;
  if (!look) return one.unverified ? h("span", { class: "bad" }, "never, late") : "";
  const since = look.loaded_since ? ", loaded since" : "";
  const where = look.part ? ` in ${look.part}` : "";
  const when = look.age_seconds === null ? `at ${time(look.at).slice(0, 16)}` : ago(look.age_seconds);
  const late = one.unverified ? ", late" : "";
  const kind = late ? "bad" : { equal: "good", differs: "bad" }[look.verdict] ?? "";
  return h("span", { class: kind, title: time(look.at) },
    `${look.verdict}${where} ${when}${since}${late}`);
}

export function blockerText(one) {
  if (!one.blocker) return "";
  const open = one.blocker.open_seconds === null ? "" : `, open since ${ago(one.blocker.open_seconds)}`;
  return one.blocker.now ? `held back by ${one.blocker.who}${open}`
    : `its last load was held back by ${one.blocker.who}`;
}

const day = (text) => h("span", { title: time(text) }, time(text).slice(0, 16));

export function lateText(one) {
  if (!one.freshness?.late) return "";
  return one.freshness.cause ? `late: ${one.freshness.cause}` : "late";
}

const noteOf = (one) =>
  (one.error ? `${one.error.step} failed: ${one.error.message}` : blockerText(one))
  || lateText(one) || one.due || "";

function nameCell(one) {
  const kind = one.kind === "table" ? "table" : `mart${one.materialized ? `, ${one.materialized}` : ""}`;
  return [
    h("a", {
      href: targetUrl(one.pipeline, one.kind, one.name), "data-key": `${one.pipeline} ${one.target}`,
    }, one.name),
    h("span", { class: "sub" }, `${one.pipeline} · ${kind}${one.in_spec ? "" : ", not in the file"}`),
    commentsOf(one).slice(0, 1).map((text) => h("span", { class: "sub clip" }, text)),
    one.matches?.length > 0 && h("span", { class: "sub" }, matchText(one.matches)),
  ];
}

function matchText(names) {
  const more = names.length - MOST_MATCHES;
  const text = names.slice(0, MOST_MATCHES).join(", ");
  return `${names.length === 1 ? "column" : "columns"}: ${text}${more > 0 ? ` and ${more} more` : ""}`;
}

function ageCell(one) {
  if (one.state === "unknown") return "";
  if (!one.loaded_at) return "never";
  if (one.age_seconds === null) return day(one.loaded_at); // it was recorded at another time
  const text = ago(one.age_seconds);
  if (!one.run_id) return text;
  return h("a", { href: runUrl(one.pipeline, one.run_id), "aria-label": `${text}: its run` }, text);
}

function watermarkCell(one) {
  const text = watermark(one);
  return text && h("span", { class: "clip", title: one.watermark }, text);
}

function rowsCell(one) {
  const history = h("span", { class: "history" }, sparkline(one.history));
  return [h("span", null, number(one.rows, one.rows_exact)), history];
}

function noteCell(one) {
  const text = noteOf(one);
  return text && h("span", { class: `clip ${one.error ? "bad" : ""}`, title: text }, text);
}

function lagOf(one) {
  return one.lag ? one.lag.seconds ?? one.lag.distance ?? (one.lag.ahead ? 1 : 0) : null;
}

function urgency(one) {
  const differs = one.verified?.verdict === "differs" && HEALTHY.has(one.state);
  return differs ? 0.5 : ATTENTION.indexOf(one.state);
}

// The targets of all pipelines as one list.
export function flatten(document) {
  return document.pipelines.flatMap((pipeline) => pipeline.targets.map((one) => ({
    ...one,
    pipeline: pipeline.name,
    asking: !document.asked_source && one.state === "loaded" && one.watermark !== null,
    text: [one.name, one.target, pipeline.name, noteOf(one), commentsOf(one), columnTexts(one)]
      .flat().join(" ").toLowerCase(),
  })));
}

// Only recorded documents have the comments and columns of all tables.
const commentsOf = (one) => [one.comment, one.source?.comment].filter(Boolean);
const columnsOf = (one) => [...one.columns ?? [], ...one.source?.columns ?? []];
const columnTexts = (one) =>
  columnsOf(one).flatMap((column) => [column.name, column.comment ?? ""]);

function matchesOf(one, view) {
  const words = wordsOf(view);
  const isFound = (text) => text && words.some((word) => text.toLowerCase().includes(word));
  const found = columnsOf(one).filter(
    (column) => isFound(column.name) || isFound(column.comment));
  return [...new Set(found.map((column) => column.name))];
}

export function overviewPage(document, options) {
  const only = document.pipelines.filter(
    (one) => !options.pipeline || one.name === options.pipeline);
  if (options.pipeline && !only.length) {
    return [h("h1", null, options.pipeline), notice("bad", "There is no such pipeline.")];
  }
  const targets = flatten({ ...document, pipelines: only });
  const page = [h("h1", null, options.pipeline ?? "Tables and marts")];
  const isRecorded = options.session.mode === "recorded";
  const all = !options.pipeline && (isRecorded || only.length > 1) && section("Pipelines", pipelines(only, isRecorded));
  if (options.pipeline) page.push(pipelineFacts(only[0]), buttons(options.about?.actions ?? [], only[0].name));
  page.push(troubles(only, Boolean(options.pipeline)), isRecorded && all);
  page.push(targets.length ? list(targets, options) : notice("", "Nothing has been loaded yet."));
  if (options.about) page.push(section("Runs", runs(options.about)));
  page.push(!isRecorded && all);
  if (options.graph) page.push(section("Lineage", whole(options)));
  return page;
}

function whole({ graph, pipeline }) {
  const known = graphOf(graph);
  if (known.tables.size > MOST_DRAWN) {
    return notice("", `${number(known.tables.size)} tables are too many to draw at once: each has`
      + " its own lineage on its page.");
  }
  return drawing(pipeline, known, null, null);
}

function pipelines(all, isRecorded) {
  const count = (one, kind) => one.targets.filter((each) => each.kind === kind).length;
  const failed = (one) => one.targets.filter((each) => each.state === "failed").length;
  const columns = [
    { head: "Pipeline", row: true, cell: (one) => h("a", { href: pipelineUrl(one.name) }, one.name) },
    { head: "Description", cell: (one) => one.description },
    { head: "Schedule", cell: (one) => one.schedule ?? "none" },
    { head: "Owner", cell: (one) => one.owner },
    { head: "Tables", numeric: true, cell: (one) => number(count(one, "table")) },
    { head: "Marts", numeric: true, cell: (one) => number(count(one, "transform")) },
  ];
  if (!isRecorded) columns.push({ head: "Failed", numeric: true, cell: (one) => number(failed(one)) });
  const text = isRecorded ? "All pipelines of this site" : `All ${number(all.length)} pipelines`;
  return scrolling("Pipelines", table(text, columns, all));
}

function pipelineFacts(one) {
  return facts([
    ["Description", one.description],
    ["Schedule", one.schedule ?? "none"],
    ["Owner", one.owner],
    ["Tags", one.tags?.join(", ")],
    ["File", h("code", null, one.file)],
  ]);
}

function troublesOf(one) {
  const texts = one.error ? [["bad", one.error]] : [];
  if (one.unknown) texts.push(["bad", `the warehouse could not be asked: ${one.unknown}`]);
  if (one.source_unknown) {
    texts.push(["warn", `the source could not be asked: ${one.source_unknown}`]);
  }
  return [...texts, ...one.notes.map((note) => ["warn", note])];
}

// Each text once: a warehouse that is away is the trouble of all its pipelines.
function troubles(pipelines, isOne) {
  const found = new Map();
  for (const one of pipelines) {
    for (const [kind, text] of troublesOf(one)) {
      if (!found.has(text)) found.set(text, { kind, text, names: [] });
      found.get(text).names.push(one.name);
    }
  }
  if (!found.size) return null;
  const items = [...found.values()].map((one) => h("li", { class: one.kind },
    !isOne && linksTo(one.names), h("span", { class: "text" }, one.text)));
  const listed = (some) => h("ul", { class: "troubles", role: "list" }, some);
  const rest = items.slice(MOST_TROUBLES);
  return section("Needs attention", listed(items.slice(0, MOST_TROUBLES)),
    rest.length > 0 && h("details", null, h("summary", { "data-key": "troubles" }, `${number(rest.length)} more`), listed(rest)));
}

function linksTo(names) {
  const links = names.slice(0, MOST_NAMES).map((name, place) => [
    place > 0 && ", ", h("a", { href: pipelineUrl(name) }, name)]);
  const more = names.length - MOST_NAMES;
  return [links, more > 0 && ` and ${number(more)} more pipelines`, ": "];
}

function list(targets, options) {
  const { view, changed, announce } = options;
  const counts = new Map();
  for (const one of targets) counts.set(one.state, (counts.get(one.state) ?? 0) + 1);
  const body = h("tbody", { role: "rowgroup" });
  const pager = h("div", { class: "pager" });
  const states = h("div", { class: "chips", role: "group", "aria-label": "States" },
    chip("", `all ${number(targets.length)}`),
    ATTENTION.filter((state) => counts.has(state)).map(
      (state) => chip(state, `${STATES[state]} ${number(counts.get(state))}`)));
  const filter = h("input", {
    type: "search", id: "filter", placeholder: targets[0].columns ? "name, column, comment" : "name, pipeline, error", autocomplete: "off",
    value: view.text, oninput: (event) => update({ text: event.target.value, page: 0 }),
  });
  const sorting = h("select", { id: "sorting", onchange: (event) => sortBy(event.target.value) },
    COLUMNS.map((column) => h("option", { value: column.key }, column.head)));
  const heads = COLUMNS.map((column) => h("th", {
    scope: "col", role: "columnheader", class: column.numeric && "number",
  }, h("button", {
    type: "button", "data-key": `head ${column.key}`, onclick: () => sortBy(column.key),
  }, column.head)));
  const grid = h("table", { role: "table", id: "targets", class: "cards overview", tabindex: "-1" },
    h("caption", { class: "sr-only" }, "Tables and marts"),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)), body);

  function chip(state, text) {
    return h("button", {
      type: "button", class: `chip ${state}`, "data-state": state, "data-key": `state ${state}`,
      onclick: () => update({ state, page: 0 }),
    }, text);
  }

  function sortBy(key) {
    const isSame = view.sort === key;
    update({ sort: key, down: isSame ? !view.down : false, page: 0 });
  }

  function turnPage(by) {
    update({ page: view.page + by });
    // The button has been drawn again: the focus goes to where reading goes on.
    grid.focus({ preventScroll: true });
    grid.scrollIntoView();
  }

  function update(change) {
    Object.assign(view, change);
    changed();
    draw();
  }

  function draw() {
    const found = sorted(targets.filter(isWanted(view)), view);
    const pages = Math.max(Math.ceil(found.length / PAGE), 1);
    view.page = Math.min(view.page, pages - 1);
    const start = view.page * PAGE;
    const shown = found.slice(start, start + PAGE);
    for (const one of shown) one.matches = matchesOf(one, view);
    grid.setAttribute("aria-rowcount", found.length + 1);
    body.replaceChildren(...shown.map((one) => tableRow(COLUMNS, one)));
    for (const [place, head] of heads.entries()) {
      const { key } = COLUMNS[place];
      if (key !== view.sort) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", view.down ? "descending" : "ascending");
    }
    for (const one of states.children) {
      one.setAttribute("aria-pressed", one.dataset.state === view.state);
    }
    sorting.value = view.sort;
    const range = found.length ? `${number(start + 1)} to ${number(start + shown.length)}` : "none";
    const text = `${range} of ${number(found.length)}`;
    const turn = (label, by, can) => h("button", {
      type: "button", "data-key": label, disabled: !can, onclick: () => turnPage(by),
    }, label);
    pager.replaceChildren();
    append(pager, [h("span", null, text), pages > 1 && [
      turn("Previous", -1, view.page > 0), turn("Next", 1, view.page < pages - 1)]]);
    announce(`${text} shown`);
  }

  draw();
  return h("section", { "aria-label": "Tables and marts" },
    h("div", { class: "toolbar" },
      h("label", { for: "filter" }, "Filter"), filter,
      h("span", { class: "narrow" }, h("label", { for: "sorting" }, "Sort by "), sorting), states),
    grid, pager);
}

const wordsOf = (view) => view.text.toLowerCase().split(/\s+/).filter(Boolean);

function isWanted(view) {
  const words = wordsOf(view);
  return (one) => (!view.state || one.state === view.state)
    && words.every((word) => one.text.includes(word));
}

function sorted(targets, view) {
  const { by } = COLUMNS.find((column) => column.key === view.sort) ?? COLUMNS[1];
  const sign = view.down ? -1 : 1;
  return targets.sort((one, other) => {
    const [a, b] = [by(one), by(other)];
    const empty = (value) => value === null || value === undefined || value === "";
    if (empty(a) !== empty(b)) return empty(a) ? 1 : -1; // what is not known comes last, always
    if (a < b) return -sign;
    if (a > b) return sign;
    return one.name < other.name ? -1 : 1;
  });
}
