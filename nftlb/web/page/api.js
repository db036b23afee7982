// Requests to the daemon. The token stays in the memory of this tab (sessionStorage) and is sent in a header only.

const KEY = "nftlb-token";

export function token() { return sessionStorage.getItem(KEY) || ""; }
export function setToken(text) {
  if (text) sessionStorage.setItem(KEY, text); else sessionStorage.removeItem(KEY);
}

/** A refusal of the daemon, or a failed connection (`status` 0). `problems` are texts, or objects with a place. */
export class Refusal extends Error {
  constructor(status, message, problems = []) {
    super(message);
    this.status = status;
    this.problems = problems;
  }
}

async function request(method, path, body) {
  const headers = {};
  if (method !== "GET" && token()) headers.Authorization = "Bearer " + token();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method, headers, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(method === "GET" ? 10000 : 60000),
    });
  } catch (error) {
    throw new Refusal(0, error.name === "TimeoutError" ? "the daemon did not answer in time" : "the daemon can't be reached");
  }
  if (answer.ok) return answer;
  let problem = {};
  try { problem = await answer.json(); } catch { /* a proxy answers without JSON */ }
  throw new Refusal(answer.status, problem.error || "HTTP status " + answer.status, placed(problem));
}

/** The problems of a refusal: with their places, if the daemon gives places. */
function placed({problems = [], faults = []}) { return problems.length && faults.length ? faults : problems; }

export function get(path) { return request("GET", path); }
export async function getJson(path) { return (await get(path)).json(); }
export async function getText(path) { return (await get(path)).text(); }

export function backendPath(pool, backend) {
  return "api/v1/pools/" + encodeURIComponent(pool) + "/backends" + (backend === undefined ? "" : "/" + encodeURIComponent(backend));
}

/** Send a change. Returns the document of the answer; null if the answer has none. */
export async function change(method, path, body) {
  const answer = await request(method, path, body), text = await answer.text();
  return text ? JSON.parse(text) : null;
}

/** The losses of service that a change would lead to, as sentences. */
export async function preview(method, path, body) {
  return (await change(method, path + "?preview=true", body)).consequences;
}
