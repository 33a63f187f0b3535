// Bars over time: successes below, errors above. Errors are hatched, so that not only their colour distinguishes them.

import { element, svg, write } from "./dom.js";
import { short, text, whole } from "./text.js";

const HEIGHT = 168;
const LEFT = 44;
const TOP = 8;
const BOTTOM = 24;
const LABEL_WIDTH = 84;
const PLOT = HEIGHT - TOP - BOTTOM;

const charts = new WeakMap();

// Draws `bars`, each `{key, label, success, error}`, with a label below every `every`th bar. An existing chart is changed
// and not replaced, so that the focus and the chosen bar stay.
export function drawChart(place, title, bars, every) {
  let chart = charts.get(place);
  if (chart?.picture.parentElement !== place) charts.set(place, (chart = newChart(place)));
  const { picture, legend } = chart;
  chart.redraw = () => drawChart(place, title, bars, every);
  chart.bars = bars;
  // If the chosen bar is no longer shown, the oldest bar becomes the chosen one.
  if (chart.chosen && !bars.some((bar) => bar.key === chart.chosen)) chart.chosen = bars[0]?.key;
  chart.width = widthIn(place);
  chart.step = (chart.width - LEFT) / Math.max(1, bars.length);
  picture.setAttribute("viewBox", `0 0 ${chart.width} ${HEIGHT}`);
  picture.setAttribute("width", chart.width);
  picture.setAttribute("aria-label", title);
  const most = ceiling(Math.max(1, ...bars.map((bar) => bar.success + bar.error)));
  chart.layer.replaceChildren(...grid(chart.width, most), ...bars.flatMap((bar, index) => drawBar(chart, most, every, bar, index)));
  const [success, error] = legend.children;
  write(success, text("succeeded"));
  write(error, text("failed"));
  show(chart);
}

function widthIn(place) {
  return Math.max(240, place.clientWidth - 24);
}

let patterns = 0;

function newChart(place) {
  const id = `hatch-${++patterns}`;
  const hatch = svg("pattern", { id, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("rect", { class: "stripe", width: 3, height: 5 }));
  const layer = svg("g");
  const picture = svg("svg", { height: HEIGHT, role: "img", tabindex: 0 }, svg("defs", {}, hatch), layer);
  const readout = element("output", { "aria-live": "polite" });
  const legend = element("div", { class: "legend" }, element("span", { class: "key" }), element("span", { class: "key error" }), readout);
  const chart = { picture, layer, legend, readout, fill: `url(#${id})`, chosen: null };
  const choose = (index) => {
    chart.chosen = chart.bars[Math.min(Math.max(0, index), chart.bars.length - 1)]?.key;
    show(chart);
  };
  picture.addEventListener("pointermove", ({ offsetX }) => choose(Math.floor((offsetX * chart.width / picture.clientWidth - LEFT) / chart.step)));
  picture.addEventListener("pointerleave", ({ pointerType }) => pointerType === "mouse" && choose(NaN));
  picture.addEventListener("keydown", ({ key }) => {
    const at = chart.bars.findIndex((bar) => bar.key === chart.chosen);
    if (key === "ArrowLeft") choose((at < 0 ? chart.bars.length : at) - 1);
    if (key === "ArrowRight") choose(at < 0 ? chart.bars.length - 1 : at + 1);
  });
  place.replaceChildren(picture, legend);
  new ResizeObserver(() => picture.parentElement === place && chart.width !== widthIn(place) && chart.redraw()).observe(place);
  return chart;
}

function grid(width, most) {
  return [0, most / 2, most].flatMap((value) => {
    const y = TOP + PLOT * (1 - value / most);
    return [
      svg("line", { class: "grid", x1: LEFT, x2: width, y1: y, y2: y }),
      svg("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, short(value, 1e4)),
    ];
  });
}

function drawBar({ bars, width, step, fill }, most, every, bar, index) {
  const [left, thick] = [LEFT + index * step, Math.max(1, Math.min(step - 2, 48))];
  const [good, bad] = [bar.success, bar.error].map((value) => (value / most) * PLOT);
  const drawn = [
    svg("rect", { class: "success", x: left + 1, width: thick, y: TOP + PLOT - good, height: good }),
    svg("rect", { class: "error", fill, x: left + 1, width: thick, y: TOP + PLOT - good - bad, height: bad }),
    svg("rect", { class: "hover", "data-key": bar.key, x: left, y: TOP, width: step, height: PLOT }, svg("title", {}, describe(bar))),
  ];
  // Shows as many labels as fit.
  const spacing = every * Math.ceil(LABEL_WIDTH / (every * step));
  if (index % spacing !== (bars.length - 1) % spacing) return drawn;
  const middle = left + 1 + thick / 2;
  const anchor = middle + LABEL_WIDTH / 2 > width ? "end" : "middle";
  return [...drawn, svg("text", { x: middle, y: HEIGHT - 6, "text-anchor": anchor }, bar.label)];
}

function describe(bar) {
  return `${bar.label}: ${whole(bar.success)} ${text("succeeded")}, ${whole(bar.error)} ${text("failed")}`;
}

function show({ layer, readout, bars, chosen }) {
  layer.querySelectorAll(".hover").forEach((area) => area.classList.toggle("chosen", area.dataset.key === chosen));
  const bar = bars.find((known) => known.key === chosen);
  write(readout, bar ? describe(bar) : "");
}

// Returns the next round, even number for the top of an axis, so that its half is whole, too.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  const found = [1, 2, 4, 6, 8, 10].map((factor) => factor * power).find((candidate) => candidate >= value);
  return Math.max(2, found);
}
