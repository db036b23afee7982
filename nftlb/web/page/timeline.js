// The time line: the events that the daemon keeps, and those that arrive while the page is open.

import {$, arrange, clockTime, dayOf, make, makeTime, milliseconds, say} from "./dom.js";
import {getJson} from "./api.js";

/** All kinds of events, each with its group, its sign and its words. */
export const KINDS = {
  backend_up: ["health", "✓", "backend up"],
  backend_down: ["health", "✕", "backend down"],
  backend_changed: ["operated", "‖", "backend changed"],
  collector_up: ["health", "✓", "collector up"],
  collector_down: ["health", "✕", "collector down"],
  quorum_up: ["health", "✓", "pool ready"],
  quorum_down: ["health", "✕", "pool not ready"],
  priority_changed: ["health", "!", "priority changed"],
  swap: ["kernel", "↻", "rules changed"],
  swap_failed: ["kernel", "✕", "change of rules failed"],
  reload: ["kernel", "✓", "file in use"],
  reload_failed: ["kernel", "✕", "file refused"],
  fault: ["fault", "✕", "fault"],
  fault_gone: ["fault", "✓", "fault is gone"],
  operated: ["operated", "•", "operator"],
};
const PAGE = 200, MOST = 2000;
const SOON = 60;  // milliseconds
const COLOURS = {"✕": "bad", "✓": "good", "‖": "warn", "!": "warn"};

const events = [], ids = new Set();  // the newest event first: ids increase, also over restarts and if the clock is set back
let failure = null, more = false, dirty = false, asked = 0;

/** Put an event in its place. An event that is there already stays. */
export function note(event) {
  if (ids.has(event.id)) return;
  const place = events.findIndex(one => one.id < event.id);
  events.splice(place < 0 ? events.length : place, 0, event);
  ids.add(event.id);
  if (events.length > MOST) forgetOldest();
  changed();
}

function forgetOldest() { ids.delete(events.pop().id); }

/** Read the last of the kept events. */
export async function readHistory() {
  const number = ++asked;
  try {
    const {events: found} = await getJson("api/v1/history?limit=" + PAGE);
    if (number !== asked) return;
    const oldest = found.at(-1);
    // Some events may be missing between those that the page has and these: only these are shown then.
    if (oldest && !ids.has(oldest.id)) while (events.length && events.at(-1).id < oldest.id) forgetOldest();
    found.forEach(note);
    more = found.length === PAGE;
    failure = null;
  } catch (error) {
    if (number === asked) failure = error;
  }
  changed();
}

async function readOlder() {
  if (failure) { readHistory(); return; }
  const last = events.at(-1);
  try {
    const {events: found} = await getJson(`api/v1/history?limit=${PAGE}&before=${last.id}`);
    if (last !== events.at(-1)) return;  // the end of the list is another by now
    found.forEach(note);
    more = found.length === PAGE && events.length < MOST;
  } catch (error) {
    failure = error;
  }
  changed();
}

/** Draw soon, once for all events that arrive together: after a lost connection, the daemon repeats up to a thousand. */
function changed() {
  if (!dirty) setTimeout(showTimeline, SOON);
  dirty = true;
}

function describeDetail([name, value]) {
  if (value === false || value === null) return "";
  const words = name.replaceAll("_", " ");
  if (typeof value === "number" && words.endsWith("seconds")) return words.replace(/ ?seconds$/, "").concat(" ", milliseconds(value)).trim();
  return words + " " + (typeof value === "string" ? value : JSON.stringify(value));
}

function describe(event) {
  const {who, from, what, backends, result, ...details} = event.details;
  const operated = [backends ? `${what} of ${backends}` : what, who && `by ${who}` + (from ? ` (${from})` : ""), result === "done" ? "" : result];
  const change = event.old || event.new ? `${event.old || "nothing"} → ${event.new || "nothing"}` : "";
  const reason = event.reason === result || event.reason === "done" ? "" : event.reason;
  return [change, ...operated, reason, ...Object.entries(details).map(describeDetail)].filter(Boolean).join(" · ");
}

const made = new WeakMap();
function itemOf(event) {
  let item = made.get(event);
  if (item) return item;
  const [, sign, words] = KINDS[event.kind] || ["", "•", event.kind.replaceAll("_", " ")];
  const where = [event.pool, event.backend].filter(Boolean).join("/");
  item = make("li", "event", makeTime(event.at, clockTime(event.at)), make("span", "chip " + (COLOURS[sign] || "plain"), sign + " " + words));
  if (where) item.append(make("strong", "", where));
  item.append(make("span", "what", describe(event)));
  made.set(event, item);
  return item;
}

const headings = new Map();
function headingOf(day) {
  if (!headings.has(day)) headings.set(day, make("li", "day", make("h3", "", day)));
  return headings.get(day);
}

/** Draw the list, if it is on the screen and something changed. */
export function showTimeline() {
  if (!dirty || $("view-timeline").hidden) return;
  dirty = false;
  const group = $("timeline-kind").value, words = $("timeline-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = event => (!group || (KINDS[event.kind] || [])[0] === group) && words.every(
    word => [event.pool + "/" + event.backend, event.kind, event.reason, describe(event)].join(" ").toLowerCase().includes(word));
  const found = events.filter(fits), items = [];
  let day = "";
  for (const event of found) {
    if (dayOf(event.at) !== day) items.push(headingOf(day = dayOf(event.at)));
    items.push(itemOf(event));
  }
  arrange($("events"), items);
  say($("timeline-note"), failure ? "The kept events can't be read: " + failure.message : found.length ? "" : "No events");
  say($("older"), failure ? "Try again" : "Show older events");
  $("older").hidden = !more && !failure;
}

export function startTimeline() {
  $("older").addEventListener("click", readOlder);
  for (const id of ["timeline-search", "timeline-kind"]) $(id).addEventListener("input", () => { dirty = true; showTimeline(); });
}
