// The view of keys: a table, from which each key's panel opens. No event tells of keys, so the table is read when it is shown,
// after each change made here, and every minute.

import { ask } from "./api.js";
import { element, keyedRows, row, table, write, writeCut } from "./dom.js";
import { shownPart, sourceOf, stateOf } from "./key_facts.js";
import { openMakeForm } from "./key_form.js";
import { drawKeyPanel, openKeyPanel } from "./key_panel.js";
import { reader } from "./reader.js";
import { isOpen, readSession } from "./session.js";
import { listen } from "./store.js";
import { moment, NONE, text } from "./text.js";
import { view } from "./views.js";

// The shortest time between two readings, in milliseconds.
const READ_AGAIN_MS = 1000;

const place = document.getElementById("key-table");

let keys = null;
let drawnAs = null;

const isShown = () => view() === "keys";

const readKeys = reader("/api/keys", READ_AGAIN_MS, isShown, (read, why) => {
  write(document.getElementById("keys-problem"), why);
  if (read) show(read);
});

// A change of keys may end the session or change what it may do.
async function changed() {
  await readSession();
  if (isShown()) show(await ask("/api/keys"));
}

function show(read) {
  keys = read;
  drawKeys();
}

listen((kinds) => {
  if (!isShown()) return;
  if (["Redraw", "Snapshot", "MinuteAdvanced"].some((kind) => kinds.has(kind))) readKeys();
  if (kinds.has("Redraw")) drawKeys();
});

document.getElementById("make-key").addEventListener("click", () => openMakeForm(changed));

function drawKeys() {
  write(document.getElementById("open-access"), isOpen() ? text("openAccess") : "");
  if (!keys) return;
  const isEmpty = keys.length === 0;
  const state = `${isEmpty} ${text("keys")}`;
  if (drawnAs !== state) {
    drawnAs = state;
    place.replaceChildren(isEmpty ? element("p", { class: "none" }, text("noKeys")) : table(columns(), []));
  }
  if (!isEmpty) keyedRows(place.querySelector("tbody"), keys, newRow, writeRow);
  drawKeyPanel(keys);
}

function columns() {
  return ["name", "state", "scopes", "secret", "models", "expires", "lastUsed", "source"].map((label) => [text(label)]);
}

function newRow({ id }) {
  const open = () => openKeyPanel(keys.find((key) => key.id === id), changed);
  const name = element("button", { type: "button", class: "name", "data-id": id, onclick: open });
  const secret = element("code");
  const cells = [name, element("span", { class: "status" }), "", secret, "", "", "", ""];
  return row(...cells.map((content) => element("td", {}, content)));
}

function writeRow(drawn, key) {
  const [name, state, scopes, secret, models, ...rest] = drawn.children;
  drawn.dataset.key = key.name;
  writeCut(name.firstChild, key.name);
  state.firstChild.dataset.status = stateOf(key);
  write(state.firstChild, text(stateOf(key)));
  writeCut(scopes, key.scopes.join(", ") || NONE);
  write(secret.firstChild, shownPart(key));
  writeCut(models, key.models.join(", ") || text("all"));
  const values = [moment(key.expires_at), moment(key.last_used_at), sourceOf(key)];
  rest.forEach((cell, index) => write(cell, values[index]));
}
