// Charts as SVG. Each has its figures as text as well: in a label, or in the table below it.
import { svg } from "./dom.js";
import { age, duration, number, time } from "./format.js";

const HEIGHT = 150;
const LEFT = 64;

// The rows of the last loads, as a line of small bars.
export function sparkline(history) {
  if (history.length < 2) return null;
  const [width, height] = [64, 18];
  const share = scaleOf(history);
  const step = width / history.length;
  const label = `rows changed by the last ${history.length} loads: ${history.join(", ")}`;
  // One path: a hundred rows with an element for each bar took twice as long to draw.
  const bars = history.map((value, place) => {
    const tall = value ? Math.max(share(value) * height, 1) : 0;
    const wide = Math.max(step - 1, 1);
    return `M${place * step},${height}v${-tall}h${wide}v${tall}z`;
  });
  return svg("svg", {
    class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": label,
  }, svg("title", null, label), svg("path", { d: bars.join("") }));
}

// Stacked bars: `parts` are {name, of(load)}; the newest load is on the right.
export function bars(label, loads, parts, written) {
  // Drawn smaller, its text would be too small to read.
  const width = Math.min(720, Math.max(window.innerWidth - 40, 280));
  const totals = loads.map((load) => sum(parts, load));
  const share = scaleOf(totals);
  const top = Math.max(...totals, 0);
  const step = Math.min((width - LEFT) / loads.length, 28);
  const columns = loads.map((load, place) => {
    const total = totals[place];
    const tall = total ? Math.max(share(total) * HEIGHT, 2) : 0;
    const x = LEFT + place * step;
    let y = HEIGHT;
    const rects = parts.map((part, number) => {
      const height = total ? (tall * part.of(load)) / total : 0;
      y -= height;
      return svg("rect", { class: `part-${number}`, x, y, width: Math.max(step - 2, 1), height });
    });
    const text = parts.map((part) => `${written(part.of(load))} ${part.name}`).join(", ");
    return svg("g", null,
      svg("title", null, `load ${load.number}, ${time(load.at)}: ${text}`),
      svg("rect", { class: "hit", x, y: 0, width: step, height: HEIGHT }), rects);
  });
  const newest = loads[loads.length - 1];
  const summary = `${label} of ${loads.length} loads; the highest is ${written(top)}, the newest`
    + ` ${written(sum(parts, newest))}`;
  return svg("svg", {
    class: "bars", viewBox: `0 -8 ${width} ${HEIGHT + 16}`, role: "img", "aria-label": summary,
  },
  [1, 0.5, 0].map((height) => svg("g", { class: "grid" },
    svg("line", {
      x1: LEFT - 4, x2: width, y1: HEIGHT - height * HEIGHT, y2: HEIGHT - height * HEIGHT,
    }),
    svg("text", { x: LEFT - 10, y: HEIGHT - height * HEIGHT + 4, "text-anchor": "end" },
      written(share.inverse(height))))),
  columns);
}

const sum = (parts, load) => parts.reduce((total, part) => total + part.of(load), 0);

// Whether the values are drawn by their logarithm: a first load in full would hide all others.
export function isLogarithmic(values) {
  const some = values.filter((value) => value > 0).sort((one, other) => one - other);
  if (some.length < 3) return false;
  return some[some.length - 1] / some[Math.floor(some.length / 2)] > 50;
}

// From a value to its share of the height.
function scaleOf(values) {
  const top = Math.max(...values, 0);
  if (!top) return withInverse(() => 0, () => 0);
  if (!isLogarithmic(values)) {
    return withInverse((value) => value / top, (share) => share * top);
  }
  // A tenth of the smallest value still has a height.
  const low = Math.min(...values.filter((value) => value > 0)) / 2;
  const range = Math.log(top / low);
  return withInverse(
    (value) => (value > low ? Math.log(value / low) / range : 0),
    (share) => (share ? low * Math.exp(share * range) : 0));
}

const withInverse = (scale, inverse) => Object.assign(scale, { inverse });

export const rowsOf = [
  { name: "inserted", of: (load) => load.inserted },
  { name: "updated", of: (load) => load.updated },
  { name: "deleted", of: (load) => load.deleted },
];
export const secondsOf = [
  { name: "extract", of: (load) => load.extract_seconds ?? 0 },
  { name: "load", of: (load) => load.load_seconds ?? 0 },
];
export const roundRows = (value) => number(Math.round(value));
export const shortDuration = (seconds) => (seconds < 60 ? duration(seconds) : age(seconds));
