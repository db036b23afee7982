// Elements, and figures as text. Texts of the daemon are only inserted as text, never as HTML.

export const $ = id => document.getElementById(id);

/** Make an element. `content` is text, or elements and texts. */
export function make(tag, className = "", ...content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...content);
  return element;
}

/** Make a table cell with the role that it keeps on a phone, where the layout is not a table. */
export function makeCell(className = "", tag = "td") {
  const cell = make(tag, className);
  cell.setAttribute("role", tag === "th" ? "rowheader" : "cell");
  if (tag === "th") cell.scope = "row";
  return cell;
}

/** Let the keyboard scroll an element that may be too wide, and name the element for screen readers. */
export function makeScrollable(element, label) {
  element.tabIndex = 0;
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", label);
  return element;
}

export function makeButton(text, action, className = "") {
  const button = make("button", className, text);
  button.type = "button";
  button.addEventListener("click", action);
  return button;
}

/** Disable a button while `act` runs. The button loses the focus by that, and gets the focus back if nothing else has it. */
export async function whileDisabled(button, act) {
  const focused = document.activeElement === button;
  button.disabled = true;
  try { return await act(); } finally {
    button.disabled = false;
    if (focused && document.activeElement === document.body) button.focus();
  }
}

// Only values that differ are written, so that the page does not flicker and a selection stays.
export function say(element, text) { if (element.textContent !== text) element.textContent = text; }
export function dress(element, className) { if (element.className !== className) element.className = className; }
export function hint(element, text) { if (element.title !== text) element.title = text; }
export function chip(element, {kind, sign, word}, title = "") {
  dress(element, "chip " + kind);
  say(element, sign ? sign + " " + word : word);
  hint(element, title);
}

/** Make these elements the children of `parent`, in this order. Elements that are there already stay, with the focus. */
export function arrange(parent, elements) {
  const focused = document.activeElement, wanted = new Set(elements);
  for (const old of [...parent.children]) if (!wanted.has(old)) old.remove();
  let place = parent.firstElementChild;
  for (const element of elements) {
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  if (parent.contains(focused)) focused.focus({preventScroll: true});  // an element that moves loses the focus
}

/** A function that makes elements of documents by `makeOne`. The element of an equal document of the last call stays. */
export function keeping(makeOne) {
  let kept = new Map();
  return documents => {
    const keyed = documents.map(one => [JSON.stringify(one), one]);
    kept = new Map(keyed.map(([key, one]) => [key, kept.get(key) || makeOne(one)]));
    return [...kept.values()];
  };
}

/** Make the items of a list say these texts. */
export function sayItems(list, texts) {
  while (list.children.length < texts.length) list.append(make("li"));
  while (list.children.length > texts.length) list.lastChild.remove();
  texts.forEach((text, place) => say(list.children[place], text));
}

// --- figures ---------------------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", {notation: "compact", maximumSignificantDigits: 3});

/** A rate; `null` means that the rate is not known. */
export function figure(number) {
  if (number === null) return "–";
  if (number < 10) return String(Math.round(number * 10) / 10);
  return number < 10000 ? whole.format(Math.round(number)) : short.format(number);
}
export function count(number) { return whole.format(number); }
export function plural(number, noun, nouns = noun + "s") { return whole.format(number) + " " + (number === 1 ? noun : nouns); }
export function percent(part) { return part === null ? "–" : (100 * part).toFixed(part < 0.9995 && part > 0 ? 1 : 0) + " %"; }
export function milliseconds(seconds) {
  if (seconds === null) return "–";
  const number = 1000 * seconds;
  return (number < 10 ? number.toFixed(1) : whole.format(Math.round(number))) + " ms";
}

let skew = 0;  // milliseconds by which the clock of the daemon is ahead of the clock of this browser
export function setClock(date) { skew = Date.parse(date) - Date.now() || 0; }
export function secondsSince(when) { return Math.max(0, (Date.now() + skew - Date.parse(when)) / 1000); }
export function ago(when) {
  const seconds = secondsSince(when);
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) if (seconds >= size) return Math.floor(seconds / size) + " " + unit;
  return Math.floor(seconds) + " s";
}

const time = new Intl.DateTimeFormat("en-GB", {hour: "2-digit", minute: "2-digit", second: "2-digit"});
const day = new Intl.DateTimeFormat("en-GB", {weekday: "short", day: "numeric", month: "short", year: "numeric"});
export function clockTime(when) { return time.format(new Date(when)); }
export function dayOf(when) { return day.format(new Date(when)); }
export function makeTime(when, text) {
  const element = make("time", "figure", text);
  element.dateTime = when;
  element.title = when;
  return element;
}

/** Tell a user of a screen reader what happened. */
export function announce(text) { $("news").replaceChildren(text); }  // an equal text is told again
