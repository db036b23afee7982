// Rates from the counters of the daemon, and their course over the last minutes.

const WINDOW = 5000;  // milliseconds; counters are up to a second old, so a shorter window would show waves
const KEPT = 150;     // points of a chart: five minutes at one point in two seconds

class Meter {
  constructor() {
    this.seen = [];
    this.rate = {packets: null, bits: null};
    this.times = [];
    this.packets = [];
    this.response = [];
  }

  read(now, packets, bytes, response) {
    const last = this.seen.at(-1);
    if (last && (packets < last.packets || bytes < last.bytes)) this.seen.length = 0;
    this.seen.push({now, packets, bytes});
    while (this.seen.length > 2 && now - this.seen[1].now >= WINDOW) this.seen.shift();
    const first = this.seen[0], seconds = (now - first.now) / 1000;
    if (seconds >= 0.5) this.rate = {packets: (packets - first.packets) / seconds, bits: 8 * (bytes - first.bytes) / seconds};
    if (this.times.length && now - 1000 * this.times.at(-1) < 900) return;
    this.times.push(now / 1000);
    this.packets.push(seconds >= 0.5 ? this.rate.packets : null);
    this.response.push(response === null ? null : 1000 * response);
    if (this.times.length > KEPT) for (const list of [this.times, this.packets, this.response]) list.shift();
  }
}

const meters = new Map();

/** Read counters at a moment (milliseconds). Returns the meter of this key, with the rate of the last seconds. */
export function measure(key, now, {packets, bytes}, response = null) {
  let meter = meters.get(key);
  if (!meter) meters.set(key, meter = new Meter());
  meter.read(now, packets, bytes, response);
  return meter;
}

const nothing = new Meter();
export function meterOf(key) { return meters.get(key) || nothing; }

/** Forget the meters of keys that are not in `keys`. */
export function keep(keys) { for (const key of meters.keys()) if (!keys.has(key)) meters.delete(key); }

/** Forget everything: the counters are those of another daemon. */
export function forget() { meters.clear(); }

/** The measured share of each backend of a pool, 0 to 1; null if the pool has no packets now. */
export function measuredShares(pool) {
  const rates = pool.backends.map(one => meterOf(pool.name + "/" + one.name).rate.packets);
  const sum = rates.reduce((total, rate) => total + (rate || 0), 0);
  return rates.map(rate => rate === null || sum < 0.5 ? null : rate / sum);
}
