// Line charts as SVG that follow the theme; the same look as the report's (stages/charts.py).

import { h, s } from "./dom.js";
import { brief, figure } from "./numbers.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [440, 230, 46, 14, 12, 34];
const MOST = 400;

function roundStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= rough * 0.999);
}

function axis(values, start, size, count, least = 0) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const wide = Math.max(Math.abs(low), Math.abs(high));
  if (high - low <= 1e-6 * wide || high === low) [low, high] = [low - (wide || 1) / 2, high + (wide || 1) / 2];
  const step = roundStep(Math.max((high - low) / count, least));
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  return { ticks, place: (value) => start + ((value - ticks[0]) / (ticks.at(-1) - ticks[0])) * size };
}

/** At most MOST of the points, evenly chosen, the last among them. */
export function thin(points) {
  if (points.length <= MOST) return points;
  const step = (points.length - 1) / (MOST - 1);
  return Array.from({ length: MOST }, (_, i) => points[Math.round(i * step)]);
}

/** A figure of one series of [x, y] points; the caption shows the value under the pointer. */
export function chart(title, points, { x = "step", colour = "ppo", marks = false } = {}) {
  const shown = thin(points.filter((point) => point.every(Number.isFinite)));
  const last = shown.at(-1);
  const value = h("span.value", {}, figure(last[1]));
  const across = axis([0, ...shown.map((point) => point[0])], LEFT, WIDTH - LEFT - RIGHT, 5, 1);
  const up = axis(shown.map((point) => point[1]), HEIGHT - BOTTOM, -(HEIGHT - TOP - BOTTOM), 4);
  const at = shown.map(([a, b]) => [across.place(a), up.place(b)]);
  const cursor = s("circle", { class: "dot", r: 4, cx: at.at(-1)[0], cy: at.at(-1)[1] });
  const drawing = s(
    "svg",
    { class: `chart c-${colour}`, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${shown.length} points, from ${figure(shown[0][1])} to ${figure(last[1])}` },
    up.ticks.map((tick) => [
      s("line", { class: "rule", x1: LEFT, x2: WIDTH - RIGHT, y1: up.place(tick), y2: up.place(tick) }),
      s("text", { class: "tick", "text-anchor": "end", x: LEFT - 7, y: up.place(tick) + 4 }, brief(tick)),
    ]).flat(),
    across.ticks.map((tick) => s("text", { class: "tick", "text-anchor": "middle", x: across.place(tick), y: HEIGHT - BOTTOM + 16 }, brief(tick))),
    s("text", { class: "tick", "text-anchor": "end", x: WIDTH - RIGHT, y: HEIGHT - 2 }, x),
    s("path", { class: "line", d: `M${at.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join("L")}` }),
    marks ? at.map(([cx, cy]) => s("circle", { class: "dot", cx, cy, r: 2.2 })) : [],
    cursor,
  );
  const rest = () => {
    value.textContent = figure(last[1]);
    cursor.setAttribute("cx", at.at(-1)[0]);
    cursor.setAttribute("cy", at.at(-1)[1]);
  };
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const here = ((event.clientX - box.left) / box.width) * WIDTH;
    const i = at.reduce((best, [a], k) => (Math.abs(a - here) < Math.abs(at[best][0] - here) ? k : best), 0);
    value.textContent = `${figure(shown[i][1])} at ${x} ${figure(shown[i][0])}`;
    cursor.setAttribute("cx", at[i][0]);
    cursor.setAttribute("cy", at[i][1]);
  });
  drawing.addEventListener("pointerleave", rest);
  return h("figure", {}, h("figcaption", {}, h("b", {}, title), value), drawing);
}
