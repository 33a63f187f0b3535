// The form that adds an endpoint. An error of the server stands beside the field that is wrong.

import { ask, Problem } from "./api.js";
import { element, whileDisabled, write } from "./dom.js";
import { text } from "./text.js";

const dialog = document.getElementById("form");

// The name, label, hint and attributes of each field.
const FIELDS = [
  ["name", "name", null, { required: true, maxlength: 100 }],
  ["base_url", "address", "addressHint", { required: true, inputmode: "url", spellcheck: "false" }],
  ["max_concurrency", "slots", "slotsHint", { type: "number", min: 1 }],
  ["api_key", "key", "keyHint", { type: "password", autocomplete: "off" }],
];

export function openForm() {
  const fields = FIELDS.map(([name, label, hint, attributes]) => {
    const problem = element("span", { class: "problem", id: `problem-${name}`, role: "alert" });
    const input = element("input", { name, autocomplete: "off", "aria-describedby": problem.id, ...attributes });
    return element("label", {}, text(label), hint && element("small", {}, text(hint)), input, problem);
  });
  const save = element("button", { type: "submit" }, text("add"));
  const cancel = element("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, text("cancel"));
  const problem = element("p", { class: "problem", role: "alert" });
  const form = element("form", { novalidate: true },
    element("h2", { id: "form-title" }, text("addTitle")), fields, problem, element("div", { class: "actions" }, save, cancel));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    whileDisabled(save, () => submit(form, problem));
  });
  dialog.replaceChildren(form);
  dialog.showModal();
}

async function submit(form, general) {
  const values = Object.fromEntries(new FormData(form));
  const body = { name: values.name, base_url: values.base_url };
  if (values.max_concurrency !== "") body.max_concurrency = Number(values.max_concurrency);
  if (values.api_key !== "") body.api_key = values.api_key;
  try {
    // Such a field reads as empty.
    if (form.elements.max_concurrency.validity.badInput) throw new Problem(text("noNumber"), "max_concurrency");
    await ask("/api/endpoints", "POST", body);
    if (dialog.contains(form)) dialog.close();
  } catch (error) {
    const field = guessField(error, values);
    for (const input of form.querySelectorAll("input")) {
      const isWrong = input.name === field;
      input.setAttribute("aria-invalid", isWrong);
      write(form.querySelector(`#problem-${input.name}`), isWrong ? error.message : "");
      if (isWrong) input.focus();
    }
    write(general, form.elements[field] ? "" : error.message);
  }
}

// The error for a taken name or address names no field, so that the field is guessed from the message.
function guessField({ field, message }, values) {
  if (field) return field;
  if (message.includes(`\`${values.name}\``)) return message.startsWith("base_url") ? "base_url" : "name";
  return message.startsWith("base_url") ? "base_url" : null;
}
