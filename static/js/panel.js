// The panel of one endpoint, opened from the table: its facts, its speeds by model, its days, and its actions.

import { actionButton, confirmButton } from "./actions.js";
import { ask } from "./api.js";
import { drawChart } from "./chart.js";
import { element, showTable, write } from "./dom.js";
import { statusOf } from "./endpoints.js";
import { reader } from "./reader.js";
import { may } from "./session.js";
import { endpoint as known, listen } from "./store.js";
import { milliseconds, moment, NONE, speed, text, whole } from "./text.js";

const dialog = document.getElementById("panel");

// The pauses between two readings of a part, in milliseconds. Days come from the database and are read less often.
const MODELS_AGAIN_MS = 500;
const DAYS_AGAIN_MS = 5000;

const DAYS = 14;
const DAY_MS = 24 * 3600 * 1000;

let shown = null;
let readers = [];
// True while the endpoint is being removed; its parts are then not read.
let isRemoving = false;

listen((kinds) => {
  if (shown === null) return;
  const endpoint = known(shown);
  if (!endpoint) return dialog.close();
  drawFacts(endpoint);
  if (kinds.has("Snapshot")) write(dialog.querySelector("[role=alert]"), "");
  if (["TpsUpdated", "RequestsCounted", "Snapshot"].some((kind) => kinds.has(kind))) readers.forEach((read) => read());
});

dialog.addEventListener("close", () => {
  // This event comes after the panel has closed: the panel may be open again, or the focus may have moved on.
  if (dialog.open) return;
  const opener = document.querySelector(`button[data-id="${shown}"]`) ?? document.getElementById("add");
  shown = null;
  if (document.activeElement === document.body) opener.focus({ preventScroll: true });
});

export function openPanel(id) {
  shown = id;
  isRemoving = false;
  dialog.replaceChildren(element("div", {},
    element("div", { class: "bar" }, element("h2", { id: "panel-title" }), closeButton()),
    element("dl", { class: "facts" }),
    element("p", { class: "problem", role: "alert" }),
    element("div", { class: "actions" }),
    element("h3", {}),
    element("p", { class: "problem", "data-problem": "models" }),
    element("div", { class: "scroll", "data-part": "models", tabindex: 0, role: "region", "aria-label": text("byModel") }),
    element("h3", {}),
    element("p", { class: "problem", "data-problem": "days" }),
    element("div", { class: "chart", "data-part": "days" }),
  ));
  drawFacts(known(id));
  // Reads one day more than is shown, because the server's local day may differ from the browser's.
  readers = [
    partReader(id, "models", "/model-tps", MODELS_AGAIN_MS, drawModels),
    partReader(id, "days", `/daily-stats?days=${DAYS + 1}`, DAYS_AGAIN_MS, drawDays),
  ];
  readers.forEach((read) => read());
  dialog.showModal();
}

function closeButton() {
  return element("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, text("close"));
}

function drawFacts(endpoint) {
  const [models, days] = dialog.querySelectorAll("h3");
  write(dialog.querySelector("h2"), endpoint.name);
  write(models, text("byModel"));
  write(days, text("byDay"));
  const facts = [
    [text("status"), statusOf(endpoint)], [text("address"), endpoint.base_url], [text("kind"), endpoint.kind],
    [text("source"), endpoint.source === "file" ? text("file") : "API"], [text("models"), endpoint.models.join(", ") || NONE],
    [text("inFlight"), `${endpoint.in_flight} / ${endpoint.max_concurrency}`], [text("lastSeen"), moment(endpoint.last_seen)],
    [text("lastError"), endpoint.last_error ?? NONE],
  ];
  const list = dialog.querySelector("dl");
  if (list.childElementCount === 0) list.append(...facts.flatMap(() => [element("dt"), element("dd")]));
  facts.forEach(([term, value], index) => {
    const [dt, dd] = [list.children[2 * index], list.children[2 * index + 1]];
    write(dt, term);
    if (!(value instanceof Node)) write(dd, value);
    else if (dd.innerHTML !== value.outerHTML) dd.replaceChildren(value);
  });
  drawActions(endpoint);
}

function drawActions(endpoint) {
  const place = dialog.querySelector(".actions");
  if (!may("admin")) return place.replaceChildren();
  const isDraining = endpoint.status === "draining";
  const state = `${endpoint.id} ${isDraining} ${endpoint.source} ${text("drain")}`;
  if (place.dataset.state === state) return;
  const hadFocus = place.contains(document.activeElement) || document.activeElement === document.body;
  const isFirst = place.dataset.state === undefined;
  place.dataset.state = state;
  const problem = dialog.querySelector("[role=alert]");
  const act = (label, path) => actionButton(label, problem, () => ask(`/api/endpoints/${endpoint.id}${path}`, "POST", {}));
  const actions = [act(text(isDraining ? "resume" : "drain"), isDraining ? "/resume" : "/drain"), act(text("sync"), "/sync")];
  if (endpoint.source === "api") actions.push(confirmButton(text("remove"), text("reallyRemove"), problem, () => remove(endpoint)));
  place.replaceChildren(...actions);
  if (hadFocus && !isFirst) actions[0].focus();
}

async function remove({ id }) {
  isRemoving = true;
  try {
    await ask(`/api/endpoints/${id}`, "DELETE");
  } catch (error) {
    isRemoving = false;
    throw error;
  }
}

// Returns a function that reads a part of the panel again, until the panel is closed.
function partReader(id, part, path, pauseMs, draw) {
  const [problem, place] = ["problem", "part"].map((kind) => dialog.querySelector(`[data-${kind}=${part}]`));
  const isWanted = () => shown === id && place.isConnected && !isRemoving;
  return reader(`/api/endpoints/${id}${path}`, pauseMs, isWanted, (read, why) => {
    write(problem, why);
    if (read) draw(place, read);
  });
}

function drawDays(place, days) {
  if (days.length > 0) drawChart(place, text("byDay"), toBars(days), 1);
  else place.replaceChildren(element("p", { class: "none" }, text("nothingMeasured")));
}

// Returns the last days, those without requests included, up to today in the browser or at the server, whichever is later.
function toBars(days) {
  const now = new Date();
  const newest = Math.max(Date.parse(days.at(-1).date), Date.UTC(now.getFullYear(), now.getMonth(), now.getDate()));
  return Array.from({ length: DAYS }, (_, index) => {
    const date = new Date(newest - (DAYS - 1 - index) * DAY_MS).toISOString().slice(0, 10);
    const day = days.find((known) => known.date === date);
    return { key: date, label: date.slice(5), success: day?.successful_requests ?? 0, error: day?.failed_requests ?? 0 };
  });
}

function drawModels(place, models) {
  const columns = [
    [text("model")], [text("tps"), true], [text("requests"), true], [text("tokens"), true], [text("averageTime"), true],
    [text("firstToken"), true], [text("decodeTps"), true], [text("api")],
  ];
  const rows = models.map((model) => [
    model.model_id, speed(model.tps), whole(model.request_count),
    `${model.tokens_estimated ? "≈ " : ""}${whole(model.total_output_tokens)}`, milliseconds(model.average_duration_ms),
    milliseconds(model.first_token_ms), speed(model.decode_tps), model.api_kind,
  ]);
  showTable(place, columns, rows, text("nothingMeasured"));
}
