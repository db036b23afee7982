// The file and its errors, the rules in the kernel, and what each change of the rules changed.

import {$, ago, arrange, chip, clockTime, count, keeping, make, makeScrollable, makeTime, plural, say, whileDisabled} from "./dom.js";
import {getJson, getText} from "./api.js";
import {problemParts, reload, showRefusal} from "./operate.js";

let status = null, seen = null, busy = false, kept = "";  // kept: the last attempt to read the file when one was refused here

/** Show the state of the file and of the rules; read the rules again if they changed. */
export function showConfiguration(shown) {
  status = shown;
  if ($("view-configuration").hidden) return;
  const {config, kernel} = status;
  const word = config.success ? `${config.file} is in use for ${ago(config.loaded)}` : `${config.file} was refused ${ago(config.attempted)} ago; the configuration before is in use`;
  chip($("config-state"), {kind: config.success ? "plain" : "bad", sign: config.success ? "✓" : "✕", word});
  if (kept !== config.attempted) { kept = ""; showProblems(config.problems); }
  say($("kernel-state"), [
    kernel.synced ? "The kernel has the rules of this configuration." : "The kernel does not have the rules of this configuration: " + kernel.error,
    plural(kernel.swaps, "change"), count(kernel.failures) + " refused", count(kernel.restored) + " changes by other programs undone",
  ].join(" · "));
  const version = JSON.stringify([kernel.swaps, kernel.last_swap, status.started]);
  if (version !== seen && !busy) readRules(version);
}

const listsOf = keeping(problems => make("ul", "note bad", ...problems.map(problem => make("li", "", ...problemParts(problem)))));

function showProblems(problems) { arrange($("problems"), listsOf(problems.length ? [problems] : [])); }

async function readRules(version) {
  busy = true;
  try {
    const text = await getText("api/v1/ruleset"), {changes} = await getJson("api/v1/ruleset/changes");
    seen = version;
    showRules(text, changes);
  } catch (error) {
    arrange($("changes"), [showRefusal(error)]);
  }
  busy = false;
  if (seen === version) showConfiguration(status);  // the rules may have changed meanwhile
}

function showRules(text, swaps) {
  const added = new Set(swaps.length ? swaps[0].lines.filter(line => line.startsWith("+")).map(line => line.slice(1).trim()) : []);
  const lines = text.split("\n").map(line => {
    const isNew = line.trim() && added.has(line.trim());
    return isNew ? make("ins", "", line + "\n") : line + "\n";
  });
  $("ruleset").replaceChildren(...lines);
  arrange($("changes"), swaps.length ? swaps.map(showSwap) : [make("p", "dim", "No change since the start of the daemon is known.")]);
}

function showSwap({at, reason, lines, cut}, place) {
  const plus = lines.filter(line => line.startsWith("+")).length, minus = lines.filter(line => line.startsWith("-")).length;
  const box = make("details", "swap", make("summary", "", makeTime(at, clockTime(at)), ` ${reason || "rules changed"} · ${plural(plus, "line")} added, ${count(minus)} deleted`));
  box.open = place === 0;
  const text = makeScrollable(make("pre"), "Changed lines");
  for (const line of lines) text.append(make(line.startsWith("+") ? "ins" : line.startsWith("-") ? "del" : "span", "", line + "\n"));
  if (cut) text.append(make("span", "dim", "… more lines are left out"));
  box.append(text);
  return box;
}

export function startConfiguration() {
  $("reload").addEventListener("click", async () => {
    const refusal = await whileDisabled($("reload"), reload);
    kept = refusal && status ? status.config.attempted : "";
    arrange($("problems"), refusal ? [showRefusal(refusal)] : []);
  });
}
