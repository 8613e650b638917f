// Labelling: write the answer, or rank several; every judgement is kept with who, when and under which guideline.

import { agreementView } from "./agreement.js";
import { call } from "./api.js";
import { demonstrateView } from "./demonstrate.js";
import { $, field, h, icon } from "./dom.js";
import { render } from "./markdown.js";
import { rankView } from "./rank.js";
import { remember, remembered } from "./sampling.js";
import { isTyping, openDialog, shell, tell } from "./shell.js";

const MODES = [["rank", "Rank"], ["demonstrate", "Demonstrate"], ["agreement", "Agreement"]];
const REASONS = ["I cannot judge this", "The prompt makes no sense", "It needs knowledge I do not have", "It is offensive or private"];

const state = { mode: "rank", given: null, view: null, shown: 0, away: 0, hiddenAt: 0, token: "", busy: false };
const kept = remembered("label", { me: "" });

const modes = h("div.segments", { role: "group", "aria-label": "What to do" }, MODES.map(([name, label]) => h("button", { type: "button", id: `mode-${name}`, on: { click: () => (location.hash = name) } }, label)));
const me = h("input", { type: "text", value: kept.me, maxlength: 100, autocomplete: "name", placeholder: "anyone" });
const [place, status, bar] = [h("div", { id: "task" }), h("p.about", { id: "progress", role: "status" }), h("div.meter", { role: "presentation" }, h("i"))];
const failed = h("p.alert", { role: "alert", hidden: true });
const keep = h("button.primary", { type: "button", id: "keep", hidden: true, on: { click: submit } }, "Keep and go on");
const skip = h("button.button", { type: "button", id: "skip", hidden: true, on: { click: askWhy } }, "Skip…");
const undo = h("button.button", { type: "button", id: "undo", on: { click: takeBack } }, "Undo the last");
const actions = h("div.row.actions", {}, keep, skip, undo);
const guideline = h("details.card.guideline", { open: matchMedia("(min-width: 62rem)").matches });

const query = () => `me=${encodeURIComponent(me.value.trim())}`;

async function next() {
  if (state.mode === "agreement") return;
  const person = me.value.trim();
  const found = await call(`/app/label/next?kind=${state.mode}&${query()}`);
  const { done, left } = found.progress;
  status.textContent = `${done} judged, ${left} left`;
  bar.firstChild.style.setProperty("width", `${(100 * done) / Math.max(1, done + left)}%`);
  undo.disabled = !done;
  state.given = found.task === null ? null : found;
  Object.assign(state, { token: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, shown: performance.now(), away: 0 });
  keep.hidden = skip.hidden = !state.given;
  place.dataset.for = person;
  if (!state.given) {
    state.view = null;
    place.replaceChildren(h("div.empty", {}, h("h2", {}, done ? "All done, thank you" : "Nothing to judge yet"), h("p", {}, "Add tasks below, or with ", h("code", {}, "fledge feedback queue FILE"), ".")));
    return;
  }
  state.view = state.mode === "rank" ? rankView(found, changed) : demonstrateView(found);
  place.replaceChildren(promptView(found.prompt), state.view.element);
  changed();
}

function changed() {
  keep.textContent = "Keep and go on";
  keep.dataset.sure = "";
}

function promptView(turns) {
  return h("section.prompt", { "aria-label": "The conversation" }, turns.map((turn) => {
    const body = h(`div.turn.${turn.role}`, {});
    if (turn.role === "user") body.textContent = turn.content;
    else render(body, turn.content);
    return h("div", {}, h("span.role", {}, `${turn.role}:`), body);
  }));
}

/** Seconds of attention: while the page was hidden nobody looked. */
const spent = () => Math.max(0, (performance.now() - state.shown - state.away) / 1000);

async function send(kind, content) {
  if (state.busy || !state.given) return;
  state.busy = true;
  keep.disabled = true;
  try {
    await call("/app/label/said", { task: state.given.task, kind, content, seconds: spent(), token: state.token, me: me.value.trim() });
    failed.hidden = true;
    tell(kind === "skip" ? "Skipped" : "Kept");
    await next();
    place.querySelector("[data-first]")?.focus();
    scrollTo({ top: 0 });
  } catch (error) {
    fail(error); // the judgement stays on the page, and its token makes a second sending harmless
  }
  state.busy = false;
  keep.disabled = false;
}

function submit() {
  if (!state.view) return;
  const { content, doubt } = state.view.read();
  if (doubt && !keep.dataset.sure) {
    keep.dataset.sure = "yes";
    keep.textContent = "Keep it as it is";
    return tell(doubt);
  }
  if (content) send(state.mode === "rank" ? "ranking" : "demonstration", content);
}

