// The table of pools and backends: filter, groups, order, and rows that are changed in place.

import {$, ago, arrange, chip, count, dress, figure, hint, make, makeButton, makeCell, milliseconds, percent, plural, say} from "./dom.js";
import {Spark} from "./charts.js";
import {groupedBy, hasLabel, labelsOf, offerLabels} from "./labels.js";
import {measuredShares, meterOf} from "./rates.js";
import {keepBoxes, makeBox, select} from "./selection.js";
import {addressOf, poolFacts, poolState, reasonOf, responseTime, shareScale, shareText, sinceOf, stateOf} from "./states.js";

const MANY = 60;   // more backends than this: only pools with trouble are open at the start
const ROWS = 60;   // rows that are made at once, more than a screen has; more follow when the end of the table comes into view
// Each column: its class, its title, the order that a click on the title gives.
const COLUMNS = [
  ["state", "State", "trouble"], ["name", "Name", "name"], ["address", "Address"], ["packets", "Packets/s", "packets"], ["bits", "Bits/s"],
  ["share", "Share now / wanted"], ["answered", "Answered"], ["response", "Check time", "response"], ["since", "Since", "since"], ["reason", "Last result"],
];
const ORDERS = {
  trouble: (one, other) => one.rank - other.rank,
  name: (one, other) => one.name.localeCompare(other.name, "en", {numeric: true}),
  packets: (one, other) => (other.packets || 0) - (one.packets || 0),
  response: (one, other) => (other.response || 0) - (one.response || 0),
  since: (one, other) => Date.parse(other.since) - Date.parse(one.since),
  file: () => 0,
};
const GROUPS = [["down", "Down"], ["out", "Out of service"], ["standby", "Standby"], ["good", "In service"]];

const rows = new Map();    // key -> row; a row lives as long as its pool or backend
const chosen = new Map();  // pool -> whether the user opened or closed it
let limit = ROWS, openDetails = () => {}, status = null, scale = 1;

class Row {
  constructor(className) {
    this.element = make("tr", className);
    this.element.setAttribute("role", "row");
    this.cells = {};
    for (const [name, title] of COLUMNS) {
      const cell = makeCell("cell-" + name, name === "name" ? "th" : "td");
      cell.dataset.title = title;
      this.cells[name] = cell;
      this.element.append(cell);
    }
    this.state = make("span");
    this.cells.state.append(this.state);
    this.spark = new Spark();
    this.packets = make("span");
    this.cells.packets.append(this.spark.element, this.packets);
  }

  showTraffic(meter, counters) {
    say(this.packets, figure(meter.rate.packets));
    hint(this.cells.packets, count(counters.packets) + " packets in all");
    say(this.cells.bits, figure(meter.rate.bits));
    hint(this.cells.bits, count(counters.bytes) + " bytes in all");
    this.spark.show(meter.times, meter.packets);
  }

  showSince(when) {
    say(this.cells.since, ago(when));
    hint(this.cells.since, when);
  }

  end() { this.spark.end(); }
}

class BackendRow extends Row {
  constructor(pool, backend) {
    super("backend");
    this.button = makeButton("", () => openDetails(pool, backend), "link");
    this.added = make("span", "dim", "(added)");
    this.cells.name.append(make("span", "named", makeBox(pool + "/" + backend), this.button, this.added));
    // The bar is the measured share, and the mark is the share that the rules give. All bars have one scale.
    this.bar = make("span", "bar-now");
    this.mark = make("span", "bar-wanted");
    const bar = make("span", "share", this.bar, this.mark);
    bar.setAttribute("aria-hidden", "true");
    this.share = make("span", "figure");
    this.cells.share.append(bar, this.share);
  }

  show({pool, backend, state, now}, grouped) {
    const meter = meterOf(pool.name + "/" + backend.name);
    dress(this.element, "backend " + (state.name === "good" ? "" : state.name));
    chip(this.state, state);
    say(this.button, grouped ? backend.name : pool.name + "/" + backend.name);
    this.added.hidden = !backend.added;
    say(this.cells.address, addressOf(backend));
    this.showTraffic(meter, backend);
    this.bar.style.width = 100 * Math.min(1, (now || 0) / scale) + "%";
    this.mark.style.left = 100 * Math.min(1, backend.share / scale) + "%";
    say(this.share, shareText(now, backend.share));
    hint(this.cells.share, "weight " + backend.weight + "; the bars end at " + 100 * scale + " %");
    say(this.cells.answered, percent(backend.answered));
    hint(this.cells.answered, backend.replies === null ? "replies are not counted" : count(backend.replies) + " replies to " + count(backend.requests) + " packets in all");
    say(this.cells.response, milliseconds(responseTime(backend)));
    this.showSince(sinceOf(backend));
    say(this.cells.reason, reasonOf(backend));
  }
}

