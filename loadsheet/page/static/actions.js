// What the page can start, where it is part of Airflow. Locally there is nothing to start.

const KNOWN = ["run", "full_refresh", "verify", "rebuild", "backfill"];

export function availableActions(session) {
  return KNOWN.filter((action) => session.actions.includes(action));
}

// Starts `action`: {pipeline, tables, transforms, interval_start, interval_end}. Resolves to what
// the server says about it; rejects with the reason why it has not begun.
export async function run(action, request) {
  const answer = await fetch(`api/actions/${action}`, {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json", "X-Loadsheet": "page" },
    body: JSON.stringify(request),
  });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const reason = found.error ?? found.detail ?? `the server answered ${answer.status}`;
    throw new Error(typeof reason === "string" ? reason : JSON.stringify(reason));
  }
  return found;
}
