// The runs on this machine: what is done, what is in the making, how it learns, and what was made from what.

import { call } from "./api.js";
import { chart } from "./chart.js";
import { $, h } from "./dom.js";
import { ancestors, graph } from "./lineage.js";
import { ago, bytes, count, duration, figure } from "./numbers.js";
import { shell } from "./shell.js";

const EVERY = 2000; // milliseconds between looks while something runs
const RESTING = 10000;
const FIRST = ["loss", "bits_per_byte", "accuracy", "reward", "kl", "entropy", "length", "ended", "learning_rate", "grad_norm", "tokens_per_second"];
const NOT_DRAWN = new Set(["step", "iteration", "tokens", "epoch"]);
const COLOURS = { pretrain: "base", sft: "sft", reward: "other", ppo: "ppo", grpo: "ppo", evaluate: "large" };
const STATES = { running: "live", done: "good", interrupted: "fair" };

const state = { runs: [], run: null, step: "", followed: true, metrics: {}, samples: {}, iteration: null, drawn: "" };
const [list, detail] = [h("nav.runs-list", { "aria-label": "Runs" }), h("div", { id: "run", "aria-live": "off" })];

const badge = (name) => h(`span.badge.${STATES[name] || "plain"}`, {}, name);
const chosen = () => state.run?.steps.find((step) => step.name === state.step);

async function look() {
  state.runs = await call("/app/runs");
  const name = decodeURIComponent(location.hash.slice(1).split("/")[0]) || state.runs[0]?.name;
  if (!state.runs.some((run) => run.name === name)) {
    state.run = null;
    return draw();
  }
  const before = state.run?.name;
  state.run = await call(`/app/runs/${encodeURIComponent(name)}`);
  if (before !== name) Object.assign(state, { metrics: {}, samples: {}, step: "", iteration: null });
  const asked = location.hash.includes("/") ? decodeURIComponent(location.hash.split("/")[1]) : "";
  const live = state.run.steps.find((step) => step.state === "running");
  if (asked) state.step = asked;
  else if (live && state.followed) state.step = live.name;
  if (!chosen()) state.step = (live || state.run.steps.findLast((step) => step.metrics) || state.run.steps.at(-1))?.name || "";
  await readStep();
  draw();
}

async function readStep() {
  const step = chosen();
  if (!step) return;
  const base = `/app/runs/${encodeURIComponent(state.run.name)}/steps/${encodeURIComponent(step.name)}`;
  const kept = (state.metrics[step.name] ||= { rows: [], next: 0, state: "" });
  if (step.metrics && !(kept.state === "done" && step.state === "done")) {
    const found = await call(`${base}/metrics?since=${kept.next}`);
    if (found.next < kept.next) kept.rows = [];
    kept.rows.push(...found.rows);
    Object.assign(kept, { next: found.next, state: step.state });
  }
  if (step.samples && (step.state !== "done" || !state.samples[step.name])) state.samples[step.name] = await call(`${base}/samples`);
}

function draw() {
  const known = JSON.stringify([state.runs, state.run, state.step, state.metrics[state.step]?.next, state.samples[state.step]?.length, state.iteration]);
  if (known === state.drawn) return;
  state.drawn = known;
  list.replaceChildren(...(state.runs.length > 1 ? state.runs.map(runLink) : []));
  if (!state.run) {
    detail.replaceChildren(h("div.empty", {}, h("h2", {}, "No runs yet"), h("p", {}, "Start one with ", h("code", {}, "fledge raise pydoc"), " in the folder where this server was started.")));
    return;
  }
  const inside = document.activeElement?.closest("#run") ? focusPath(document.activeElement) : null;
  const opened = [...detail.querySelectorAll("details[open]")].map((each) => each.id);
  detail.replaceChildren(heading(), h("section.card.lineage.scroll", { "aria-label": "Lineage", tabindex: "0" }, graph(state.run.steps, state.step, choose)), h("div.columns", {}, timeline(), stepView()));
  for (const id of opened) if (id && $(id)) $(id).open = true;
  if (inside) detail.querySelector(inside)?.focus();
  const [frame, node] = [detail.querySelector(".lineage"), detail.querySelector(".node.chosen")];
  if (node) frame.scrollLeft += node.getBoundingClientRect().left - frame.getBoundingClientRect().left - frame.clientWidth / 2;
}