class PoolRow extends Row {
  constructor(pool) {
    super("pool");
    this.name = pool;
    this.toggle = makeButton("", () => { chosen.set(pool, this.toggle.getAttribute("aria-expanded") !== "true"); draw(); }, "toggle");
    this.button = makeButton(pool, () => openDetails(pool), "link");
    this.cells.name.append(make("span", "named", this.toggle, this.button));
  }

  show({pool}, open) {
    const state = poolState(pool);
    dress(this.element, "pool " + (state.name === "good" ? "" : state.name));
    chip(this.state, state);
    say(this.toggle, open ? "▾" : "▸");
    this.toggle.setAttribute("aria-expanded", open);
    this.toggle.setAttribute("aria-label", "Backends of " + pool.name);
    const listen = pool.listen.join(", ");
    say(this.cells.address, pool.listen.length > 2 ? pool.listen.slice(0, 2).join(", ") + " …" : listen);
    hint(this.cells.address, listen);
    this.showTraffic(meterOf(pool.name), pool);
    say(this.cells.share, poolFacts(pool));
    this.showSince(pool.since);
    say(this.cells.reason, pool.forward + " · " + pool.balance);
    hint(this.cells.reason, [pool.forward, pool.balance, "per " + pool.per].join(" · "));
  }
}

class GroupRow extends Row {
  constructor(title) {
    super("pool");
    this.title = make("strong");
    say(this.title, title);
    this.cells.name.append(this.title);
    this.element.classList.add("group");
  }

  show({members}) {
    const serving = members.filter(entry => entry.backend.in_rotation).length;
    say(this.cells.share, serving === members.length ? plural(serving, "backend") : count(serving) + " of " + plural(members.length, "backend") + " in service");
  }
}

function rowOf(key, make) {
  let row = rows.get(key);
  if (!row) rows.set(key, row = make());
  return row;
}

// --- what is shown ---------------------------------------------------------------------------------------------------

/** A backend as the table sorts and shows it. `now` is its measured share. */
function entryOf(pool, backend, now) {
  const state = stateOf(backend);
  return {
    pool, backend, now, state, name: backend.name, rank: state.rank, since: sinceOf(backend),
    packets: meterOf(pool.name + "/" + backend.name).rate.packets, response: responseTime(backend),
  };
}

function matcher() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean), kind = $("filter").value, label = $("label").value;
  const fits = entry => (!label || labelsOf(entry.backend).includes(label)) && (!kind || (kind === "trouble" ? entry.rank < 6 : entry.state.name === kind)) && (!words.length || hasWords(entry, words));
  return Object.assign(fits, {active: Boolean(kind || label || words.length), kind, label, words});
}

function hasWords({pool, backend}, words) {
  const own = labelsOf(backend || pool);
  const text = [pool.name, backend ? backend.name + " " + addressOf(backend) + " " + backend.reason : "", ...pool.listen, ...own].join(" ").toLowerCase();
  return words.every(word => word.indexOf("=") > 0 ? hasLabel(own, word) : text.includes(word));
}

/** The rows of the table in their order, as [key, function that makes the row, arguments of its show]; the backends that fit; their number without a filter; the highest share. */
function lines(fits) {
  const order = ORDERS[$("sort").value], group = $("group").value, found = [], keys = [];
  let all = 0, most = 0;
  const put = (entry, grouped) => found.push([`backend ${entry.pool.name}/${entry.backend.name}`, () => new BackendRow(entry.pool.name, entry.backend.name), entry, grouped]);
  const pools = status.pools.map(pool => {
    const shares = measuredShares(pool), every = pool.backends.map((backend, place) => entryOf(pool, backend, shares[place]));
    const backends = every.filter(fits);
    for (const {backend, now} of every) most = Math.max(most, backend.share, now);
    all += pool.backends.length;
    for (const {backend} of backends) keys.push(pool.name + "/" + backend.name);
    return {
      pool, backends, name: pool.name, rank: poolState(pool).rank, since: pool.since, packets: meterOf(pool.name).rate.packets,
      response: Math.max(0, ...backends.map(entry => entry.response || 0)),
    };
  });
  if (group === "pool") {
    const many = all > MANY && !fits.active;
    for (const entry of pools.sort(order)) {
      const {pool, backends} = entry, empty = !pool.ready && (!fits.kind || fits.kind === "trouble") && !fits.label && hasWords({pool}, fits.words);
      if (!backends.length && !(empty || (!fits.active && !pool.backends.length))) continue;
      const open = chosen.get(pool.name) ?? (!many || entry.rank < 7);
      found.push([`pool ${pool.name}`, () => new PoolRow(pool.name), entry, open]);
      if (open) for (const backend of backends.sort(order)) put(backend, true);
    }
  } else {
    const flat = pools.flatMap(entry => entry.backends).sort(order);
    if (!group) for (const entry of flat) put(entry, false);
    else for (const [key, title, members] of groups(flat, groupedBy(group))) {
      found.push(["group " + key, () => new GroupRow(title), {members}]);
      for (const entry of members) put(entry, false);
    }
  }
  return {found, keys, all, most};
}

