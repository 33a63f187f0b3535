// The words of the page in the chosen language, and the formats of numbers and times.

import { keep, recall } from "./memory.js";
import { WORDS } from "./words.js";

const KEY = "leaseway-language";

const NONE = "—";
const HOURS = { hourCycle: "h23" };

let language = remembered();

function remembered() {
  const kept = recall(KEY);
  if (kept in WORDS) return kept;
  return navigator.language.startsWith("ja") ? "ja" : "en";
}

export function currentLanguage() {
  return language;
}

export function switchLanguage() {
  language = language === "en" ? "ja" : "en";
  keep(KEY, language);
}

export function text(key) {
  return WORDS[language][key] ?? key;
}

export function whole(value) {
  return value.toLocaleString(language);
}

// Formats a count; a count of `longest` or more is rounded.
export function short(value, longest = 1e7) {
  return value < longest ? whole(value) : value.toLocaleString(language, { notation: "compact", maximumFractionDigits: 1 });
}

export function milliseconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0 ms";
  if (value < 1000) return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
  return `${(value / 1000).toFixed(value < 10000 ? 2 : 1)} s`;
}

export function speed(value) {
  return value === null || value === undefined ? NONE : `${value < 1000 ? value.toFixed(1) : whole(Math.round(value))} tok/s`;
}

// Formats the share of successes among answered requests, rounded down, so that it is 100 % only without a failure.
export function percent(successful, failed) {
  const answered = successful + failed;
  if (answered === 0) return NONE;
  const tenths = Math.floor((successful / answered) * 1000);
  return `${tenths % 1000 === 0 ? tenths / 10 : (tenths / 10).toFixed(1)} %`;
}

export function clock(time, precise = {}) {
  return new Date(time).toLocaleTimeString(language, { hour: "2-digit", minute: "2-digit", ...HOURS, ...precise });
}

export function moment(time) {
  return time ? new Date(time).toLocaleString(language, HOURS) : text("never");
}

export { NONE };
