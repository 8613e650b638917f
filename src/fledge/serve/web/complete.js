// Completion with the probability of every token in colour. A click shows what else the model thought of; choosing
// one of those goes on from there.

import { stream } from "./api.js";
import { field, frame, h } from "./dom.js";
import { meter, PRICES, told } from "./meter.js";
import { modelChoice, runButton } from "./running.js";
import { asRequest, remember, remembered } from "./sampling.js";

const ALTERNATIVES = 5;
const BYTES = /^bytes:(?:\\x[0-9a-f]{2})+$/;

/** A token as one can see it: blanks and line ends have signs where nothing else stands. */
export function visible(text) {
  if (text === "") return "∅";
  if (BYTES.test(text)) return text.slice(6).replaceAll("\\x", "‹").replace(/$/, "›");
  return text.trim() ? text : text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}

const percent = (logprob) => {
  const share = Math.exp(logprob) * 100;
  return share >= 99.95 ? "100 %" : share < 0.1 ? "< 0.1 %" : `${share.toFixed(1)} %`;
};

/** The tokens of a chunk of /v1/completions: [{text, logprob, others: [[text, logprob]…]}]. */
export function tokensOf(choice) {
  const found = choice?.logprobs;
  if (!found) return choice?.text ? [{ text: choice.text, logprob: null, others: [] }] : [];
  return found.tokens.map((text, i) => ({ text, logprob: found.token_logprobs[i], others: Object.entries(found.top_logprobs?.[i] || {}).sort((a, b) => b[1] - a[1]) }));
}

