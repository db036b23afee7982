// What the states of backends and pools are called, and which of them are trouble. Pure functions.
//
// A state has a kind (the colour), a sign and a word: no state is shown by its colour alone.

import {count, plural} from "./dom.js";

const OUT = {drain: "drained", maintenance: "in maintenance"};

export function addressOf({address, port}) {
  if (port === null) return address;
  return address.includes(":") ? "[" + address + "]:" + port : address + ":" + port;
}

/** The state of a backend. `name` is one of down, out, standby, good. */
export function stateOf(backend) {
  const wanted = OUT[backend.admin] || (OUT[backend.agent] ? OUT[backend.agent] + " by its agent" : "");
  if (!backend.up) {
    const more = wanted ? ", " + wanted : backend.in_rotation ? ", in use" : "";
    return {name: wanted ? "out" : "down", kind: "bad", sign: "✕", word: "down" + more, rank: wanted ? 3 : 2};
  }
  if (wanted) return {name: "out", kind: "warn", sign: "‖", word: wanted, rank: 4};
  if (backend.standby) return {name: "standby", kind: "plain", sign: "○", word: "standby", rank: 6};
  if (backend.in_rotation) return {name: "good", kind: "good", sign: "✓", word: "in service", rank: 7};
  return {name: "out", kind: "warn", sign: "‖", word: backend.weight ? "gets no packets" : "weight 0", rank: 4};
}

/** Since when a backend has its state: a drained backend since the operator drained the backend. */
export function sinceOf(backend) { return backend.up && backend.admin !== "enabled" && backend.admin_since || backend.since; }

/** The state of a pool. */
export function poolState(pool) {
  if (!pool.ready) return {name: "down", kind: "bad", sign: "✕", word: "not ready", rank: 0};
  if (pool.mode !== "healthy") return {name: "down", kind: "bad", sign: "!", word: pool.mode, rank: 1};
  const lowest = Math.min(7, ...pool.backends.map(one => stateOf(one).rank));
  const down = pool.backends.filter(one => !one.up).length;
  if (down) return {name: "lost", kind: "warn", sign: "!", word: "ready, " + count(down) + " down", rank: lowest};
  const out = pool.backends.filter(one => stateOf(one).name === "out").length;
  if (out) return {name: "lost", kind: "warn", sign: "‖", word: "ready, " + count(out) + " out", rank: lowest};
  return {name: "good", kind: "good", sign: "✓", word: "ready", rank: 7};
}

/** How many backends of a pool are in service: they get packets. */
export function servingIn(pool) { return pool.backends.filter(one => one.in_rotation).length; }

export function poolFacts(pool) {
  const several = new Set(pool.backends.map(one => one.priority)).size > 1, serving = servingIn(pool);
  return [
    count(serving) + " of " + count(pool.backends.length) + " in service" + (serving === pool.healthy ? "" : ", " + count(pool.healthy) + " usable"),
    "quorum " + count(pool.quorum),
    ...(several && pool.priority !== null ? ["priority " + pool.priority] : []),
  ].join(", ");
}

/** The response time of the slowest check of a backend in seconds; null without a check that passed last time. */
export function responseTime(backend) {
  const known = backend.checks.filter(check => check.passed && check.seconds !== null).map(check => check.seconds);
  return known.length ? Math.max(...known) : null;
}

/** Why a backend has its health, and which checks are about to change the health. */
export function reasonOf(backend) {
  const pending = backend.checks.filter(check => check.pending).map(
    check => check.pending + " of " + check.needed + " results that make the check " + check.kind + (check.up ? " fail" : " pass"));
  return [backend.reason, ...pending].filter(Boolean).join(" · ");
}

/** The share of the pool's weight that a backend has if all are usable. */
function nominal(pool, backend) {
  const sum = pool.backends.reduce((total, one) => total + (one.priority === backend.priority ? one.weight : 0), 0);
  return sum ? backend.weight / sum : 0;
}

export function shareText(now, wanted) { return (now === null ? "– " : (100 * now).toFixed(1)) + " / " + (100 * wanted).toFixed(1) + " %"; }

/** The end of the scale of all share bars: the least round share that is not below `most`. */
export function shareScale(most) {
  return [0.1, 0.25, 0.5].find(end => most <= end) || 1;
}

const MOST_CAUSES = 3;  // causes that a line names

