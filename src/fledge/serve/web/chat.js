// The chat: a tree of turns, streamed answers, and what people think of them.

import { call, models, Refused, stream } from "./api.js";
import { askConsent } from "./consent.js";
import { $, frame, h, iconButton } from "./dom.js";
import * as history from "./history.js";
import { messageView, showAnswer } from "./message.js";
import { meter } from "./meter.js";
import { asRequest, remember, remembered } from "./sampling.js";
import { download, isTyping, shell, tell } from "./shell.js";
import { historyList, settingsForm } from "./sidebars.js";
import { add, messages, newConversation, path, ROOT, row, turnTo } from "./tree.js";

const state = { conversation: null, answering: null, models: [], settings: remembered("chat", { model: "", system: "", sampling: {} }) };

const log = h("div", { id: "log", role: "log", "aria-label": "Messages", tabindex: "0" });
const input = h("textarea", { id: "prompt", rows: 1, placeholder: "Ask something", "aria-label": "Message", enterkeyhint: "send" });
const model = h("select", { id: "model", "aria-label": "Model" });
const send = h("button.primary.round", { type: "submit", id: "send", "aria-label": "Send" });
const status = h("p.role", { role: "status" });

function build() {
  shell([["Enter", "send"], ["Shift Enter", "new line"], ["Esc", "stop the answer"], ["/", "write"], ["↑", "edit your last message (in an empty field)"], ["Alt n", "new conversation"]]);
  const form = h("form", { id: "composer", on: { submit: submitted } }, input, h("div.row", {}, model, h("span.grow"), send));
  $("tools").prepend(iconButton("menu", "Conversations", () => toggle("history"), { id: "show-history" }), iconButton("dials", "Settings", () => toggle("settings"), { id: "show-settings" }));
  $("talk").append(log, h("div.bottom", {}, form, h("p.fine", {}, "Answers can be wrong. Check what matters.")), status);
  input.addEventListener("input", grow);
  input.addEventListener("keydown", typed);
  model.addEventListener("change", () => configure({ model: model.value }));
  document.addEventListener("keydown", shortcut);
  showSend();
}

function toggle(side) {
  const panel = $(side);
  const narrow = matchMedia("(max-width: 62rem)").matches;
  for (const other of narrow ? ["history", "settings"] : []) if (other !== side) $(other).classList.remove("open");
  if (side === "settings") panel.hidden = !panel.hidden;
  panel.classList.toggle("open", side === "settings" ? !panel.hidden : undefined);
  if (panel.classList.contains("open")) panel.querySelector("button, input, textarea")?.focus();
}

function grow() {
  input.style.height = "auto";
  input.style.height = `${Math.min(input.scrollHeight + 2, innerHeight * 0.4)}px`;
}

function typed(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  } else if (event.key === "ArrowUp" && !input.value && state.conversation) {
    const last = path(state.conversation).findLast((node) => node.role === "user");
    if (last) edit(last, event);
  }
}

function shortcut(event) {
  if (event.key === "Escape" && state.answering) stop();
  else if (event.altKey && event.key === "n") start();
  else if (event.key === "/" && !isTyping(event.target)) {
    event.preventDefault();
    input.focus();
  }
}

/** Changes settings: of this conversation, and what the next one begins with. */
function configure(change) {
  Object.assign(state.settings, change);
  Object.assign(state.conversation, change);
  remember("chat", state.settings);
  if (Object.keys(state.conversation.nodes).length) history.save(state.conversation);
}

async function start() {
  stop();
  state.conversation = newConversation(state.settings.model, state.settings.system, state.settings.sampling);
  location.hash = "";
  await show();
  input.focus();
}

async function open(id) {
  stop();
  const found = await history.load(id);
  if (!found) return start();
  state.conversation = found;
  location.hash = id;
  if (state.models.includes(found.model)) model.value = found.model;
  $("history").classList.remove("open");
  await show();
}

