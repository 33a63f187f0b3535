// What the page says about a key.

import { NONE, text } from "./text.js";

// Returns whether the key is accepted now.
export function stateOf({ enabled, expires_at: end }) {
  if (!enabled) return "disabled";
  return end !== null && Date.parse(end) <= Date.now() ? "expired" : "valid";
}

export function shownPart({ prefix }) {
  return prefix === "" ? NONE : `${prefix}…`;
}

export function sourceOf({ source }) {
  return { file: text("file"), env: text("environment"), api: "API" }[source];
}
