// What was known when the site was written, in place of what a server knows: the same questions as
// in the page's api.js.

const documents = JSON.parse(document.getElementById("documents").textContent);
const { session: recorded, overview: all } = documents;

const find = (pipeline) => all.pipelines.find((one) => one.name === pipeline);

export const session = async () => recorded;
export const overview = async () => all;

export async function target(pipeline, kind, name) {
  const { targets, lineage } = find(pipeline) ?? { targets: [] };
  const found = targets.find((one) => one.kind === kind && one.name === name);
  if (!found) throw new Error(`${pipeline} has no ${kind} ${name} on this site.`);
  const part = (numbers) => numbers && {
    tables: numbers.tables.map((place) => lineage.tables[place]),
    edges: numbers.edges.map((place) => lineage.edges[place]),
  };
  return { ...found, at: all.at, upstream: part(found.upstream), downstream: part(found.downstream) };
}

export const actions = async () => ({ actions: [] });

export async function runs() {
  throw new Error("This site has no runs.");
}

export async function run() {
  throw new Error("This site has no runs: `loadsheet ui` and Airflow show them.");
}

// The tables and marts of a pipeline, and what they are made of.
export const graph = (pipeline) => ({ upstream: find(pipeline)?.lineage });
