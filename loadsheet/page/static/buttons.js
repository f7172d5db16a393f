// The buttons that start something, each with a question before: only where the session has them.
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
const MART = ["run", "rebuild", "verify"];
const QUESTIONS = {
  run: "Start a run",
  full_refresh: "Read everything again from the source",
  verify: "Compare with the source",
  rebuild: "Build it again in full",
  backfill: "Read a past interval again",
};

// Of a pipeline, or of `target` alone: those that are allowed.
export function buttons(allowed, pipeline, target = null) {
  let fitting = TABLE;
  if (target) fitting = target.kind === "table" ? TABLE : MART;
  const actions = availableActions(allowed).filter((action) => fitting.includes(action));
  if (!actions.length) return null;
  const said = h("p", { role: "status", class: "said" });
  return h("div", { class: "actions" },
    actions.map((action) => h("button", {
      type: "button", onclick: () => ask(action, pipeline, target, said),
    }, LABELS[action])), said);
}

function ask(action, pipeline, target, said) {
  const what = target ? target.target : `all of ${pipeline}`;
  const from = h("input", { type: "datetime-local", id: "from", required: true });
  const until = h("input", { type: "datetime-local", id: "until", required: true });
  const heading = h("h2", { id: "question" }, `${QUESTIONS[action]}: ${what}?`);
  const dialog = h("dialog", { "aria-labelledby": "question" });
  const form = h("form", { method: "dialog" }, heading,
    action === "backfill" && h("p", null,
      h("label", { for: "from" }, "From (UTC) "), from, " ",
      h("label", { for: "until" }, "until "), until),
    h("div", { class: "actions" },
      h("button", { value: "yes", class: "primary" }, LABELS[action]),
      h("button", { value: "", formnovalidate: true }, "Cancel")));
  append(dialog, [form]);
  document.body.append(dialog);
  dialog.addEventListener("close", async () => {
    dialog.remove();
    if (dialog.returnValue !== "yes") return;
    const request = { pipeline };
    if (target) request[target.kind === "table" ? "tables" : "transforms"] = [target.name];
    if (action === "backfill") {
      request.interval_start = `${from.value}:00Z`;
      request.interval_end = `${until.value}:00Z`;
    }
    said.replaceChildren("…");
    said.className = "said";
    try {
      const found = await run(action, request);
      said.replaceChildren();
      append(said, ["Started", found.run_id && `: ${found.run_id}`, found.message && `. ${found.message}`]);
    } catch (error) {
      said.className = "said bad";
      said.replaceChildren();
      append(said, [error.message]);
    }
  });
  dialog.showModal();
}
