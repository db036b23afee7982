// What the states of backends and pools are called, and which of them are trouble. Pure functions.
//
// A state has a kind (the colour), a sign and a word: no state is shown by its colour alone.

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
  if (down) return {name: "lost", kind: "warn", sign: "!", word: "ready, " + down + " down", rank: lowest};
  const out = pool.backends.filter(one => stateOf(one).name === "out").length;
  if (out) return {name: "lost", kind: "warn", sign: "‖", word: "ready, " + out + " out", rank: lowest};
  return {name: "good", kind: "good", sign: "✓", word: "ready", rank: 7};
}

/** How many backends of a pool are in service: they get packets. */
export function servingIn(pool) { return pool.backends.filter(one => one.in_rotation).length; }

export function poolFacts(pool) {
  const several = new Set(pool.backends.map(one => one.priority)).size > 1, serving = servingIn(pool);
  return [
    serving + " of " + pool.backends.length + " in service" + (serving === pool.healthy ? "" : ", " + pool.healthy + " usable"),
    "quorum " + pool.quorum,
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

/** What needs the attention of the operator, the worst first: {kind, where, text, pool, backend}. */
export function troubles(status) {
  const found = [];
  const put = (rank, kind, where, text, pool = "", backend = "") => found.push({rank, kind, where, text, pool, backend});
  if (status.kernel.error) put(0, "bad", "Kernel", status.kernel.error);
  else if (!status.kernel.synced) put(0, "bad", "Kernel", "the kernel does not have the rules of the configuration yet");
  for (const problem of status.config.problems) put(2, "bad", "File", problem);
  for (const fault of status.faults) put(3, "warn", fault.what, fault.message);
  for (const pool of status.pools) {
    for (const what of pool.lacking) put(0, "bad", pool.name, "not ready: " + what, pool.name);
    if (!pool.ready && !pool.lacking.length) {
      put(1, "bad", pool.name, "not ready: " + pool.healthy + " usable, the quorum is " + pool.quorum, pool.name);
    }
    if (pool.ready && pool.mode !== "healthy") put(1, "bad", pool.name, "serves in mode " + pool.mode, pool.name);
    for (const backend of pool.backends) {
      if (stateOf(backend).name !== "down") continue;
      const lost = nominal(pool, backend);
      put(pool.ready ? 2 : 1, pool.ready ? "warn" : "bad", pool.name + "/" + backend.name, "down: " + reasonOf(backend) +
        (lost ? " (" + Math.round(100 * lost) + " % of the pool's weight)" : ""), pool.name, backend.name);
    }
    for (const collector of pool.collectors || []) {
      if (!collector.up) put(3, "warn", pool.name + "/" + collector.name, "collector down: " + collector.reason, pool.name);
    }
    for (const name of pool.names || []) {
      if (name.trouble) put(3, "warn", pool.name + "/" + name.name, name.lookup + ": " + name.trouble, pool.name);
    }
  }
  return found.sort((one, other) => one.rank - other.rank);
}

/** The state of the whole balancer. */
export function overallState(status) {
  const unready = status.pools.filter(pool => !pool.ready).length;
  if (unready) return {kind: "bad", sign: "✕", word: unready + " of " + status.pools.length + " pools not ready"};
  if (!status.ready) return {kind: "bad", sign: "✕", word: "not ready"};
  const troubled = status.pools.filter(pool => poolState(pool).rank < 6).length;
  if (troubled) return {kind: "warn", sign: "!", word: "ready, " + troubled + (troubled === 1 ? " pool" : " pools") + " with trouble"};
  return {kind: "good", sign: "✓", word: status.pools.length === 1 ? "ready" : "all pools ready"};
}
