// The REST calls of the console: its cookie says who, a header says that it was this page.

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? "That did not work.");
    this.status = status;
    this.problem = problem;
  }
}

const LOGIN = "/api/users/login";
let onSignedOut = () => {};
export const whenSignedOut = (handler) => (onSignedOut = handler);

async function send(method, path, body, options = {}) {
  const headers = { "X-Requested-With": "opsagent", ...options.headers };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const content = body === undefined ? undefined : JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, { method, headers, body: content, signal: options.signal, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { detail: "The server can't be reached. Trying again…" });
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401 && !path.startsWith("/console/") && path !== LOGIN) onSignedOut();
  throw new Refused(response.status, problem);
}

async function json(method, path, body, options) {
  const response = await send(method, path, body, options);
  return response.status === 204 ? null : response.json();
}

export const get = (path) => json("GET", path);
export const post = (path, body = {}) => json("POST", path, body);

// One call as somebody who enters their password for it; the token is kept nowhere.
export async function postAs(username, password, path, body) {
  const { access_token: token } = await post(LOGIN, { username, password });
  return json("POST", path, body, { headers: { Authorization: `Bearer ${token}` } });
}
export const remove = (path) => json("DELETE", path);

// Sends a message and tells `hear` of each event of its turn until the turn ends or waits.
export async function execute(sessionId, message, hear, signal) {
  const headers = { Accept: "text/event-stream", "Idempotency-Key": newKey() };
  const response = await send("POST", `/api/sessions/${sessionId}/execute`, { message }, { headers, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const data = frame.split("\n").find((line) => line.startsWith("data: "));
      if (!data) continue;
      const event = JSON.parse(data.slice(6));
      hear(event);
      if (event.type === "turn.waiting") return void reader.cancel();
    }
  }
}

// crypto.randomUUID exists only on secure origins; the console may be served over plain http.
function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
