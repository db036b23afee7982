// Where a packet would go now, and why.

import {$, arrange, make, makeScrollable, plural} from "./dom.js";
import {getJson} from "./api.js";
import {showRefusal} from "./operate.js";

const MOST_SLOTS = 48;

let offered = "", questions = 0;

/** A heading, and a table that the keyboard can scroll. */
function titled(title, heads, lines) {
  const row = (tag, cells) => make("tr", "", ...cells.map(cell => make(tag, "", cell)));
  const table = make("div", "scroll", make("table", "plain-table", make("thead", "", row("th", heads)), make("tbody", "", ...lines.map(cells => row("td", cells)))));
  return [make("h3", "", title), makeScrollable(table, title)];
}

function way(what, name, {before, after}) {
  const [from, to] = [before.join(" → "), after.join(" → ")];
  return [name, what, from, from === to ? "unchanged" : to];
}

function show(answer) {
  if (!answer.pool) {
    const near = (answer.near || []).map(one => [one.listener, one.pool, "another " + one.differs]);
    return [
      make("p", "note warn", make("strong", "", "No pool takes this packet: "), answer.reason || ""),
      ...(near.length ? titled("Listeners that almost match", ["Listener", "Pool", "Differs in"], near) : []),
    ];
  }
  const target = answer.target ? ` and goes to ${answer.target}` : "", by = answer.decided_by ? ` (${answer.decided_by})` : "";
  const unit = answer.per === "flow" ? "connection" : "packet";
  const given = answer.slots.length || answer.target;  // a guard may drop the packet although there are backends
  const parts = [make("p", given ? "note good" : "note bad", make("strong", "", `Pool ${answer.pool} takes this packet`), `${target}${by}. ${answer.listener} · ${answer.forward} · ${answer.balance} · per ${answer.per}`)];
  if (answer.verdict) parts.push(make("p", "note bad", `No backend is left: the packet gets the verdict ${answer.verdict}.`));
  parts.push(...titled("Backends", ["Backend", "Address", "State", "Weight", "Slots"], answer.candidates.map(
    one => [one.name, one.address, one.state === "in" ? "in service" : one.state, String(one.weight), one.slots ? `${one.slots} of ${answer.slots.length}` : "–"])));
  if (answer.slots.length) {
    const shown = answer.slots.slice(0, MOST_SLOTS).map((name, place) => make("li", place === answer.slot ? "taken" : "", name));
    if (answer.slots.length > MOST_SLOTS) shown.push(make("li", "dim", plural(answer.slots.length - MOST_SLOTS, "more slot")));
    parts.push(make("h3", "", `Turns: each ${unit} takes the next`), make("ol", "slots", ...shown));
  }
  const ways = answer.candidates.filter(one => one.slots).flatMap(one => [
    way("request", one.name, one.request), ...(one.reply ? [way("reply", "", one.reply)] : [["", "reply", "goes to the client directly", ""]]),
  ]);
  if (ways.length) parts.push(...titled("Addresses", ["Backend", "Packet", "Before", "After"], ways));
  const remarks = Object.entries(answer.remarks || {});
  if (remarks.length) parts.push(make("h3", "", "Remarks"), make("dl", "", ...remarks.flatMap(([name, text]) => [make("dt", "", name), make("dd", "", text)])));
  return parts;
}

/** The explanation of a packet as elements, or why there is none. */
async function explain(query) {
  try {
    return show(await getJson("api/v1/explain?" + query));
  } catch (error) {
    return [showRefusal(error)];
  }
}

/** The destination of a packet to a listener: its first port. Empty for a listener without one address, as `eth0:53/udp`. */
function destinationOf(listener) {
  const [, address, port, protocol] = listener.match(/^([0-9.]+|\[[0-9a-f:.]+\]):(\d+)(?:-\d+)?\/(\w+)$/) || [];
  return !address || address === "0.0.0.0" || address === "[::]" ? "" : `${address}:${port}/${protocol}`;
}

/** Offer the listeners of all pools as destinations. */
export function offerListeners(status) {
  const wanted = status.pools.flatMap(pool => pool.listen).map(destinationOf).filter(Boolean).slice(0, 200);
  const text = wanted.join("\n");
  if (text === offered) return;
  offered = text;
  arrange($("listeners"), wanted.map(listener => Object.assign(make("option"), {value: listener})));
}

export function startExplain() {
  $("explain-form").addEventListener("submit", async event => {
    event.preventDefault();
    const asked = {source: $("explain-source"), destination: $("explain-destination"), payload: $("explain-payload")};
    const query = new URLSearchParams();
    for (const [name, input] of Object.entries(asked)) if (input.value.trim()) query.set(name, input.value.trim());
    const number = ++questions, parts = await explain(query);
    if (number === questions) arrange($("explanation"), parts);  // an answer to an earlier question may come later
  });
}
