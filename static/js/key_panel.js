// The panel of one key: its facts, and the buttons that change it. Keys of the config file and the environment have no buttons.

import { actionButton, confirmButton, exchangeable } from "./actions.js";
import { ask } from "./api.js";
import { element, write } from "./dom.js";
import { limitsOf, shownPart, sourceOf, stateOf } from "./key_facts.js";
import { openChangeForm } from "./key_form.js";
import { showSecret } from "./secret.js";
import { moment, text } from "./text.js";

const dialog = document.getElementById("key-panel");

// How long the secret before stays valid after a rotation: seconds, and their name.
const GRACES = [[0, "graceNone"], [600, "graceMinutes"], [86400, "graceDay"]];

let shown = null;
let changed = null;

dialog.addEventListener("close", () => {
  if (dialog.open) return;
  const opener = document.querySelector(`#key-table [data-id="${shown}"]`) ?? document.getElementById("make-key");
  shown = null;
  if (document.activeElement === document.body) opener.focus({ preventScroll: true });
});

// Opens the panel of a key. `whenChanged` is called after each change.
export function openKeyPanel(key, whenChanged) {
  shown = key.id;
  changed = whenChanged;
  const close = element("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, text("close"));
  dialog.replaceChildren(element("div", {},
    element("div", { class: "bar" }, element("h2", { id: "key-panel-title" }), close),
    element("dl", { class: "facts" }),
    element("p", { class: "problem", role: "alert" }),
    element("div", { class: "actions" }),
  ));
  draw(key);
  dialog.showModal();
}

// Writes what has changed in the panel's key; closes the panel if the key is gone.
export function drawKeyPanel(keys) {
  if (shown === null) return;
  const key = keys.find((known) => known.id === shown);
  if (key) draw(key);
  else dialog.close();
}

function draw(key) {
  write(dialog.querySelector("h2"), key.name);
  const facts = [
    ["state", element("span", { class: "status", "data-status": stateOf(key) }, text(stateOf(key)))], ["secret", element("code", {}, shownPart(key))],
    ["scopes", key.scopes.join(", ")], ["models", key.models.join(", ") || text("all")], ["expires", moment(key.expires_at)],
    ["limits", limitsOf(key)],
    ["trustsHeader", text(key.trusts_client_header ? "yes" : "no")], ["made", moment(key.created_at)],
    ["lastUsed", moment(key.last_used_at)], ["source", sourceOf(key)],
  ];
  const list = facts.flatMap(([term, value]) => [element("dt", {}, text(term)), element("dd", {}, value)]);
  redrawn(dialog.querySelector("dl"), [facts.map(([, value]) => value.textContent ?? value), text("close")], () => list);
  const place = dialog.querySelector(".actions");
  const hadFocus = place.contains(document.activeElement) || document.activeElement === document.body;
  // Neither a use of the key nor a rotation changes the buttons.
  const isDrawn = redrawn(place, [{ ...key, last_used_at: null, prefix: null }, text("close")], () => actions(key));
  if (isDrawn && hadFocus) place.querySelector("button")?.focus();
}

// Exchanges the content of `place` if what it shows has changed. Returns whether it did.
function redrawn(place, shows, make) {
  const state = JSON.stringify(shows);
  if (place.dataset.state === state) return false;
  place.dataset.state = state;
  place.replaceChildren(...make());
  return true;
}

function actions(key) {
  if (key.source !== "api") return [element("p", { class: "none" }, text(`managed_${key.source}`))];
  const problem = dialog.querySelector("[role=alert]");
  const path = `/api/keys/${key.id}`;
  const then = (work) => async () => { await work(); await changed(); };
  const change = element("button", { type: "button", onclick: () => openChangeForm(key, changed) }, text("change"));
  const turn = then(() => ask(path, "PUT", { enabled: !key.enabled }));
  return [
    change, actionButton(text(key.enabled ? "disable" : "enable"), problem, turn), rotateButton(path, problem),
    confirmButton(text("revoke"), text("reallyRevoke"), problem, then(() => ask(path, "DELETE"))),
  ];
}

// Returns a button that asks how long the secret before stays valid.
function rotateButton(path, problem) {
  const options = GRACES.map(([seconds, label]) => element("option", { value: seconds }, text(label)));
  const grace = element("select", { name: "grace" }, options);
  const rotate = (back) => actionButton(text("rotateNow"), problem, async () => {
    const rotated = await ask(`${path}/rotate`, "POST", { grace_secs: Number(grace.value) });
    back();
    grace.selectedIndex = 0;
    showSecret(rotated, text("keyRotated"));
    await changed();
  });
  const button = element("button", { type: "button", class: "quiet" }, text("rotate"));
  return exchangeable(button, (back) => [element("label", { class: "beside" }, text("grace"), grace), rotate(back)]);
}
