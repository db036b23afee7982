// The wiring of the page: reads the status in intervals and after each event, and shows the chosen view.

import {$, announce, ago, chip, count, figure, plural, say, setClock} from "./dom.js";
import {getDated, getJson} from "./api.js";
import {showConfiguration, startConfiguration} from "./configuration.js";
import {openDetails, showDetails, startDetails} from "./details.js";
import {offerListeners, startExplain} from "./explain.js";
import {startNotices} from "./notices.js";
import {startOperating} from "./operate.js";
import {showPools, showTrouble, startPools} from "./pools.js";
import {forget, keep, measure, meterOf} from "./rates.js";
import {startSelection} from "./selection.js";
import {overallState, responseTime, servingIn} from "./states.js";
import {KINDS, note, readHistory, showTimeline, startTimeline} from "./timeline.js";
import {showTroubles} from "./troubles.js";

const POLL = 2000, STALE = 8000;  // milliseconds
const SOON = 30;                  // several events at once cause one request
const MOST_POOLS = 8;             // more pools than this at once: the whole status is read
const VIEWS = ["pools", "timeline", "configuration", "explain", "notices"];

let status = null, received = 0, size = 1, failure = "", timer = 0, asking = false, again = false, view = "pools";
let asked = 0;            // when the last request for the status began
let shownFrom = 0;        // when the request for the shown status began
const alone = new Map();  // pool that was read alone since -> when this request began

// --- reading ---------------------------------------------------------------------------------------------------------

// Answers can overtake each other. An answer contains all changes before its request, and each event causes a new
// request: of two answers about a pool, the one whose request began later is shown.

async function readStatus() {
  if (asking) { again = true; return; }
  asking = true;
  clearTimeout(timer);
  const began = asked = performance.now();
  try {
    const {found: next, date} = await getDated("api/v1/status");
    setClock(date);
    if (status && status.started !== next.started) forget();
    const older = new Map((status ? status.pools : []).map(pool => [pool.name, pool]));
    next.pools = next.pools.map(pool => alone.get(pool.name) > began && older.get(pool.name) || pool);
    for (const [pool, when] of alone) if (when <= began) alone.delete(pool);
    status = next;
    shownFrom = began;
    size = Math.ceil((1 + status.pools.reduce((sum, pool) => sum + pool.backends.length, 0)) / 1000);  // 4 MB for 10,000
    received = performance.now();
    failure = "";
    measureAll();
    draw();
    if (!performance.getEntriesByName("nftlb-shown").length) performance.mark("nftlb-shown");  // the browser keeps all marks
  } catch (error) {
    failure = error.message;
    if (!("status" in error)) throw error;
  } finally {
    asking = false;
    showLink();
    timer = setTimeout(readStatus, again ? 100 * size : POLL * size);
    again = false;
  }
}

const waiting = new Set();
let reading = false;
function readSoon(pool) {
  if (!waiting.size && !reading) setTimeout(readWaiting, SOON);
  waiting.add(pool);
}

async function readWaiting() {
  const names = [...waiting], began = performance.now();
  waiting.clear();
  if (!status || names.includes("") || names.length > MOST_POOLS) { readStatus(); return; }
  reading = true;
  try {
    const found = await Promise.all(names.map(name => getJson("api/v1/pools/" + encodeURIComponent(name))));
    if (began > shownFrom) showAlone(new Map(found.map(pool => [pool.name, pool])), began);
  } catch {
    readStatus();  // for example, the pool is not in the file any more
  } finally {
    reading = false;
    if (waiting.size) setTimeout(readWaiting, SOON);  // events came while the daemon answered
  }
}

function showAlone(found, began) {
  for (const name of found.keys()) alone.set(name, began);
  status = {...status, pools: status.pools.map(pool => found.get(pool.name) || pool)};
  status.ready = status.ready && [...found.values()].every(pool => pool.ready) || status.pools.every(pool => pool.ready);
  draw();
}

