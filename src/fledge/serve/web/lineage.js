// Which data and which step made this model: the steps of a run as a graph, from left to right.

import { s } from "./dom.js";

const [COLUMN, ROW, WIDE, TALL, PAD] = [178, 50, 136, 34, 6];

/** How many steps lead to each one. */
function depths(steps) {
  const byName = new Map(steps.map((step) => [step.name, step]));
  const depth = new Map();
  const of = (name, seen = new Set()) => {
    if (depth.has(name)) return depth.get(name);
    if (seen.has(name)) return 0;
    seen.add(name);
    const found = 1 + Math.max(-1, ...byName.get(name).inputs.filter((each) => byName.has(each)).map((each) => of(each, seen)));
    depth.set(name, found);
    return found;
  };
  for (const step of steps) of(step.name);
  return depth;
}

/** Everything that `name` was made from, itself included. */
export function ancestors(steps, name) {
  const byName = new Map(steps.map((step) => [step.name, step]));
  const found = new Set();
  const visit = (each) => {
    if (found.has(each) || !byName.has(each)) return;
    found.add(each);
    byName.get(each).inputs.forEach(visit);
  };
  visit(name);
  return found;
}

/** Inputs that are not already behind another input: what is worth a line. */
function direct(steps, step) {
  return step.inputs.filter((name) => !step.inputs.some((other) => other !== name && ancestors(steps, other).has(name)));
}

/** The graph as SVG; `choose` gets the name of a step that is clicked. */
export function graph(steps, selected, choose) {
  const depth = depths(steps);
  const columns = [];
  for (const step of steps) (columns[depth.get(step.name)] ||= []).push(step);
  const tallest = Math.max(...columns.map((column) => column.length));
  const place = new Map();
  columns.forEach((column, x) => column.forEach((step, y) => place.set(step.name, [PAD + x * COLUMN, PAD + (y + (tallest - column.length) / 2) * ROW])));
  const behind = ancestors(steps, selected);
  const lines = steps.flatMap((step) =>
    direct(steps, step).map((name) => {
      const [[ax, ay], [bx, by]] = [place.get(name), place.get(step.name)];
      const [x1, y1, x2, y2] = [ax + WIDE, ay + TALL / 2, bx, by + TALL / 2];
      const lit = behind.has(name) && behind.has(step.name);
      return s("path", { class: `edge${lit ? " lit" : ""}`, d: `M${x1},${y1}C${(x1 + x2) / 2},${y1} ${(x1 + x2) / 2},${y2} ${x2},${y2}` });
    }),
  );
  const boxes = steps.map((step) => {
    const [x, y] = place.get(step.name);
    const chosen = step.name === selected;
    const act = () => choose(step.name);
    return s(
      "g",
      {
        class: `node ${step.state}${chosen ? " chosen" : ""}${behind.has(step.name) ? " lit" : ""}`, transform: `translate(${x} ${y})`,
        role: "button", tabindex: "0", "aria-pressed": String(chosen), "aria-label": `${step.name}, made from ${step.inputs.join(", ") || "outside data"}`,
        on: { click: act, keydown: (event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault() || act()) },
      },
      s("rect", { width: WIDE, height: TALL, rx: 17 }),
      s("text", { x: WIDE / 2, y: TALL / 2 + 5, "text-anchor": "middle" }, step.name.length > 17 ? `${step.name.slice(0, 16)}…` : step.name),
    );
  });
  const [width, height] = [PAD * 2 + (columns.length - 1) * COLUMN + WIDE, PAD * 2 + tallest * ROW];
  return s("svg", { class: "graph", viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": "What was made from what" }, lines, boxes);
}
