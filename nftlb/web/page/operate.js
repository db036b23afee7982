// Changes of operators: the token, the question before a change that loses traffic, and the answer of the daemon.

import {$, announce, arrange, count, figure, make, makeButton, plural, whileDisabled} from "./dom.js";
import {backendPath, change, preview, setToken, token} from "./api.js";
import {readLabels} from "./labels.js";
import {meterOf} from "./rates.js";

const MOST_LINES = 20;  // in a question

let changed = () => {};

/** `done(pool)` is called after a change. */
export function startOperating(done) {
  changed = done;
  $("token").addEventListener("click", () => { if (token()) forgetToken(); else enterToken(); });
  showToken();
}

function showToken() {
  $("token").textContent = token() ? "Forget token" : "Enter token";
  $("token").title = token() ? "Changes are allowed in this tab" : "Without a token, this page only reads";
}

/**
 * Ask a question in a dialog. `fields` are elements; `act()` may refuse by an exception; `failure` is a refusal that
 * came before. Returns whether it was done before the user closed the dialog; `late` gets a refusal that comes afterwards.
 */
function ask({title, lines = [], fields = [], button, danger = false, failure = null, act, late}) {
  const shown = lines.length > MOST_LINES ? [...lines.slice(0, MOST_LINES), count(lines.length - MOST_LINES) + " more"] : lines;
  const send = make("button", danger ? "danger" : "main", button), cancel = makeButton("Cancel", closeQuestion), place = make("div", "failure");
  const form = make("form", "question", ...(shown.length ? [make("ul", "consequences", ...shown.map(line => make("li", "", line)))] : []), ...fields, place, make("div", "buttons", send, cancel));
  const refuse = error => arrange(place, [showRefusal(error)]), isOpen = () => form.isConnected && $("question").open;
  place.setAttribute("role", "alert");
  send.type = "submit";
  let done = false;
  form.addEventListener("submit", async event => {
    event.preventDefault();
    place.replaceChildren();
    try {
      await whileDisabled(send, act);
      done = true;
      if (isOpen()) closeQuestion();
    } catch (error) {
      if (isOpen()) refuse(error); else late(error);
    }
  });
  if (failure) refuse(failure);
  return openQuestion(title, form, fields.length ? form.querySelector("input") : cancel).then(() => done);
}

/** Tell the user what the daemon refused. */
function tell(title, error) {
  const close = makeButton("Close", closeQuestion, "main");
  return openQuestion(title, make("div", "question", showRefusal(error), make("div", "buttons", close)), close);
}

function closeQuestion() { $("question").close(); }

let closed = Promise.resolve();

/**
 * Show an element in the dialog, with the focus on a part of the element, as soon as the dialog before is closed.
 * Resolves when the dialog is closed.
 */
function openQuestion(title, element, focused) {
  const dialog = $("question"), heading = make("h2", "", title);
  heading.id = "question-title";
  element.prepend(heading);
  closed = closed.then(() => new Promise(resolve => {
    dialog.addEventListener("close", resolve, {once: true});
    dialog.replaceChildren(element);
    dialog.showModal();
    focused.focus();
  }));
  return closed;
}

const underWay = new Set();

/** Do `act`, or nothing if the same is under way: a double click is one change. Returns what `act` returns, or false. */
async function once(what, act) {
  if (underWay.has(what)) return false;
  underWay.add(what);
  try { return await act(); } finally { underWay.delete(what); }
}

/** A refusal of the daemon as elements: its reason, and each problem with its line. */
export function showRefusal(error) {
  const list = make("ul");
  for (const problem of error.problems || []) list.append(make("li", "", ...problemParts(problem)));
  return make("div", "note bad", make("strong", "", error.message), ...(list.children.length ? [list] : []));
}

