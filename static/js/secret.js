// The dialog that shows the secret of a new key, once, with the lines that use it.

import { element, write } from "./dom.js";
import { allows } from "./session.js";
import { state } from "./store.js";
import { text } from "./text.js";

const dialog = document.getElementById("secret");

// Shows the secret of a key that the server has just answered with. Nothing of it stays on the page once the dialog is closed.
export function showSecret(key, title) {
  const done = element("button", { type: "button", onclick: () => dialog.close() }, text("keyKept"));
  dialog.replaceChildren(element("div", {},
    element("h2", { id: "secret-title" }, title),
    element("p", {}, text("shownOnce")),
    copyable("new-key", key.name, key.key),
    examples(key).map(([id, label, lines]) => copyable(id, label, lines)),
    element("div", { class: "actions" }, done),
  ));
  dialog.showModal();
}

dialog.addEventListener("close", () => {
  if (dialog.open) return;
  dialog.replaceChildren();
  const places = ["#key-panel[open] button", "#login-form [name=key]", "#make-key"].map((selector) => document.querySelector(selector));
  if (document.activeElement === document.body) places.find((node) => node?.checkVisibility())?.focus();
});

// A text with a button that copies it.
function copyable(id, label, content) {
  const code = element("pre", { id, tabindex: 0, role: "region", "aria-label": label }, element("code", {}, content));
  const said = element("span", { role: "status" });
  const copy = async () => write(said, text(await copied(code) ? "copied" : "notCopied"));
  const button = element("button", { type: "button", class: "quiet", "data-copies": id, onclick: copy }, text("copy"));
  return element("div", { class: "copyable" }, element("div", { class: "bar" }, element("h3", {}, label), said, button), code);
}

// Copies the text of an element. Browsers offer the clipboard only to pages over HTTPS and of this machine itself; elsewhere the
// text is selected and copied as by hand.
async function copied(node) {
  try {
    await navigator.clipboard.writeText(node.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(node);
    return document.execCommand("copy");
  }
}

function examples({ key, scopes, models }) {
  const header = quote(`authorization: Bearer ${key}`);
  if (!allows(scopes, "inference")) {
    return allows(scopes, "read") ? [["curl", "curl", `curl ${location.origin}/api/dashboard/overview -H ${header}`]] : [];
  }
  const model = modelFor(models);
  const body = JSON.stringify({ model, messages: [{ role: "user", content: "Hello" }] });
  return [
    ["curl", "curl", `curl ${location.origin}/v1/chat/completions \\\n  -H ${header} \\\n  -H 'content-type: application/json' \\\n  -d ${quote(body)}`],
    ["python", text("python"), [
      "from openai import OpenAI", "",
      `client = OpenAI(base_url=${JSON.stringify(`${location.origin}/v1`)}, api_key=${JSON.stringify(key)})`,
      `answer = client.chat.completions.create(model=${JSON.stringify(model)}, messages=[{"role": "user", "content": "Hello"}])`,
      "print(answer.choices[0].message.content)",
    ].join("\n")],
  ];
}

// Returns a model for the examples: one that the key names, else one that an endpoint has and the key may use.
function modelFor(allowed) {
  const named = allowed.find((name) => !name.includes("*"));
  const patterns = allowed.map((name) => new RegExp(`^${name.split("*").map((part) => part.replace(/[^\w]/g, "\\$&")).join(".*")}$`));
  const known = (state.overview?.endpoints ?? []).flatMap(({ models }) => models);
  return named ?? known.find((model) => patterns.every((pattern) => pattern.test(model))) ?? "MODEL";
}

// Quotes a text for a shell.
function quote(value) {
  return `'${value.replaceAll("'", "'\\''")}'`;
}
