// Bars over time: successes below, errors above, hatched so that colour is not all that tells them apart.

import { element, svg, write } from "./dom.js";
import { text, whole } from "./text.js";

const HEIGHT = 168;
const LEFT = 44;
const TOP = 8;
const BOTTOM = 24;
const LABEL_WIDTH = 84;
const PLOT = HEIGHT - TOP - BOTTOM;

let patterns = 0;

// Draws `bars`, each `{label, success, error}`, with a label below every `every`th.
export function drawChart(place, bars, every) {
  const width = Math.max(240, place.clientWidth - 24);
  const most = ceiling(Math.max(1, ...bars.map((bar) => bar.success + bar.error)));
  const chosen = place.dataset.chosen;
  const step = (width - LEFT) / Math.max(1, bars.length);
  const height = (value) => (value / most) * PLOT;
  const pattern = `hatch-${++patterns}`;
  const readout = element("output", { "aria-live": "polite" });
  const describe = (bar) => `${bar.label}: ${whole(bar.success)} ${text("succeeded")}, ${whole(bar.error)} ${text("failed")}`;

  const grid = [0, most / 2, most].map((value) => {
    const y = TOP + PLOT - height(value);
    return [
      svg("line", { class: "grid", x1: LEFT, x2: width, y1: y, y2: y }),
      svg("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, Number.isInteger(value) ? whole(value) : ""),
    ];
  });
  // As many labels as fit.
  const spacing = every * Math.ceil(LABEL_WIDTH / (every * step));
  const drawn = bars.map((bar, index) => {
    const [x, thick] = [LEFT + index * step + 1, Math.max(1, Math.min(step - 2, 48))];
    const [good, bad] = [height(bar.success), height(bar.error)];
    const area = svg("rect", { class: "hover", x: LEFT + index * step, y: TOP, width: step, height: PLOT }, svg("title", {}, describe(bar)));
    area.addEventListener("pointerenter", () => choose(index));
    if (String(index) === chosen) area.classList.add("chosen");
    return [
      svg("rect", { class: "success", x, width: thick, y: TOP + PLOT - good, height: good }),
      svg("rect", { class: "error", fill: `url(#${pattern})`, x, width: thick, y: TOP + PLOT - good - bad, height: bad }),
      index % spacing === (bars.length - 1) % spacing
        ? svg("text", { x: x + thick / 2, y: HEIGHT - 6, "text-anchor": x + thick / 2 + LABEL_WIDTH / 2 > width ? "end" : "middle" }, bar.label)
        : null,
      area,
    ];
  });
  const hatch = svg("defs", {}, svg("pattern", { id: pattern, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("rect", { class: "stripe", width: 3, height: 5 })));
  const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", tabindex: 0 }, hatch, grid.flat(), drawn.flat());
  picture.setAttribute("aria-label", bars.map(describe).at(-1) ?? "");
  picture.addEventListener("keydown", ({ key }) => {
    const at = Number(place.dataset.chosen ?? bars.length - 1);
    if (key === "ArrowLeft") choose(Math.max(0, at - 1));
    if (key === "ArrowRight") choose(Math.min(bars.length - 1, at + 1));
  });
  const hadFocus = place.firstChild !== null && place.firstChild === document.activeElement;
  place.replaceChildren(
    picture,
    element("div", { class: "legend" },
      element("span", { class: "key" }, text("succeeded")),
      element("span", { class: "key error" }, text("failed")),
      readout),
  );
  if (hadFocus) picture.focus({ preventScroll: true });
  if (chosen !== undefined && bars[chosen]) write(readout, describe(bars[chosen]));

  function choose(index) {
    place.dataset.chosen = index;
    picture.querySelectorAll(".hover").forEach((area, at) => area.classList.toggle("chosen", at === index));
    write(readout, describe(bars[index]));
  }
}

// The next even number that a person would write at an axis, so that its half is whole, too.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  const found = [1, 2, 4, 6, 8, 10].map((factor) => factor * power).find((candidate) => candidate >= value);
  return Math.max(2, found);
}