async function show() {
  const nodes = path(state.conversation);
  log.replaceChildren(...nodes.map(view));
  if (!nodes.length) log.append(welcome());
  showSettings();
  await listConversations();
  log.scrollTop = log.scrollHeight;
}

function showSettings() {
  $("settings").replaceChildren(...settingsForm(state.conversation, state.settings, configure, () => $("settings").classList.remove("open") || ($("settings").hidden = true)));
}

async function listConversations() {
  const actions = { open, start, remove: forget, exportAll };
  $("history").replaceChildren(...historyList(await history.all(), state.conversation.id, actions));
}

async function forget(id) {
  await history.remove(id);
  if (id === state.conversation.id) await start();
  else await listConversations();
}

async function exportAll() {
  const rows = (await history.all()).map(row).filter(Boolean);
  if (!rows.length) return tell("There is no answered conversation yet");
  download("conversations.jsonl", rows.map((each) => `${JSON.stringify(each)}\n`).join(""));
  tell(`${rows.length} conversation${rows.length === 1 ? "" : "s"} exported`);
}

function welcome() {
  const asked = ["What does json.dumps do?", "Which function joins two paths?", "Tell me about str.partition."];
  const buttons = asked.map((text) => h("button.button", { type: "button", on: { click: () => say(text) } }, text));
  return h("div.empty", { id: "welcome" }, h("img", { src: "/web/icon.svg", alt: "", width: 56, height: 56 }), h("h2", {}, "What would you like to know?"), h("div.row.centre", {}, buttons));
}

function view(node) {
  return messageView(node, state.conversation, { edit, regenerate, rate, flip: turned });
}

async function turned(node, offset) {
  if (state.answering) return;
  turnTo(state.conversation, node, offset);
  await history.save(state.conversation);
  await show();
}

function submitted(event) {
  event.preventDefault();
  if (state.answering) return stop();
  const text = input.value.trim();
  if (text) say(text);
}

async function say(text) {
  if (state.answering) return;
  input.value = "";
  grow();
  await state.ready; // who types quickly asks before the models are known
  const parent = path(state.conversation).at(-1)?.id ?? ROOT;
  const node = add(state.conversation, parent, "user", text);
  $("welcome")?.remove();
  log.append(view(node));
  await answer(node);
}

/** Asks again: a new answer beside the old one. */
async function regenerate(node) {
  if (state.answering) return;
  const question = state.conversation.nodes[node.parent];
  while (log.lastChild && log.lastChild.dataset.id !== question.id) log.lastChild.remove();
  await answer(question);
}

/** Lets a message be written anew; the old one stays as a branch. */
function edit(node, event) {
  if (state.answering) return;
  event?.preventDefault();
  const shown = log.querySelector(`[data-id="${node.id}"]`);
  const text = h("textarea", { value: node.content, rows: Math.min(12, node.content.split("\n").length + 1), "aria-label": "Edit the message" });
  const cancel = () => shown.replaceWith(view(node)) || input.focus();
  const form = h("form.editing", {}, text, h("div.row", {}, h("span.grow"), h("button.button", { type: "button", on: { click: show } }, "Cancel"), h("button.primary", { type: "submit" }, "Send")));
  form.addEventListener("submit", async (submit) => {
    submit.preventDefault();
    if (!text.value.trim()) return;
    const branch = add(state.conversation, node.parent, "user", text.value.trim());
    await show();
    await answer(branch);
  });
  text.addEventListener("keydown", (key) => {
    if (key.key === "Escape") cancel();
    if (key.key === "Enter" && (key.ctrlKey || key.metaKey)) form.requestSubmit();
  });
  shown.replaceChildren(form);
  text.focus();
}

function stop() {
  state.answering?.abort();
}

function showSend() {
  const busy = Boolean(state.answering);
  send.replaceChildren(iconButton(busy ? "stop" : "send", "", null).firstChild);
  send.setAttribute("aria-label", busy ? "Stop" : "Send");
  log.setAttribute("aria-busy", String(busy));
}

