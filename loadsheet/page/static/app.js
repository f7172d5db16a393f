// The page: what the address asks for, the head, and when to ask the server again.
import { followLinksToAirflow } from "./airflow.js";
import * as api from "./api.js";
import { append, h, notice } from "./dom.js";
import { pipelineUrl, time } from "./format.js";
import { overviewPage } from "./overview.js";
import { runPage } from "./run.js";
import { targetPage } from "./target.js";

const REFRESH_SECONDS = 30;
const THEMES = ["system", "light", "dark"];
const $ = (id) => document.getElementById(id);
const main = $("main");

let session = { mode: "local", airflow_base: null, theme: "system" };
const isRecorded = () => session.mode === "recorded"; // the static site of `loadsheet docs`
let known = null; // the last overview: shown at once when the address leads back to it
let aboutOne = { runs: [] }; // of the pipeline that was shown last
let asked = 0; // answers that come after a later question are dropped

// #/p/PIPELINE, #/p/PIPELINE/table/NAME, #/p/PIPELINE/run/RUN; ?q=, state=, sort=, down=, page=
function address() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  let parts;
  try {
    parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    parts = ["?"];
  }
  const given = new URLSearchParams(query);
  const view = {
    text: given.get("q") ?? "",
    state: given.get("state") ?? "",
    sort: given.get("sort") ?? "state",
    down: given.has("down"),
    page: Number.parseInt(given.get("page") ?? "0", 10) || 0,
  };
  if (!parts.length) return { kind: "overview", view };
  if (parts[0] !== "p" || parts.length > 4 || parts.length === 3) return { kind: "none" };
  const [, pipeline, kind, name] = parts;
  if (!kind) return { kind: "overview", pipeline, view };
  return ["table", "transform", "run"].includes(kind) ? { kind, pipeline, name } : { kind: "none" };
}

function remember(view) {
  const query = new URLSearchParams();
  if (view.text) query.set("q", view.text);
  if (view.state) query.set("state", view.state);
  if (view.sort !== "state") query.set("sort", view.sort);
  if (view.down) query.set("down", "1");
  if (view.page) query.set("page", view.page);
  const path = location.hash.split("?")[0] || "#/";
  history.replaceState(null, "", query.size ? `${path}?${query}` : path);
}

function crumbs(where) {
  const list = [];
  if (where.pipeline) list.push([where.pipeline, pipelineUrl(where.pipeline)]);
  if (where.name) list.push([where.name, location.hash]);
  $("crumbs").replaceChildren(...list.map(([text, href], place) => h("li", null, h("a", {
    href, "aria-current": place === list.length - 1 ? "page" : null,
  }, text))));
  document.title = [...list.map(([text]) => text).reverse(), "Loadsheet"].join(" · ");
}

async function show({ again = false } = {}) {
  const where = address();
  const number = ++asked;
  const isCurrent = () => number === asked;
  crumbs(where);
  if (!again && !(where.kind === "overview" && known)) {
    main.replaceChildren(h("p", { class: "quiet" }, "Loading…"));
  }
  main.setAttribute("aria-busy", "true");
  try {
    for await (const page of pagesOf(where)) {
      if (!isCurrent()) return;
      fill(page, again);
    }
  } catch (error) {
    const title = where.name ?? where.pipeline ?? "Tables and marts";
    if (isCurrent()) fill([h("h1", null, title), notice("bad", error.message)], again);
  }
  if (isCurrent()) main.removeAttribute("aria-busy");
}

