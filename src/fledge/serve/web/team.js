// The team, for an admin: how far the work is, how far people agree, who drifts, who is let in.

import { call } from "./api.js";
import { h, s } from "./dom.js";
import { count, duration } from "./numbers.js";
import { tell } from "./shell.js";

const SERIES = [["ranking", "rankings", "ppo"], ["demonstration", "answers", "large"], ["rating", "ratings", "sft"], ["skip", "skipped", "base"]];
const KINDS = { rank: "Ranked", demonstrate: "Answered" };
const [MOST_CELLS, MOST_DAYS] = [12, 28];

const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(0)} %`);

function meter(share, reference = null, about = "") {
  const bar = h("div.meter", { role: "presentation" }, h("i"), reference === null ? null : h("b", { title: about }));
  bar.firstChild.style.setProperty("width", `${100 * (share ?? 0)}%`);
  if (reference !== null) bar.lastChild.style.setProperty("left", `${100 * reference}%`);
  return bar;
}

/** A line small enough for a table; `reference` is drawn across. */
function spark(points, label, { low, high, reference = null, colour = "ppo" }) {
  const [width, height, pad] = [128, 34, 4];
  const last = points.at(-1);
  const x = (value) => pad + ((width - 2 * pad) * (value - points[0][0])) / Math.max(1, last[0] - points[0][0]);
  const y = (value) => height - pad - ((height - 2 * pad) * (value - low)) / Math.max(1e-9, high - low);
  return s(
    "svg",
    { class: `spark c-${colour}`, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    s("title", {}, label),
    reference === null ? null : s("line", { class: "reference", x1: 0, x2: width, y1: y(reference), y2: y(reference) }),
    points.length > 1 ? s("path", { class: "line", d: `M${points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("L")}` }) : null,
    s("circle", { class: "dot", cx: x(last[0]), cy: y(last[1]), r: 3 }),
  );
}

function progressFigure(progress) {
  const rows = Object.entries(KINDS).filter(([kind]) => progress[kind]);
  return h("figure.card", {}, h("figcaption", {}, h("b", {}, "Progress")), rows.length ? rows.map(([kind, label]) => {
    const { tasks, wanted, there } = progress[kind];
    return h("div.bar-row", {}, h("div.row", {}, h("span", {}, label), h("span.grow"), h("span.figures", {}, `${count(there)} of ${count(wanted)} judgements, ${count(tasks)} tasks`)), meter(there / Math.max(1, wanted)));
  }) : h("p.about", {}, "No tasks yet."));
}

/** Every day from the first to the last, those without work too; at most the last MOST_DAYS. */
function everyDay(days) {
  if (!days.length) return [];
  const found = new Map(days.map((row) => [row.day, row]));
  const all = [];
  for (let at = new Date(`${days[0].day}T00:00Z`); at <= new Date(`${days.at(-1).day}T00:00Z`); at = new Date(at.getTime() + 86400_000)) {
    const day = at.toISOString().slice(0, 10);
    all.push(found.get(day) || { day, ranking: 0, demonstration: 0, rating: 0, skip: 0 });
  }
  return all.slice(-MOST_DAYS);
}

function daysFigure(days) {
  const shown = everyDay(days);
  const used = SERIES.filter(([kind]) => shown.some((row) => row[kind]));
  const [width, height, left, foot, top] = [440, 170, 34, 22, 8];
  const sum = (row) => SERIES.reduce((total, [kind]) => total + row[kind], 0);
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000].find((each) => each * 4 >= Math.max(1, ...shown.map(sum))) || 50000;
  const high = step * Math.max(1, Math.ceil(Math.max(1, ...shown.map(sum)) / step));
  const y = (value) => height - foot - ((height - foot - top) * value) / high;
  const slot = (width - left) / Math.max(shown.length, 7);
  const wide = Math.min(26, slot * 0.72);
  const name = (day) => new Date(`${day}T00:00Z`).toLocaleDateString("en", { day: "numeric", month: "short", timeZone: "UTC" });
  const every = Math.ceil(shown.length / Math.max(1, Math.floor((width - left) / 62)));
  const ticks = Array.from({ length: high / step + 1 }, (_, i) => i * step);
  const bars = shown.flatMap((row, i) => {
    let below = 0;
    return used.filter(([kind]) => row[kind]).map(([kind, label, colour]) => {
      const from = below;
      below += row[kind];
      return s("rect", { class: `fill c-${colour}`, x: left + slot * i + (slot - wide) / 2, width: wide, y: y(below) + 0.5, height: Math.max(0.5, y(from) - y(below) - 1), rx: 2 }, s("title", {}, `${name(row.day)}: ${row[kind]} ${label}`));
    });
  });
  const total = shown.reduce((all, row) => all + sum(row), 0);
  const drawing = s(
    "svg",
    { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Judgements by day: ${total} on ${shown.length} day${shown.length === 1 ? "" : "s"}` },
    ticks.flatMap((tick) => [s("line", { class: "rule", x1: left, x2: width, y1: y(tick), y2: y(tick) }), s("text", { class: "tick", "text-anchor": "end", x: left - 7, y: y(tick) + 4 }, count(tick))]),
    bars,
    shown.map((row, i) => (i % every ? null : s("text", { class: "tick", "text-anchor": "middle", x: left + slot * (i + 0.5), y: height - 6 }, name(row.day)))),
  );
  return h("figure.card", {}, h("figcaption", {}, h("b", {}, "Judgements by day"), h("span.legend", {}, used.map(([, label, colour]) => h(`span.key.c-${colour}`, {}, label)))), shown.length ? drawing : h("p.about", {}, "Nothing yet."));
}

