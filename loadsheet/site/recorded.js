// What was known when the site was written, in place of what a server knows: the same questions as
// in the page's api.js.

const documents = JSON.parse(document.getElementById("documents").textContent);
const { session: recorded, overview: all } = documents;

const targetsOf = (pipeline) => all.pipelines.find((one) => one.name === pipeline)?.targets ?? [];

export const session = async () => recorded;
export const overview = async () => all;

export async function target(pipeline, kind, name) {
  const found = targetsOf(pipeline).find((one) => one.kind === kind && one.name === name);
  if (!found) throw new Error(`${pipeline} has no ${kind} ${name} on this site.`);
  return { ...found, at: all.at };
}

export async function run() {
  throw new Error("This site has no runs: `loadsheet ui` and Airflow show them.");
}

// The tables and marts of a pipeline, and what they are made of.
export function graph(pipeline) {
  const lineages = targetsOf(pipeline).map((one) => one.upstream).filter(Boolean);
  return {
    upstream: {
      tables: lineages.flatMap((one) => one.tables),
      edges: lineages.flatMap((one) => one.edges),
    },
  };
}