/** The groups of these entries as [key, title, entries]: by the values of a label or, without its name, by state. */
function groups(entries, name) {
  const found = new Map(name ? [] : GROUPS.map(([state, title]) => [state, [state, title, []]]));
  for (const entry of entries) {
    const value = name && (entry.backend.labels || {})[name], key = name ? name + "=" + (value || "") : entry.state.name;
    if (!found.has(key)) found.set(key, [key, value ? key : "without " + name, []]);
    found.get(key)[2].push(entry);
  }
  const all = [...found.values()].filter(([, , members]) => members.length);
  const last = ([key]) => key.endsWith("=") ? 1 : 0;
  return name ? all.sort((one, other) => last(one) - last(other) || one[0].localeCompare(other[0], "en", {numeric: true})) : all;
}

function draw() {
  if (!status) return;
  const fits = matcher(), {found, keys, all, most} = lines(fits);
  scale = shareScale(most);
  const kept = found.slice(0, limit).map(([key, make, entry, more]) => {
    const row = rowOf(key, make);
    row.show(entry, more);
    return row.element;
  });
  arrange($("rows"), kept);
  say($("matches"), fits.active ? count(keys.length) + " of " + plural(all, "backend") : plural(status.pools.length, "pool") + ", " + plural(all, "backend"));
  $("select-all").hidden = !fits.active;
  $("more").hidden = found.length <= limit;
  say($("more"), "Show " + Math.min(ROWS, found.length - limit) + " more of " + count(found.length) + " rows");
  const open = [...$("rows").querySelectorAll("[aria-expanded=true]")].length > 0;
  $("fold").hidden = $("group").value !== "pool";
  say($("fold"), open ? "Close all" : "Open all");
  const sort = $("sort").value;
  for (const head of $("columns").children) {
    if (head.dataset.order === sort) head.setAttribute("aria-sort", sort === "name" || sort === "trouble" ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
}

/** Show a status. */
export function showPools(shown) {
  status = shown;
  const alive = new Set(GROUPS.map(([name]) => "group " + name));
  for (const label of offerLabels(status)) alive.add("group " + label).add("group " + label.slice(0, label.indexOf("=") + 1));
  for (const pool of status.pools) {
    alive.add("pool " + pool.name);
    for (const backend of pool.backends) alive.add(`backend ${pool.name}/${backend.name}`);
  }
  for (const [key, row] of rows) if (!alive.has(key)) { row.end(); rows.delete(key); }
  keepBoxes(key => alive.has("backend " + key));
  draw();
}

/** Show only trouble: what the panel of troubles has no room for. */
export function showTrouble() {
  $("filter").value = "trouble";
  draw();
}

/** Build the head of the table. `details(pool, backend)` opens the details of a pool or backend. */
export function startPools(details) {
  openDetails = details;
  for (const [name, title, order] of COLUMNS) {
    const head = make("th", "cell-" + name);
    head.scope = "col";
    head.setAttribute("role", "columnheader");
    if (order) {
      head.dataset.order = order;
      head.append(makeButton(title, () => { $("sort").value = order; draw(); }, "head"));
    } else head.append(title);
    $("columns").append(head);
  }
  for (const id of ["search", "filter", "label", "group", "sort"]) $(id).addEventListener("input", () => { limit = ROWS; draw(); });
  $("fold").addEventListener("click", () => {
    const open = $("fold").textContent === "Open all";
    for (const pool of status ? status.pools : []) chosen.set(pool.name, open);
    draw();
  });
  $("select-all").addEventListener("click", () => select(status ? lines(matcher()).keys : []));
  const more = () => { limit += ROWS; draw(); };
  $("more").addEventListener("click", more);
  new IntersectionObserver(entries => { if (entries.some(entry => entry.isIntersecting) && !$("more").hidden) more(); }, {rootMargin: "400px"}).observe($("more"));
}