function pairsFigure(between, reference) {
  const weight = new Map();
  for (const { people, pairs } of between) for (const person of people) weight.set(person, (weight.get(person) || 0) + pairs);
  const names = [...weight].sort((a, b) => b[1] - a[1]).slice(0, MOST_CELLS).map(([name]) => name).sort();
  const of = new Map(between.flatMap((row) => [[row.people.join("\n"), row], [[...row.people].reverse().join("\n"), row]]));
  const cell = (a, b) => {
    if (a === b) return h("td.self", { "aria-label": "the same person" }, "");
    const row = of.get(`${a}\n${b}`);
    if (!row) return h("td.none", {}, h("span.role", {}, "nothing in common"));
    const distance = Math.min(1, Math.abs(row.agreement - reference) / 0.3);
    const tint = `color-mix(in srgb, var(${row.agreement >= reference ? "--ppo" : "--sft"}) ${(8 + 34 * distance).toFixed(0)}%, var(--card))`;
    return h("td", { style: { background: tint }, title: `${a} and ${b}: ${count(row.pairs)} pairs` }, (100 * row.agreement).toFixed(0));
  };
  const head = h("tr", {}, h("td"), names.map((name) => h("th", { scope: "col", title: name }, h("span", {}, name))));
  return h(
    "figure.card.matrix",
    {},
    h("figcaption", {}, h("b", {}, "Agreement of each two people"), h("span.legend", {}, h("span.key.c-ppo", {}, `above ${percent(reference)}`), h("span.key.c-sft", {}, "below"))),
    names.length ? h("div.scroll", { tabindex: "0", role: "group", "aria-label": "Agreement of each two people, per cent of pairs" }, h("table", {}, h("thead", {}, head), h("tbody", {}, names.map((a) => h("tr", {}, h("th", { scope: "row" }, a), names.map((b) => cell(a, b))))))) : h("p.about", {}, "Agreement is measured where two people rank the same answers."),
    weight.size > names.length ? h("p.about", {}, `The ${names.length} with the most pairs, of ${weight.size} people.`) : null,
  );
}

const badge = (kind, text) => h(`span.badge.${kind}`, {}, text);

function standing(row, letIn) {
  const found = [];
  if (row.test === "passed") found.push(badge("good", row.share === null ? "let in" : `passed, ${percent(row.share)}`));
  if (row.test === "failed") found.push(badge("bad", `failed, ${percent(row.share)}`), h("button.button.small", { type: "button", "aria-label": `Let ${row.person} in`, on: { click: () => letIn(row.person) } }, "Let in"));
  if (row.test === "open") found.push(badge("fair", "not tested"));
  if (!row.agreed && row.role === "labeller") found.push(badge("bad", "no consent"));
  if (row.falling) found.push(badge("fair", "drifting"));
  return found.length ? found : [h("span.about", {}, "–")];
}

