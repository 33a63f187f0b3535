// The forms that make and change a key.

import { ask, Problem } from "./api.js";
import { element, write } from "./dom.js";
import { openForm } from "./form.js";
import { LIMITS } from "./key_facts.js";
import { showSecret } from "./secret.js";
import { allows, isOpen, logIn } from "./session.js";
import { connect } from "./socket.js";
import { text } from "./text.js";

// The name and the meaning of each scope.
const SCOPES = [
  ["inference", "mayInfer"], ["read", "mayRead"], ["report", "mayReport"], ["metrics", "mayReadMetrics"], ["admin", "mayAll"],
];

const FIELDS = [
  { name: "name", label: "name", hint: "keyNameHint", kind: "text", attributes: { required: true, maxlength: 128 } },
  { name: "scopes", label: "scopes", options: SCOPES },
  { name: "models", label: "models", hint: "modelsHint", kind: "list", attributes: { spellcheck: "false" } },
  { name: "expires_at", label: "expires", hint: "expiresHint", kind: "moment" },
  ...LIMITS.map(([name, label, min]) => ({ name, label, hint: "limitHint", kind: "count", attributes: { min } })),
  { name: "trusts_client_header", label: "trustsHeader", hint: "trustsHeaderHint", kind: "check" },
];

// Opens the form that makes a key. `changed` is called once the key is made.
export function openMakeForm(changed) {
  const isFirst = isOpen();
  const warnings = isFirst ? [element("p", { class: "warning" }, text("firstKey")), element("p", { class: "warning", role: "status" })] : [];
  const send = async (body) => {
    checkScopes(body);
    const made = await ask("/api/keys", "POST", body);
    showSecret(made, text("keyMade"));
    if (isFirst) await useFirst(made);
    else await changed();
  };
  const values = { scopes: isFirst ? ["admin"] : ["inference"] };
  const form = openForm({ title: text("makeKey"), action: text("makeKey"), fields: FIELDS, values, notes: warnings, send, guessField });
  const warn = () => write(warnings[1], form.querySelector("[value=admin]").checked ? "" : text("firstKeyNoAdmin"));
  if (isFirst) form.addEventListener("change", warn);
}

// From now on everybody needs a key, this page too. It goes on with the new key if that may read; else it asks for another.
async function useFirst({ key, scopes }) {
  if (allows(scopes, "read")) await logIn(key);
  await connect();
}

export function openChangeForm(key, changed) {
  const send = async (body) => {
    checkScopes(body);
    await ask(`/api/keys/${key.id}`, "PUT", body);
    await changed();
  };
  openForm({ title: text("changeKey"), action: text("save"), fields: FIELDS, values: key, isChange: true, send, guessField });
}

function checkScopes({ scopes }) {
  if (scopes?.length === 0) throw new Problem(text("noScope"), "scopes", null);
}

// The error for a taken name names no field.
function guessField({ field, status, message }, { name }) {
  return field ?? (status === 409 && message.includes(`\`${name}\` already`) ? "name" : null);
}
