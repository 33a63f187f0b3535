// The dialog with a form that is made of a table of fields. An error of the server stands beside the field that is wrong.

import { element, whileDisabled, write } from "./dom.js";
import { drawField, readField } from "./fields.js";
import { text } from "./text.js";

const dialog = document.getElementById("form");

// Opens a form with `fields`, which show `values`, and `notes` below them. `send` gets the values of all fields, or, if the form
// `isChange`, of those that have changed; it throws a problem if they are refused. `guessField` finds the field of a problem
// from the values of all fields.
export function openForm({ title, action, fields, values = {}, isChange = false, notes = [], send, guessField }) {
  const drawn = fields.map((field) => drawField(field, values[field.name]));
  const save = element("button", { type: "submit" }, action);
  const cancel = element("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, text("cancel"));
  const general = element("p", { class: "problem", role: "alert" });
  const form = element("form", { novalidate: true },
    element("h2", { id: "form-title" }, title), drawn, notes, general, element("div", { class: "actions" }, save, cancel));
  const read = () => Object.fromEntries(fields.map((field, index) => [field.name, readField(field, drawn[index])]));
  const before = isChange ? read() : {};
  const submit = async () => {
    let all = {};
    try {
      all = read();
      const isChanged = ([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name]);
      await send(Object.fromEntries(Object.entries(all).filter(isChanged)));
      if (dialog.contains(form)) dialog.close();
    } catch (error) {
      showProblem(form, general, guessField(error, all), error.message);
    }
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    whileDisabled(save, submit);
  });
  dialog.replaceChildren(form);
  dialog.showModal();
  return form;
}

function showProblem(form, general, field, message) {
  for (const problem of form.querySelectorAll("[id^=problem-]")) {
    const isWrong = problem.id === `problem-${field}`;
    write(problem, isWrong ? message : "");
    const input = problem.parentElement.querySelector("input");
    input.setAttribute("aria-invalid", isWrong);
    if (isWrong) input.focus();
  }
  write(general, form.querySelector(`#problem-${field}`) ? "" : message);
}
