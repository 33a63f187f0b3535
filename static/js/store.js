// What is known: the snapshot, and the events since.

import { ask, Problem } from "./api.js";

const MINUTES = 60;

export const state = { connection: "connecting", overview: null };

const listeners = [];
let isDrawn = true;

// Calls back once per frame after something has changed; `kinds` are the types of events since the last frame.
export function listen(listener) {
  listeners.push(listener);
}

let kinds = new Set();

function changed(kind) {
  kinds.add(kind);
  if (!isDrawn) return;
  isDrawn = false;
  requestAnimationFrame(() => {
    isDrawn = true;
    const since = kinds;
    kinds = new Set();
    listeners.forEach((listener) => listener(since));
  });
}

export function redraw() {
  changed("Redraw");
}

export function setConnection(connection) {
  state.connection = connection;
  changed("Connection");
}

export function endpoint(id) {
  return state.overview?.endpoints.find((known) => known.id === id);
}

export function speedOf(id) {
  return state.overview?.endpoint_tps.find((known) => known.endpoint_id === id);
}

export function apply({ type, data }) {
  if (type === "Snapshot") state.overview = data;
  else if (state.overview && type in APPLY) APPLY[type](data, state.overview);
  else return;
  changed(type);
}

const APPLY = {
  QueueDepth(depth, { stats, endpoints }) {
    stats.total_active_requests = depth.active;
    stats.queued_requests = depth.waiting;
    stats.average_wait_time_ms = depth.avg_wait_ms;
    if (depth.average_response_ms !== null) stats.average_response_time_ms = depth.average_response_ms;
    for (const known of endpoints) known.in_flight = depth.in_flight[known.id] ?? 0;
  },
  RequestsCounted({ endpoint_id, ...counters }) {
    Object.assign(endpoint(endpoint_id) ?? {}, counters);
  },
  TpsUpdated({ endpoint_tps }, overview) {
    const others = overview.endpoint_tps.filter((other) => other.endpoint_id !== endpoint_tps.endpoint_id);
    overview.endpoint_tps = [...others, endpoint_tps];
  },
  MinuteAdvanced({ minute, success, error, ...totals }, overview) {
    Object.assign(overview.stats, totals);
    const last = overview.history.at(-1);
    if (last?.minute === minute) Object.assign(last, { success, error });
    else overview.history = [...overview.history, { minute, success, error }].slice(-MINUTES);
  },
  EndpointStatusChanged({ endpoint_id, new_status }, overview) {
    const known = endpoint(endpoint_id);
    if (known) known.status = new_status;
    countOnline(overview);
    refresh(endpoint_id);
  },
  EndpointRegistered({ endpoint_id }) {
    refresh(endpoint_id);
  },
  EndpointChanged({ endpoint_id }) {
    refresh(endpoint_id);
  },
  EndpointRemoved({ endpoint_id }, overview) {
    overview.endpoints = overview.endpoints.filter((known) => known.id !== endpoint_id);
    countOnline(overview);
  },
};

function countOnline(overview) {
  overview.stats.total_endpoints = overview.endpoints.length;
  overview.stats.online_endpoints = overview.endpoints.filter((known) => known.status === "online").length;
}

// Asks for one endpoint anew, after an event has said that it is another.
async function refresh(id) {
  const read = await ask(`/api/endpoints/${id}`).catch(ignore);
  const overview = state.overview;
  if (!read || !overview) return;
  const place = overview.endpoints.findIndex((known) => known.id === id);
  if (place < 0) overview.endpoints.push(read);
  else overview.endpoints[place] = read;
  countOnline(overview);
  changed("EndpointChanged");
}

function ignore(problem) {
  if (!(problem instanceof Problem)) throw problem;
  return null;
}
