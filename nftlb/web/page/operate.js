// Changes of operators: the token, the question before a change that loses traffic, and the answer of the daemon.

import {$, announce, arrange, make, makeButton} from "./dom.js";
import {backendPath, change, preview, setToken, token} from "./api.js";

let changed = () => {};

/** `done(pool)` is called after a change. */
export function startOperating(done) {
  changed = done;
  $("token").addEventListener("click", () => { if (token()) { setToken(""); showToken(); } else askToken(); });
  showToken();
}

function showToken() {
  $("token").textContent = token() ? "Forget token" : "Enter token";
  $("token").title = token() ? "Changes are allowed in this tab" : "Without a token, this page only reads";
}

/** Ask a question in a dialog. `fields` are elements; `act()` may refuse by an exception. Returns whether it was done. */
function ask({title, lines = [], fields = [], button, danger = false, act = async () => {}}) {
  return new Promise(resolve => {
    const dialog = $("question"), form = make("form", "question"), failure = make("div", "failure");
    const heading = make("h2", "", title);
    heading.id = "question-title";
    failure.setAttribute("role", "alert");
    const list = make("ul", "consequences", ...lines.map(line => make("li", "", line)));
    const send = make("button", danger ? "danger" : "main", button), cancel = makeButton("Cancel", () => dialog.close());
    send.type = "submit";
    form.append(heading, ...(lines.length ? [list] : []), ...fields, failure, make("div", "buttons", send, cancel));
    let done = false;
    form.addEventListener("submit", async event => {
      event.preventDefault();
      send.disabled = true;
      failure.replaceChildren();
      try {
        await act();
        done = true;
        dialog.close();
      } catch (error) {
        failure.replaceChildren(showRefusal(error));
        if (error.status === 401) forgetToken();
      }
      send.disabled = false;
    });
    dialog.addEventListener("close", () => resolve(done), {once: true});
    arrange(dialog, [form]);
    if (!dialog.open) dialog.showModal();
    (fields.length ? form.querySelector("input") : cancel).focus();
  });
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

/** Ask for the token. Returns whether there is one. */
async function askToken() {
  const field = makeField("Token", "", {type: "password", required: true});
  return ask({
    title: "Enter a token to make changes",
    lines: ["The token is a line of the file that token_file names. The token stays in this tab until you close the tab."],
    fields: [field], button: "Use this token",
    act: async () => { setToken(field.input.value.trim()); showToken(); },
  });
}

/** Make a change. If traffic would be lost, or `always`, the user is asked before. Returns whether it was made. */
async function carryOut({title, method, path, body, pool, button, always = false}) {
  if (!token() && !await askToken()) return false;
  let lines;
  try {
    lines = await preview(method, path, body);
  } catch (error) {
    if (error.status === 401) forgetToken();
    await ask({title: title + " failed", fields: [showRefusal(error)], button: "Close"});
    return false;
  }
  const act = () => change(method, path, body);
  if (lines && (lines.length || always)) {
    if (!await ask({title: title + "?", lines, button: lines.length ? button + " anyway" : button, danger: true, act})) return false;
  } else if (lines) {
    try { await act(); } catch (error) {
      await ask({title: title + " failed", fields: [showRefusal(error)], button: "Close"});
      return false;
    }
  }
  announce(title + ": done");
  changed(pool);
  return true;
}

const VERBS = {drain: "Drain", enabled: "Enable", maintenance: "Maintenance of"};

export function setAdmin(pool, backend, admin) {
  return carryOut({title: `${VERBS[admin]} ${pool}/${backend}`, method: "PATCH", path: backendPath(pool, backend), body: {admin}, pool, button: admin === "enabled" ? "Enable" : admin === "drain" ? "Drain" : "Begin maintenance"});
}
export function setNumber(pool, backend, name, value) {
  return carryOut({title: `Set the ${name} of ${pool}/${backend} to ${value}`, method: "PATCH", path: backendPath(pool, backend), body: {[name]: value}, pool, button: "Set"});
}
export function removeBackend(pool, backend) {
  return carryOut({title: `Remove ${pool}/${backend}`, method: "DELETE", path: backendPath(pool, backend), pool, button: "Remove", always: true});
}

export async function addBackend(pool) {
  if (!token() && !await askToken()) return false;
  const name = makeField("Name", "", {required: true}), address = makeField("Address", "", {required: true});
  const port = makeField("Port; empty: a packet keeps its port", "", {type: "number", min: 1, max: 65535});
  const weight = makeField("Weight", "1", {type: "number", min: 0, max: 256});
  const done = await ask({
    title: "Add a backend to " + pool, fields: [name, address, port, weight], button: "Add",
    act: () => change("POST", backendPath(pool), {
      name: name.input.value.trim(), address: address.input.value.trim(), weight: Number(weight.input.value),
      ...(port.input.value ? {port: Number(port.input.value)} : {}),
    }),
  });
  if (done) changed(pool);
  return done;
}

/** Have the daemon read its file again. Returns null if the file is in use; else the refusal. */
export async function reload() {
  if (!token() && !await askToken()) return null;
  try {
    await change("POST", "api/v1/reload");
    announce("The file is in use");
    return null;
  } catch (error) {
    if (error.status === 401) forgetToken();
    return error;
  } finally {
    changed("");
  }
}
