// The backends that are selected in the table, and the changes of all selected backends at once.

import {$, make, makeButton, plural, say} from "./dom.js";
import {ADMINS, setAdmin} from "./operate.js";

const selected = new Set();  // POOL/BACKEND
const boxes = new Map();     // POOL/BACKEND -> the box in its row

/** Make the box that selects a backend. */
export function makeBox(key) {
  const box = make("input", "select");
  box.type = "checkbox";
  box.checked = selected.has(key);
  box.setAttribute("aria-label", "Select " + key);
  box.addEventListener("change", () => {
    if (box.checked) selected.add(key); else selected.delete(key);
    show();
  });
  boxes.set(key, box);
  return box;
}

/** Select these backends, and no others. */
export function select(keys) {
  selected.clear();
  for (const key of keys) selected.add(key);
  for (const [key, box] of boxes) box.checked = selected.has(key);
  show();
}

/** Forget the backends for which `exists(key)` is false. */
export function keepBoxes(exists) {
  for (const keys of [selected, boxes]) for (const key of keys.keys()) if (!exists(key)) keys.delete(key);
  show();
}

function show() {
  $("selection").hidden = !selected.size;
  say($("selected"), plural(selected.size, "backend") + " selected");
}

export function startSelection() {
  $("selection").append(
    ...ADMINS.map(([admin, text]) => makeButton(text, async () => { if (await setAdmin([...selected], admin)) select([]); })),
    makeButton("Clear the selection", () => select([])),
  );
}