/** A problem of a file as texts and elements: the place stands out. */
export function problemParts(problem) {
  if (typeof problem !== "string") {
    const place = problem.line ? "line " + problem.line + (problem.column ? ", column " + problem.column : "") : "";
    return [...(place ? [make("code", "place", place)] : []), " " + [problem.path, problem.message].filter(Boolean).join(": ")];
  }
  const [, , line, column, text] = problem.match(/^(.*?):(\d+):(\d+): (.*)$/s) || [];
  return line ? [make("code", "place", `line ${line}, column ${column}`), " " + text] : [problem];
}

function forgetToken() { setToken(""); showToken(); }

function makeField(label, value = "", {type = "text", ...attributes} = {}) {
  const input = make("input");
  Object.assign(input, {type, value, autocomplete: "off", ...attributes});
  return Object.assign(make("label", "field", make("span", "", label), input), {input});
}

// --- the token -------------------------------------------------------------------------------------------------------

const NEEDS_TOKEN = [401, 429];  // the daemon wants another token, or no more tokens for some seconds

/** The user gave no token. */
class Cancelled extends Error {}

/**
 * Send a request for a change. Only if the daemon wants a token, the user is asked for the token: a daemon that
 * refuses all changes says so at once. Returns the answer. Raises Refusal and Cancelled.
 */
async function withToken(send) {
  const used = token();
  let failure = null;
  try {
    return await send();
  } catch (error) {
    if (error.status !== 401) throw error;
    if (token() !== used) return withToken(send);  // the user has entered a token meanwhile
    if (used) failure = error;
    forgetToken();
  }
  const field = makeField("Token", "", {type: "password", required: true});
  let answer;
  const act = async () => {
    setToken(field.input.value.trim());
    try {
      answer = {result: await send()};
    } catch (refusal) {
      if (NEEDS_TOKEN.includes(refusal.status)) { forgetToken(); throw refusal; }
      answer = {refusal};
    }
    showToken();
  };
  const done = await ask({
    title: "Enter a token to make changes",
    lines: ["The token is a line of the file that token_file names. The token stays in this tab until you close the tab."],
    fields: [field], button: "Use this token", failure, act, late: () => {},
  });
  if (!done) throw new Cancelled();
  if (answer.refusal) throw answer.refusal;
  return answer.result;
}

/** Ask the daemon whether this tab may make changes: what it refuses, it refuses for a preview of any change. */
async function admit() {
  try {
    await preview("DELETE", backendPath("-", "-"));
  } catch (error) {
    if (error.status !== 404) throw error;  // 404: admitted, and there is no such backend
  }
}

/** Find out whether this tab may make changes, and tell the user if not. */
async function admitted() {
  try { await withToken(admit); } catch (error) { await report("Changes are not possible", error); return false; }
  return true;
}

function enterToken() { return once("token", admitted); }

/** Tell the user why something was not done. A user who cancelled knows. */
async function report(title, error) { if (!(error instanceof Cancelled)) await tell(title, error); }

// --- changes ---------------------------------------------------------------------------------------------------------

const MOST_NAMES = 12;

/** The pools of these backends (POOL/BACKEND), each with its backends. */
function byPool(keys) {
  const pools = new Map();
  for (const key of keys) {
    const pool = key.slice(0, key.lastIndexOf("/"));
    pools.set(pool, [...(pools.get(pool) || []), key]);
  }
  return pools;
}

/** How many packets of each pool, and of these backends of the pool, a loss of service concerns. */
function traffic(keys) {
  return [...byPool(keys)].map(([pool, own]) => {
    const sum = own.reduce((total, key) => total + (meterOf(key).rate.packets || 0), 0), all = meterOf(pool).rate.packets;
    return `now the pool ${pool} gets ${figure(all)} packets/s, ${figure(all === null ? null : sum)} of them at ${listed(own)}`;
  });
}

function listed(keys) {
  const names = keys.slice(0, MOST_NAMES).join(", ");
  return keys.length > MOST_NAMES ? `${names} and ${count(keys.length - MOST_NAMES)} more` : names;
}

/**
 * Make a change of the backends `keys`. If traffic would be lost, or `always`, the user is asked before. Returns whether
 * the change was made.
 */
