// Labelling: write the answer, or rank several; every judgement is kept with who, when and under which guideline.

import { addTasks } from "./tasks.js";
import { call } from "./api.js";
import { consentView, terms, yourData } from "./consent.js";
import { demonstrateView } from "./demonstrate.js";
import { $, field, h } from "./dom.js";
import { draftOf, dropDraft, keepDraft } from "./drafts.js";
import { render } from "./markdown.js";
import { rankView } from "./rank.js";
import { remember, remembered } from "./sampling.js";
import { isTyping, openDialog, shell, tell } from "./shell.js";
import { teamView } from "./team.js";

const MODES = [["rank", "Rank"], ["demonstrate", "Demonstrate"], ["team", "Team"]];
const REASONS = ["I cannot judge this", "The prompt makes no sense", "It needs knowledge I do not have", "It is offensive or private"];

const state = { mode: "rank", given: null, view: null, shown: 0, away: 0, hiddenAt: 0, before: 0, token: "", busy: false, sent: null, version: "", role: "labeller" };
const kept = remembered("label", { me: "" });

const modes = h("div.segments", { role: "group", "aria-label": "What to do" }, MODES.map(([name, label]) => h("button", { type: "button", id: `mode-${name}`, on: { click: () => (location.hash = name) } }, label)));
const me = h("input", { type: "text", value: kept.me, maxlength: 100, autocomplete: "name", placeholder: "anyone" });
const [place, status, bar] = [h("div", { id: "task" }), h("p.about", { id: "progress", role: "status" }), h("div.meter", { role: "presentation", hidden: true }, h("i"))];
const failed = h("p.alert", { role: "alert", hidden: true });
const keep = h("button.primary", { type: "button", id: "keep", hidden: true, on: { click: submit } }, "Keep and go on");
const skip = h("button.button", { type: "button", id: "skip", hidden: true, on: { click: askWhy } }, "Skip…");
const undo = h("button.button", { type: "button", id: "undo", on: { click: takeBack } }, "Undo the last");
const actions = h("div.row.actions", { hidden: true }, keep, skip, undo);
const guideline = h("details.card.guideline", { hidden: true, open: matchMedia("(min-width: 62rem)").matches });

const query = () => `me=${encodeURIComponent(me.value.trim())}`;

const person = () => me.value.trim();

/** Nothing to judge: an empty place that says why. */
function say(title, ...words) {
  Object.assign(state, { given: null, view: null });
  keep.hidden = skip.hidden = true;
  place.replaceChildren(h("div.empty", {}, h("h2", {}, title), h("p", {}, ...words)));
}

async function next() {
  if (state.mode === "team") return;
  const name = person();
  const found = await call(`/app/label/next?kind=${state.mode}&${query()}`);
  const { progress, standing } = found;
  const [done, of] = standing.test === "open" ? [standing.done, standing.of] : [progress.done, progress.done + progress.left];
  status.textContent = standing.test === "open" ? `Screening test: ${Math.min(done + 1, of)} of ${of}` : `${done} judged, ${progress.left} left`;
  bar.firstChild.style.setProperty("width", `${(100 * done) / Math.max(1, of)}%`);
  undo.disabled = !done;
  place.dataset.for = name;
  if (standing.test === "failed") return say("Thank you for trying", `You put ${Math.round(100 * standing.share)} % of the pairs in the test as the guideline would. That is not enough to go on; whoever runs this server can let you in all the same.`);
  if (found.task === null) return say(done ? "All done, thank you" : "Nothing to judge yet", state.role === "admin" ? ["Add tasks below, or with ", h("code", {}, "fledge feedback queue FILE"), "."] : "Come back later.");
  const draft = draftOf(name, found.task);
  Object.assign(state, { given: found, token: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, shown: performance.now(), away: 0, before: draft?.seconds || 0 });
  keep.hidden = skip.hidden = false;
  state.view = (found.kind === "rank" ? rankView : demonstrateView)(found, changed, draft?.work);
  place.replaceChildren(...(standing.test === "open" ? [h("p.note", {}, "A few tasks whose answer is known come first, so that we know we mean the same by “good”. Take the guideline at its word.")] : []), promptView(found.prompt), state.view.element);
  reset();
}

function reset() {
  keep.textContent = "Keep and go on";
  keep.dataset.sure = "";
}

/** At every change of the work: it is put by, and no longer doubted. */
function changed() {
  reset();
  if (state.given) keepDraft(person(), state.given.task, { work: state.view.draft(), seconds: spent() });
}

function promptView(turns) {
  return h("section.prompt", { "aria-label": "The conversation" }, turns.map((turn) => {
    const body = h(`div.turn.${turn.role}`, {});
    if (turn.role === "user") body.textContent = turn.content;
    else render(body, turn.content);
    return h("div", {}, h("span.role", {}, `${turn.role}:`), body);
  }));
}

/** Seconds of attention, those before the tab was closed with them: while the page was hidden nobody looked. */
const spent = () => Math.min(86400, Math.max(0, state.before + (performance.now() - state.shown - state.away) / 1000));

async function send(kind, content) {
  if (state.busy || !state.given) return;
  state.busy = true;
  keep.disabled = true;
  try {
    const { replaces } = await call("/app/label/said", { task: state.given.task, kind, content, seconds: spent(), token: state.token, me: person() });
    failed.hidden = true;
    tell(kind === "skip" ? "Skipped" : replaces ? "Kept: it replaces what you said before" : "Kept");
    state.sent = { task: state.given.task, draft: dropDraft(person(), state.given.task) };
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
  if (content) send(state.given.kind === "rank" ? "ranking" : "demonstration", content);
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
    if (task !== null && task === state.sent?.task && state.sent.draft) keepDraft(person(), task, state.sent.draft);
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
  const judging = state.mode !== "team";
  try {
    const who = await call(`/app/label/me?${query()}`);
    state.role = who.role;
    $("mode-team").hidden = adding.hidden = state.role !== "admin";
    const asked = judging && who.standing.agreed !== state.version;
    actions.hidden = status.hidden = bar.hidden = !judging || asked;
    guideline.hidden = !judging;
    if (asked) {
      Object.assign(state, { given: null, view: null });
      place.replaceChildren(consentView(await terms(person()), person(), show, fail));
      place.dataset.for = person();
    } else if (judging) await next();
    else place.replaceChildren(await teamView(show));
    failed.hidden = true;
  } catch (error) {
    failed.hidden = false;
    failed.textContent = error.message;
  }
}

const adding = addTasks(show, fail);

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
  $("page").append(h("div.row.top", {}, modes, h("span.grow"), h("label.me", {}, "Who are you? ", me)), status, bar, failed, h("div.desk", {}, h("div.work", {}, place, actions), h("aside", { "aria-label": "Guideline" }, guideline)), adding, yourData(person, show, fail));
  try {
    const { version, text } = await call("/app/label/guideline");
    state.version = version;
    const body = h("div.prose");
    render(body, text);
    guideline.append(h("summary", {}, h("h2", {}, `Guideline, version ${version}`)), body);
  } catch (error) {
    fail(error);
  }
  await show();
}

begin();