const ADDRESS = /[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*|\d+(\.\d+){3}(:\d+)?/g, NUMBER = /\d+(\.\d+)?/g;

/** An expression for the backends of a pool in a text: "dns/b1", or "backend b1 of pool dns". The groups are the names. */
function namesIn(pool) {
  const name = pool.name.replaceAll(/\W/g, "\\$&");
  return new RegExp("(?<![\\w.-])" + name + "/([\\w.-]+)|backend ([\\w.-]+) of pool " + name + "(?![\\w.-])", "g");
}

/** A text without the names of backends and without addresses. */
function general(text, pool) { return text.replaceAll(namesIn(pool), "…").replaceAll(ADDRESS, "…"); }

/** A text without what differs between backends with the same cause: names of backends, addresses and numbers. */
function pattern(text, pool) { return general(text, pool).replaceAll(NUMBER, "…"); }

/** The causes of a pool's lines, each once with the number of its lines, the most frequent first. */
function causes(pool, lines, words) {
  const found = new Map();
  for (const {text} of lines) {
    const key = pattern(text, pool), same = found.get(key);
    found.set(key, same ? {times: same.times + 1, text: same.text === text ? text : key} : {times: 1, text});
  }
  const all = [...found.values()].sort((one, other) => other.times - one.times);
  return [
    ...all.slice(0, MOST_CAUSES).map(({times, text}) => words(times) + text),
    ...(all.length > MOST_CAUSES ? [plural(all.length - MOST_CAUSES, "other cause")] : []),
  ];
}

/** The words for a pool that is not ready although no line of `lacking` is about the whole pool. */
function unready(pool) {
  if (pool.healthy < pool.quorum || !pool.lacking.length) return count(pool.healthy) + " usable, the quorum is " + count(pool.quorum);
  return causes(pool, pool.lacking.map(text => ({text})), times => times > 1 ? count(times) + " times: " : "").join(" · ");
}

const OTHERS = / and (\d+) more$/, OPTION = /, `device` of …,?/g;  // of a line of `lacking`

/** Whether a line begins with a reason. The reason of a check, such as "no address", may also be in other parts of a line. */
function says(line, reason) {
  return Boolean(reason) && [reason, "there is " + reason].some(text => line.startsWith(text) && /^([,;]|$)/.test(line.slice(text.length)));
}

/**
 * Whether a line of `lacking` says only what `reasons` say: [name, general reason] of the backends that are down. A line
 * may stand for many backends, and names some of them: all must be down for that reason.
 */
function isKnown(line, pool, reasons) {
  const named = [...line.matchAll(namesIn(pool))].map(([, one, other]) => one || other);
  if (!named.length) return false;
  const text = general(line, pool).replaceAll(OPTION, ""), same = new Set(reasons.filter(([, reason]) => says(text, reason)).map(([name]) => name));
  return named.every(name => same.has(name)) && same.size >= new Set(named).size + Number((line.match(OTHERS) || [0, 0])[1]);
}

/** What is wrong with a pool, a line for each cause: {rank, kind, where, text, backend, pool}. */
function poolTroubles(pool, down) {
  const found = [];
  const put = (rank, kind, where, text, backend = "") => found.push({rank, kind, where, text, backend, pool: pool.name});
  const reasons = pool.lacking.length ? down.map(one => [one.name, general(one.reason, pool)]) : [];
  const lacking = pool.lacking.filter(line => !isKnown(line, pool, reasons));
  for (const what of lacking) put(0, "bad", pool.name, "not ready: " + what);
  if (!pool.ready && !lacking.length) put(pool.lacking.length ? 0 : 1, "bad", pool.name, "not ready: " + unready(pool));
  if (pool.ready && pool.mode !== "healthy") put(1, "bad", pool.name, "serves in mode " + pool.mode);
  for (const backend of down) {
    const lost = nominal(pool, backend);
    put(pool.ready ? 2 : 1, pool.ready ? "warn" : "bad", pool.name + "/" + backend.name, "down: " + reasonOf(backend) +
      (lost ? " (" + Math.round(100 * lost) + " % of the pool's weight)" : ""), backend.name);
  }
  for (const collector of pool.collectors || []) {
    if (!collector.up) put(3, "warn", pool.name + "/" + collector.name, "collector down: " + collector.reason);
  }
  for (const name of pool.names || []) {
    if (name.trouble) put(3, "warn", pool.name + "/" + name.name, name.lookup + ": " + name.trouble);
  }
  return found;
}

/** The troubles of a pool in one line: the sentences about the pool, then how many backends are down, and why. */
function inOneLine(pool, down, lines) {
  const ofPool = lines.filter(one => one.where === pool.name), others = lines.filter(one => !one.backend && one.where !== pool.name);
  const parts = [
    ...causes(pool, ofPool, times => times > 1 ? count(times) + " times: " : ""),
    ...causes(pool, down.map(one => ({text: one.reason})), times => plural(times, "backend") + " down: "),
    ...causes(pool, others, times => times > 1 ? count(times) + " times: " : ""),
  ];
  const worst = [...lines].sort((one, other) => one.rank - other.rank)[0];
  return {...worst, where: pool.name, backend: "", text: parts.join("; "), lines};
}

/**
 * What needs the attention of the operator, the worst first: {kind, where, text, pool, backend, lines}. A pool has one
 * entry; `lines` are its troubles one by one, if there are several.
 */
export function troubles(status) {
  const found = [], {problems} = status.config;
  const put = (rank, kind, where, text, lines = []) => found.push({rank, kind, where, text, pool: "", backend: "", lines});
  if (status.kernel.error) put(0, "bad", "Kernel", status.kernel.error);
  else if (!status.kernel.synced) put(0, "bad", "Kernel", "the kernel does not have the rules of the configuration yet");
  if (problems.length === 1) put(2, "bad", "File", problems[0]);
  else if (problems.length) put(2, "bad", "File", plural(problems.length, "error") + ": " + problems[0], problems.map(text => ({where: "File", text})));
  for (const fault of status.faults) put(3, "warn", fault.what, fault.message);
  for (const pool of status.pools) {
    const down = pool.backends.filter(one => stateOf(one).name === "down"), lines = poolTroubles(pool, down);
    if (lines.length === 1) found.push({...lines[0], lines: []});
    else if (lines.length) found.push(inOneLine(pool, down, lines));
  }
  return found.sort((one, other) => one.rank - other.rank);
}

/** The state of the whole balancer. */
export function overallState(status) {
  const unready = status.pools.filter(pool => !pool.ready).length;
  if (unready) return {kind: "bad", sign: "✕", word: count(unready) + " of " + count(status.pools.length) + " pools not ready"};
  if (!status.ready) return {kind: "bad", sign: "✕", word: "not ready"};
  const troubled = status.pools.filter(pool => poolState(pool).rank < 6).length;
  if (troubled) return {kind: "warn", sign: "!", word: "ready, " + plural(troubled, "pool") + " with trouble"};
  return {kind: "good", sign: "✓", word: status.pools.length === 1 ? "ready" : "all pools ready"};
}
