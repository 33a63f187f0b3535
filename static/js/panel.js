// One endpoint, opened from the table: its facts, its speeds by model, its days, and what can be done with it.

import { ask } from "./api.js";
import { drawChart } from "./chart.js";
import { element, number, row, table, write } from "./dom.js";
import { statusOf } from "./endpoints.js";
import { endpoint as known, listen } from "./store.js";
import { milliseconds, moment, NONE, speed, text, whole } from "./text.js";

const dialog = document.getElementById("panel");

// How soon the figures are read again after an event, in milliseconds.
const READ_AGAIN_MS = 500;

const DAYS = 14;
const DAY_MS = 24 * 3600 * 1000;

let shown = null;
let reading = false;

listen((kinds) => {
  if (shown === null) return;
  const endpoint = known(shown);
  if (!endpoint) return dialog.close();
  drawFacts(endpoint);
  if (["TpsUpdated", "RequestsCounted", "Snapshot", "Redraw"].some((kind) => kinds.has(kind))) readSoon();
});

dialog.addEventListener("close", () => {
  // Closing is told late: it may have been opened again since.
  if (dialog.open) return;
  const opener = document.querySelector(`button[data-id="${shown}"]`) ?? document.getElementById("add");
  shown = null;
  opener.focus({ preventScroll: true });
});

export function openPanel(id) {
  shown = id;
  dialog.replaceChildren(element("div", {},
    element("div", { class: "bar" }, element("h2", { id: "panel-title" }), closeButton()),
    element("dl", { class: "facts" }),
    element("p", { class: "problem", role: "alert" }),
    element("div", { class: "actions" }),
    element("h3", {}),
    element("div", { class: "scroll", "data-part": "models", tabindex: 0, role: "region", "aria-label": text("byModel") }),
    element("h3", {}),
    element("div", { class: "chart", "data-part": "days" }),
  ));
  drawFacts(known(id));
  read();
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
  const isDraining = endpoint.status === "draining";
  const state = `${endpoint.id} ${isDraining} ${text("drain")}`;
  if (place.dataset.state === state) return;
  const hadFocus = place.contains(document.activeElement) || document.activeElement === document.body;
  const isFirst = place.dataset.state === undefined;
  place.dataset.state = state;
  const act = (label, path, method = "POST") => {
    const button = element("button", { type: "button", class: "quiet" }, label);
    button.addEventListener("click", () => perform(button, `/api/endpoints/${endpoint.id}${path}`, method));
    return button;
  };
  const actions = [act(text(isDraining ? "resume" : "drain"), isDraining ? "/resume" : "/drain"), act(text("sync"), "/sync")];
  if (endpoint.source === "api") actions.push(removeButton(endpoint));
  place.replaceChildren(...actions);
  if (hadFocus && !isFirst) actions[0].focus();
}

// Asks once more before it removes, with a button in another place.
function removeButton(endpoint) {
  const button = element("button", { type: "button", class: "danger last" }, text("remove"));
  const sure = element("button", { type: "button", class: "danger sure" }, text("reallyRemove"));
  const cancel = element("button", { type: "button", class: "quiet last" }, text("cancel"));
  button.addEventListener("click", () => { button.replaceWith(sure, cancel); cancel.focus(); });
  cancel.addEventListener("click", () => { sure.remove(); cancel.replaceWith(button); button.focus(); });
  sure.addEventListener("click", () => perform(sure, `/api/endpoints/${endpoint.id}`, "DELETE"));
  return button;
}

async function perform(button, path, method) {
  const problem = dialog.querySelector(".problem");
  button.disabled = true;
  try {
    await ask(path, method, method === "POST" ? {} : undefined);
    write(problem, "");
  } catch (error) {
    write(problem, error.message);
  }
  button.disabled = false;
}

function readSoon() {
  if (reading) return;
  reading = true;
  setTimeout(() => {
    reading = false;
    if (shown !== null) read();
  }, READ_AGAIN_MS);
}

async function read() {
  const id = shown;
  const path = `/api/endpoints/${id}`;
  const [models, days] = await Promise.all([ask(`${path}/model-tps`), ask(`${path}/daily-stats?days=${DAYS}`)]).catch(() => [null, null]);
  if (!models || shown !== id) return;
  drawModels(dialog.querySelector("[data-part=models]"), models);
  const chart = dialog.querySelector("[data-part=days]");
  if (days.length > 0) drawChart(chart, toBars(days), 1);
  else chart.replaceChildren(element("p", {}, text("nothingMeasured")));
}

// The last days up to the newest, those without a request included.
function toBars(days) {
  const newest = Date.parse(days.at(-1).date);
  return Array.from({ length: DAYS }, (_, index) => {
    const date = new Date(newest - (DAYS - 1 - index) * DAY_MS).toISOString().slice(0, 10);
    const day = days.find((known) => known.date === date);
    return { label: date.slice(5), success: day?.successful_requests ?? 0, error: day?.failed_requests ?? 0 };
  });
}

function drawModels(place, models) {
  if (models.length === 0) return place.replaceChildren(element("p", { class: "empty" }, text("nothingMeasured")));
  const columns = [
    [text("model")], [text("tps"), true], [text("requests"), true], [text("tokens"), true], [text("averageTime"), true],
    [text("firstToken"), true], [text("decodeTps"), true], [text("api")],
  ];
  const rows = models.map((model) => row(
    model.model_id,
    number(speed(model.tps)),
    number(whole(model.request_count)),
    number(`${model.tokens_estimated ? "≈ " : ""}${whole(model.total_output_tokens)}`),
    number(milliseconds(model.average_duration_ms)),
    number(milliseconds(model.first_token_ms)),
    number(speed(model.decode_tps)),
    model.api_kind,
  ));
  place.replaceChildren(table(columns, rows));
}