async function* pagesOf(where) {
  const options = { session, announce };
  if (where.kind === "overview") {
    const more = where.pipeline && !isRecorded() ? aboutPipeline(where.pipeline) : null;
    const page = (found) => overviewPage(found, {
      ...options, pipeline: where.pipeline, view: where.view, changed: () => remember(where.view),
      about: where.pipeline && aboutOne.pipeline === where.pipeline ? aboutOne : null,
      graph: isRecorded() && where.pipeline ? api.graph(where.pipeline) : null,
    });
    if (known) yield page(known);
    else yield page(await api.overview(false)); // the sources answer later
    known = await api.overview(true);
    if (more) aboutOne = await more;
    tell(known.at);
    yield page(known);
  } else if (where.kind === "run") {
    const found = await api.run(where.pipeline, where.name);
    tell(found.at);
    yield runPage(found, options);
  } else if (where.kind === "none") {
    yield [h("h1", null, "There is no such page"), h("p", null, h("a", { href: "#/" }, "All tables"))];
  } else {
    const found = await api.target(where.pipeline, where.kind, where.name);
    tell(found.at);
    yield targetPage(found, options);
  }
}

// The last runs of a pipeline, and its buttons; or why they are not known.
async function aboutPipeline(pipeline) {
  const inAirflow = session.mode === "airflow";
  const unknown = (error) => ({ runs: [], unknown: error.message });
  const [{ actions }, found] = await Promise.all([
    inAirflow ? api.actions(pipeline).catch(() => ({ actions: [] })) : { actions: [] },
    api.runs(pipeline).catch(unknown),
  ]);
  return { ...found, pipeline, actions };
}

// The new content, with the focus where it was: on the same link, field or button.
function fill(page, again) {
  const before = document.activeElement;
  const isInside = main.contains(before) && before !== main;
  const { key } = isInside ? before.dataset : {};
  const caret = isInside && before.type === "search" ? before.selectionStart : null;
  const scrolled = window.scrollY;
  main.replaceChildren();
  append(main, page);
  const same = isInside && (key
    ? [...main.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key)
    : before.id && $(before.id));
  if (same) {
    same.focus({ preventScroll: true });
    if (caret !== null) same.setSelectionRange(caret, caret);
  }
  if (again || same) window.scrollTo(0, scrolled);
}

function announce(text) {
  if ($("live").textContent !== text) $("live").textContent = text;
}

function tell(at) {
  // What was recorded may be of another day.
  $("when").textContent = at ? `as of ${time(at).slice(isRecorded() ? 0 : 11)}` : "";
}

function applyTheme() {
  let theme = session.theme;
  if (session.mode === "airflow" && !["light", "dark"].includes(theme)) theme = stored("theme");
  if (session.mode !== "airflow") theme = stored("loadsheet-theme");
  const isChosen = theme === "light" || theme === "dark";
  if (isChosen) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  const button = $("theme");
  button.hidden = session.mode === "airflow";
  button.textContent = `Theme: ${isChosen ? theme : "system"}`;
}

function stored(key) {
  try {
    return localStorage.getItem(key) ?? "system";
  } catch {
    return "system"; // a browser may forbid it
  }
}

function nextTheme() {
  const next = THEMES[(THEMES.indexOf(stored("loadsheet-theme")) + 1) % THEMES.length];
  try {
    localStorage.setItem("loadsheet-theme", next);
  } catch {
    // Not remembered, and so not changed.
  }
  applyTheme();
}

async function begin() {
  applyTheme();
  try {
    session = await api.session();
  } catch (error) {
    fill([notice("bad", error.message)], false);
    return;
  }
  applyTheme();
  followLinksToAirflow();
  $("refresh").hidden = isRecorded();
  $("refresh").addEventListener("click", () => show({ again: true }));
  $("theme").addEventListener("click", nextTheme);
  $("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address is where the page is
    main.focus();
  });
  window.addEventListener("storage", applyTheme);
  window.addEventListener("hashchange", async () => {
    await show();
    main.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  });
  setInterval(() => {
    const isAtWork = document.hidden || document.querySelector("dialog[open]");
    if (!isAtWork && !isRecorded() && address().kind === "overview") show({ again: true });
  }, REFRESH_SECONDS * 1000);
  show();
}

begin();
