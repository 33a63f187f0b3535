// The waiting room: who waits, what runs where, and the last grants with their reason.

import { ask } from "./api.js";
import { element, number, row, table } from "./dom.js";
import { clock, milliseconds, NONE, text, whole } from "./text.js";

// How often it is read again at most while the line moves, in milliseconds.
const READ_AGAIN_MS = 1000;

const place = document.getElementById("waiting");

let isVisible = false;
let isDue = false;
let line = null;

new IntersectionObserver(([entry]) => {
  isVisible = entry.isIntersecting;
  if (isVisible) lineMoved();
}).observe(place);

// Reads the line anew, soon, if anybody can see it.
export function lineMoved() {
  if (isDue || !isVisible || document.hidden) return;
  isDue = true;
  read();
  setTimeout(() => { isDue = false; read(); }, READ_AGAIN_MS);
}

async function read() {
  line = await ask("/api/queue/waiting").catch(() => line);
  drawWaiting();
}

export function drawWaiting() {
  if (!line) return;
  const models = line.models.map((model) => row(model.model, number(whole(model.waiting)),
    number(model.estimated_wait === null ? NONE : `${model.estimated_wait} s`)));
  const running = line.running.map((one) => row(one.endpoint, one.model, one.api_kind, number(milliseconds(one.elapsed_ms))));
  const grants = line.grants.map((grant) => row(clock(grant.time), grant.endpoint, grant.model, grant.reason, number(milliseconds(grant.wait_ms))));
  place.replaceChildren(
    part("waitsNow", "nobodyWaits", [[text("model")], [text("waiting"), true], [text("estimate"), true]], models),
    part("running", "nothingRuns", [[text("endpoint")], [text("model")], [text("api")], [text("elapsed"), true]], running),
    part("grants", "noGrants", [[text("time")], [text("endpoint")], [text("model")], [text("reason")], [text("waited"), true]], grants),
  );
}

function part(title, none, columns, rows) {
  const content = rows.length > 0 ? table(columns, rows) : element("p", { class: "none" }, text(none));
  return element("div", { "data-part": title },
    element("h3", {}, text(title)),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": text(title) }, content));
}
