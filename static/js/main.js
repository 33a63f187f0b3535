// Draws the page from the state: once per frame, and only the parts that have changed.

import { drawCards } from "./cards.js";
import { drawChart } from "./chart.js";
import { write } from "./dom.js";
import { openEndpointForm } from "./endpoint_form.js";
import { drawEndpoints } from "./endpoints.js";
import "./keys.js";
import "./login.js";
import { connect } from "./socket.js";
import { listen, redraw, state } from "./store.js";
import { clock, currentLanguage, switchLanguage, text, whole } from "./text.js";
import { nextTheme, showTheme, theme } from "./theme.js";
import { view } from "./views.js";
import { drawWaiting, lineMoved } from "./waiting.js";

const place = (id) => document.getElementById(id);

function drawWords() {
  document.documentElement.lang = currentLanguage();
  document.querySelectorAll("[data-text]").forEach((node) => write(node, text(node.dataset.text)));
  write(place("language"), text("otherLanguage"));
  write(place("theme"), `${text("theme")}: ${text(theme())}`);
}

function drawConnection() {
  place("connection").dataset.state = state.connection;
  write(place("connection").querySelector("[data-connection]"), text(state.connection));
}

function drawDropped({ history_rows_dropped: dropped }) {
  write(place("rows-dropped"), dropped > 0 ? `${whole(dropped)} ${text("rowsDropped")}` : "");
}

function drawTimeline() {
  const bars = state.overview.history.map((minute) => ({ ...minute, key: minute.minute, label: clock(minute.minute) }));
  drawChart(place("timeline"), text("timeline"), bars, 15);
}

listen((kinds) => {
  const has = (...wanted) => kinds.has("Snapshot") || kinds.has("Redraw") || wanted.some((kind) => kinds.has(kind));
  drawConnection();
  if (kinds.has("Redraw")) drawWords();
  if (view() !== "overview") return;
  drawCards(place("cards"), state.overview);
  if (!state.overview) return;
  drawDropped(state.overview.stats);
  if (has("MinuteAdvanced")) drawTimeline();
  drawEndpoints(place("endpoint-table"), state.overview);
  if (kinds.has("Redraw")) drawWaiting();
  if (has("QueueDepth")) lineMoved();
});

place("add").addEventListener("click", openEndpointForm);
place("language").addEventListener("click", () => { switchLanguage(); redraw(); });
place("theme").addEventListener("click", () => { nextTheme(); redraw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);

showTheme();
redraw();
connect();
