// The cards, each of which shows one figure.

import { element, write } from "./dom.js";
import { milliseconds, NONE, percent, short, speed, text, whole } from "./text.js";

const CARDS = [
  ["online-endpoints", "onlineEndpoints", ({ stats }) => `${stats.online_endpoints} / ${stats.total_endpoints}`],
  ["total-requests", "totalRequests", ({ stats }) => stats.total_requests],
  ["active-requests", "activeRequests", ({ stats }) => stats.total_active_requests],
  ["queued-requests", "queuedRequests", ({ stats }) => stats.queued_requests],
  ["average-wait", "averageWait", ({ stats }) => milliseconds(stats.average_wait_time_ms)],
  ["success-rate", "successRate", ({ stats }) => percent(stats.successful_requests, stats.failed_requests)],
  ["average-response", "averageResponse", ({ stats }) => milliseconds(stats.average_response_time_ms)],
  ["output-tokens", "outputTokens", ({ stats }) => stats.total_output_tokens],
  ["tokens-per-second", "tokensPerSecond", ({ endpoint_tps }) => speed(meanSpeed(endpoint_tps))],
];

// Returns the mean speed of all endpoints, weighted by requests; `null` if nothing was measured.
function meanSpeed(speeds) {
  const measured = speeds.filter((known) => known.aggregate_tps !== null);
  const requests = measured.reduce((sum, known) => sum + known.total_requests, 0);
  if (requests === 0) return null;
  return measured.reduce((sum, known) => sum + known.aggregate_tps * known.total_requests, 0) / requests;
}

export function drawCards(place, overview) {
  if (place.childElementCount === 0) {
    place.append(...CARDS.map(([stat]) => element("div", {}, element("dt"), element("dd", { "data-stat": stat }))));
  }
  CARDS.forEach(([, label, figure], index) => {
    const [term, value] = place.children[index].children;
    write(term, text(label));
    const shown = overview ? figure(overview) : NONE;
    const isCount = typeof shown === "number";
    write(value, isCount ? short(shown) : shown);
    value.title = isCount ? whole(shown) : shown;
  });
}
