// The last runs of a pipeline.
import { h, notice, scrolling, table } from "./dom.js";
import { bytes, number, runUrl, time } from "./format.js";

export function runs(about) {
  if (about.unknown) return notice("warn", `The runs are not known: ${about.unknown}`);
  if (!about.runs.length) return notice("", "No run has committed anything yet.");
  const count = (head, key) => ({ head, numeric: true, cell: (run) => number(run[key]) });
  const columns = [
    { head: "Run", row: true, cell: (run) =>
      h("a", { href: runUrl(about.pipeline, run.run_id) }, run.run_id) },
    { head: "First commit", cell: (run) => time(run.first_at) },
    { head: "Last commit", cell: (run) => time(run.last_at) },
    count("Tables", "tables"),
    count("Marts", "marts"),
    count("Inserted", "inserted"),
    count("Updated", "updated"),
    count("Deleted", "deleted"),
    { head: "Bytes", numeric: true, cell: (run) => bytes(run.bytes) },
    { head: "Failures", numeric: true, cell: (run) =>
      h("span", { class: run.failures && "bad" }, number(run.failures)) },
  ];
  return scrolling("Runs", table("The last runs that have committed something or failed",
    columns, about.runs));
}
