// Buttons that change something at the server. While the server works a button is disabled; an error is written to `problem`.

import { element, whileDisabled, write } from "./dom.js";
import { text } from "./text.js";

export function actionButton(label, problem, act) {
  const button = element("button", { type: "button", class: "quiet" }, label);
  // Ignores the second click of a double click, which would undo the first.
  button.addEventListener("click", ({ detail }) => detail > 1 || perform(button, problem, act));
  return button;
}

// Returns a button that asks for confirmation, with another button in another place, before it acts.
export function confirmButton(label, question, problem, act) {
  const button = element("button", { type: "button", class: "danger last" }, label);
  const sure = element("button", { type: "button", class: "danger sure" }, question);
  sure.addEventListener("click", () => perform(sure, problem, act));
  return exchangeable(button, () => [sure]);
}

// Returns `button`, which a click exchanges for other nodes and a button that cancels. `makeNodes` gets a function that changes
// back.
export function exchangeable(button, makeNodes) {
  const cancel = element("button", { type: "button", class: button.matches(".last") ? "quiet last" : "quiet", onclick: back }, text("cancel"));
  const nodes = makeNodes(back);
  button.addEventListener("click", () => { button.replaceWith(...nodes, cancel); cancel.focus(); });
  return button;

  function back() {
    nodes.forEach((node) => node.remove());
    cancel.replaceWith(button);
    button.focus();
  }
}

function perform(button, problem, act) {
  return whileDisabled(button, async () => {
    const refused = await act().then(() => null, (error) => error);
    write(problem, refused?.message ?? "");
  });
}
