// The table of endpoints.

import { element, number, row, table, write } from "./dom.js";
import { openPanel } from "./panel.js";
import { speedOf } from "./store.js";
import { milliseconds, percent, speed, text, whole } from "./text.js";

export function drawEndpoints(place, overview, add) {
  if (!overview) return;
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.id : undefined;
  if (overview.endpoints.length === 0) {
    place.replaceChildren(emptyState(add));
    return;
  }
  const columns = [
    [text("status")], [text("name")], [text("kind")], [text("models")], [text("inFlight"), true], [text("requests"), true],
    [text("success"), true], [text("latency"), true], [text("tps"), true],
  ];
  place.replaceChildren(table(columns, overview.endpoints.map(endpointRow)));
  if (focused) place.querySelector(`[data-id="${focused}"]`)?.focus();
}

export function statusOf(endpoint) {
  return element("span", { class: "status", "data-status": endpoint.status }, text(endpoint.status));
}

function endpointRow(endpoint) {
  const open = element("button", { type: "button", class: "name", "data-id": endpoint.id }, endpoint.name);
  open.addEventListener("click", () => openPanel(endpoint.id));
  const models = endpoint.models.join(", ");
  const drawn = row(
    element("td", {}, statusOf(endpoint)),
    element("td", {}, open),
    endpoint.kind,
    element("td", { class: "models", title: models }, models || "—"),
    number(`${endpoint.in_flight} / ${endpoint.max_concurrency}`),
    number(whole(endpoint.total_requests)),
    number(percent(endpoint.successful_requests, endpoint.failed_requests)),
    number(milliseconds(endpoint.latency_ms)),
    number(speed(speedOf(endpoint.id)?.aggregate_tps)),
  );
  drawn.dataset.endpoint = endpoint.name;
  return drawn;
}

function emptyState(add) {
  const command = `curl ${location.origin}/api/endpoints -H 'content-type: application/json' \\\n  -d '{"name":"gpu-1","base_url":"http://10.0.0.11:8000","max_concurrency":4}'`;
  const button = element("button", { type: "button" });
  write(button, text("add"));
  button.addEventListener("click", add);
  return element("div", { class: "empty" }, element("p", {}, text("noEndpoints")), button, element("code", {}, command));
}