function peopleTable(people, measured, letIn) {
  const of = new Map(measured.people.map((row) => [row.person, row]));
  const slowest = Math.max(1, ...people.flatMap((row) => row.pace.map(([, seconds]) => seconds)));
  const rows = people.map((row) => {
    const known = of.get(row.person) || { agreement: null, weight: null, pairs: 0 };
    const drift = row.drift.length ? spark(row.drift, `Agreement of ${row.person} over time: from ${percent(row.drift[0][1])} to ${percent(row.drift.at(-1)[1])}`, { low: 0, high: 1, reference: measured.instruct_gpt, colour: row.falling ? "sft" : "ppo" }) : "–";
    const pace = row.pace.length ? spark(row.pace, `Seconds a task of ${row.person}: from ${duration(row.pace[0][1])} to ${duration(row.pace.at(-1)[1])}`, { low: 0, high: slowest, colour: "large" }) : "";
    return h("tr", {}, h("th", { scope: "row" }, row.person), h("td", {}, h("div.row.standing", {}, standing(row, letIn))), h("td.number", {}, count(row.ranking)), h("td.number", {}, count(row.demonstration)), h("td.number", {}, count(row.skip)), h("td.wide", {}, h("div.beside", {}, h("span", {}, percent(known.agreement)), known.agreement === null ? null : meter(known.agreement, measured.instruct_gpt, `InstructGPT’s labellers: ${percent(measured.instruct_gpt)}`))), h("td", {}, drift), h("td", {}, h("div.beside", {}, h("span", {}, row.seconds === null ? "–" : duration(row.seconds)), pace)), h("td.number", {}, known.weight === null || known.weight === undefined ? "–" : known.weight.toFixed(2)));
  });
  const heads = [["Person"], ["Standing"], ["Ranked", "number"], ["Answered", "number"], ["Skipped", "number"], ["Agrees with others", "wide"], ["Drift"], ["Median time"], ["Weight", "number"]];
  return h("div.card.scroll", { tabindex: "0", role: "group", "aria-label": "People" }, h("table.people", {}, h("thead", {}, h("tr", {}, heads.map(([name, kind]) => h("th", { scope: "col", class: kind || null }, name)))), h("tbody", {}, rows)));
}

/** The view, fetched anew; `again` shows it afresh. */
export async function teamView(again) {
  const [team, measured] = await Promise.all([call("/app/label/team"), call("/app/label/agreement")]);
  if (!team.people.length) return h("div.empty", {}, h("h2", {}, "Nobody has judged yet"), h("p", {}, "Add tasks below and send people here: each gives a name, or has a key with the role labeller."));
  const { demonstrations, suggested, kept } = team.suggestions;
  const facts = [
    ["Pairs judged alike", percent(measured.agreement), `InstructGPT’s labellers: ${percent(measured.instruct_gpt)}`],
    ["Krippendorff’s α", measured.alpha === null ? "–" : measured.alpha.toFixed(2), "1 is perfect, 0 is chance"],
    ["Pairs compared", count(measured.pairs), `${count(measured.people.length)} people ranked`],
    ["Kept of suggestions", percent(kept), `${count(suggested)} of ${count(demonstrations)} answers began with one`],
  ];
  const letIn = async (person) => {
    await call("/app/label/team/admit", { person });
    tell(`${person} may judge now`);
    await again();
  };
  return h(
    "section.team",
    { "aria-label": "Team" },
    h("dl.facts", {}, facts.map(([name, value, note]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, h("small", {}, note))))),
    h("div.figures-grid", {}, h("div.stack", {}, progressFigure(team.progress), daysFigure(team.days)), pairsFigure(measured.between, measured.instruct_gpt)),
    h("h2", {}, "People"),
    h("p.about", {}, "The mark on a bar and the line across a drift is where InstructGPT’s labellers stood. Drift is agreement with the others from the first ranking to the last."),
    peopleTable(team.people, measured, letIn),
  );
}
