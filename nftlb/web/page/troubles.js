// The panel of troubles: one line for each pool, with its causes, and all details when they are asked for.

import {$, arrange, count, dress, hint, make, makeButton, plural, say, sayItems} from "./dom.js";
import {openDetails} from "./details.js";
import {troubles} from "./states.js";

const MOST = 6;         // lines that are shown at first
const MOST_LINES = 25;  // causes of one line that a click shows

let status = null;
const items = new Map();

class Item {
  constructor({where, pool, backend}) {
    this.sign = make("span", "sign");
    this.what = make("span", "what");
    this.where = where;
    this.lines = [];
    this.open = false;
    this.toggle = makeButton("", () => { this.open = !this.open; this.showLines(); }, "link");
    this.list = make("ul");
    const name = pool ? makeButton(where, () => openDetails(status, pool, backend || undefined), "link") : make("strong", "", where);
    this.element = make("li", "", this.sign, name, make("div", "causes", this.what, " ", this.toggle), this.list);
  }

  show({kind, where, text, lines}) {
    dress(this.element, kind);
    say(this.sign, kind === "bad" ? "✕" : "!");
    say(this.what, text);
    this.lines = lines;
    this.toggle.hidden = !lines.length;
    hint(this.toggle, (lines.length > MOST_LINES ? `The first ${MOST_LINES} causes of ` : "All causes of ") + where);
    this.showLines();
  }

  showLines() {
    const shown = this.open ? this.lines.slice(0, MOST_LINES) : [], rest = this.open ? this.lines.length - shown.length : 0;
    const texts = shown.map(({where, text}) => where === this.where ? text : where.replace(this.where + "/", "") + ": " + text);
    if (rest) texts.push(count(rest) + " more");
    say(this.toggle, (this.open ? "▾ " : "▸ ") + plural(this.lines.length, "cause"));
    this.toggle.setAttribute("aria-expanded", this.open);
    this.list.hidden = !texts.length;
    sayItems(this.list, texts);
  }
}

/** Show what needs the attention of the operator. */
export function showTroubles(shown) {
  status = shown;
  const found = troubles(status), used = new Set();
  $("trouble").hidden = found.length === 0;
  $("trouble").classList.toggle("mild", !found.some(one => one.kind === "bad"));
  arrange($("troubles"), found.slice(0, MOST).map(one => {
    const key = [one.pool ? "pool" : "host", one.where, one.backend].join("\n");  // the text may count results of checks
    used.add(key);
    if (!items.has(key)) items.set(key, new Item(one));
    items.get(key).show(one);
    return items.get(key).element;
  }));
  for (const key of items.keys()) if (!used.has(key)) items.delete(key);
  $("trouble-more").hidden = found.length <= MOST;
  say($("trouble-more"), `Show all ${count(found.length)}`);
}
