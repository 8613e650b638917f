// Looking inside: how a text becomes tokens (as one types), what each token cost, where every head looked, and what
// each layer would have said.

import { call, models } from "./api.js";
import { attentionView } from "./attention.js";
import { visible } from "./complete.js";
import { $, field, h } from "./dom.js";
import { brief, count } from "./numbers.js";
import { remember, remembered } from "./sampling.js";
import { shell } from "./shell.js";

const WAIT = 250; // milliseconds after the last key
const kept = remembered("inspect", { text: "json.dumps(obj) serializes obj to a JSON formatted str.", model: "", chat: false, ids: false });

const text = h("textarea", { rows: 4, value: kept.text, class: "mono", spellcheck: "false", maxlength: 20000 });
const model = h("select");
const chat = h("input", { type: "checkbox", checked: kept.chat });
const ids = h("input", { type: "checkbox", checked: kept.ids });
const button = h("button.primary", { type: "submit", id: "look" }, "Look inside");
const [sums, pieces, result] = [h("p.sums", { role: "status" }), h("div.pieces.mono", { role: "group", "aria-label": "Tokens" }), h("div", { id: "result" })];
const failed = h("p.alert", { role: "alert", hidden: true });
let timer = 0;
let asked = 0;

const percent = (p) => (p >= 0.9995 ? "100 %" : `${(100 * p).toFixed(1)} %`);
const body = () => ({ model: model.value, text: text.value, chat: chat.checked });

function store() {
  remember("inspect", { text: text.value, model: model.value, chat: chat.checked, ids: ids.checked });
}

async function tokenize() {
  store();
  const mine = (asked += 1);
  if (!text.value) return pieces.replaceChildren() || (sums.textContent = "0 tokens");
  try {
    const request = chat.checked ? { model: model.value, messages: [{ role: "user", content: text.value }] } : { model: model.value, prompt: text.value };
    const found = await call("/tokenize", request);
    if (mine !== asked) return;
    failed.hidden = true;
    const characters = [...text.value].length;
    const size = new TextEncoder().encode(text.value).length;
    sums.replaceChildren(h("b", {}, count(found.count)), ` token${found.count === 1 ? "" : "s"} · `, h("b", {}, count(characters)), " characters · ", h("b", {}, (size / found.count).toFixed(2)), " bytes a token");
    pieces.replaceChildren(...found.pieces.flatMap(piece));
  } catch (error) {
    fail(error);
  }
}

function piece(token, i) {
  const shown = ids.checked ? String(token.id) : visible(token.text ?? "");
  const says = `${visible(token.text ?? "")}: token ${token.id}${token.bytes ? `, bytes ${[...token.bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(" ")}` : ""}`;
  const chip = h("span", { class: `piece wash-${i % 5}${token.special ? " special" : ""}`, title: says }, shown);
  return !ids.checked && token.text?.endsWith("\n") ? [chip, h("br")] : [chip];
}

function fail(error) {
  failed.hidden = false;
  failed.textContent = error.message;
}

async function look(event) {
  event.preventDefault();
  button.disabled = true;
  button.textContent = "Looking…";
  try {
    const found = await call("/app/inspect", body());
    failed.hidden = true;
    result.replaceChildren(surprise(found), attentionView(found), lens(found), heads(found), parts(found));
    if (event.isTrusted) result.firstChild.scrollIntoView({ behavior: "smooth" });
  } catch (error) {
    fail(error);
  }
  button.disabled = false;
  button.textContent = "Look inside";
}

/** What each token cost, and what was expected after the one that is chosen. */
function surprise(found) {
  const next = h("div.next", { "aria-live": "polite" });
  const show = (i) => {
    buttons.forEach((each, k) => each.setAttribute("aria-pressed", String(k === i)));
    const rows = (found.tokens[i].next || []).map(({ text: said, p }) => {
      const row = h("li", {}, h("span.mono", {}, visible(said)), h("span.share", {}, percent(p)));
      row.style.setProperty("--p", String(p));
      return row;
    });
    next.replaceChildren(h("p.about", {}, "After ", h("span.mono", {}, visible(found.tokens[i].text)), " it expects"), h("ol", {}, rows));
  };
  const buttons = found.tokens.map((token, i) => {
    const p = token.nats === null || token.nats === undefined ? null : Math.exp(-token.nats);
    const says = p === null ? `${visible(token.text)}, given` : `${visible(token.text)}, ${percent(p)}`;
    const made = h("button", { type: "button", class: `token${p === null ? " plain" : ""}`, title: says, "aria-label": says, on: { click: () => show(i) } }, visible(token.text));
    if (p !== null) made.style.setProperty("--p", String(p));
    return made;
  });
  show(found.tokens.length - 1);
  const facts = found.loss === null || found.loss === undefined ? [] : [["Bits a token", (found.loss / Math.LN2).toFixed(2)], ["Perplexity", brief(Math.exp(found.loss))], ["Bits a byte", found.bits_per_byte?.toFixed(2) ?? "–"]];
  return h("section", { "aria-label": "Surprise" }, h("h2", {}, "What it expected"), h("p.about", {}, "The greener a token, the better it was foreseen; choose one to see what could have followed it."), h("dl.facts", {}, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))), h("div.columns", {}, h("div.card.tokens.mono", {}, buttons), next));
}