/** Where the focus stands, so that it can be given back after a redraw. */
function focusPath(element) {
  if (element.id) return `#${CSS.escape(element.id)}`;
  const label = element.getAttribute("aria-label");
  return label ? `[aria-label="${CSS.escape(label)}"]` : null;
}

function runLink(run) {
  const here = run.name === state.run?.name;
  return h("a.run-link", { href: `#${encodeURIComponent(run.name)}`, "aria-current": here ? "true" : null }, h("b", {}, run.name), badge(run.state), h("small", {}, ago(run.changed * 1000)));
}

function heading() {
  const { run } = state;
  const seconds = run.steps.reduce((sum, step) => sum + step.seconds, 0);
  const report = run.report && h("button.button", { type: "button", id: "report", on: { click: openReport } }, "Open the report");
  return h("div.run-head", {}, h("h2", {}, run.name), badge(run.state), h("span.about", {}, `${run.done} step${run.done === 1 ? "" : "s"} done in ${duration(seconds)} · ${run.path}`), h("span.grow"), report || null);
}

/** The window is opened at once, or the browser takes it for an advertisement; its address follows. */
async function openReport() {
  const tab = window.open("", "_blank");
  const { address } = await call(`/app/runs/${encodeURIComponent(state.run.name)}/report`, {});
  tab.opener = null;
  tab.location = address;
}

function choose(name) {
  state.followed = false;
  location.hash = `${encodeURIComponent(state.run.name)}/${encodeURIComponent(name)}`;
}

function timeline() {
  const entries = state.run.steps.map((step) => {
    const here = step.name === state.step;
    return h("li", { class: step.state }, h("button.step", { type: "button", id: `step-${step.name}`, "aria-current": here ? "step" : null, on: { click: () => choose(step.name) } }, h("b", {}, step.name.split(/(?<=_)/).flatMap((part, i) => (i ? [h("wbr"), part] : [part]))), h("small", {}, step.state === "done" ? duration(step.seconds) : step.state)), step.progress ? progressBar(step.progress) : null);
  });
  return h("ol.timeline", { "aria-label": "Steps" }, entries);
}

function progressBar(progress) {
  const share = progress.total ? progress.done / progress.total : 0;
  const left = progress.left ? `, about ${duration(progress.left)} left` : "";
  const words = `${count(progress.done)} of ${count(progress.total)}${left}`;
  const bar = h("div.meter", { role: "progressbar", "aria-label": progress.description, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(share * 100) }, h("i"));
  bar.firstChild.style.setProperty("width", `${share * 100}%`);
  return h("div.progress", {}, bar, h("small", {}, words));
}

