// The fields of forms: how each kind is drawn, and how its value in the JSON is shown and read. An empty field reads as `null`.

import { Problem } from "./api.js";
import { element } from "./dom.js";
import { text } from "./text.js";

const MINUTE_MS = 60000;
// The length of a time as `datetime-local` has it: 2026-01-31T12:00.
const MOMENT_LENGTH = 16;

const only = (place) => place.querySelector("input");
const orNull = (value) => (value === "" ? null : value);

const KINDS = {
  text: { read: (place) => only(place).value, show: (value) => ({ value: value ?? "" }) },
  secret: { type: "password", read: (place) => orNull(only(place).value), show: () => ({}) },
  count: { type: "number", min: 1, read: (place) => valid(place, Number, "noNumber"), show: (value) => ({ value }) },
  moment: { type: "datetime-local", read: (place) => valid(place, toUtc, "noTime"), show: (value) => ({ value: value && toLocal(value) }) },
  list: { read: readList, show: (value) => ({ value: value?.join(", ") ?? "" }) },
  check: { type: "checkbox", read: (place) => only(place).checked, show: (value) => ({ checked: value === true }) },
};

// Draws a field `{name, label, hint, kind, options, attributes}`; a field with `options`, names and their texts, is a group of
// checkboxes.
export function drawField({ name, label, hint, kind, options, attributes }, value) {
  const problem = element("span", { class: "problem", id: `problem-${name}`, role: "alert" });
  const small = hint ? element("small", {}, text(hint)) : null;
  if (options) return drawOptions(name, text(label), options, value ?? [], problem);
  const { type, min, show } = KINDS[kind];
  const input = element("input", { name, type, min, autocomplete: "off", "aria-describedby": problem.id, ...show(value), ...attributes });
  if (kind === "check") return element("label", { class: "check" }, input, element("span", {}, text(label), small), problem);
  return element("label", {}, text(label), small, input, problem);
}

function drawOptions(name, label, options, chosen, problem) {
  const boxes = options.map(([value, meaning]) => {
    const input = element("input", { type: "checkbox", name, value, checked: chosen.includes(value) });
    return element("label", { class: "check" }, input, element("span", {}, value, element("small", {}, text(meaning))));
  });
  return element("fieldset", { "aria-describedby": problem.id }, element("legend", {}, label), boxes, problem);
}

// Reads the value of a field from what `drawField` has returned. Throws a problem if it cannot be read.
export function readField({ kind, options }, place) {
  if (options) return [...place.querySelectorAll("input:checked")].map((input) => input.value);
  return KINDS[kind].read(place);
}

// What the browser cannot read as a number or a time has an empty value.
function valid(place, convert, problem) {
  const { name, value, validity } = only(place);
  if (validity.badInput) throw new Problem(text(problem), name, null);
  return value === "" ? null : convert(value);
}

function readList(place) {
  const names = only(place).value.split(",").map((name) => name.trim()).filter((name) => name !== "");
  return names.length > 0 ? names : null;
}

function toUtc(local) {
  return new Date(local).toISOString();
}

function toLocal(time) {
  const date = new Date(time);
  return new Date(date - date.getTimezoneOffset() * MINUTE_MS).toISOString().slice(0, MOMENT_LENGTH);
}
