// What the page can start where it is part of Airflow: runs of a pipeline's DAG. Airflow's own API
// starts them, with the rights of the person who is logged in. Locally there is nothing to start.

const KNOWN = ["run", "full_refresh", "verify", "rebuild", "backfill"];
const AIRFLOW = "../api/v2"; // the page is one level below Airflow's address

export function availableActions(allowed) {
  return KNOWN.filter((action) => allowed.includes(action));
}

// Starts `action`: {pipeline, tables, transforms, interval_start, interval_end}. Resolves to the
// run's id and what there is to say about it; rejects with the reason why it has not begun.
export async function run(action, request) {
  const dag = `dags/${encodeURIComponent(request.pipeline)}`;
  const started = await call("POST", `${dag}/dagRuns`, {
    logical_date: null, conf: confOf(action, request),
  });
  // The run has begun, whatever becomes of this question.
  const { is_paused: isPaused } = await call("GET", dag).catch(() => ({}));
  const message = isPaused ? "The DAG is paused: the run begins once it is unpaused" : "";
  return { run_id: started.dag_run_id, message };
}

// The fields of the DAG's trigger form.
function confOf(action, request) {
  const { tables = [], transforms = [] } = request;
  const conf = tables.length ? { tables } : {};
  switch (action) {
    case "run":
      return conf;
    case "full_refresh":
      return { ...conf, full_refresh: true };
    case "verify":
      return { ...conf, verify: tables.length || transforms.length ? [...tables, ...transforms] : ["*"] };
    case "rebuild":
      return { transforms };
    case "backfill":
      return {
        ...conf, interval_start: request.interval_start, interval_end: request.interval_end,
      };
    default:
      throw new Error(`There is no action ${action}.`);
  }
}

async function call(method, path, body) {
  const answer = await fetch(`${AIRFLOW}/${path}`, {
    method,
    credentials: "same-origin",
    headers: { "Content-Type": "application/json" },
    body: body && JSON.stringify(body),
  });
  const found = await answer.json().catch(() => ({}));
  if (answer.ok) return found;
  if (answer.status === 401) throw new Error("You are not logged in any more: nothing was started.");
  if (answer.status === 403) throw new Error("Airflow does not allow you to start a run of this DAG.");
  const reason = found.detail ?? `Airflow answered ${answer.status}`;
  throw new Error(typeof reason === "string" ? reason : JSON.stringify(reason));
}