function askWhy() {
  const more = h("input", { type: "text", placeholder: "another reason" });
  const form = h(
    "form",
    { method: "dialog" },
    h("fieldset", {}, h("legend", {}, "Why?"), REASONS.map((reason, i) => h("label.switch.choice", {}, h("input", { type: "radio", name: "reason", value: reason, checked: i === 0 }), reason))),
    field("Or in your words", more),
    h("div.row", {}, h("span.grow"), h("button.button", { type: "button", on: { click: () => dialog.close() } }, "Cancel"), h("button.primary", { type: "submit" }, "Skip it")),
  );
  const dialog = openDialog("Skip this one", form);
  form.addEventListener("submit", () => send("skip", { reason: more.value.trim() || new FormData(form).get("reason") }));
}

async function takeBack() {
  try {
    const { task } = await call(`/app/label/undo?${query()}`, {});
    tell(task === null ? "There is nothing to undo" : "Taken back: judge it again");
    await next();
  } catch (error) {
    fail(error);
  }
}

function fail(error) {
  failed.hidden = false;
  failed.textContent = `${error.message} What you did is still here: try again.`;
}

async function show() {
  state.mode = MODES.some(([name]) => name === location.hash.slice(1)) ? location.hash.slice(1) : "rank";
  for (const [name] of MODES) $(`mode-${name}`).setAttribute("aria-pressed", String(name === state.mode));
  const judging = state.mode !== "agreement";
  actions.hidden = guideline.hidden = status.hidden = bar.hidden = !judging;
  try {
    if (judging) await next();
    else place.replaceChildren(await agreementView());
    failed.hidden = true;
  } catch (error) {
    failed.hidden = false;
    failed.textContent = error.message;
  }
}

function addTasks() {
  const file = h("input", { type: "file", accept: ".jsonl,.json", id: "tasks-file" });
  const wanted = h("input", { type: "number", min: 1, max: 50, value: 1 });
  file.addEventListener("change", async () => {
    try {
      const text = await file.files[0].text();
      const rows = text.trimStart().startsWith("[") ? JSON.parse(text) : text.split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
      const { added } = await call("/app/label/tasks", { rows, wanted: Number(wanted.value) });
      tell(`${added} task${added === 1 ? "" : "s"} added`);
      await show();
    } catch (error) {
      failed.hidden = false;
      failed.textContent = error instanceof SyntaxError ? `That file is not JSON lines: ${error.message}` : error.message;
    }
    file.value = "";
  });
  const chats = h("button.button", { type: "button", on: { click: async () => {
    try {
      const { added } = await call("/app/label/tasks/chats", {});
      tell(added ? `${added} prompts of chats added to Demonstrate` : "No rated chat is left to add");
      await show();
    } catch (error) {
      fail(error);
    }
  } } }, "Add prompts of rated chats");
  return h("details.card.adding", {}, h("summary", {}, "Add tasks"), h("p.about", {}, "JSON lines with ", h("code", {}, "prompt"), " (to be answered) or ", h("code", {}, "prompt"), " and ", h("code", {}, "completions"), " (to be ranked)."), h("div.row.fields", {}, field("File", file), field("People for each", wanted)), chats);
}

async function begin() {
  shell([["↑ ↓", "choose an answer"], ["Alt ↑ ↓", "move it (rank)"], ["t", "tie with the one above"], ["1 … 9", "put it in that place"], ["Ctrl Enter", "keep and go on"], ["Ctrl z", "undo the last"]]);
  me.addEventListener("change", async () => {
    await call(`/app/label/leave?me=${encodeURIComponent(kept.me)}`, {}).catch(fail);
    kept.me = me.value.trim();
    remember("label", kept);
    await show();
  });
  addEventListener("hashchange", show);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) state.hiddenAt = performance.now();
    else state.away += performance.now() - state.hiddenAt;
  });
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && state.view) submit();
    else if (event.key === "z" && (event.ctrlKey || event.metaKey) && !isTyping(event.target)) takeBack();
  });
  $("page").append(h("div.row.top", {}, modes, h("span.grow"), h("label.me", {}, "Who are you? ", me)), status, bar, failed, h("div.desk", {}, h("div.work", {}, place, actions), h("aside", { "aria-label": "Guideline" }, guideline)), addTasks());
  try {
    const { version, text } = await call("/app/label/guideline");
    const body = h("div.prose");
    render(body, text);
    guideline.append(h("summary", {}, h("h2", {}, `Guideline, version ${version}`)), body);
  } catch (error) {
    fail(error);
  }
  await show();
}

begin();
