// The buttons that start something, each with a question before: only where the server has them.
import { append, h } from "./dom.js";
import { availableActions, run } from "./actions.js";

const LABELS = {
  run: "Run",
  full_refresh: "Full refresh",
  verify: "Verify",
  rebuild: "Rebuild",
  backfill: "Backfill",
};
const TABLE = ["run", "full_refresh", "verify", "backfill"];
const MART = ["rebuild", "verify"]; // a run builds all marts whose inputs have changed
const QUESTIONS = {
  run: "Start a run",
  full_refresh: "Read everything again from the source",
  verify: "Compare with the source",
  rebuild: "Build it again in full",
  backfill: "Read a past interval again",
};
const VERIFY_MART = "Compare with its SELECT";
const OF_ALL = "The run also loads what is new in the pipeline's tables.";
const LAST_TIME = "9999-12-31T23:59";

// The page draws its buttons again with each refresh: what they have said stays.
const sayings = new Map();
let drawn = { key: null };

// Of a pipeline, or of `target` alone: those that are allowed.
export function buttons(allowed, pipeline, target = null) {
  let fitting = TABLE;
  if (target) fitting = target.kind === "table" ? TABLE : MART;
  const actions = availableActions(allowed).filter((action) => fitting.includes(action));
  if (!actions.length) return null;
  const key = `${pipeline} ${target?.target ?? ""}`;
  const row = actions.map((action) => h("button", {
    type: "button", "data-key": `button ${action}`,
    onclick: () => isBusy(key) || ask(action, pipeline, target, key),
  }, LABELS[action]));
  drawn = { key, row, said: h("p", { role: "status", class: "said" }) };
  tell();
  return h("div", { class: "actions" }, row, drawn.said);
}

const isBusy = (key) => Boolean(sayings.get(key)?.isBusy);

function say(key, saying) {
  sayings.set(key, saying);
  if (drawn.key === key) tell();
}

function tell() {
  const { text = "", isBad = false } = sayings.get(drawn.key) ?? {};
  // Not `disabled`: the button would lose the focus.
  for (const button of drawn.row) button.setAttribute("aria-disabled", isBusy(drawn.key));
  drawn.said.className = isBad ? "said bad" : "said";
  drawn.said.replaceChildren();
  append(drawn.said, [text]);
}

function ask(action, pipeline, target, key) {
  const isMart = target?.kind === "transform";
  const what = target ? target.target : `all of ${pipeline}`;
  const question = isMart && action === "verify" ? VERIFY_MART : QUESTIONS[action];
  const [from, until] = ["from", "until"].map((id) => h("input", {
    type: "datetime-local", id, required: true, max: LAST_TIME, oninput: () => compare(from, until),
  }));
  const heading = h("h2", { id: "question" }, `${question}: ${what}?`);
  const dialog = h("dialog", { "aria-labelledby": "question" });
  const form = h("form", { method: "dialog" }, heading,
    isMart && h("p", null, OF_ALL),
    action === "backfill" && [
      h("p", null, h("label", { for: "from" }, "From (UTC) "), from),
      h("p", null, h("label", { for: "until" }, "Until (UTC) "), until)],
    h("div", { class: "actions" },
      h("button", { value: "yes", class: "primary" }, LABELS[action]),
      h("button", { value: "", formnovalidate: true }, "Cancel")));
  append(dialog, [form]);
  document.body.append(dialog);
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (dialog.returnValue !== "yes") return;
    const request = { pipeline };
    if (target) request[isMart ? "transforms" : "tables"] = [target.name];
    if (action === "backfill") {
      request.interval_start = `${from.value}:00Z`;
      request.interval_end = `${until.value}:00Z`;
    }
    start(action, request, key);
  });
  dialog.showModal();
}

// The browser says it at the field, and does not close the question.
function compare(from, until) {
  const isBackwards = from.value && until.value && until.value <= from.value;
  until.setCustomValidity(isBackwards ? "The end must be later than the start." : "");
}

async function start(action, request, key) {
  say(key, { text: "…", isBusy: true });
  try {
    const found = await run(action, request);
    const more = found.message && `. ${found.message}`;
    say(key, { text: `Started: ${found.run_id}${more}` });
  } catch (error) {
    say(key, { text: error.message, isBad: true });
  }
}
