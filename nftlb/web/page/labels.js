// The labels of backends: which label a search means, and the lists that choose labels.

import {$, make} from "./dom.js";

const MOST = 300;  // labels in the list; the search finds all
const GROUP = "label ";

let offered = "";

/** The labels of a backend or pool, each as NAME=VALUE. */
export function labelsOf({labels}) { return Object.entries(labels || {}).map(([name, value]) => name + "=" + value); }

/** The labels in a text, as a body of the API has them. Blanks or commas stand between labels. */
export function readLabels(text) {
  const labels = text.split(/[\s,]+/).filter(Boolean).map(label => label.split(/=(.*)/s));
  return Object.fromEntries(labels.map(([name, value = ""]) => [name, value]));
}

/** Whether these labels have NAME=VALUE in small letters; `NAME=` stands for any value. */
export function hasLabel(labels, word) {
  return labels.some(label => word.endsWith("=") ? label.toLowerCase().startsWith(word) : label.toLowerCase() === word);
}

/** The name of the label by which backends are grouped; empty if they are not grouped by a label. */
export function groupedBy(group) { return group.startsWith(GROUP) ? group.slice(GROUP.length) : ""; }

/** Put all labels into the lists. Returns the labels. */
export function offerLabels(status) {
  const found = new Set(status.pools.flatMap(pool => pool.backends.flatMap(labelsOf))), text = [...found].join("\n");
  if (text === offered) return found;  // before the order, which takes long for many labels
  offered = text;
  const all = [...found].sort(new Intl.Collator("en", {numeric: true}).compare);
  $("by-label").hidden = !all.length;
  offer($("label"), all.slice(0, MOST).map(label => [label, label]));
  offer($("group"), [...new Set(all.map(label => label.slice(0, label.indexOf("="))))].map(name => [GROUP + name, GROUP + name]));
  return found;
}

/** Replace the options that `offer` has made before. What is chosen stays chosen, also if no backend has it any more. */
function offer(list, options) {
  const {value} = list;
  for (const old of list.querySelectorAll("[data-label]")) old.remove();
  if (value && ![...list.options].some(one => one.value === value) && !options.some(([one]) => one === value)) options = [...options, [value, value]];
  for (const [key, word] of options) {
    const option = make("option", "", word);
    option.value = key;
    option.dataset.label = "";
    list.append(option);
  }
  list.value = value;
}
