// The table of endpoints.

import { element, keyedRows, number, row, table, write, writeCut } from "./dom.js";
import { openPanel } from "./panel.js";
import { may } from "./session.js";
import { speedOf } from "./store.js";
import { clock, currentLanguage, milliseconds, NONE, percent, speed, text, whole } from "./text.js";

let drawnIn = null;

export function drawEndpoints(place, overview) {
  const isEmpty = overview.endpoints.length === 0;
  const state = `${isEmpty} ${may("admin")} ${currentLanguage()}`;
  if (drawnIn !== state) {
    drawnIn = state;
    place.replaceChildren(isEmpty ? emptyState() : table(columns(), []));
  }
  if (isEmpty) return;
  keyedRows(place.querySelector("tbody"), overview.endpoints, newRow, writeRow);
}

function columns() {
  return [
    [text("status")], [text("name")], [text("kind")], [text("models")], [text("inFlight"), true], [text("requests"), true],
    [text("success"), true], [text("latency"), true], [text("tps"), true],
  ];
}

function newRow({ id }) {
  const open = element("button", { type: "button", class: "name", "data-id": id, onclick: () => openPanel(id) });
  const cells = [element("span", { class: "status" }), open, "", ""].map((content) => element("td", {}, content));
  cells[0].append(element("span", { class: "breaker" }));
  cells[3].className = "models";
  return row(...cells, ...Array.from({ length: 5 }, () => number("")));
}

function writeRow(drawn, endpoint) {
  const [status, name, kind, models, ...figures] = drawn.children;
  drawn.dataset.endpoint = endpoint.name;
  status.firstChild.dataset.status = endpoint.status;
  write(status.firstChild, text(endpoint.status));
  writeBreaker(status.lastChild, endpoint.breaker);
  writeCut(name.firstChild, endpoint.name);
  write(kind, endpoint.kind);
  writeCut(models, endpoint.models.join(", ") || NONE);
  const values = [
    `${endpoint.in_flight} / ${endpoint.max_concurrency}`, whole(endpoint.total_requests),
    percent(endpoint.successful_requests, endpoint.failed_requests), milliseconds(endpoint.latency_ms),
    speed(speedOf(endpoint.id)?.aggregate_tps),
  ];
  figures.forEach((cell, index) => write(cell, values[index]));
}

// Writes that the endpoint is skipped after failures, and until when, or that one request tries it; nothing otherwise.
function writeBreaker(place, { state, until }) {
  place.dataset.breaker = state;
  place.hidden = state === "closed";
  write(place, { closed: "", open: `${text("skippedUntil")} ${clock(until, { second: "2-digit" })}`, trial: text("onTrial") }[state]);
}

// Returns an endpoint's status and breaker in words.
export function statusOf({ status, breaker }) {
  const place = element("span", { class: "breaker" });
  writeBreaker(place, breaker);
  return element("span", {}, element("span", { class: "status", "data-status": status }, text(status)), place);
}

function emptyState() {
  if (!may("admin")) return element("p", { class: "none" }, text("noEndpointsYet"));
  const command = `curl ${location.origin}/api/endpoints -H 'content-type: application/json' \\\n  -d '{"name":"gpu-1","base_url":"http://10.0.0.11:8000","max_concurrency":4}'`;
  return element("div", { class: "empty" }, element("p", {}, text("noEndpoints")), element("code", {}, command));
}
