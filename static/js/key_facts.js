// What the page says about a key.

import { NONE, text } from "./text.js";

// Each limit of a key: its name, its label, and the least that it may be.
export const LIMITS = [
  ["requests_per_minute", "requestsPerMinute", 1], ["tokens_per_minute", "tokensPerMinute", 1], ["tokens_per_day", "tokensPerDay", 1],
  ["max_concurrency", "runningMax", 1], ["max_waiting", "waitingMax", 0],
];

// Returns the limits that the key has.
export function limitsOf(key) {
  const limits = LIMITS.filter(([name]) => key[name] !== null).map(([name, label]) => `${text(label)}: ${key[name]}`);
  return limits.join(", ") || NONE;
}

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
