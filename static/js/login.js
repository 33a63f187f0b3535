// The login form, and the button that logs out.

import { whileDisabled, write } from "./dom.js";
import { logIn, logOut } from "./session.js";
import { connect } from "./socket.js";
import { listen, state } from "./store.js";
import { text } from "./text.js";
import { view } from "./views.js";

const form = document.getElementById("login-form");
const [input, problem] = [form.elements.key, document.getElementById("problem-login")];
const [out, refused] = [document.getElementById("log-out"), document.getElementById("problem-log-out")];

let isShown = false;

listen(() => {
  out.hidden = !state.session?.name;
  out.title = state.session?.name ?? "";
  const wasShown = isShown;
  isShown = view() === "login";
  if (!isShown || wasShown) return;
  // A secret that is shown only once stays until somebody has copied it.
  for (const dialog of document.querySelectorAll("dialog[open]:not(#secret)")) dialog.close();
  show("");
  if (document.querySelector("dialog[open]") === null) input.focus();
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  whileDisabled(form.querySelector("button"), submit);
});

out.addEventListener("click", () => whileDisabled(out, () => logOut().catch(({ message }) => write(refused, message))));

async function submit() {
  try {
    if (input.value === "") throw new Error(text("writeKey"));
    await logIn(input.value.trim());
    input.value = "";
    connect();
  } catch (error) {
    show(error.message);
    input.select();
  }
}

function show(why) {
  write(problem, why);
  input.setAttribute("aria-invalid", why !== "");
}
