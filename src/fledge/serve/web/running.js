// One answer streaming into one place: what the columns of the playground share.

import { stream } from "./api.js";
import { frame, h } from "./dom.js";
import { render } from "./markdown.js";
import { meter, PRICES, told } from "./meter.js";
import { remembered } from "./sampling.js";

/** A choice of a model; `cards` as /v1/models lists them. */
export function modelChoice(cards, chosen, label = "Model") {
  const options = cards.map((card) => h("option", { value: card.id, selected: card.id === chosen }, card.id));
  return h("select", { "aria-label": label }, options);
}

/** A place for an answer: {element, run(path, request, {plain}), stop()}; `run` settles when the answer has ended. */
export function outputPlace(label) {
  const body = h("div.body.prose", { role: "log", "aria-label": label, tabindex: "0" });
  const foot = h("p.figures");
  const element = h("div.output", {}, body, foot);
  let abort = null;

  async function run(path, request, { plain = false } = {}) {
    abort?.abort();
    const own = (abort = new AbortController());
    const clock = meter();
    let [text, usage, finish, drawing] = ["", null, "", null];
    element.querySelector(".alert")?.remove();
    body.replaceChildren(h("span.waiting", { "aria-label": "waiting" }, h("i"), h("i"), h("i")));
    body.blocks = [];
    body.setAttribute("aria-busy", "true");
    const draw = async () => {
      await frame();
      drawing = null;
      if (own !== abort) return;
      body.querySelector(".waiting")?.remove();
      if (plain) body.textContent = text;
      else render(body, text);
      foot.replaceChildren(...told(clock.read(usage), remembered("prices", PRICES)).map(([words, title]) => h("span", { title }, words)));
    };
    try {
      for await (const chunk of stream(path, { ...request, stream_options: { include_usage: true } }, own.signal)) {
        usage = chunk.usage || usage;
        const choice = chunk.choices[0];
        const piece = choice?.delta?.content ?? choice?.text ?? "";
        if (piece) {
          clock.tick();
          text += piece;
        }
        finish = choice?.finish_reason || finish;
        drawing ||= draw();
      }
    } catch (error) {
      if (error.name !== "AbortError") body.after(h("p.alert", { role: "alert" }, error.message));
      finish ||= "stopped";
    }
    await drawing;
    if (own !== abort) return;
    await draw();
    if (finish === "length") foot.append(h("span.badge.fair", {}, "cut off"));
    if (finish === "stopped") foot.append(h("span.badge", {}, "stopped"));
    body.setAttribute("aria-busy", "false");
    abort = null;
  }

  return { element, run, stop: () => abort?.abort() };
}

/** A button that runs and, while it runs, stops; Ctrl+Enter in `fields` runs, Escape stops. */
export function runButton(label, run, stop, fields = []) {
  const button = h("button.primary", { type: "button" }, label);
  let busy = false;
  const click = async () => {
    if (busy) return stop();
    busy = true;
    button.textContent = "Stop";
    try {
      await run();
    } finally {
      busy = false;
      button.textContent = label;
    }
  };
  button.addEventListener("click", click);
  for (const each of fields) each.addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && !busy && click());
  document.addEventListener("keydown", (event) => event.key === "Escape" && busy && stop());
  return button;
}
