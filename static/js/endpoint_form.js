// The form that adds an endpoint.

import { ask } from "./api.js";
import { openForm } from "./form.js";
import { text } from "./text.js";

const FIELDS = [
  { name: "name", label: "name", kind: "text", attributes: { required: true, maxlength: 100 } },
  { name: "base_url", label: "address", hint: "addressHint", kind: "text", attributes: { required: true, inputmode: "url", spellcheck: "false" } },
  { name: "max_concurrency", label: "slots", hint: "slotsHint", kind: "count" },
  { name: "api_key", label: "key", hint: "keyHint", kind: "secret" },
];

export function openEndpointForm() {
  const send = (endpoint) => ask("/api/endpoints", "POST", endpoint);
  openForm({ title: text("addTitle"), action: text("add"), fields: FIELDS, send, guessField });
}

// The error for a taken name or address names no field, so that the field is guessed from the message.
function guessField({ field, message }, values) {
  if (field) return field;
  if (message.includes(`\`${values.name}\``)) return message.startsWith("base_url") ? "base_url" : "name";
  return message.startsWith("base_url") ? "base_url" : null;
}
