// The details of a pool or backend in a dialog: large charts, facts, checks, and what an operator can do.

import {$, ago, chip, count, figure, make, makeButton, milliseconds, percent, plural, say, sayItems} from "./dom.js";
import {Chart} from "./charts.js";
import {labelsOf} from "./labels.js";
import {ADMINS, addBackend, removeBackend, setAdmin, setNumber} from "./operate.js";
import {measuredShares, meterOf} from "./rates.js";
import {addressOf, poolFacts, poolState, reasonOf, shareText, sinceOf, stateOf} from "./states.js";

const MOST_LINES = 12;
let view = null;

class Details {
  constructor(pool, backend) {
    this.pool = pool;
    this.backend = backend;
    this.title = make("h2");
    this.title.id = "details-title";
    this.state = make("span");
    this.facts = make("dl");
    this.checks = make("ul", "checks");
    this.buttons = make("div", "buttons");
    this.charts = [];
    this.place = make("div");
    const close = makeButton("Close", () => $("details").close());
    this.element = make("div", "panel", make("div", "bar", this.title, this.state, make("span", "push"), close), this.buttons);
    say(this.title, backend === undefined ? pool : pool + "/" + backend);
  }

  start() {
    if (this.backend === undefined) this.startPool();
    else this.startBackend();
    this.element.append(this.place, this.facts, this.checks);
  }

  startPool() {
    this.ofAll = ADMINS.map(([admin, text]) => makeButton(
      text + (admin === "maintenance" ? " of all" : " all"), () => setAdmin(this.every, admin)));
    this.buttons.append(makeButton("Add a backend", () => addBackend(this.pool)), ...this.ofAll);
  }

  startBackend() {
    const {pool, backend: name} = this, key = pool + "/" + name;
    this.admin = ADMINS.map(([admin, text]) => Object.assign(makeButton(text, () => setAdmin([key], admin)), {admin}));
    this.numbers = {};
    const forms = [["weight", 0, 256], ["priority", 0, 255]].map(([what, min, max]) => {
      const input = this.numbers[what] = make("input");
      Object.assign(input, {type: "number", min, max, required: true});
      const form = make("form", "field", make("label", "", what === "weight" ? "Weight " : "Priority ", input), make("button", "", "Set"));
      form.lastChild.setAttribute("aria-label", "Set the " + what);
      form.addEventListener("submit", async event => {
        event.preventDefault();
        if (!await setNumber(key, what, Number(input.value))) return;
        input.defaultValue = input.value;
        form.reset();
      });
      return form;
    });
    this.buttons.append(...this.admin, ...forms, makeButton("Remove", async () => { if (await removeBackend(pool, name)) $("details").close(); }, "danger"));
  }

  /** Make the charts, with a line for each of these backends. They stay if they have these lines. */
  makeCharts(names) {
    if (this.charts.length && String(names) === String(this.charts[0].names)) return;
    this.end();
    const ofEach = this.backend === undefined ? " of each backend" : "";
    this.charts = [new Chart("Packets per second" + ofEach, names, "packets/s"), new Chart("Response time of checks, ms", names, "ms")];
    this.place.replaceChildren(...this.charts.map(chart => chart.element));
  }

  showCharts(names) {
    this.makeCharts(names);
    const meters = names.map(name => meterOf(this.pool + "/" + name));
    const times = meters.map(meter => meter.times).reduce((most, own) => own.length > most.length ? own : most, []);
    const fit = list => times.map((_, place) => list[list.length - times.length + place] ?? null);  // a new backend has fewer points
    this.charts[0].show(times, meters.map(meter => fit(meter.packets)));
    this.charts[1].show(times, meters.map(meter => fit(meter.response)));
  }

  /** Show new values. Returns whether the pool and the backend still exist. */
  show(pool) {
    const backend = this.backend === undefined ? null : pool.backends.find(one => one.name === this.backend);
    if (backend === undefined) return false;
    this.every = pool.backends.map(one => pool.name + "/" + one.name);
    chip(this.state, backend ? stateOf(backend) : poolState(pool));
    for (const button of this.ofAll || []) button.disabled = !this.every.length;  // DNS may have no address for a name
    for (const button of this.admin || []) button.setAttribute("aria-pressed", button.admin === backend.admin);
    for (const [what, input] of Object.entries(this.numbers || {})) input.defaultValue = backend[what];  // what the user types stays
    this.showFacts(backend ? this.backendFacts(pool, backend) : this.poolFacts(pool));
    sayItems(this.checks, (backend ? backend.checks : []).map(checkText));
    this.showCharts(backend ? [backend.name] : pool.backends.slice(0, MOST_LINES).map(one => one.name));
    return true;
  }