function measureAll() {
  const keys = new Set([""]), sum = {packets: 0, bytes: 0};
  for (const pool of status.pools) {
    keys.add(pool.name);
    measure(pool.name, received, pool);
    sum.packets += pool.packets;
    sum.bytes += pool.bytes;
    for (const backend of pool.backends) {
      const key = pool.name + "/" + backend.name;
      keys.add(key);
      measure(key, received, backend, responseTime(backend));
    }
  }
  measure("", received, sum);
  keep(keys);
}

let lost = false;  // whether events may have been missed
function listen() {
  const source = new EventSource("api/v1/events");
  for (const kind of Object.keys(KINDS)) source.addEventListener(kind, message => {
    const event = JSON.parse(message.data);
    note(event);
    if (event.kind !== "swap") readSoon(event.pool);  // the events that caused the swap came before
    if (event.kind === "backend_down" || event.kind === "quorum_down") announce(`${[event.pool, event.backend].filter(Boolean).join("/")} ${KINDS[event.kind][2]}: ${event.reason}`);
  });
  source.addEventListener("open", () => {
    readHistory();  // also the first time: an event can come after the first answer and before the stream
    if (lost) readStatus();
    lost = false;
  });
  // The browser does not try again if the response is not a stream: too many listeners, or a refusal by a proxy.
  source.addEventListener("error", () => {
    lost = true;
    if (source.readyState !== EventSource.CLOSED) return;
    readHistory();  // without a stream, the time line follows the events by this
    setTimeout(listen, 10000);
  });
}

// --- showing ---------------------------------------------------------------------------------------------------------

function draw() {
  const sum = each => status.pools.reduce((total, pool) => total + each(pool), 0), good = sum(servingIn), all = sum(pool => pool.backends.length);
  const overall = overallState(status), host = status.host || location.hostname, {rate} = meterOf("");
  say($("host"), host);
  say($("version"), `nftlb ${status.version}, up for ${ago(status.started)}`);
  chip($("ready"), overall);
  say($("backends"), `${count(good)} of ${plural(all, "backend")} in service`);
  say($("traffic"), `${figure(rate.packets)} packets/s · ${figure(rate.bits)} bit/s`);
  document.title = `${overall.sign} ${overall.word} – ${host} – nftlb`;
  showTroubles(status);
  if (!$("view-pools").hidden) showPools(status);
  showConfiguration(status);
  showDetails(status);
  offerListeners(status);
}

function showLink() {
  if (!received && !failure) return;
  const silent = received ? performance.now() - received : 0;
  // Without a failure, only a request that is under way counts: a browser slows the timers of a hidden page down.
  const bad = !received || (failure ? silent > 2 * POLL * size : asking && performance.now() - asked > STALE * size);
  if (bad) document.title = "✕ no answer – " + $("host").textContent + " – nftlb";
  const since = received ? " for " + Math.round(silent / 1000) + " s" : "", why = failure && ": " + failure;
  chip($("link"), bad ? {kind: "bad", sign: "✕", word: "no answer" + since + why} : {kind: "good", sign: "✓", word: "live"});
}

function showView() {
  view = VIEWS.find(name => location.hash === "#" + name) || view;  // #content is the link that skips the head
  for (const name of VIEWS) $("view-" + name).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === "#" + view) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  showTimeline();
  if (status) draw();
}

startPools((pool, backend) => openDetails(status, pool, backend));
startSelection();
startDetails();
startTimeline();
startConfiguration();
startExplain();
startOperating(readSoon);
$("trouble-more").addEventListener("click", () => { location.hash = "#pools"; showTrouble(); });
addEventListener("hashchange", showView);
document.addEventListener("keydown", event => {
  if (event.key !== "/" || event.target.closest("input, select, dialog")) return;
  event.preventDefault();
  location.hash = "#pools";
  showView();
  $("search").focus();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) readStatus(); });
setInterval(showLink, 1000);
showView();
try {
  await readStatus();  // first, because the daemon answers one request after the other
} finally {
  listen();
  readHistory();
  startNotices();
}