async function answer(question) {
  const { conversation } = state;
  const abort = new AbortController();
  const request = { model: model.value, messages: messages(conversation, question), stream_options: { include_usage: true }, ...asRequest(conversation.sampling) };
  const node = add(conversation, question.id, "assistant", "", { model: model.value, sampling: asRequest(conversation.sampling), stopped: true });
  const shown = view(node);
  log.append(shown);
  state.answering = abort;
  showSend();
  status.textContent = "The answer is being written";
  location.hash = conversation.id;
  await history.save(conversation);
  await listConversations();
  const clock = meter();
  let usage = null;
  let saved = performance.now();
  let drawing = null;
  const draw = async () => {
    await frame();
    drawing = null;
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 120;
    node.figures = clock.read(usage);
    showAnswer(shown, node);
    if (follows) log.scrollTop = log.scrollHeight;
  };
  try {
    for await (const chunk of stream("/v1/chat/completions", request, abort.signal)) {
      usage = chunk.usage || usage;
      const choice = chunk.choices[0];
      if (choice?.delta?.content) {
        clock.tick();
        node.content += choice.delta.content;
      }
      if (choice?.finish_reason) Object.assign(node, { stopped: false, finish: choice.finish_reason });
      drawing ||= draw();
      if (performance.now() - saved > 1000) {
        saved = performance.now();
        await history.save(conversation);
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") node.error = error instanceof Refused ? error.message : `The answer broke off: ${error.message}`;
  }
  await drawing;
  node.figures = clock.read(usage);
  state.answering = null;
  showSend();
  status.textContent = node.error ? `Failed: ${node.error}` : node.stopped ? "Stopped" : "The answer is complete";
  await history.save(conversation);
  if (conversation === state.conversation) {
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 120;
    shown.replaceWith(view(node));
    if (follows) log.scrollTop = log.scrollHeight;
    await listConversations();
  }
}

/** Keeps a judgement: here for the reader, in the server's store for training; before the first one is asked. */
async function rate(node, rating, correction) {
  const { conversation } = state;
  const judged = { prompt: messages(conversation, conversation.nodes[node.parent]), answer: node.content, rating, correction: correction || "", model: node.model || "", sampling: node.sampling || {}, conversation: conversation.id, message: node.id };
  try {
    if (!(await askConsent())) return tell("Not kept, as you did not agree");
    await call("/app/feedback/ratings", judged);
  } catch (error) {
    return tell(`Not kept: ${error.message}`);
  }
  Object.assign(node, { rating, correction });
  await history.save(conversation);
  log.querySelector(`[data-id="${node.id}"]`)?.replaceWith(view(node));
  tell(rating > 0 ? "Thank you, kept" : correction ? "Thank you, your correction is kept" : "Thank you, kept");
}

/** The stored conversation, if the address names one, and the models, with the conversation's own chosen. */
async function prepare() {
  const asked = models();
  const id = location.hash.slice(1);
  const stored = id && (await history.load(id));
  state.conversation = stored || newConversation(state.settings.model, state.settings.system, state.settings.sampling);
  await show();
  try {
    state.models = await asked;
  } catch (error) {
    log.append(h("p.alert", { role: "alert" }, error.message));
    return;
  }
  model.replaceChildren(...state.models.map((name) => h("option", { value: name }, name)));
  const wanted = state.conversation.model || state.settings.model;
  if (state.models.includes(wanted)) model.value = wanted;
  configure({ model: model.value });
}

async function begin() {
  build();
  state.ready = prepare();
  await state.ready;
  addEventListener("hashchange", () => location.hash.slice(1) !== state.conversation.id && location.hash.length > 1 && open(location.hash.slice(1)));
  if (!matchMedia("(max-width: 62rem)").matches) input.focus();
}

begin();