  showFacts(facts) {
    while (this.facts.children.length < 2 * facts.length) this.facts.append(make("dt"), make("dd"));
    while (this.facts.children.length > 2 * facts.length) this.facts.lastChild.remove();
    facts.forEach(([name, value], place) => {
      say(this.facts.children[2 * place], name);
      say(this.facts.children[2 * place + 1], value);
    });
  }

  poolFacts(pool) {
    const {rate} = meterOf(pool.name);
    return [
      ["Listens on", pool.listen.join(", ")],
      ["Backends", poolFacts(pool)],
      ["Forwarding", [pool.forward, pool.balance, "per " + pool.per].join(", ")],
      ...labelFacts(pool),
      ["Traffic", `${figure(rate.packets)} packets/s, ${figure(rate.bits)} bit/s, ${count(pool.packets)} packets in all`],
      ["In this state for", ago(pool.since)],
      ...(pool.guard ? [["Dropped by the guard", `${count(pool.guard.rate)} above the rate, ${count(pool.guard.banned)} banned, ${count(pool.guard.denied)} denied, ${count(pool.guard.full)} without room`]] : []),
      ...pool.collectors.map(one => ["Collector " + one.name, `${one.up ? "up" : "down"}, ${addressOf(one)}, ${count(one.packets)} copies`]),
      ...(pool.names || []).flatMap(nameFacts),
    ];
  }

  backendFacts(pool, backend) {
    const {rate} = meterOf(pool.name + "/" + backend.name);
    return [
      ["Address", addressOf(backend)],
      ...labelFacts(backend),
      ["Reason", reasonOf(backend)],
      ["In this state for", ago(sinceOf(backend))],
      ["Share now / wanted", shareText(measuredShares(pool)[pool.backends.indexOf(backend)], backend.share)],
      ["Traffic", `${figure(rate.packets)} packets/s, ${figure(rate.bits)} bit/s, ${count(backend.packets)} packets in all`],
      ...backend.copies === null ? [] : [["Copies of templates", count(backend.copies) + " besides these packets"]],
      ["Answered", backend.answered === null ? "not known" : percent(backend.answered)],
      ["Set by the operator", backend.admin + (backend.agent ? ", by the agent: " + backend.agent : "")],
      ["From", backend.added ? "added at run time" : "the file"],
    ];
  }

  end() { for (const chart of this.charts) chart.end(); }
}

function checkText({passed, kind, reason, seconds}) {
  return `${passed === false ? "✕" : "✓"} ${kind}: ${reason || "not run yet"}` + (seconds === null ? "" : ` (${milliseconds(seconds)})`);
}

/** A name of DNS: its addresses that can't be backends, and what the operator set of addresses that it does not have now. */
function nameFacts({name, lookup, trouble, backends, left_out: leftOut, kept}) {
  const absent = Object.entries(kept || {}).map(([backend, wish]) => [`${backend} is absent`, "the operator had set: " + wish]);
  const more = absent.length - MOST_LINES;
  return [
    ["Name " + name, `${lookup}: ${trouble || plural(backends.length, "address", "addresses")}`],
    ...leftOut.slice(0, MOST_LINES).map(why => ["Left out", why]),
    ...leftOut.length > MOST_LINES ? [["Left out too", count(leftOut.length - MOST_LINES) + " more"]] : [],
    ...absent.slice(0, MOST_LINES),
    ...more > 0 ? [["Absent too", plural(more, "address", "addresses") + " that the operator had changed"]] : [],
  ];
}

function labelFacts(one) {
  const labels = labelsOf(one);
  return labels.length ? [["Labels", labels.join(", ")]] : [];
}

/** Open the details of a pool, or of a backend of the pool. */
export function openDetails(status, pool, backend) {
  const shown = status.pools.find(one => one.name === pool);
  if (!shown || (backend !== undefined && !shown.backends.some(one => one.name === backend))) return;
  const dialog = $("details");
  if (view) view.end();
  view = new Details(pool, backend);
  view.start();
  dialog.replaceChildren(view.element);
  if (!dialog.open) dialog.showModal();
  view.show(shown);
}

/** Show new values in the open details. */
export function showDetails(status) {
  if (!view) return;
  const pool = status.pools.find(one => one.name === view.pool);
  if (!pool || !view.show(pool)) $("details").close();
}

export function startDetails() {
  $("details").addEventListener("close", () => {
    if (view) view.end();
    view = null;
  });
}
