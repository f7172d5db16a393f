// What a run has committed, in its order.
import { facts, h, notice, scrolling, section, table } from "./dom.js";
import { bytes, duration, number, pipelineUrl, targetUrl, time } from "./format.js";
import { rowColumns } from "./target.js";

export function runPage(one, options) {
  const steps = [...one.loads, ...one.builds].sort((a, b) => (a.at < b.at ? -1 : 1));
  const page = [
    h("h1", null, one.run_id),
    one.unknown && notice("bad", `The warehouse could not be asked: ${one.unknown}`),
    one.failures.map((failure) => failed(one, failure)),
  ];
  if (!steps.length) {
    const what = one.failures.length ? "It has committed nothing."
      : "The ledger knows no load or build of this run: it found nothing new, or did not begin.";
    return [...page, inAirflow(one, options), notice("", what)];
  }
  const total = (key) => steps.reduce((sum, step) => sum + (step[key] ?? 0), 0);
  return [
    ...page,
    facts([
      ["Pipeline", h("a", { href: pipelineUrl(one.pipeline) }, one.pipeline)],
      ["First commit", time(steps[0].at)],
      ["Last commit", time(steps[steps.length - 1].at)],
      ["Inserted, updated, deleted",
        ["inserted", "updated", "deleted"].map((key) => number(total(key))).join(", ")],
      ["Bytes through the lake", bytes(total("bytes"))],
      ["In Airflow", inAirflow(one, options)],
    ]),
    one.loads.length > 0 && section("Loads", stepTable(one, one.loads, true)),
    one.builds.length > 0 && section("Builds", stepTable(one, one.builds, false)),
  ];
}

function inAirflow(one, { session }) {
  if (!session.airflow_base) return null;
  const base = session.airflow_base.replace(/\/$/, "");
  const href = `${base}/dags/${encodeURIComponent(one.pipeline)}/runs/${encodeURIComponent(one.run_id)}`;
  return h("a", { href, target: "_top" }, "the run's grid and logs");
}

function failed(one, failure) {
  const worked = failure.worked_at ? `; it worked again at ${time(failure.worked_at)}` : "";
  return h("div", { class: "notice bad" },
    h("p", null, `${failure.step} of `,
      h("a", { href: targetUrl(one.pipeline, failure.kind, failure.name) }, failure.name),
      ` failed at ${time(failure.at)}${worked}:`),
    h("pre", null, failure.message));
}

function stepTable(one, steps, areLoads) {
  const longest = Math.max(...steps.map((step) => step.seconds), 0.001);
  const columns = [
    { head: areLoads ? "Table" : "Mart", row: true, cell: (step) =>
      h("a", { href: targetUrl(one.pipeline, step.kind, step.name) }, step.name) },
    { head: "Committed", cell: (step) => time(step.at) },
    { head: "How", cell: (step) => h("span", { class: "word" }, step.how) },
    ...rowColumns(areLoads),
    { head: "Share", cell: (step) => h("span", {
      class: "meter", "aria-hidden": "true", title: duration(step.seconds),
      style: { width: `${Math.max((step.seconds / longest) * 100, 1)}%` },
    }) },
  ];
  if (areLoads) columns.push({ head: "Held back by", cell: (step) => step.held_by });
  const what = areLoads ? "Loads" : "Builds";
  return scrolling(what, table(`${what} of this run, in the order of their commits`, columns, steps));
}
