// The waiting room: waiting requests, running requests, and the last grants with their reasons.

import { element, showTable, write } from "./dom.js";
import { reader } from "./reader.js";
import { state } from "./store.js";
import { clock, milliseconds, NONE, text, whole } from "./text.js";

// The shortest time between two readings while the queue changes, in milliseconds.
const READ_AGAIN_MS = 1000;

const place = document.getElementById("waiting");

let isVisible = false;
let line = null;
let readAt = 0;

// Reads the queue again soon, if the waiting room is visible.
export const lineMoved = reader("/api/queue/waiting", READ_AGAIN_MS, () => isVisible && !document.hidden, (read, why) => {
  write(document.getElementById("waiting-problem"), why);
  if (!read) return;
  line = read;
  readAt = performance.now();
  drawWaiting();
});

// Redraws running requests between readings, so that their elapsed time grows.
setInterval(() => isVisible && state.connection === "live" && line?.running.length > 0 && drawWaiting(), READ_AGAIN_MS);

new IntersectionObserver(([entry]) => {
  isVisible = entry.isIntersecting;
  lineMoved();
}).observe(place);
document.addEventListener("visibilitychange", lineMoved);

export function drawWaiting() {
  if (!line) return;
  const models = line.models.map((model) => [model.model, whole(model.waiting), model.estimated_wait === null ? NONE : `${model.estimated_wait} s`]);
  const since = performance.now() - readAt;
  const running = line.running.map((one) => [one.endpoint, one.model, milliseconds(one.elapsed_ms + since), one.api_kind]);
  const grants = line.grants.map((grant) =>
    [clock(grant.time, { second: "2-digit" }), grant.endpoint, grant.model, text(grant.reason), milliseconds(grant.wait_ms)]);
  part("waitsNow", "nobodyWaits", [[text("model")], [text("waiting"), true], [text("estimate"), true]], models);
  part("running", "nothingRuns", [[text("endpoint")], [text("model")], [text("elapsed"), true], [text("api")]], running);
  part("grants", "noGrants", [[text("time")], [text("endpoint")], [text("model")], [text("reason")], [text("waited"), true]], grants);
}

// Keeps the frame of a part when its content changes, so that scroll position and focus stay.
function part(title, none, columns, rows) {
  let frame = place.querySelector(`[data-part=${title}]`);
  if (!frame) {
    frame = element("div", { "data-part": title }, element("h3"), element("div", { class: "scroll", tabindex: 0, role: "region" }));
    place.append(frame);
  }
  const [heading, scroll] = frame.children;
  write(heading, text(title));
  scroll.setAttribute("aria-label", text(title));
  showTable(scroll, columns, rows, text(none));
}
