// Holds the state that the page shows: the snapshot, changed by the events since.

const MINUTES = 60;
const MINUTE_MS = 60000;
const STATUSES = ["pending", "loading", "online", "draining", "offline", "error"];

// `session` is `undefined` until the server has told of it, and `null` while the server asks for a key.
export const state = { connection: "connecting", session: undefined, overview: null };

const listeners = [];
let isDrawn = true;

// Calls `listener` once per frame after a change, with the set of the types of events since the last frame.
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

export function setSession(session) {
  state.session = session;
  if (session === null) state.connection = "loggedOut";
  redraw();
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
  if (type === "Snapshot") begin(data);
  else if (state.overview && type in APPLY) APPLY[type](data, state.overview);
  else return;
  changed(type);
}

function begin(overview) {
  overview.isMeasured = overview.stats.average_response_time_ms !== averageLatency(overview.endpoints);
  state.overview = overview;
}

const APPLY = {
  QueueDepth(depth, overview) {
    const { stats, endpoints } = overview;
    stats.total_active_requests = depth.active;
    stats.queued_requests = depth.waiting;
    stats.average_wait_time_ms = depth.avg_wait_ms;
    overview.isMeasured = depth.average_response_ms !== null;
    if (overview.isMeasured) stats.average_response_time_ms = depth.average_response_ms;
    sumUp(overview);
    for (const known of endpoints) known.in_flight = depth.in_flight[known.id] ?? 0;
  },
  HealthChanged({ endpoint_id, ...health }, overview) {
    Object.assign(endpoint(endpoint_id) ?? {}, health);
    sumUp(overview);
  },
  BreakerChanged({ endpoint_id, breaker }) {
    Object.assign(endpoint(endpoint_id) ?? {}, { breaker });
  },
  RequestsCounted({ endpoint_id, ...counters }) {
    Object.assign(endpoint(endpoint_id) ?? {}, counters);
  },
  TpsUpdated({ endpoint_tps }, overview) {
    // The endpoint may have been removed before its request ended.
    if (!endpoint(endpoint_tps.endpoint_id)) return;
    const others = overview.endpoint_tps.filter((other) => other.endpoint_id !== endpoint_tps.endpoint_id);
    overview.endpoint_tps = [...others, endpoint_tps];
  },
  MinuteAdvanced({ minute, success, error, ...totals }, overview) {
    Object.assign(overview.stats, totals);
    const known = overview.history.find((other) => other.minute === minute);
    if (known) Object.assign(known, { success, error });
    else if (Date.parse(minute) > Date.parse(overview.history.at(-1).minute)) advance(overview, { minute, success, error });
  },
  EndpointStatusChanged({ endpoint_id, new_status }, overview) {
    Object.assign(endpoint(endpoint_id) ?? {}, { status: new_status });
    sumUp(overview);
  },
  EndpointRegistered: put,
  EndpointChanged: put,
  EndpointRemoved({ endpoint_id }, overview) {
    overview.endpoints = overview.endpoints.filter((known) => known.id !== endpoint_id);
    overview.endpoint_tps = overview.endpoint_tps.filter((known) => known.endpoint_id !== endpoint_id);
    sumUp(overview);
  },
};

// Adds or replaces an endpoint. Other events tell its used slots and its breaker, which are kept.
function put({ endpoint: read }, overview) {
  const others = overview.endpoints.filter((known) => known.id !== read.id);
  const endpoints = [...others, { in_flight: 0, breaker: { state: "closed", until: null }, ...endpoint(read.id), ...read }];
  const order = (one, other) => Date.parse(one.registered_at) - Date.parse(other.registered_at) || (one.name < other.name ? -1 : 1);
  overview.endpoints = endpoints.sort(order);
  sumUp(overview);
}

// Adds a minute, and before it the minutes without requests.
function advance(overview, newest) {
  const history = overview.history;
  const at = (minute) => new Date(minute).toISOString().replace(".000Z", "Z");
  for (let minute = Date.parse(history.at(-1).minute) + MINUTE_MS; minute < Date.parse(newest.minute); minute += MINUTE_MS) {
    history.push({ minute: at(minute), success: 0, error: 0 });
    if (history.length > 2 * MINUTES) break;
  }
  overview.history = [...history, newest].slice(-MINUTES);
}

// Counts the endpoints. If no request was measured, their latency stands for the response time, as on the server.
function sumUp({ stats, endpoints, isMeasured }) {
  stats.total_endpoints = endpoints.length;
  for (const status of STATUSES) stats[`${status}_endpoints`] = endpoints.filter((known) => known.status === status).length;
  if (!isMeasured) stats.average_response_time_ms = averageLatency(endpoints);
}

function averageLatency(endpoints) {
  const latencies = endpoints.filter((known) => known.status === "online").map((known) => known.latency_ms).filter((latency) => latency !== null);
  return latencies.length > 0 ? latencies.reduce((sum, latency) => sum + latency, 0) / latencies.length : null;
}
