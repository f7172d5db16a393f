// What the server knows. All addresses are relative: the page works below any path.

const part = encodeURIComponent;

async function get(path) {
  let answer;
  try {
    answer = await fetch(`api/${path}`, { credentials: "same-origin" });
  } catch {
    throw new Error("The server does not answer. Is `loadsheet ui`, or Airflow, still running?");
  }
  if (answer.status === 401) {
    throw new Error("You are not logged in any more: open the page again where you opened it.");
  }
  let found;
  try {
    found = await answer.json();
  } catch {
    throw new Error(`The server answered ${answer.status} without a document.`);
  }
  if (!answer.ok) {
    const reason = found.error ?? found.detail ?? answer.statusText;
    throw new Error(typeof reason === "string" ? reason : JSON.stringify(reason));
  }
  return found;
}

export const session = () => get("session");
export const overview = (asksSource) => get(`pipelines${asksSource ? "" : "?source=no"}`);
export const target = (pipeline, kind, name) =>
  get(`pipelines/${part(pipeline)}/targets/${kind}/${part(name)}`);
// Airflow's alone: who may only look has no buttons.
export const actions = (pipeline) => get(`pipelines/${part(pipeline)}/actions`);
export const runs = (pipeline) => get(`pipelines/${part(pipeline)}/runs`);
export const run = (pipeline, runId) => get(`pipelines/${part(pipeline)}/runs/${part(runId)}`);
