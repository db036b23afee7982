// What `nftlb doctor` finds on this host for the configuration in use.

import {$, arrange, clockTime, keeping, make, makeScrollable, say} from "./dom.js";
import {getJson} from "./api.js";

const PERIOD = 30000;
const LOOKS = {error: ["bad", "✕ error"], warning: ["warn", "! warning"], unknown: ["plain", "? not known"], ok: ["good", "✓ ok"]};

function makeItem({severity, subject, message, fix}) {
  const [kind, words] = LOOKS[severity] || ["plain", severity];
  const fixes = (Array.isArray(fix) ? fix : [fix]).filter(Boolean);
  return make("li", "notice", make("span", "chip " + kind, words), make("strong", "", subject), make("span", "what", message),
    ...(fixes.length ? [makeScrollable(make("pre", "", fixes.join("\n")), "How to fix this")] : []));
}

const itemsOf = keeping(makeItem);

async function read() {
  try {
    const {at, findings} = await getJson("api/v1/notices");
    const order = ["error", "warning", "unknown", "ok"], wrong = findings.filter(one => ["error", "warning"].includes(one.severity));
    arrange($("notices"), itemsOf(findings.sort((one, other) => order.indexOf(one.severity) - order.indexOf(other.severity))));
    say($("notices-note"), (at ? "Examined at " + clockTime(at) + ". " : "") + (wrong.length ? "A fix is a command to run as root, or what to change." : "No problem was found."));
    say($("notices-count"), wrong.length ? `(${wrong.length})` : "");
  } catch (error) {
    say($("notices-note"), "The notices can't be read: " + error.message);
  }
}

export function startNotices() {
  read();
  setInterval(() => { if (!document.hidden) read(); }, PERIOD);
}