/** What every layer would have said next, were it the last (the logit lens). */
function lens(found) {
  if (!found.lens.length) return h("span");
  const head = h("tr", {}, h("th", { scope: "col" }, "Layer"), found.tokens.map((token) => h("th", { scope: "col" }, visible(token.text))));
  const rows = [...found.lens].reverse().map((layer) => {
    const cells = layer.tokens.map((cell, i) => {
      const right = found.tokens[i + 1] && cell.text === found.tokens[i + 1].text;
      const made = h("td", { title: `${percent(cell.p)}${cell.truth === null ? "" : `; the token that came: ${percent(cell.truth)}`}`, class: right ? "right" : null }, visible(cell.text));
      made.style.setProperty("--p", String(cell.p));
      return made;
    });
    return h("tr", {}, h("th", { scope: "row" }, layer.layer ? `after ${layer.layer}` : "input"), cells);
  });
  return h("section", { "aria-label": "Logit lens" }, h("h2", {}, "What each layer would have said"), h("p.about", {}, "The next token as read off after every layer: how a guess forms on the way up. Underlined is what really came."), h("div.card.scroll", { tabindex: "0", role: "group", "aria-label": "Logit lens" }, h("table.lens.mono", {}, h("thead", {}, head), h("tbody", {}, rows))));
}

/** Which heads find what followed the same token before. */
function heads(found) {
  if (!found.induction) return h("span");
  const rows = found.induction.scores.map((scores, layer) => h("tr", {}, h("th", { scope: "row" }, `Layer ${layer + 1}`), scores.map((score) => {
    const cell = h("td.number", {}, score.toFixed(2));
    cell.style.setProperty("--p", String(score));
    return cell;
  })));
  const names = found.induction.scores[0].map((_, i) => h("th.number", { scope: "col" }, `Head ${i + 1}`));
  return h("section", { "aria-label": "Induction heads" }, h("h2", {}, "Heads that find repetitions"), h("p.about", {}, `${found.induction.period} random tokens, said twice: how much each head looks at what followed the same token before (prefix matching, arXiv:2209.11895).`), h("div.card.scroll", { tabindex: "0", role: "group", "aria-label": "Induction scores" }, h("table.induction", {}, h("thead", {}, h("tr", {}, h("td"), names)), h("tbody", {}, rows))));
}

/** Where the parameters sit. */
function parts(found) {
  const entries = Object.entries(found.anatomy);
  const whole = entries.reduce((sum, [, part]) => sum + part.parameters, 0);
  const rows = entries.filter(([, part]) => part.parameters).map(([name, part]) => {
    const bar = h("div.meter", {}, h("i"));
    bar.firstChild.style.setProperty("width", `${(100 * part.parameters) / whole}%`);
    return h("tr", {}, h("th", { scope: "row" }, name), h("td.number", {}, brief(part.parameters)), h("td.bar", {}, bar));
  });
  const { layers, heads: number, width, context } = found.model;
  return h("section", { "aria-label": "Parameters" }, h("h2", {}, `${brief(whole)} parameters`), h("p.about", {}, `${layers} layers of ${number} heads, ${width} wide, context ${count(context)}`), h("div.card.scroll", { tabindex: "0", role: "group", "aria-label": "Parts" }, h("table.parts", {}, h("tbody", {}, rows))));
}

async function begin() {
  shell([["Ctrl Enter", "look inside"]]);
  const form = h("form.card", { id: "inspect", on: { submit: look } }, h("div.row.fields", {}, field("Model", model), h("label.switch", {}, chat, "through the chat template"), h("label.switch", {}, ids, "show token ids")), field("Text", text), h("div.row", {}, button, h("span.grow"), sums), pieces);
  $("page").append(h("p.about", {}, "How a text becomes tokens, and what goes on inside the model while it reads them."), form, failed, result);
  text.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(tokenize, WAIT);
  });
  text.addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && form.requestSubmit());
  for (const each of [model, chat, ids]) each.addEventListener("change", tokenize);
  try {
    const names = await models();
    model.replaceChildren(...names.map((name) => h("option", { value: name, selected: name === kept.model }, name)));
    await tokenize();
  } catch (error) {
    fail(error);
  }
}

begin();