/** The mode's element; `sampling()` gives the dials as they stand. */
export function complete(cards, sampling) {
  const kept = remembered("complete", { model: cards[0].id, prompt: "json.dumps(" });
  const choice = modelChoice(cards, kept.model);
  const prompt = h("textarea", { id: "complete-prompt", rows: 4, value: kept.prompt, spellcheck: "false", class: "mono" });
  const view = h("div.tokens.mono", { role: "group", "aria-label": "The completion, token by token" });
  const foot = h("p.figures");
  const failed = h("p.alert", { role: "alert", hidden: true });
  const popup = h("div.popup", { popover: "auto", role: "dialog", "aria-label": "Alternatives" });
  const undo = h("button.button", { type: "button", disabled: true, on: { click: back } }, "Undo");
  const take = h("button.button", { type: "button", on: { click: accept } }, "Make it the prompt");
  let tokens = [];
  let past = [];
  let abort = null;

  function draw() {
    const focused = [...view.children].indexOf(document.activeElement);
    view.replaceChildren(...tokens.map(tokenButton));
    if (focused >= 0) view.children[Math.min(focused, tokens.length - 1)]?.focus();
    undo.disabled = !past.length;
    take.disabled = !tokens.length;
  }

  function tokenButton(token, i) {
    const known = token.logprob !== null && token.logprob !== undefined;
    const says = known ? `${visible(token.text)}, ${percent(token.logprob)}` : visible(token.text);
    const lines = token.text.split("\n").length - 1;
    const button = h("button.token", { type: "button", tabindex: i ? "-1" : "0", title: says, "aria-label": says, "aria-haspopup": "dialog", class: `token${token.chosen ? " chosen" : ""}${known ? "" : " plain"}` }, visible(token.text));
    if (known) button.style.setProperty("--p", String(Math.exp(token.logprob)));
    button.addEventListener("click", () => alternatives(button, i));
    return lines && token.text.trim() === "" ? h("span.ends", {}, button, h("br")) : button;
  }

  view.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const buttons = [...view.querySelectorAll(".token")];
    const next = buttons[buttons.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    for (const each of buttons) each.tabIndex = each === next ? 0 : -1;
    next.focus();
  });

  function alternatives(button, i) {
    const token = tokens[i];
    const others = token.others.some(([text]) => text === token.text) || token.logprob === null ? token.others : [...token.others, [token.text, token.logprob]];
    const rows = others.map(([text, logprob]) => {
      const row = h("button.alternative", { type: "button", "aria-current": text === token.text ? "true" : null }, h("span.mono", {}, visible(text)), h("span.share", {}, percent(logprob)));
      row.style.setProperty("--p", String(Math.exp(logprob)));
      row.addEventListener("click", () => {
        popup.hidePopover();
        follow(i, text, logprob);
      });
      return row;
    });
    popup.replaceChildren(h("p", {}, "What could stand here"), ...(rows.length ? rows : [h("small", {}, "The server sent no alternatives.")]));
    popup.showPopover();
    const box = button.getBoundingClientRect();
    popup.style.setProperty("left", `${Math.max(8, Math.min(box.left, innerWidth - popup.offsetWidth - 8))}px`);
    popup.style.setProperty("top", `${box.bottom + popup.offsetHeight + 8 < innerHeight ? box.bottom + 6 : Math.max(8, box.top - popup.offsetHeight - 6)}px`);
    popup.querySelector("button")?.focus();
  }

  popup.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const rows = [...popup.querySelectorAll("button")];
    if (step) rows[(rows.indexOf(document.activeElement) + step + rows.length) % rows.length].focus();
    if (step) event.preventDefault();
  });

  /** Goes on from another token in place `i`. */
  async function follow(i, text, logprob) {
    if (abort || BYTES.test(text)) return;
    past.push(tokens);
    tokens = [...tokens.slice(0, i), { ...tokens[i], text, logprob, chosen: true }];
    draw();
    await button.go();
  }

  function back() {
    if (abort) return;
    tokens = past.pop() || [];
    draw();
  }

  function accept() {
    prompt.value += tokens.map((token) => token.text).join("");
    [tokens, past] = [[], []];
    draw();
    prompt.focus();
  }

  async function run() {
    remember("complete", { model: choice.value, prompt: prompt.value });
    failed.hidden = true;
    abort = new AbortController();
    const before = tokens;
    const text = prompt.value + before.map((token) => token.text).join("");
    const clock = meter();
    let [usage, drawing] = [null, null];
    view.setAttribute("aria-busy", "true");
    const paint = async () => {
      await frame();
      drawing = null;
      draw();
      foot.replaceChildren(...told(clock.read(usage), remembered("prices", PRICES)).map(([words, title]) => h("span", { title }, words)));
    };
    try {
      const request = { model: choice.value, prompt: text, logprobs: ALTERNATIVES, stream_options: { include_usage: true }, ...asRequest(sampling()) };
      for await (const chunk of stream("/v1/completions", request, abort.signal)) {
        usage = chunk.usage || usage;
        const found = tokensOf(chunk.choices[0]);
        found.forEach(clock.tick);
        tokens = [...tokens, ...found];
        drawing ||= paint();
      }
    } catch (error) {
      failed.hidden = error.name === "AbortError";
      failed.textContent = error.message;
    }
    await drawing;
    await paint();
    view.setAttribute("aria-busy", "false");
    abort = null;
  }

  const fresh = async () => {
    if (tokens.length) past.push(tokens);
    tokens = [];
    await run();
  };
  const button = runButton("Complete", () => (button.continues ? run() : fresh()), () => abort?.abort(), [prompt]);
  button.id = "run-complete";
  button.go = async () => {
    button.continues = true;
    button.click();
    button.continues = false;
  };
  const onwards = h("button.button", { type: "button", on: { click: () => !abort && button.go() } }, "Continue");
  draw();
  return h(
    "div",
    {},
    h("p.about", {}, "The model continues a text. The colour of a token is its probability; click one to see the alternatives and to go on from one of them."),
    h("div.short", {}, field("Model", choice)),
    field("Text", prompt),
    h("div.row", {}, button, onwards, undo, take, h("span.grow"), h("span.scale", { "aria-hidden": "true" }, "unlikely ", h("i"), " likely")),
    failed,
    h("div.card.completion", {}, view, foot),
    popup,
  );
}
