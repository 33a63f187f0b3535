// Which view the page shows: the login form while a key is asked for, else the view that the address names.

import { may } from "./session.js";
import { listen, redraw, state } from "./store.js";
import { text } from "./text.js";

let drawn = null;

// Returns the view to show; `null` until the server has told whether it asks for a key.
export function view() {
  if (state.session === undefined) return null;
  if (state.session === null) return "login";
  return location.hash === "#keys" && may("admin") ? "keys" : "overview";
}

listen((kinds) => kinds.has("Redraw") && drawView());

addEventListener("hashchange", redraw);

// Shows the view, and hides what the session may not use.
function drawView() {
  const shown = view();
  for (const node of document.querySelectorAll("[data-view]")) node.hidden = node.dataset.view !== shown;
  for (const node of document.querySelectorAll("[data-needs]")) node.hidden = !may(node.dataset.needs);
  for (const link of document.querySelectorAll("#views a")) {
    if (link.hash === `#${shown}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const skip = document.querySelector(".skip");
  skip.hidden = shown === null || shown === "login";
  skip.hash = shown === "keys" ? "#keys" : "#endpoints";
  skip.textContent = text(shown === "keys" ? "skipToKeys" : "skip");
  if (drawn !== null && drawn !== shown) scrollTo(0, 0);
  drawn = shown;
}