function carryOut(wanted) { return once(JSON.stringify([wanted.method, wanted.path, wanted.body]), () => carryOutOnce(wanted)); }

async function carryOutOnce({title, method, path, body, keys, button, always = false}) {
  const details = keys.length > 1 ? [listed(keys)] : [], refused = error => report(title + " failed", error);
  const act = async () => {
    await change(method, path, body);
    announce(title + ": done");
    for (const pool of byPool(keys).keys()) changed(pool);
  };
  try {
    const losses = await withToken(() => preview(method, path, body));
    if (!losses.length && !always) await act();
    else if (!await ask({
      title: title + "?", lines: [...details, ...losses, ...(losses.length ? traffic(keys) : [])],
      button: losses.length ? button + " anyway" : button, danger: true, act, late: refused,
    })) return false;
  } catch (error) {
    await refused(error);
    return false;
  }
  return true;
}

/** The admin states, each with the words of its button. */
export const ADMINS = [["enabled", "Enable"], ["drain", "Drain"], ["maintenance", "Maintenance"]];
const TITLES = {enabled: "Enable", drain: "Drain", maintenance: "Maintenance of"};

function setValues(title, button, keys, values) {
  return carryOut({title, method: "PATCH", path: "api/v1/backends", body: {backends: keys, ...values}, keys, button, always: keys.length > 1});
}

/** Set the admin state of the backends `keys`, in one change. */
export function setAdmin(keys, admin) {
  const what = keys.length === 1 ? keys[0] : plural(keys.length, "backend");
  return setValues(TITLES[admin] + " " + what, admin === "maintenance" ? "Begin maintenance" : TITLES[admin], keys, {admin});
}
export function setNumber(key, name, value) { return setValues(`Set the ${name} of ${key} to ${value}`, "Set", [key], {[name]: value}); }
export function removeBackend(pool, backend) {
  const key = pool + "/" + backend;
  return carryOut({title: "Remove " + key, method: "DELETE", path: backendPath(pool, backend), keys: [key], button: "Remove", always: true});
}

export function addBackend(pool) { return once("add to " + pool, () => askForBackend(pool)); }

async function askForBackend(pool) {
  if (!await admitted()) return false;
  const name = makeField("Name", "", {required: true}), address = makeField("Address", "", {required: true});
  const port = makeField("Port; empty: a packet keeps its port", "", {type: "number", min: 1, max: 65535});
  const weight = makeField("Weight", "1", {type: "number", min: 0, max: 256, required: true});
  const labels = makeField("Labels, such as site=fra rack=r12");
  const title = "Add a backend to " + pool, act = async () => {
    await change("POST", backendPath(pool), {
      name: name.input.value.trim(), address: address.input.value.trim(), weight: Number(weight.input.value),
      ...(port.input.value ? {port: Number(port.input.value)} : {}),
      ...(labels.input.value.trim() ? {labels: readLabels(labels.input.value)} : {}),
    });
    changed(pool);
  };
  return ask({title, fields: [name, address, port, weight, labels], button: "Add", act, late: error => report(title + " failed", error)});
}

/**
 * Have the daemon read its file again. If the file would take pools, listeners or backends away, or service would be
 * lost, the user is asked before. Returns null if the file is in use, or the user cancelled; else the refusal.
 */
export async function reload() {
  const path = "api/v1/reload", act = async () => {
    try { await change("POST", path); } finally { changed(""); }  // the daemon also records a refusal
    announce("The file is in use");
  };
  try {
    const losses = await withToken(() => preview("POST", path)).catch(error => {
      if (error.status !== 422) throw error;
      return [];  // the file has faults: the attempt to use it is refused, and the daemon records that
    });
    if (!losses.length) await act();
    else await ask({
      title: "Read the file again?", lines: losses, button: "Use the file anyway", danger: true, act,
      late: error => report("Read the file again failed", error),
    });
  } catch (error) {
    if (!(error instanceof Cancelled)) return error;
  }
  return null;
}
