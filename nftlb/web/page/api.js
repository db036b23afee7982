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

/** The words for a request without a whole answer. */
function lostAnswer(error) {
  if (error.name === "TimeoutError") return "the daemon did not answer in time";
  return error instanceof SyntaxError ? "the answer does not come from nftlb" : "the daemon can't be reached";
}

/** Send a request. Returns {text, date} of the answer. Raises Refusal. */
async function request(method, path, body) {
  const headers = {};
  if (method !== "GET" && token()) headers.Authorization = "Bearer " + token();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer, text;
  try {
    answer = await fetch(path, {
      method, headers, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(method === "GET" ? 10000 : 60000),
    });
    text = await answer.text();  // the connection can also end in the body
  } catch (error) {
    throw new Refusal(0, lostAnswer(error));
  }
  if (answer.ok) return {text, date: answer.headers.get("Date")};
  let problem = {};
  try { problem = JSON.parse(text) || {}; } catch { /* a proxy answers without JSON */ }
  throw new Refusal(answer.status, problem.error || "HTTP status " + answer.status, placed(problem));
}

/** Read the document of an answer. A proxy can answer a page of HTML with status 200, for example to ask for a password. */
function parse(text) {
  try { return JSON.parse(text); } catch (error) { throw new Refusal(0, lostAnswer(error)); }
}

/** The problems of a refusal: with their places, if the daemon gives places. */
function placed({problems = [], faults = []}) { return problems.length && faults.length ? faults : problems; }

/** Read a document. Returns it and the date of the answer: {found, date}. */
export async function getDated(path) {
  const {text, date} = await request("GET", path);
  return {found: parse(text), date};
}
export async function getJson(path) { return (await getDated(path)).found; }
export async function getText(path) { return (await request("GET", path)).text; }

export function backendPath(pool, backend) {
  return "api/v1/pools/" + encodeURIComponent(pool) + "/backends" + (backend === undefined ? "" : "/" + encodeURIComponent(backend));
}

/** Send a change. Returns the document of the answer; null if the answer has none. */
export async function change(method, path, body) {
  const {text} = await request(method, path, body);
  return text ? parse(text) : null;
}

/** The losses of service that a change would lead to, as sentences. */
export async function preview(method, path, body) {
  return (await change(method, path + "?preview=true", body)).consequences;
}