function stepView() {
  const step = chosen();
  if (!step) return h("div");
  const about = step.stage === step.name ? "" : `the stage ${step.stage}`;
  const facts = [["Time", step.seconds ? duration(step.seconds) : "–"], ...(step.peak_memory ? [["Peak memory", bytes(step.peak_memory)]] : []), ...plainFigures(step.summary)];
  return h(
    "div.step-view",
    {},
    h("div.run-head", {}, h("h2", {}, step.name), badge(step.state), h("span.about", {}, about)),
    step.progress ? progressBar(step.progress) : null,
    h("dl.facts", {}, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    charts(step),
    samples(step),
    origin(step),
    files(step),
    h("details", { id: "settings-of-step" }, h("summary", {}, "Settings"), h("pre", { tabindex: "0" }, JSON.stringify(step.config, null, 2))),
  );
}

function plainFigures(summary) {
  const numbers = Object.entries(summary).filter(([, value]) => typeof value === "number" && Number.isFinite(value));
  return numbers.slice(0, 10).map(([key, value]) => [key.replaceAll("_", " "), figure(value)]);
}

function charts(step) {
  const rows = state.metrics[step.name]?.rows || [];
  const keys = [...new Set(rows.flatMap(Object.keys))].filter((key) => !NOT_DRAWN.has(key));
  keys.sort((a, b) => (FIRST.indexOf(a) + 99) % 99 - ((FIRST.indexOf(b) + 99) % 99));
  const figures = keys.map((key) => {
    const x = rows.some((row) => "iteration" in row && key in row) ? "iteration" : "step";
    const points = rows.filter((row) => typeof row[key] === "number" && x in row).map((row) => [row[x], row[key]]);
    return points.length > 1 ? chart(key.replaceAll("_", " "), points, { x, colour: COLOURS[step.stage] || "plain", marks: points.length < 30 }) : null;
  });
  const drawn = figures.filter(Boolean);
  if (!drawn.length) return step.state === "running" ? h("p.note", {}, "The first figures come in a moment.") : null;
  const more = drawn.slice(4);
  return h("section", { "aria-label": "Curves" }, h("div.charts", {}, drawn.slice(0, 4)), more.length ? h("details", { id: "more-curves" }, h("summary", {}, `${more.length} more curves`), h("div.charts", {}, more)) : null);
}

/** What the user said last in a prompt as the chat template writes it. */
function question(prompt) {
  return prompt.split("<|im_start|>user").at(-1).split("<|im_end|>")[0].trim();
}

function samples(step) {
  const rows = state.samples[step.name];
  if (!rows?.length) return null;
  const iterations = [...new Set(rows.map((row) => row.iteration))];
  const now = iterations.includes(state.iteration) ? state.iteration : iterations.at(-1);
  const slider = h("input", { type: "range", id: "iteration", min: 0, max: iterations.length - 1, value: iterations.indexOf(now), "aria-label": "Iteration", "aria-valuetext": `iteration ${now + 1}` });
  slider.addEventListener("input", () => {
    state.iteration = iterations[slider.value];
    draw();
  });
  const shown = rows.filter((row) => row.iteration === now);
  return h(
    "section",
    { "aria-label": "Answers as it learns" },
    h("div.run-head", {}, h("h3", {}, "Answers as it learns"), h("span.about", {}, `iteration ${now + 1}`), iterations.length > 1 ? slider : null),
    shown.map((row) => h("div.talk", {}, h("p.turn.user", {}, question(row.prompt)), h("p.turn.assistant", {}, row.answer), typeof row.reward === "number" ? h("span", { class: `badge ${row.reward > 0 ? "good" : "bad"}` }, `reward ${row.reward.toFixed(2)}`) : null)),
  );
}

function origin(step) {
  const behind = [...ancestors(state.run.steps, step.name)].filter((name) => name !== step.name);
  const users = state.run.steps.filter((each) => each.inputs.includes(step.name)).map((each) => each.name);
  const links = (names) => names.flatMap((name, i) => [i ? ", " : "", h("a", { href: `#${encodeURIComponent(state.run.name)}/${encodeURIComponent(name)}` }, name)]);
  const rows = [["Made from", step.inputs.length ? links(step.inputs) : "nothing inside this run"], ...(behind.length > step.inputs.length ? [["Everything behind it", links(behind)]] : []), ...(step.outside.length ? [["From outside", step.outside.join(", ")]] : []), ...(users.length ? [["Used by", links(users)]] : []), ...(step.fingerprint ? [["Fingerprint", h("code", {}, step.fingerprint)]] : [])];
  return h("section", { "aria-label": "Lineage of this step" }, h("h3", {}, step.model ? "Where this model comes from" : "Where it comes from"), h("dl.origin", {}, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
}

function files(step) {
  if (!step.files.length) return null;
  const rows = step.files.map(([name, size]) => h("tr", {}, h("td", {}, h("code", {}, name)), h("td.number", {}, bytes(size))));
  return h("details", { id: "files-of-step" }, h("summary", {}, `${step.files.length} files`), h("div.scroll", { tabindex: "0", role: "group", "aria-label": "Files" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "File"), h("th.number", { scope: "col" }, "Size"))), h("tbody", {}, rows))));
}

async function watch() {
  const failed = $("failed");
  if (!document.hidden) {
    try {
      await look();
      failed.hidden = true;
    } catch (error) {
      failed.hidden = false;
      failed.textContent = error.message;
    }
  }
  setTimeout(watch, state.runs.some((run) => run.state === "running") ? EVERY : RESTING);
}

shell();
$("page").append(h("p.alert", { id: "failed", role: "alert", hidden: true }), list, detail);
addEventListener("hashchange", look);
watch();
